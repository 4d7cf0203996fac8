"""`worldsim record`: plays a real simulator with a data policy and writes episodes."""

from __future__ import annotations

import signal
import threading
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from tqdm import tqdm

from worldsim.cli.coverage import report_coverage
from worldsim.episode_writer import EpisodeWriter
from worldsim.episodes import Episodes, EpisodesMeta, StreamSpec
from worldsim.errors import InvalidInput, WorldsimError

if TYPE_CHECKING:
    from worldsim.envs.sources import Row, Source, SourceSpec
    from worldsim.policies.data import DataPolicy

ALWAYS_THERE = frozenset({"variables"})  # optional streams that need no option


def record(
    source: Annotated[str, tyro.conf.Positional],
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
) -> None:
    """Play a real simulator with a data policy and write episodes.

    Episode i is played with a seed and a policy that follow from (seed, i) alone, so an interrupted recording
    goes on with --resume as if it had not been interrupted. Ctrl-C keeps the finished episodes.

    Args:
        source: doom-take-cover, doom-my-way-home, or gym: and a gymnasium id (gym:ALE/Pong-v5).
        steps: record at least this many steps, up to the end of an episode.
        out: folder of the store; must be empty or absent, unless --resume.
        seed: names the whole recording.
        policy: data policy, mix to draw a suitable one for each episode, or agent:PATH.safetensors, a trained agent.
        resume: go on after the last finished episode of the store.
        frame_skip: Doom: tics of 1/35 s in a step (default 2).
        between: Doom: also the pictures of the tics inside a step.
        depth: Doom: also depth, in map units.
        pose: Doom: also x, y, z, yaw of the camera.
        sound: Doom: also the sound of each step.
        labels: Doom: also the boxes of fireballs, to measure a detector with.
        height: gym: height of the pictures (default 64).
        width: gym: width of the pictures (default 64).
    """
    if steps < 1:
        raise InvalidInput(f"--steps is {steps}; give at least 1")
    if seed < 0:
        raise InvalidInput(f"--seed is {seed}; give 0 or more")
    flags = {"between": between, "depth": depth, "pose": pose, "sound": sound, "labels": labels}
    sizes = {"frame_skip": frame_skip, "height": height, "width": width}
    options: dict[str, Any] = {name: True for name, on in flags.items() if on}
    options |= {name: value for name, value in sizes.items() if value is not None}
    made, player, unstored = _prepare(source, policy, options)
    try:
        meta = store_meta(made.spec, policy=policy, seed=seed, leave_out=unstored)
        with EpisodeWriter(out, meta, resume=resume) as writer:
            _record(made, player, writer, steps)
        if made.spec.arena and writer.ends:
            report_coverage(Episodes.open(out), made.spec.arena)
    finally:
        made.close()


def _prepare(name: str, policy: str, options: dict[str, Any]) -> tuple[Source, DataPolicy, frozenset[str]]:
    """The source, the policy, and the streams that only the policy looks at, which are not stored."""
    from worldsim.envs.sources import make_source
    from worldsim.policies.data import make_policy, policy_needs

    unstored = policy_needs(policy, name) - ALWAYS_THERE - options.keys()
    source = make_source(name, **options, **dict.fromkeys(sorted(unstored), True))
    try:
        return source, make_policy(policy, source.spec), unstored
    except WorldsimError:
        source.close()
        raise


def store_meta(spec: SourceSpec, *, policy: str, seed: int, leave_out: frozenset[str] = frozenset()) -> EpisodesMeta:
    """What the store of a recording of this source says about itself, without the streams `leave_out`."""
    action = StreamSpec((), "int64") if spec.actions.discrete else StreamSpec((len(spec.actions.low),), "float32")
    streams = {
        "rgb": StreamSpec((spec.height, spec.width, 3), "uint8"),
        "action": action,
        "reward": StreamSpec((), "float32"),
        "terminated": StreamSpec((), "bool"),
        "truncated": StreamSpec((), "bool"),
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
        creator=f"worldsim {version('worldsim')}",
    )


def _record(source: Source, policy: DataPolicy, writer: EpisodeWriter, steps: int) -> None:
    """Whole episodes until the store holds at least `steps` rows, or until Ctrl-C."""
    with _Interrupt() as interrupt, tqdm(total=steps, unit="step", dynamic_ncols=True) as bar:
        bar.update(writer.num_steps)
        bar.set_postfix(episodes=len(writer.ends))
        while writer.num_steps < steps and not interrupt.seen:
            _record_episode(source, policy, writer, bar, interrupt)
            bar.set_postfix(episodes=len(writer.ends))
    what = f"{len(writer.ends)} episodes, {writer.num_steps} steps in {writer.path}"
    print(f"interrupted: kept {what}; go on with --resume" if interrupt.seen else f"recorded {what}")


def _record_episode(
    source: Source, policy: DataPolicy, writer: EpisodeWriter, bar: tqdm[Any], interrupt: _Interrupt
) -> None:
    """Play and commit one episode; its randomness is a function of the recording's seed and its number."""
    game_seed, policy_seed = np.random.SeedSequence([writer.meta.seed, len(writer.ends)]).spawn(2)
    policy.reset(np.random.default_rng(policy_seed))
    row = source.reset(int(game_seed.generate_state(1)[0]))
    spec = writer.meta.streams["action"]
    writer.append(_columns(row, np.zeros(spec.shape, spec.dtype), writer.meta))
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


def _columns(row: Row, action: int | np.ndarray, meta: EpisodesMeta) -> dict[str, Any]:
    return {
        "rgb": row.rgb,
        "action": action,
        "reward": np.float32(row.reward),
        "terminated": row.terminated,
        "truncated": row.truncated,
        **{name: value for name, value in row.extras.items() if name in meta.streams},
    }


class _Interrupt:
    """Notes Ctrl-C while it is entered, so that no write is cut short; a second Ctrl-C acts as usual."""

    def __init__(self) -> None:
        self.seen = False

    def __enter__(self) -> _Interrupt:
        self._in_main_thread = threading.current_thread() is threading.main_thread()  # only there can it be caught
        if self._in_main_thread:
            self._before = signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, *_: object) -> None:
        self.seen = True
        signal.signal(signal.SIGINT, self._before)

    def __exit__(self, *_: object) -> None:
        if self._in_main_thread:
            signal.signal(signal.SIGINT, self._before)
