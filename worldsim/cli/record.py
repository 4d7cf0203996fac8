"""`worldsim record`: plays a real simulator with a data policy and writes episodes."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from tqdm import tqdm

from worldsim.cli.coverage import report_coverage
from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import Episodes, EpisodesMeta, usual_streams
from worldsim.errors import InvalidInput, WorldsimError
from worldsim.train.interrupts import Interrupts

if TYPE_CHECKING:
    import gymnasium as gym

    from worldsim.envs.sources import Source, SourceSpec, TimeStep
    from worldsim.policies.data import DataPolicy
    from worldsim.policies.rollouts import Rollouts

EXAMPLE = '{"env_name": "reach-v3"}'


def record(
    source: Annotated[Any, tyro.conf.arg(constructor=str), tyro.conf.Positional],
    /,
    steps: int,
    out: Path,
    seed: int = 0,
    policy: str = "mix",
    resume: bool = False,
    frame_skip: int | None = None,
    between: bool = False,
    depth: bool = False,
    pose: bool = False,
    sound: bool = False,
    labels: bool = False,
    height: int | None = None,
    width: int | None = None,
    env_kwargs: str | None = None,
    streams: bool = False,
    frames: str | None = None,
    workers: int | None = None,
    ray: str | None = None,
) -> None:
    """Play a real simulator with a data policy and write episodes.

    Episode i is played with a seed and a policy that follow from (seed, i) alone, so an interrupted recording
    goes on with --resume as if it had not been interrupted. Ctrl-C, SIGTERM and SIGHUP keep the finished episodes.

    Args:
        source: a registered simulator (an unknown name lists them), or gym: and a gymnasium id: gym:ALE/Pong-v5, or
            gym:MODULE:ID of a module that registers it, here or installed; from Python also a gymnasium environment.
        steps: record at least this many steps, up to the end of an episode.
        out: folder of the store; must be empty or absent, unless --resume.
        seed: names the whole recording.
        policy: data policy, mix to draw a suitable one for each episode, or agent:PATH.safetensors, a trained agent.
        resume: go on after the last finished episode of the store.
        frame_skip: ticks of the simulator in a step.
        between: also the frames of the ticks inside a step, where the simulator gives them, as of the next four.
        depth: also depth, in the simulator's units.
        pose: also x, y, z, yaw of the camera.
        sound: also the sound of each step.
        labels: also the boxes of objects, to measure a detector with.
        height: gym: height of the frames (default 64).
        width: gym: width of the frames (default 64).
        streams: gym: also what the environment observes: vectors, such as joints, and images of other cameras.
        frames: gym: observation or render: where frames come from (default: the observation where it is an image).
        env_kwargs: gym: what gymnasium.make is given besides the id, as a JSON object ('{"env_name": "reach-v3"}').
        workers: play in so many processes; the episodes are the same, and so is their order.
        ray: play in the actors of a Ray cluster: its address, auto for the one that runs here, local to start one.
    """
    flags = {"between": between, "depth": depth, "pose": pose, "sound": sound, "labels": labels, "streams": streams}
    values = {"frame_skip": frame_skip, "height": height, "width": width, "frames": frames}
    options: dict[str, Any] = {name: True for name, on in flags.items() if on}
    options |= {name: value for name, value in values.items() if value is not None}
    if env_kwargs is not None:
        options["env_kwargs"] = _json_object(env_kwargs)
    record_episodes(
        source, options, steps=steps, out=out, seed=seed, policy=policy, resume=resume, workers=workers, ray=ray
    )


def record_episodes(
    source: str | gym.Env[Any, Any],
    options: Mapping[str, Any],
    *,
    steps: int,
    out: Path,
    seed: int = 0,
    policy: str = "mix",
    resume: bool = False,
    workers: int | None = None,
    ray: str | None = None,
) -> None:
    """As `record`; `options` are those of the source, as `worldsim.envs.sources.make_source` takes them."""
    from worldsim.policies.rollouts import Workers, make_rollouts, one_thread

    if steps < 1:
        raise InvalidInput(f"--steps is {steps}; give at least 1")
    if seed < 0:
        raise InvalidInput(f"--seed is {seed}; give 0 or more")
    crew = Workers(workers, ray)
    if not crew.here and not isinstance(source, str):
        raise InvalidInput("the source is an environment of this process; give its name, or leave out workers and ray")
    job = Recording(source, dict(options), policy, seed)
    player = job.open()
    try:
        writer = EpisodeWriter(out, player.meta, resume=resume)
        try:
            with writer, one_thread(crew), make_rollouts(job, crew, opened=player) as rollouts:
                _record(rollouts, writer, steps)
        finally:
            if writer.created and not writer.ends:
                shutil.rmtree(out)  # an empty store would only stand in the way of the next attempt
        if player.arena and writer.ends:
            report_coverage(Episodes.open(out), player.arena)
    finally:
        player.close()


@dataclass(frozen=True)
class Recording:
    """The job of whoever plays episodes of a recording; a task is the number of one, an item is one of its rows."""

    source: str | gym.Env[Any, Any]
    options: dict[str, Any]  # of the source
    policy: str
    seed: int

    def open(self) -> Player:
        """Start the simulator."""
        made, policy, unstored = prepare(self.source, self.policy, self.options)
        return Player(made, policy, store_meta(made.spec, policy=self.policy, seed=self.seed, leave_out=unstored))


class Player:
    """Plays episodes of a recording; their randomness is a function of the recording's seed and their number."""

    def __init__(self, source: Source, policy: DataPolicy, meta: EpisodesMeta) -> None:
        self.meta, self.arena = meta, source.spec.arena
        self._source, self._policy = source, policy

    def run(self, task: int) -> Iterator[dict[str, Any]]:
        """The rows of an episode, as `EpisodeWriter.append` takes them."""
        game_seed, policy_seed = np.random.SeedSequence([self.meta.seed, task]).spawn(2)
        self._policy.reset(np.random.default_rng(policy_seed))
        row = self._source.reset(int(game_seed.generate_state(1)[0]))
        actions = self.meta.actions
        yield _columns(row, np.full(actions.shape, actions.start, actions.dtype), self.meta)
        while not row.done:
            action = self._policy.act(row)
            row = self._source.step(action)
            yield _columns(row, action, self.meta)

    def close(self) -> None:
        """Stop the simulator; may be called twice."""
        self._source.close()


