"""Many worlds stepped as one batch, behind gymnasium's vector interface: `WorldVectorEnv`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from worldsim.actions import check_actions
from worldsim.envs import worlds
from worldsim.envs.progress import Outcome, Progress
from worldsim.envs.starts import Start, check_options, check_seeds, check_starts
from worldsim.envs.state import EnvState, pack, unpack
from worldsim.errors import InvalidInput, InvalidState
from worldsim.spec import WorldProtocol
from worldsim.tree import put_rows, select_rows


class WorldVectorEnv(VectorEnv[np.ndarray, np.ndarray, np.ndarray]):
    """`num_envs` environments over one world, one batched model call a step.

    Behaves as gymnasium's `SyncVectorEnv` over `WorldEnv`s in all three autoreset modes; row i does what a
    `WorldEnv` reset with its seed would do, whatever its neighbours do. Observations are (N, H, W, 3) uint8,
    rewards (N,) float64.

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
        max_episode_steps: worlds.TimeLimit = "world",
        render_mode: str | None = None,
        device: str = "auto",
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, int) or num_envs < 1:
            raise InvalidInput(f"num_envs={num_envs!r}; pass a number of environments above 0")
        self.render_mode = worlds.check_render_mode(render_mode, self.metadata["render_modes"])
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.world = worlds.load_world(world, device)
        spec = self.world.spec
        self.num_envs = num_envs
        self.max_episode_steps = worlds.time_limit(spec, max_episode_steps)
        self.single_observation_space = worlds.picture_space(spec)
        self.single_action_space = spec.actions.to_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        own = {"render_fps": worlds.render_fps(spec), "autoreset_mode": self.autoreset_mode}
        self.metadata = {**type(self).metadata, **own}  # type: ignore[misc]
        self._progress = [Progress() for _ in range(num_envs)]
        self._state: Any = None
        self._pictures = np.zeros(self.observation_space.shape or (), np.uint8)  # as the rows look now

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin episodes in all rows, or in those of `options["reset_mask"]` (N,) bool.

        An integer seed becomes seed + i in row i. The options "frames" and "actions" of `WorldEnv.reset`
        serve every row, or each its own with the rows as first axis.
        """
        seeds = check_seeds(seed, self.num_envs)
        given = check_options(options, known=("frames", "actions", "reset_mask"))
        rows = self._rows_to_reset(given)
        starts = check_starts(self.world.spec, given.get("frames"), given.get("actions"), self.num_envs)
        infos: dict[str, Any] = {}
        for row, info in self._begin(rows, seeds, starts).items():
            infos = self._add_info(infos, info, row)
        if isinstance(seed, int | np.integer):
            super().reset(seed=int(seed))
        return self._pictures.copy(), infos

    def step(self, actions: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Take one action in every row; in the next-step mode, rows that had ended are reset instead."""
        resetting = self._rows_awaiting_reset()
        checked = check_actions(self.world.spec.actions, actions, self.num_envs, ignored=resetting)
        outcomes = self._advance(checked, resetting)
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            resetting = np.array([progress.ended for progress in self._progress])
        final = self._pictures
        begun = self._begin(np.flatnonzero(resetting).tolist())

        infos: dict[str, Any] = {}
        for row, outcome in enumerate(outcomes):
            if outcome is not None and row in begun:
                ending = {"final_obs": final[row].copy(), "final_info": outcome.info}
                infos = self._add_info(infos, ending, row)
            info = begun.get(row) or outcome.info  # type: ignore[union-attr]
            infos = self._add_info(infos, info, row)
        rewards = np.array([0.0 if o is None else o.reward for o in outcomes], np.float64)
        terminations = np.array([o is not None and o.terminated for o in outcomes], np.bool_)
        truncations = np.array([o is not None and o.truncated for o in outcomes], np.bool_)
        return self._pictures.copy(), rewards, terminations, truncations, infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """The current picture of every row, each (H, W, 3) uint8, in mode "rgb_array"."""
        self._require_started()
        if self.render_mode is None:
            gym.logger.warn('render() needs a render mode; make the environment with render_mode="rgb_array"')
            return None
        return tuple(picture.copy() for picture in self._pictures)

    def save_state(self) -> list[EnvState]:
        """One state a row, copied; any of them can be restored into a `WorldEnv` too."""
        self._require_started()
        rows = enumerate(self._progress)
        return [pack(self.world, select_rows(self._state, [row]), progress) for row, progress in rows]

    def restore_state(self, states: Sequence[EnvState]) -> None:
        """Return to saved states, one a row (the same one in several rows forks it), bit for bit."""
        if len(states) != self.num_envs:
            raise InvalidInput(f"{len(states)} states for {self.num_envs} environments; pass one for each")
        trees, progress = zip(*(unpack(self.world, state) for state in states), strict=True)
        self._put(dict(enumerate(trees)))
        self._progress = list(progress)
        self._pictures = worlds.render_world(self.world, self._state, self.num_envs).copy()

    def get_action_meanings(self) -> list[str]:
        """What each discrete action does, as in ALE; empty when the world does not say."""
        return worlds.action_meanings(self.world.spec.actions)

    def _advance(self, actions: np.ndarray, resetting: np.ndarray) -> list[Outcome | None]:
        """Step the whole batch, resetting rows included; outcomes of the rows that are not being reset."""
        if resetting.all():
            return [None] * self.num_envs
        self._state, result = worlds.step_world(self.world, self._state, actions)
        self._pictures = result.frame.copy()
        limit = self.max_episode_steps
        return [None if resetting[i] else p.advance(result, i, limit) for i, p in enumerate(self._progress)]

    def _begin(
        self, rows: Sequence[int], seeds: Sequence[int | None] = (), starts: Sequence[Start | None] = ()
    ) -> dict[int, dict[str, Any]]:
        """Begin an episode in each of `rows`, as a batch of one so that rows stay apart; their infos."""
        begun: dict[int, tuple[int, int]] = {}
        trees: dict[int, Any] = {}
        pictures = self._pictures.copy()
        for row in rows:
            seed = seeds[row] if seeds else None
            begun[row] = self._progress[row].next_start(seed, self.np_random)
            trees[row], pictures[row] = worlds.reset_world(self.world, *begun[row], starts[row] if starts else None)
        self._put(trees)
        self._pictures = pictures
        return {row: self._progress[row].begin(*start) for row, start in begun.items()}

    def _put(self, trees: dict[int, Any]) -> None:
        """Write states (batches of one) into rows of the batch."""
        if self._state is None:
            self._state = select_rows(next(iter(trees.values())), [0] * self.num_envs)
        for row, tree in trees.items():
            put_rows(self._state, [row], tree)

    def _rows_awaiting_reset(self) -> np.ndarray:
        """(N,) bool, the rows that this step resets; raises InvalidState if a row cannot be stepped."""
        self._require_started()
        ended = np.array([progress.ended for progress in self._progress])
        if self.autoreset_mode is AutoresetMode.NEXT_STEP or not ended.any():
            return ended
        rows = np.flatnonzero(ended).tolist()
        raise InvalidState(f'environments {rows} have ended; call reset(options={{"reset_mask": mask}}) for them first')

    def _rows_to_reset(self, given: dict[str, Any]) -> list[int]:
        """All rows, or those of the reset mask."""
        mask = given.get("reset_mask")
        if mask is None:
            return list(range(self.num_envs))
        if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_ or mask.shape != (self.num_envs,):
            found = f"{mask.dtype} {mask.shape}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise InvalidInput(f"options['reset_mask'] is {found}; pass a numpy bool array ({self.num_envs},)")
        if not mask.any():
            raise InvalidInput("options['reset_mask'] marks no environment; mark at least one")
        if not mask.all():
            self._require_started()
        return np.flatnonzero(mask).tolist()

    def _require_started(self) -> None:
        for progress in self._progress:
            progress.require_started()


def _autoreset_mode(mode: str | AutoresetMode) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        known = [one.value for one in AutoresetMode]
        raise InvalidInput(f"autoreset_mode={mode!r}; pass an AutoresetMode or one of {known}") from error
