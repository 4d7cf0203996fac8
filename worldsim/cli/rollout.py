"""`worldsim rollout`: runs a world without a display; a video, a contact sheet and a frame rate come out."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from tqdm import trange

from worldsim.cli.output import require_writable, say
from worldsim.errors import InvalidInput
from worldsim.io.files import write_json
from worldsim.io.media import VideoWriter, contact_sheet, save_image, sound_track
from worldsim.spec import ActionSpec, WorldSpec

if TYPE_CHECKING:
    from worldsim.envs import WorldEnv

Policy = Literal["persistent", "random", "noop"]

HELD_STEPS = 10  # for which the persistent policy holds an action, on average
SHEET_COLUMNS, SHEET_ROWS = 4, 6
BLOCK = 256  # frames encoded at once: an encoder that runs beside the model would slow what is timed


def rollout(
    world: Annotated[str, tyro.conf.Positional],
    /,
    steps: int = 300,
    out: Path = Path("clip.mp4"),
    seed: int = 0,
    policy: Policy = "persistent",
    scale: int = 3,
    json: Path | None = None,
    compiled: bool = False,
    audio: bool = False,
    device: str = "auto",
) -> None:
    """Run a world without a display: writes a video and a contact sheet, prints how fast it ran.

    The video has every frame that the world makes, at the pace of the recorded game. Episodes follow on one
    another.

    Args:
        world: a shipped world, a local folder, or a hub id.
        steps: how many steps to take.
        out: video to write (.mp4); the contact sheet lies beside it (.png).
        seed: names the first episode, and the actions.
        policy: random actions held for a while (persistent), new ones at every step (random), or none (noop).
        scale: pixels of the video down to one of the world.
        json: also write the numbers to this file.
        compiled: compile the world's steps to machine code, which takes half a minute, once.
        audio: give the video a sound track, of a world that has sound.
        device: auto, cpu or cuda.
    """
    _check(steps, scale, out, json)
    from worldsim.envs import WorldEnv

    env = WorldEnv(world, between=True, compiled=compiled, audio=audio, device=device)
    spec = env.world.spec
    with Clip(out, spec, scale) as clip:
        tally = run(env, choose_actions(spec.actions, policy, seed), steps, seed, clip)
    numbers = {"world": spec.name, "seed": seed, "policy": policy, **tally.numbers(spec)}
    files = {"video": str(out), "contact_sheet": str(clip.sheet), "frames": clip.frames}
    _print(spec, numbers, files)
    if json is not None:
        write_json(json, {**numbers, "files": files})


def _check(steps: int, scale: int, out: Path, json: Path | None) -> None:
    if steps < 1:
        raise InvalidInput(f"--steps is {steps}; give at least 1")
    if not 1 <= scale <= 64:
        raise InvalidInput(f"--scale {scale} is not from 1 to 64; give a whole number that is")
    if out.suffix != ".mp4":
        raise InvalidInput(f"--out {str(out)!r} does not end in .mp4; give it that ending")
    for path in (out, out.with_suffix(".png"), *([json] if json else [])):
        require_writable(path)


@dataclass
class Tally:
    """What happened in a rollout."""

    seconds: list[float] = field(default_factory=list)  # each step took
    reward: float = 0.0
    terminated: int = 0
    truncated: int = 0
    non_finite: int = 0

    def numbers(self, spec: WorldSpec) -> dict[str, Any]:
        """The tally as JSON values, with the rates that follow from it."""
        rate = len(self.seconds) / sum(self.seconds)
        p50, p95 = np.percentile(self.seconds, [50, 95]) * 1000
        return {
            "steps": len(self.seconds),
            "seconds_in_step": round(sum(self.seconds), 4),
            "steps_per_s": round(rate, 2),
            "frames_per_s": round(rate * spec.frames_per_step, 2),
            "times_real_time": round(rate / spec.steps_per_second, 3),
            "ms_p50": round(float(p50), 3),
            "ms_p95": round(float(p95), 3),
            "terminated": self.terminated,
            "truncated": self.truncated,
            "non_finite": self.non_finite,
            "reward": round(self.reward, 4),
        }


def choose_actions(spec: ActionSpec, policy: Policy, seed: int) -> Iterator[int | np.ndarray]:
    """Actions without end; those of the persistent policy are held, as a person holds a key."""
    if policy == "noop":
        yield from itertools.repeat(idle_action(spec))
    rng = np.random.default_rng(seed)
    while True:
        action = spec.draw(rng)
        yield from itertools.repeat(action, int(rng.geometric(1 / HELD_STEPS)) if policy == "persistent" else 1)


def idle_action(spec: ActionSpec) -> int | np.ndarray:
    """The action that does nothing: the one called NOOP, else the first; zeros in a box."""
    if spec.discrete:
        return spec.start + (spec.meanings.index("NOOP") if "NOOP" in spec.meanings else 0)
    return np.clip(np.zeros(len(spec.low)), spec.low, spec.high).astype(spec.dtype)


def run(env: WorldEnv, actions: Iterator[int | np.ndarray], steps: int, seed: int, clip: Clip) -> Tally:
    """Step the environment, episode after episode, and hand its frames to the clip."""
    tally = Tally()
    observation, _ = env.reset(seed=seed)
    clip.add([observation], sheet=True)
    clip.add_silence()
    on_sheet = {round(i) for i in np.linspace(0, steps, SHEET_COLUMNS * SHEET_ROWS)}
    for step in trange(1, steps + 1, unit="step", dynamic_ncols=True):
        action = next(actions)
        began = time.perf_counter()
        observation, reward, terminated, truncated, info = env.step(action)
        tally.seconds.append(time.perf_counter() - began)
        tally.reward += reward
        tally.terminated += terminated
        tally.truncated += truncated
        tally.non_finite += info["non_finite"]
        clip.add([*info.get("between", ()), observation], sheet=step in on_sheet)
        if "audio" in info:
            clip.add_sound(info["audio"])
        if terminated or truncated:
            observation, _ = env.reset()
            clip.add([observation])
            clip.add_silence()
    return tally


class Clip:
    """The video and its contact sheet; put in place when both are whole, so that a failed run changes nothing."""

    def __init__(self, out: Path, spec: WorldSpec, scale: int) -> None:
        self.out, self.sheet = out, out.with_suffix(".png")
        self.frames = 0
        self._across, self._down = max(1, round(scale * spec.pixel_aspect)), scale
        self._waiting: list[np.ndarray] = []
        self._heard: list[np.ndarray] = []
        self._audio, self._between = spec.audio, spec.frames_per_step
        self._kept: list[np.ndarray] = []
        fps = spec.steps_per_second * spec.frames_per_step
        self._writer = VideoWriter(out, fps, sound=sound_track(spec))

    def add(self, frames: Sequence[np.ndarray], *, sheet: bool = False) -> None:
        """Append frames (H, W, 3) uint8, oldest first; `sheet` puts the last one on the contact sheet."""
        self.frames += len(frames)
        self._waiting += frames
        if sheet:
            self._kept.append(frames[-1])
        if len(self._waiting) >= BLOCK:
            self._encode()

    def add_sound(self, samples: np.ndarray) -> None:
        """Append the sound of a step, (samples, channels) int16."""
        self._heard.append(samples)

    def add_silence(self) -> None:
        """The sound of a frame that no step made, such as the first one of an episode."""
        if self._audio is not None:
            count, channels = self._audio.shape
            self._heard.append(np.zeros((count // self._between, channels), np.int16))

    def _encode(self) -> None:
        for frame in self._waiting:
            self._writer.write(self._enlarge(frame))
        for samples in self._heard:
            self._writer.write_sound(samples)
        self._waiting.clear()
        self._heard.clear()

    def _enlarge(self, frames: np.ndarray) -> np.ndarray:
        """(..., H, W, 3) at the video's size: whole numbers near the shape that pixels are shown in."""
        return frames.repeat(self._down, axis=-3).repeat(self._across, axis=-2)

    def _finish(self) -> None:
        self._encode()
        self._writer.finish()
        starts = range(0, len(self._kept), SHEET_COLUMNS)
        rows = [self._enlarge(np.stack(self._kept[i : i + SHEET_COLUMNS])) for i in starts]
        save_image(self.sheet, contact_sheet(rows, scale=1))
        self._writer.close()

    def __enter__(self) -> Clip:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._writer.discard()


def _print(spec: WorldSpec, numbers: dict[str, Any], files: dict[str, Any]) -> None:
    length = files["frames"] / (spec.steps_per_second * spec.frames_per_step)
    say(
        f"{spec.name}: {numbers['steps_per_s']:.1f} steps/s, {numbers['frames_per_s']:.1f} frames/s, "
        f"{numbers['times_real_time']:.2f} times real time\n"
        f"a step took {numbers['ms_p50']:.1f} ms (median), {numbers['ms_p95']:.1f} ms (95th percentile), "
        "video writing not counted\n"
        f"{numbers['steps']} steps: {numbers['terminated']} endings, {numbers['truncated']} cut by a limit, "
        f"reward {numbers['reward']:g}\n"
        f"wrote {files['video']} ({files['frames']} frames, {length:.1f} s) and {files['contact_sheet']}"
    )
