"""`worldsim record`: plays a real simulator with a data policy and writes episodes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from tqdm import tqdm

from worldsim.cli.coverage import report_coverage
from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import Episodes, EpisodesMeta
from worldsim.errors import InvalidInput, WorldsimError
from worldsim.spec import StreamSpec
from worldsim.train.interrupts import Interrupts

if TYPE_CHECKING:
    import gymnasium as gym

    from worldsim.envs.sources import Source, SourceSpec, TimeStep
    from worldsim.policies.data import DataPolicy

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
    """
    flags = {"between": between, "depth": depth, "pose": pose, "sound": sound, "labels": labels, "streams": streams}
    values = {"frame_skip": frame_skip, "height": height, "width": width, "frames": frames}
    options: dict[str, Any] = {name: True for name, on in flags.items() if on}
    options |= {name: value for name, value in values.items() if value is not None}
    if env_kwargs is not None:
        options["env_kwargs"] = _json_object(env_kwargs)
    record_episodes(source, options, steps=steps, out=out, seed=seed, policy=policy, resume=resume)


def record_episodes(
    source: str | gym.Env[Any, Any],
    options: Mapping[str, Any],
    *,
    steps: int,
    out: Path,
    seed: int = 0,
    policy: str = "mix",
    resume: bool = False,
) -> None:
    """As `record`; `options` are those of the source, as `worldsim.envs.sources.make_source` takes them."""
    if steps < 1:
        raise InvalidInput(f"--steps is {steps}; give at least 1")
    if seed < 0:
        raise InvalidInput(f"--seed is {seed}; give 0 or more")
    made, player, unstored = prepare(source, policy, options)
    try:
        meta = store_meta(made.spec, policy=policy, seed=seed, leave_out=unstored)
        writer = EpisodeWriter(out, meta, resume=resume)
        try:
            with writer:
                _record(made, player, writer, steps)
        finally:
            if writer.created and not writer.ends:
                shutil.rmtree(out)  # an empty store would only stand in the way of the next attempt
        if made.spec.arena and writer.ends:
            report_coverage(Episodes.open(out), made.spec.arena)
    finally:
        made.close()


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
        "rgb": StreamSpec("image", (spec.height, spec.width, 3), "uint8"),
        "action": spec.actions.to_stream(),
        "reward": StreamSpec("vector", (), "float32"),
        "terminated": StreamSpec("token", (), "bool"),
        "truncated": StreamSpec("token", (), "bool"),
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


def _record(source: Source, policy: DataPolicy, writer: EpisodeWriter, steps: int) -> None:
    """Whole episodes until the store holds at least `steps` rows, or until a signal comes, which raises Interrupted."""
    with Interrupts() as interrupt, tqdm(total=steps, unit="step", dynamic_ncols=True) as bar:
        bar.update(writer.num_steps)
        bar.set_postfix(episodes=len(writer.ends))
        while writer.num_steps < steps and not interrupt.seen:
            _record_episode(source, policy, writer, bar, interrupt)
            bar.set_postfix(episodes=len(writer.ends))
    what = f"{len(writer.ends)} episodes, {writer.num_steps} steps in {writer.path}"
    print(f"interrupted: kept {what}; go on with --resume" if interrupt.seen else f"recorded {what}")
    interrupt.raise_if_seen()


def _record_episode(
    source: Source, policy: DataPolicy, writer: EpisodeWriter, bar: tqdm[Any], interrupt: Interrupts
) -> None:
    """Play and commit one episode; its randomness is a function of the recording's seed and its number."""
    game_seed, policy_seed = np.random.SeedSequence([writer.meta.seed, len(writer.ends)]).spawn(2)
    policy.reset(np.random.default_rng(policy_seed))
    row = source.reset(int(game_seed.generate_state(1)[0]))
    actions = writer.meta.actions
    writer.append(_columns(row, np.full(actions.shape, actions.start, actions.dtype), writer.meta))
    while not row.done:
        if interrupt.seen:
            writer.drop_episode()
            return
        action = policy.act(row)
        row = source.step(action)
        writer.append(_columns(row, action, writer.meta))
        bar.update()
    writer.end_episode()
    bar.update()  # for the row of the reset


def _columns(row: TimeStep, action: int | np.ndarray, meta: EpisodesMeta) -> dict[str, Any]:
    return {
        "rgb": row.rgb,
        "action": action,
        "reward": np.float32(row.reward),
        "terminated": row.terminated,
        "truncated": row.truncated,
        **{name: value for name, value in row.extras.items() if name in meta.streams},
    }
