"""`doom-maze`: ViZDoom in mazes that are made from the seed of the episode, with exact depth and pose.

Mazes 0 to 4095 are for training, 100000 to 100511 (`split="test"`, the source `doom-maze-test`) are never met in it;
textures are shared.
"""

from __future__ import annotations

import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldsim.envs.sources.base import SourceSpec, TimeStep, check_discrete, frame_of
from worldsim.envs.sources.mazes import BLOCK, LANDMARKS, Maze, exact_depth, make_maze, textmap, wad
from worldsim.envs.sources.registry import Package, register_source
from worldsim.errors import InvalidInput, InvalidState
from worldsim.spec import ActionSpec, StreamSpec

TICS_PER_SECOND = 35
MAP_BYTES = 1 << 17  # room for the text of any maze
SPLITS = {"train": (0, 4096), "test": (100_000, 512)}  # first maze, number of mazes
GOAL_REACH = 56.0  # map units from the goal at which it is found
BUTTONS = ("MOVE_FORWARD", "MOVE_BACKWARD", "TURN_LEFT", "TURN_RIGHT")
MEANINGS = ("NOOP", "FORWARD", "BACKWARD", "TURN_LEFT", "TURN_RIGHT")
KEYS = ((), ("up",), ("down",), ("left",), ("right",))
VARIABLES = ("POSITION_X", "POSITION_Y", "CAMERA_POSITION_Z", "ANGLE")


class MazeSource:
    """One ViZDoom game; each episode is in the maze that its seed chooses. A step is `frame_skip` tics of 1/35 s.

    The reward is 1 for the step that reaches the goal, a lamp, which ends the episode, and 0 otherwise. Streams:
    `depth` (H, W) float16, exact, along the viewing axis, of walls, floor and ceiling (the lamp is not in it), in map
    units; `pose` x, y, z, yaw (map units, radians); `motion` since the step before: forward, left, turn; `maze`, its
    number.
    """

    def __init__(
        self, *, height: int = 64, width: int = 96, frame_skip: int = 2, split: str = "train", limit: int = 600,
        textures: int = 8,
    ) -> None:  # fmt: skip
        """`textures` are the wall textures that there are, as many of floors and of landmarks; 0: all, some 70.

        Eight is what the world that ships has learned.
        """
        if split not in SPLITS:
            raise InvalidInput(f"split is {split!r}; give one of {', '.join(SPLITS)}")
        if frame_skip < 1 or limit < 1 or height % 8 or width % 8 or height < 8 or width < 8:
            raise InvalidInput(
                f"frame_skip is {frame_skip}, limit {limit}, frames {height} x {width}; give at least 1 each, and "
                "sides that are multiples of 8"
            )
        if not 0 <= textures <= len(LANDMARKS):
            raise InvalidInput(f"textures is {textures}; give 1 to {len(LANDMARKS)}, or 0 for all")
        self.spec = _spec(height, width, frame_skip, split, limit, textures)
        self._split, self._textures = SPLITS[split], textures
        from worldsim.envs.sources import doom  # here: it needs what runs the engine

        self._doom, self._vzd = doom, doom._import_vizdoom()
        folder = tempfile.TemporaryDirectory(prefix="worldsim-maze-")
        self._wad = Path(folder.name) / "maze.wad"
        self._load(self._maze(self._split[0]))
        self._game = self._start(folder.name)
        self._stop = weakref.finalize(self, doom._stop, self._game, folder)
        self._steps = -1  # actions since the reset; negative when a reset is needed
        self._row: TimeStep | None = None

    def reset(self, seed: int) -> TimeStep:
        """Start in the maze that `seed` chooses."""
        first, count = self._split
        self._load(self._maze(first + seed % count))
        with self._doom.engine_errors(self._vzd):
            self._game.set_seed(seed % 2**31)
            self._game.set_doom_map("MAP01")
            self._game.new_episode()
        self._steps, self._row = 0, None
        self._row = self._read()
        return self._row

    def step(self, action: int | np.ndarray) -> TimeStep:
        """Play one action for `frame_skip` tics."""
        if self._steps < 0:
            raise InvalidState("the episode is over or has not begun; call reset(seed) first")
        pressed = check_discrete(action, self.spec.actions.n)
        with self._doom.engine_errors(self._vzd):
            self._game.make_action([int(k + 1 == pressed) for k in range(len(BUTTONS))], self.spec.frame_skip)
        self._steps += 1
        row = self._read()
        away = np.linalg.norm(row.extras["pose"][:2] - self.maze.center(self.maze.goal))
        found, late = bool(away < GOAL_REACH), self._steps == self.spec.max_episode_steps
        self._row = TimeStep(row.rgb, float(found), found, late and not found, row.extras)
        if self._row.done:
            self._steps = -1
        return self._row

    def render(self) -> np.ndarray:
        """The current frame (H, W, 3) uint8."""
        return frame_of(self._row)

    def close(self) -> None:
        """Stop the game; may be called twice."""
        self._stop()

    def _maze(self, number: int) -> Maze:
        return make_maze(number, textures=self._textures)

    def _load(self, maze: Maze) -> None:
        """Put a maze where the engine reads its map from: it reads the text anew for every episode."""
        self.maze = maze
        with open(self._wad, "r+b" if self._wad.exists() else "wb") as file:
            file.write(wad(textmap(maze), MAP_BYTES))

    def _start(self, folder: str) -> Any:
        vzd = self._vzd
        game = vzd.DoomGame()
        game.set_doom_config_path(str(Path(folder) / "_vizdoom.ini"))
        game.set_doom_scenario_path(str(self._wad))
        game.set_doom_map("MAP01")
        game.set_window_visible(False)
        game.set_screen_resolution(vzd.ScreenResolution.RES_320X240)
        game.set_screen_format(vzd.ScreenFormat.RGB24)
        for part in ("hud", "weapon", "crosshair", "decals", "particles", "messages", "effects_sprites"):
            getattr(game, f"set_render_{part}")(False)
        game.set_mode(vzd.Mode.PLAYER)
        game.set_episode_timeout(0)
        game.set_available_buttons([getattr(vzd.Button, name) for name in BUTTONS])
        game.set_available_game_variables([getattr(vzd.GameVariable, name) for name in VARIABLES])
        game.add_game_args("+movebob 0 +freelook 0")
        engine = Path(vzd.__file__).parent / "vizdoom"
        game.set_vizdoom_path(str(self._doom._engine_that_ends_with_us(engine, folder)))
        with self._doom._sheltered(folder), self._doom.engine_errors(vzd):
            game.init()
        return game

    def _read(self) -> TimeStep:
        """The row of the present state."""
        state = self._game.get_state()
        x, y, z, angle = state.game_variables
        pose = np.array([x, y, z, np.deg2rad(angle)], np.float32)
        size = (self.spec.width, self.spec.height)
        frame = np.array(Image.fromarray(state.screen_buffer).resize(size, Image.Resampling.BOX))
        before = pose if self._row is None else self._row.extras["pose"]
        extras = {
            "depth": exact_depth(self.maze, pose, self.spec.height, self.spec.width).astype(np.float16),
            "pose": pose,
            "motion": motion_between(before, pose),
            "maze": np.int64(self.maze.number),
        }
        return TimeStep(rgb=frame, extras=extras)  # type: ignore[arg-type]