def _json_object(text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InvalidInput(f"--env-kwargs {text!r} is no JSON ({error}); give an object like '{EXAMPLE}'") from error
    if not isinstance(values, dict):
        raise InvalidInput(f"--env-kwargs {text!r} is no JSON object; give one like '{EXAMPLE}'")
    return values


def prepare(
    source: str | gym.Env[Any, Any], policy: str, options: Mapping[str, Any]
) -> tuple[Source, DataPolicy, frozenset[str]]:
    """The source, the policy, and the streams that only the policy looks at, which are not stored."""
    from worldsim.envs.sources import find_modules_here, make_source, options_of
    from worldsim.policies.data import make_policy, policy_needs

    name = source if isinstance(source, str) else ""
    if ":" in name.removeprefix("gym:"):
        find_modules_here()
    # What is no option of the source is there anyway, and kept.
    unstored = (policy_needs(policy, name) & options_of(source)) - options.keys()
    made = make_source(source, **options, **dict.fromkeys(sorted(unstored), True))
    try:
        return made, make_policy(policy, made.spec), unstored
    except WorldsimError:
        made.close()
        raise


def store_meta(spec: SourceSpec, *, policy: str, seed: int, leave_out: frozenset[str] = frozenset()) -> EpisodesMeta:
    """What the store of a recording of this source says about itself, without the streams `leave_out`."""
    streams = {
        **usual_streams(spec.height, spec.width, spec.actions),
        **{name: stream for name, stream in spec.extras.items() if name not in leave_out},
    }
    return EpisodesMeta(
        source=spec.name,
        actions=spec.actions,
        streams=streams,
        fps=spec.fps,
        frame_skip=spec.frame_skip,
        policy=policy,
        seed=seed,
        max_episode_steps=spec.max_episode_steps,
        pixel_aspect=spec.pixel_aspect,
        hfov_degrees=spec.hfov_degrees,
        variable_names=spec.variable_names,
        source_parameters=spec.parameters,
        augmentations=spec.augmentations,
        creator=f"worldsim {version('worldsim')}",
    )


def _record(rollouts: Rollouts[int, dict[str, Any]], writer: EpisodeWriter, steps: int) -> None:
    """Whole episodes until the store holds at least `steps` rows, or until a signal comes, which raises Interrupted."""
    with Interrupts() as interrupt, tqdm(total=steps, unit="step", dynamic_ncols=True) as bar:
        bar.update(writer.num_steps)
        numbers = itertools.count(len(writer.ends)) if writer.num_steps < steps else ()
        bar.set_postfix(episodes=len(writer.ends))
        for rows in rollouts.run(numbers, stop=lambda: interrupt.seen):
            if not _write_episode(rows, writer, bar, interrupt):
                break
            bar.set_postfix(episodes=len(writer.ends), **({"replaced": rollouts.replaced} if rollouts.replaced else {}))
            if writer.num_steps >= steps:
                break
    what = f"{len(writer.ends)} episodes, {writer.num_steps} steps in {writer.path}"
    if rollouts.replaced:
        what += f"; {rollouts.replaced} workers died or hung and were replaced"
    print(f"interrupted: kept {what}; go on with --resume" if interrupt.seen else f"recorded {what}")
    interrupt.raise_if_seen()


def _write_episode(
    rows: Iterable[Mapping[str, Any]], writer: EpisodeWriter, bar: tqdm[Any], interrupt: Interrupts
) -> bool:
    """Commit one episode, or drop it where a signal comes before its end; whether it was committed."""
    for row in rows:
        if interrupt.seen and not (row["terminated"] or row["truncated"]):
            writer.drop_episode()
            return False
        writer.append(row)
        bar.update()
    writer.end_episode()
    return True


def _columns(row: TimeStep, action: int | np.ndarray, meta: EpisodesMeta) -> dict[str, Any]:
    """A row to keep: simulators may write into their arrays again."""
    return {
        "rgb": row.rgb.copy(),
        "action": np.array(action),
        "reward": np.float32(row.reward),
        "terminated": row.terminated,
        "truncated": row.truncated,
        **{name: np.array(value) for name, value in row.extras.items() if name in meta.streams},
    }
