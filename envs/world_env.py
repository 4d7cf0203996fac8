"""A world as a gymnasium environment: `WorldEnv`."""

from __future__ import annotations

import dataclasses
import sys
from types import FrameType
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.wrappers import TimeLimit

from worldsim.actions import check_action
from worldsim.envs import worlds
from worldsim.envs.infos import single
from worldsim.envs.observing import Observation, Observer, row_of
from worldsim.envs.progress import Counters, Now, Progress
from worldsim.envs.speculating import make_speculator
from worldsim.envs.starts import check_options, check_seed, check_start
from worldsim.envs.state import EnvState, pack, unpack
from worldsim.envs.window import Window
from worldsim.memory.base import FromAbove
from worldsim.rollout import step_world
from worldsim.spec import WorldProtocol
from worldsim.speculation import Speculation
from worldsim.state.tree import clone


class WorldEnv(worlds.ServesWorld, gym.Env[Any, Any]):
    """One learned world behind gymnasium's interface; observations are frames (H, W, 3) uint8, or latents.

    `world` is a name (shipped, local folder, hub id) or any object with the four members of `WorldProtocol`.
    `observation` "latents" gives (C * h * w,) float32, for which no frame is decoded but by `render`;
    `observation.reshape(env.unwrapped.world.spec.latent_shape)` is their grid (C, h, w).
    A list, such as ["pixels", "proprio"], gives a dict with an entry for each: pixels, latents, or a stream of
    `world.spec.streams`; streams that are not observed are in the info of every step.
    `between` puts the frames before the last one of each step into the info, (frames_per_step - 1, H, W, 3).
    `start` "anywhere" begins episodes in the midst of recorded ones, "beginning" as these begin.
    `temperature`, the size of the noise that frames are drawn from, above 1 makes a less predictable world.
    `max_episode_steps` truncates episodes: a number, None for never, "world" for the recorded game's limit.
    `speculate` computes what the next step may give in the time between the steps, from a guess of the action: True,
    or a `worldsim.speculation.Speculation`. No result depends on it. `close` ends its thread.
    `compiled` compiles the world's steps to machine code (`World.compiled`): half a minute here, once for all, then
    faster steps.
    `clip_actions` clips continuous actions to their bounds, as the continuous environments of gymnasium do; without it
    those out of bounds are refused. NaN is refused either way.
    `audio` puts the sound of each step into the info, (samples, channels) int16, for worlds that have sound; frames are
    the same with it and without.
    `gym.make(..., max_episode_steps=n)` puts gymnasium's own wrapper on top, which can only shorten episodes.

    A seeded `reset` begins episode 0 of that seed, each `reset` without a seed the next one, so that a seed
    fixes all that follows. The info of every call has "step", "episode_index", "seed" and "non_finite" (the
    numbers of the model broke down, which truncates the episode), and what the world adds to them, such as
    "termination_probability".

    Raises InvalidAction, InvalidState and InvalidInput, always before anything has changed.

    Example:
        >>> env = gym.make("worldsim:worldsim/DoomTakeCover-v0", render_mode="rgb_array")
        >>> observation, info = env.reset(seed=0)
        >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array", "human"], "render_fps": 30}  # type: ignore[misc]

    def __init__(
        self,
        world: str | WorldProtocol,
        *,
        observation: Observation = "pixels",
        between: bool = False,
        start: str = worlds.DEFAULT_START,
        temperature: float | None = None,
        render_mode: str | None = None,
        max_episode_steps: worlds.TimeLimit = "world",
        speculate: bool | Speculation | None = None,
        compiled: bool = False,
        clip_actions: bool = False,
        audio: bool = False,
        device: str = "auto",
    ) -> None:
        self.render_mode = worlds.check_render_mode(render_mode, self.metadata["render_modes"])
        self.world = worlds.load_world(
            world, device, start=start, temperature=temperature, compiled_for=int(compiled), audio=audio
        )
        spec = self.world.spec
        self.start = start
        self.between = between
        self.clip_actions = clip_actions
        self.max_episode_steps = worlds.time_limit(spec, max_episode_steps)
        self._observer = Observer(self.world, observation, between or render_mode == "human")
        self.observation_space = self._observer.space
        self.action_space = spec.actions.to_space()
        self.metadata = {**type(self).metadata, "render_fps": worlds.render_fps(spec)}  # type: ignore[misc]
        self._window = Window(spec) if render_mode == "human" else None
        self.speculate = speculate
        self.ahead = make_speculator(speculate, self.world, self._observer, None, clip_actions)
        self._now = Now(None, Progress(1), None)
        self._restored = False  # whether gymnasium's time limits have to be told how many steps were taken

    def __getstate__(self) -> dict[str, Any]:
        """All but the guesses and their thread: pickled and copied environments guess for themselves."""
        return {name: value for name, value in self.__dict__.items() if name != "ahead"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.ahead = make_speculator(self.speculate, self.world, self._observer, None, self.clip_actions)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode, from a recorded start or from the frames given in `options`.

        `options` may hold "frames" (T, H, W, 3) uint8, oldest first, the T - 1 "actions" between them, and, where the
        first of them is not the beginning of an episode, its "age" in steps; "streams" are values (T, ...) that other
        sensors gave with the frames, by name, by default their means. Other options are ignored with a warning.
        `seed` is any integer of 0 or more; the info reports it, folded to 63 bits where it is larger.
        """
        seed = check_seed(seed)
        given = check_options(options)
        start = check_start(self.world.spec, given)
        base, episode = self._now.progress.next_start(0, seed, self.np_random)
        self.ahead.forget()
        state = worlds.reset_world(self.world, base, episode, start, self.start)
        observation = self._observer.observe(state, 1)
        super().reset(seed=seed)
        progress = self._now.progress.copy()
        progress.put(0, Counters(base, episode))
        answer = row_of(observation, 0), single(progress.info())
        frame = self._frame_of(state, self._observer.pixels(observation))
        self._show(frame)
        self._restored = False
        self.ahead.expect(state, row_of(observation, 0))
        self._now = Now(state, progress, frame)
        return answer

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take one action; the frame after it, reward, terminated, truncated, info.

        Whatever goes wrong on the way, Ctrl-C included: the step is not taken then, and can be taken again.
        """
        if self._now.state is None or self._now.progress.ended[0]:
            self._now.progress.require_running()  # says what to do instead
        if self._restored:
            self._tell_time_limits()
        checked = check_action(self.world.spec.actions, action, clip=self.clip_actions)
        if self.speculate:
            state, result = self.ahead.step(self._now.state, checked)
        else:
            state, result = step_world(self.world, self._now.state, checked, self._observer.decode)
        observation = self._observer.after(state, result)
        progress, outcome = self._now.progress.after(result, self.max_episode_steps)
        info = single(outcome.info)
        ended = bool(outcome.terminated[0]), bool(outcome.truncated[0])
        answer = row_of(observation, 0), float(outcome.reward[0]), *ended, info
        frame = self._frame_of(state, result.frame)
        self._show(*info.get("between", ()), frame)
        if not any(ended):
            self.ahead.expect(state, row_of(observation, 0))
        self._now = Now(state, progress, frame)
        return answer

    def render(self) -> np.ndarray | None:
        """The current frame (H, W, 3) uint8 in mode "rgb_array"; in mode "human" it is on screen."""
        self._now.progress.require_started()
        if self.render_mode is None:
            gym.logger.warn('render() needs a render mode; make the environment with render_mode="rgb_array"')
        if self.render_mode != "rgb_array":
            return None
        return self._current_frame().copy()

    def close(self) -> None:
        """Close the window and end the guessing, if there is any; may be called twice."""
        self.ahead.close()
        if self._window is not None:
            self._window.close()

    def save_state(self) -> EnvState:
        """All of the environment's state, as a copy of its own; `EnvState.save` writes it to a file."""
        self._now.progress.require_started()
        return pack(self.world, clone(self._now.state), self._now.progress.counters(0))

    def restore_state(self, state: EnvState) -> None:
        """Return to a saved state of this world, bit for bit; may be done any number of times.

        Raises InvalidInput for a state that is damaged or another world's; nothing has changed then.
        """
        restored, counters = unpack(self.world, state, self._now.state)
        progress = self._now.progress.copy()
        progress.put(0, counters)
        self.ahead.forget()
        self._restored = True
        if not counters.ended:
            self.ahead.expect(restored)
        self._now = Now(restored, progress, None)

    @property
    def memory(self) -> dict[str, Any]:
        """What the world remembers: a copy of the tree of each of its memories, by name; empty without memories.

        To change it, change the `tree.memory` of a saved state, and restore that.
        """
        self._now.progress.require_started()
        return dict(clone(getattr(self._now.state, "memory", {})))

    def from_above(self) -> FromAbove | None:
        """What is remembered of places, seen from above; None where the world has no such memory."""
        drawn = getattr(self.world, "from_above", None)
        return None if drawn is None or self._now.state is None else drawn(self._now.state)

    def fork(self, n: int) -> list[WorldEnv]:
        """`n` environments in this one's state; they share the world's weights and open no window."""
        state = self.save_state()
        mode = "rgb_array" if self.render_mode == "human" else self.render_mode
        forks = []
        for _ in range(n):
            env = WorldEnv(
                self.world,
                observation=self._observer.observation,
                between=self.between,
                start=self.start,
                render_mode=mode,
                max_episode_steps=self.max_episode_steps,
                speculate=self.speculate,
                clip_actions=self.clip_actions,
            )
            env.restore_state(state)
            forks.append(env)
        return forks

    @property
    def _max_episode_steps(self) -> int | None:
        """The time limit by the name that gymnasium's own wrapper has it; LeRobot asks for it."""
        return self.max_episode_steps

    def _tell_time_limits(self) -> None:
        """In the first step after a state was restored, set gymnasium's `TimeLimit`s around this environment to it.

        They count steps for themselves from the last reset they saw, and an environment does not know its wrappers:
        but those that count a step are on the call stack when it is taken. No other frame's locals are read, as
        that would keep alive what they hold.
        """
        self._restored = False
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if frame.f_code is TimeLimit.step.__code__ and (limit := frame.f_locals["self"]).unwrapped is self:
                limit._elapsed_steps = int(self._now.progress.step[0])
            frame = frame.f_back

    def _frame_of(self, state: Any, decoded: np.ndarray | None) -> np.ndarray | None:
        """A copy of the current frame (H, W, 3) uint8, where `decoded` (1, H, W, 3) holds it or a window shows it."""
        if decoded is not None and decoded.size:
            return decoded[0].copy()
        return None if self._window is None else worlds.render_world(self.world, state, 1)[0].copy()

    def _current_frame(self) -> np.ndarray:
        if self._now.shown is None:
            frame = worlds.render_world(self.world, self._now.state, 1)[0].copy()
            self._now = dataclasses.replace(self._now, shown=frame)
        assert self._now.shown is not None
        return self._now.shown

    def _show(self, *frames: np.ndarray | None) -> None:
        """In mode "human", show the frames of a step in order."""
        if self._window is not None:
            for frame in frames:
                assert frame is not None
                self._window.show(frame)