def motion_between(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """How far forward, to the left (map units) and round (radians) it is from one pose to the next, (3,) float32."""
    (dx, dy), yaw = after[:2] - before[:2], float(before[3])
    turn = (after[3] - yaw + np.pi) % (2 * np.pi) - np.pi
    ahead, left = dx * np.cos(yaw) + dy * np.sin(yaw), dy * np.cos(yaw) - dx * np.sin(yaw)
    return np.array([ahead, left, turn], np.float32)


def _spec(height: int, width: int, frame_skip: int, split: str, limit: int, textures: int) -> SourceSpec:
    side = BLOCK * 13
    return SourceSpec(
        name="doom-maze",
        height=height,
        width=width,
        actions=ActionSpec(n=len(MEANINGS), meanings=MEANINGS, keys=KEYS),
        fps=TICS_PER_SECOND / frame_skip,
        frame_skip=frame_skip,
        max_episode_steps=limit,
        pixel_aspect=(320 / width) / (240 / height),
        hfov_degrees=90.0,
        extras={
            "depth": StreamSpec("depth", (height, width), "float16", (1.0,), (4096.0,), unit="map units"),
            "pose": StreamSpec("vector", (4,), "float32", names=("x", "y", "z", "yaw")),
            "motion": StreamSpec(
                "vector", (3,), "float32", (-64.0, -64.0, -3.2), (64.0, 64.0, 3.2), names=("forward", "left", "turn")
            ),
            "maze": StreamSpec("token", (), "int64"),
        },
        parameters={
            "height": height, "width": width, "frame_skip": frame_skip, "split": split, "limit": limit,
            "textures": textures, "arena": [0.0, side],
        },
    )  # fmt: skip


def _register() -> None:
    """Make the mazes for training and those for tests known, with policies that come back."""
    tours = "worldsim.envs.sources.maze_tours"
    policies = {
        "out-and-back": "OutAndBack", "loops": "Loops", "look-round": "LookRound", "tour": "Tour", "seek": "Seek",
    }  # fmt: skip
    for name, split in (("doom-maze", "train"), ("doom-maze-test", "test")):
        register_source(
            name, "worldsim.envs.sources.doom_maze:MazeSource",
            package=Package("vizdoom", 'pip install "worldsim[doom]"', "vizdoom"),
            options={} if split == "train" else {"split": split},
            policies={policy: f"{tours}:{kind}" for policy, kind in policies.items()},
            mix=("out-and-back", "out-and-back", "loops", "look-round", "tour", "seek"),
        )  # fmt: skip


_register()
