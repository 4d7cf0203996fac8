"""Many worlds stepped as one batch, behind gymnasium's vector interface: `WorldVectorEnv`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space, create_empty_array

from worldsim.actions import check_actions
from worldsim.envs import worlds
from worldsim.envs.infos import batched
from worldsim.envs.observing import Observation, Observer, row_of
from worldsim.envs.progress import Counters, Now, Outcome, Progress
from worldsim.envs.speculating import make_speculator
from worldsim.envs.starts import OF_A_START, Start, check_options, check_seeds, check_starts
from worldsim.envs.state import EnvState, pack, unpack
from worldsim.errors import InvalidInput, InvalidState
from worldsim.rollout import step_world
from worldsim.spec import WorldProtocol
from worldsim.speculation import Speculation
from worldsim.state.tree import clone, put_rows, select_rows

# What a row has, by the name that the batch has it.
_ROW_ATTRIBUTES = {
    "observation_space": "single_observation_space",
    "action_space": "single_action_space",
    "_max_episode_steps": "max_episode_steps",
}
_ROW_METHODS = ("get_action_meanings", "get_keys_to_action")  # that answer the same in every row


class WorldVectorEnv(worlds.ServesWorld, VectorEnv[Any, np.ndarray, np.ndarray]):
    """`num_envs` environments over one world, one batched model call a step.

    Behaves as gymnasium's `SyncVectorEnv` over `WorldEnv`s in all three autoreset modes; row i does what a
    `WorldEnv` reset with its seed would do, whatever its neighbours do: to the bit for the same num_envs and row, but
    for rounding otherwise, which after some seconds makes another dream. Observations are (N, H, W, 3) uint8,
    for "latents" (N, C * h * w) float32, for a list a dict of such arrays; rewards (N,) float64.
    The arguments are those of `WorldEnv`.

    Raises InvalidAction, InvalidState and InvalidInput, always before anything has changed.

    Example:
        >>> envs = gym.make_vec("worldsim:worldsim/DoomTakeCover-v0", num_envs=16)
        >>> observations, infos = envs.reset(seed=0)
        >>> observations, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}  # type: ignore[misc]

    def __init__(
        self,
        world: str | WorldProtocol,
        num_envs: int = 1,
        *,
        autoreset_mode: str | AutoresetMode = AutoresetMode.NEXT_STEP,
        observation: Observation = "pixels",
        between: bool = False,
        start: str = worlds.DEFAULT_START,
        temperature: float | None = None,
        max_episode_steps: worlds.TimeLimit = "world",
        render_mode: str | None = None,
        speculate: bool | Speculation | None = None,
        compiled: bool = False,
        clip_actions: bool = False,
        audio: bool = False,
        device: str = "auto",
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise InvalidInput(f"num_envs={num_envs!r}; pass a number of environments above 0")
        self.render_mode = worlds.check_render_mode(render_mode, self.metadata["render_modes"])
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.world = worlds.load_world(
            world, device, start=start, temperature=temperature, compiled_for=num_envs if compiled else 0, audio=audio
        )
        spec = self.world.spec
        self.num_envs = num_envs
        self.start = start
        self.speculate = speculate
        self.clip_actions = clip_actions
        self.max_episode_steps = worlds.time_limit(spec, max_episode_steps)
        self._observer = Observer(self.world, observation, between)
        self.single_observation_space = self._observer.space
        self.single_action_space = spec.actions.to_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        own = {"render_fps": worlds.render_fps(spec), "autoreset_mode": self.autoreset_mode}
        self.metadata = {**type(self).metadata, **own}  # type: ignore[misc]
        self.ahead = make_speculator(speculate, self.world, self._observer, num_envs, clip_actions)
        observations = create_empty_array(self.single_observation_space, num_envs)
        self._now = Now(None, Progress(num_envs), observations)

    def __getstate__(self) -> dict[str, Any]:
        """All but the guesses and their thread: pickled and copied environments guess for themselves."""
        return {name: value for name, value in self.__dict__.items() if name != "ahead"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.ahead = make_speculator(self.speculate, self.world, self._observer, self.num_envs, self.clip_actions)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes in all rows, or in those of `options["reset_mask"]` (N,) bool.

        An integer seed becomes seed + i in row i. The options "frames", "actions", "age" and "streams" of
        `WorldEnv.reset` serve every row, or each its own with the rows as first axis; others are ignored as there.
        """
        seeds = check_seeds(seed, self.num_envs)
        given = check_options(options, known=(*OF_A_START, "reset_mask"))
        rows = self._rows_to_reset(given)
        starts = check_starts(self.world.spec, given, self.num_envs)
        begun = self._begin(self._now, np.flatnonzero(rows).tolist(), seeds, starts)
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
        self._expect(begun)
        answer = clone(begun.shown), batched(begun.progress.info(), rows)
        self._now = begun
        return answer

    def step(self, actions: Any) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one action in every row; in the next-step mode, rows that had ended are reset instead.

        Whatever goes wrong on the way, Ctrl-C included: the step is not taken then, and can be taken again.
        """
        resetting = self._rows_awaiting_reset()
        spec = self.world.spec.actions
        checked = check_actions(spec, actions, self.num_envs, resetting, clip=self.clip_actions)
        now, outcome = self._advance(checked, ~resetting)
        infos: dict[str, Any] = {}
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            resetting = now.progress.ended.copy()
            infos = self._final_infos(now, outcome, resetting)
        now = self._begin(now, np.flatnonzero(resetting).tolist())
        # A row that has just begun tells its counters only; what the world adds is of the steps.
        infos |= batched(outcome.info, ~resetting)
        infos |= batched(now.progress.info(outcome.info["non_finite"] & ~resetting), np.ones_like(resetting))
        self._expect(now)
        answer = clone(now.shown), outcome.reward, outcome.terminated, outcome.truncated, infos
        self._now = now
        return answer

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current frame of every row, each (H, W, 3) uint8, in mode "rgb_array"."""
        self._now.progress.require_started()
        if self.render_mode is None:
            gym.logger.warn('render() needs a render mode; make the environment with render_mode="rgb_array"')
            return None
        frames = self._observer.pixels(self._now.shown)
        if frames is None:
            frames = worlds.render_world(self.world, self._now.state, self.num_envs)
        return tuple(frame.copy() for frame in frames)

    def save_state(self) -> list[EnvState]:
        """One state a row, copied; any of them can be restored into a `WorldEnv` too."""
        self._now.progress.require_started()
        rows = range(self.num_envs)
        return [pack(self.world, select_rows(self._now.state, [row]), self._now.progress.counters(row)) for row in rows]

    def restore_state(self, states: Sequence[EnvState]) -> None:
        """Return to saved states, one a row (the same one in several rows forks it), bit for bit.

        Raises InvalidInput for another number of states, and if one of them is damaged or another world's; nothing has
        changed then.
        """
        if len(states) != self.num_envs:
            raise InvalidInput(f"{len(states)} states for {self.num_envs} environments; pass one for each")
        unpacked = [unpack(self.world, state, self._now.state) for state in states]
        state = self._with_rows(None, {row: tree for row, (tree, _) in enumerate(unpacked)})
        progress = Progress(self.num_envs)
        for row, (_, counters) in enumerate(unpacked):
            progress.put(row, counters)
        restored = Now(state, progress, self._observer.observe(state, self.num_envs))
        self.ahead.forget()
        self._expect(restored)
        self._now = restored

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """What a method or attribute of each row's environment gives, one a row, as `SyncVectorEnv.call` does.

        Methods are "render", "save_state", "get_action_meanings" and "get_keys_to_action". Raises AttributeError for
        others, which the batch itself may have, and for attributes that there are none of.
        """
        if name == "render":
            return self.render() or (None,) * self.num_envs
        if name == "save_state":
            return tuple(self.save_state())
        value = getattr(self, _ROW_ATTRIBUTES.get(name, name))
        if name in _ROW_METHODS:
            value = value(*args, **kwargs)
        elif name in dir(type(self)) and callable(value):
            raise AttributeError(f"a row of a batch has no method {name!r}; call it on the batch itself")
        return (value,) * self.num_envs

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """An attribute of each row's environment; as `call`."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of all rows, which share it: one value, or a list of the same one for each.

        Raises InvalidInput for a list of different ones, or of another number than there are rows.
        """
        each = values if isinstance(values, list | tuple) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise InvalidInput(f"{len(each)} values of {name!r} for {self.num_envs} environments; pass one for each")
        if not all(one is each[0] or np.array_equal(one, each[0]) for one in each):
            raise InvalidInput(f"{name!r} is shared by all environments of the batch; pass the same value for each")
        setattr(self, _ROW_ATTRIBUTES.get(name, name), each[0])

    def close_extras(self, **kwargs: Any) -> None:
        """End the guessing, if there is any; called by `close`."""
        ahead = getattr(self, "ahead", None)  # gymnasium also closes what could not even be made
        if ahead is not None:
            ahead.close()

    def _advance(self, actions: np.ndarray, stepped: np.ndarray) -> tuple[Now, Outcome]:
        """Step the whole batch, rows that are to be reset included; what the rows of `stepped` (N,) bool get."""
        now = self._now
        if not stepped.any():
            nothing, never = np.zeros(self.num_envs), np.zeros(self.num_envs, np.bool_)
            return now, Outcome(nothing, never, never.copy(), now.progress.info())
        if self.speculate:
            state, result = self.ahead.step(now.state, actions)
        else:
            state, result = step_world(self.world, now.state, actions, self._observer.decode)
        progress, outcome = now.progress.after(result, self.max_episode_steps, stepped)
        return Now(state, progress, self._observer.after(state, result)), outcome

    def _final_infos(self, now: Now, outcome: Outcome, ended: np.ndarray) -> dict[str, Any]:
        """What the rows that ended leave behind, (N,) bool, before their next episode begins."""
        if not ended.any():
            return {}
        observations = np.full(self.num_envs, None, dtype=object)
        for row in np.flatnonzero(ended).tolist():
            observations[row] = row_of(now.shown, row)
        final = batched(outcome.info, ended)
        return {"final_obs": observations, "_final_obs": ended.copy(), "final_info": final, "_final_info": ended.copy()}

    def _begin(
        self, now: Now, rows: Sequence[int], seeds: Sequence[int | None] = (), starts: Sequence[Start | None] = ()
    ) -> Now:
        """Begin an episode in each of `rows`, as a batch of one so that rows stay apart; `now` stays as it is."""
        if not rows:
            return now
        trees: dict[int, Any] = {}
        progress, observations = now.progress.copy(), clone(now.shown)
        for row in rows:
            seed, episode = progress.next_start(row, seeds[row] if seeds else None, self.np_random)
            trees[row] = worlds.reset_world(self.world, seed, episode, starts[row] if starts else None, self.start)
            put_rows(observations, [row], self._observer.observe(trees[row], 1))
            progress.put(row, Counters(seed, episode))
        self.ahead.forget()
        return Now(self._with_rows(now.state, trees), progress, observations)

    def _with_rows(self, state: Any, trees: dict[int, Any]) -> Any:
        """A copy of the batch with states (batches of one) in some of its rows; None for a batch of nothing yet."""
        batch = select_rows(next(iter(trees.values())), [0] * self.num_envs) if state is None else clone(state)
        for row, tree in trees.items():
            put_rows(batch, [row], tree)
        return batch

    def _expect(self, now: Now) -> None:
        """Guess the next step; not where a row has ended, whose action will be ignored."""
        if not now.progress.ended.any():
            self.ahead.expect(now.state, now.shown)

    def _rows_awaiting_reset(self) -> np.ndarray:
        """(N,) bool, the rows that this step resets; raises InvalidState if a row cannot be stepped."""
        self._now.progress.require_started()
        ended = self._now.progress.ended.copy()
        if self.autoreset_mode is AutoresetMode.NEXT_STEP or not ended.any():
            return ended
        rows = np.flatnonzero(ended).tolist()
        raise InvalidState(f'environments {rows} have ended; call reset(options={{"reset_mask": mask}}) for them first')

    def _rows_to_reset(self, given: dict[str, Any]) -> np.ndarray:
        """(N,) bool: all rows, or those of the reset mask."""
        mask = given.get("reset_mask")
        if mask is None:
            return np.ones(self.num_envs, np.bool_)
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            found = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise InvalidInput(f"options['reset_mask'] is {found}; pass a numpy bool array ({self.num_envs},)")
        if not mask.any():
            raise InvalidInput("options['reset_mask'] marks no environment; mark at least one")
        if not mask.all():
            self._now.progress.require_started()
        return mask.copy()


def _autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        known = [one.value for one in AutoresetMode]
        raise InvalidInput(f"autoreset_mode={mode!r}; pass an AutoresetMode or one of {known}") from error
