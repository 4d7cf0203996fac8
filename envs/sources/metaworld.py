"""MetaWorld's manipulation tasks (Yu et al., 2019; release 3) as one source: a Sawyer arm, many tasks, one camera.

Each episode is one of the source's tasks, drawn by its seed, or the one that `choose_task` names. Besides frames the
rows have what the arm feels (`proprio`), where it was told to go (`command`: the hand lags behind), where the object is
(`object`), how fast hand and object move (`velocity`), where the object is to be (`goal`), which task it is (`task`, a
token), and whether the task is done at that moment (`success`). Episodes end by their time limit alone.
"""

from __future__ import annotations

import ctypes.util
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from worldsim.envs.sources.base import SourceSpec, TimeStep
from worldsim.envs.sources.registry import Package, register_source
from worldsim.errors import InvalidAction, InvalidInput, InvalidState, MissingDependency
from worldsim.spec import ActionSpec, StreamSpec

TASKS = ("reach-v3", "push-v3", "drawer-close-v3", "button-press-v3")
TICK = 0.0125  # s of the simulator's clock
LAST = 18  # where an observation has what it was a tick before
MOST_TICKS = 500  # of an episode: the simulator refuses to go on
INSTALL = 'pip install "worldsim[metaworld]"'
ACTIONS = ActionSpec(
    low=(-1.0,) * 4,
    high=(1.0,) * 4,
    keys=(("left", "right"), ("down", "up"), ("pagedown", "pageup"), ("home", "end")),
)
PROPRIO = StreamSpec("vector", (4,), "float32", names=("x", "y", "z", "gripper"), unit="m, m, m, opening")
PLACE = StreamSpec("vector", (3,), "float32", names=("x", "y", "z"), unit="m")
VELOCITY = StreamSpec(
    "vector", (6,), "float32", names=tuple(f"{of} {axis}" for of in ("hand", "object") for axis in "xyz"), unit="m/s"
)
SUCCESS = StreamSpec("token", (), "bool", names=("not yet", "done"))


class MetaWorld:
    """MetaWorld as a source; an action is a push of the hand in x, y, z and one of the gripper, each from -1 to 1.

    `tasks` are its ids ("reach-v3"); the token `task` numbers them. `camera` is one of the model's ("corner4" is the
    one that LeRobot films with), `fov` its vertical field of view in degrees. A step holds its action for `frame_skip`
    ticks of 12.5 ms and ends an episode after `max_episode_steps`. The reward is the task's dense one, from 0 to 10 a
    tick, averaged over the ticks of a step: it says how far the task has come. Without `render` frames are black, for
    policies that do not look: a frame costs as much as a step.

    Raises MissingDependency without MetaWorld or something to render with, InvalidInput for tasks, a camera or sizes
    that there are none of.
    """

    def __init__(
        self,
        *,
        tasks: Sequence[str] = TASKS,
        height: int = 64,
        width: int = 64,
        camera: str = "corner4",
        fov: float = 42.0,
        frame_skip: int = 8,
        max_episode_steps: int = 30,
        render: bool = True,
    ) -> None:
        self.tasks = tuple(tasks)
        _check(self.tasks, height, width, fov, frame_skip, max_episode_steps)
        known = _import().ALL_V3_ENVIRONMENTS
        if unknown := [task for task in self.tasks if task not in known]:
            raise InvalidInput(f"MetaWorld has no task {unknown[0]!r}; it has {', '.join(sorted(known))}")
        self._camera, self._fov, self._render = camera, fov, render
        self._arms: dict[str, _Arm] = {}  # one a task, made when it is first played
        self._fixed: str | None = None
        self._now: TimeStep | None = None
        self._running, self._steps = False, 0
        names = tuple(task.removesuffix("-v3") for task in self.tasks)
        self.spec = SourceSpec(
            name="metaworld",
            height=height,
            width=width,
            actions=ACTIONS,
            fps=1 / (TICK * frame_skip),
            frame_skip=frame_skip,
            max_episode_steps=max_episode_steps,
            extras={
                "proprio": PROPRIO,
                "command": PLACE,
                "object": PLACE,
                "velocity": VELOCITY,
                "goal": PLACE,
                "task": StreamSpec("token", (), "int64", names=names),
                "success": SUCCESS,
            },
            parameters={
                "tasks": list(self.tasks), "height": height, "width": width, "camera": camera, "fov": fov,
                "frame_skip": frame_skip, "max_episode_steps": max_episode_steps,
            },
        )  # fmt: skip

    def choose_task(self, task: str | None) -> None:
        """Play this task ("reach-v3" or "reach") from the next reset on; None: the one that the seed draws.

        Raises InvalidInput for one that the source was not made with.
        """
        full = task if task is None or task.endswith("-v3") else f"{task}-v3"
        if full is not None and full not in self.tasks:
            raise InvalidInput(f"this source has no task {task!r}; it was made with {', '.join(self.tasks)}")
        self._fixed = full

    def reset(self, seed: int) -> TimeStep:
        """Start the episode that `seed` names."""
        task_seed, arm_seed = np.random.SeedSequence(seed).generate_state(2)
        task = self._fixed or self.tasks[int(task_seed) % len(self.tasks)]
        if task not in self._arms:
            self._arms[task] = _Arm(task, self._camera, self._fov, self.spec.height, self.spec.width, self._render)
        self._arm, self._task = self._arms[task], self.tasks.index(task)
        self._running, self._steps = True, 0
        return self._show(self._arm.reset(int(arm_seed) % 2**31), 0.0, False)

    def step(self, action: int | np.ndarray) -> TimeStep:
        """Play one action (4,) of numbers from -1 to 1."""
        if not self._running:
            raise InvalidState("the episode is over or has not begun; call reset(seed) first")
        push = np.asarray(action)
        if push.shape != (4,) or push.dtype.kind not in "iuf" or not (np.abs(push) <= 1).all():
            raise InvalidAction(f"action {action!r} is no 4 numbers from -1 to 1; give hand x, y, z and gripper")
        self._steps += 1
        total, done = 0.0, False
        for _ in range(self.spec.frame_skip):
            observation, reward, success = self._arm.step(push)
            total, done = total + reward / self.spec.frame_skip, done or success
        self._running = self._steps < (self.spec.max_episode_steps or 0)
        return self._show(observation, total, done)

    def render(self) -> np.ndarray:
        """The current frame (H, W, 3) uint8."""
        if self._now is None:
            raise InvalidState("there is no frame before the first reset; call reset(seed) first")
        return self._now.rgb.copy()

    def close(self) -> None:
        """Free the renderers; may be called twice."""
        for arm in self._arms.values():
            arm.close()
        self._arms.clear()
        self._running = False

    def _show(self, observation: np.ndarray, reward: float, success: bool) -> TimeStep:
        places = [np.r_[observation[i : i + 3], observation[i + 4 : i + 7]] for i in (0, LAST)]  # of hand and object
        extras = {
            "proprio": observation[:4].astype(np.float32),
            "command": self._arm.command().astype(np.float32),
            "object": observation[4:7].astype(np.float32),
            "velocity": ((places[0] - places[1]) / TICK).astype(np.float32),
            "goal": observation[-3:].astype(np.float32),
            "task": np.int64(self._task),
            "success": np.bool_(success),
        }
        self._now = TimeStep(self._arm.frame(), reward, False, not self._running, extras)
        return self._now


class _Arm:
    """One task's simulator and its renderer."""

    def __init__(self, task: str, camera: str, fov: float, height: int, width: int, render: bool) -> None:
        import mujoco

        env = _import().ALL_V3_ENVIRONMENTS[task]()
        # Without these it ignores seeds, refuses to be reset without a task object, and hides the goal.
        env._freeze_rand_vec, env.seeded_rand_vec, env._set_task_called = False, True, True
        env._partially_observable = False
        env.__dict__.pop("sawyer_observation_space", None)  # cached bounds that clip the goal to zero
        self._env, self._camera, self._shape = env, camera, (height, width, 3)
        self._renderer: Any = None
        number = mujoco.mj_name2id(env.model, mujoco.mjtObj.mjOBJ_CAMERA, camera)
        if number < 0:
            cameras = ", ".join(env.model.camera(i).name for i in range(env.model.ncam))
            raise InvalidInput(f"MetaWorld has no camera {camera!r}; give one of {cameras}")
        if render:
            env.model.cam_fovy[number] = fov
            quality = env.model.vis.quality
            quality.shadowsize = quality.offsamples = 0  # 8 ms a frame instead of 100
            self._renderer = _renderer(env.model, height, width)

    def reset(self, seed: int) -> np.ndarray:
        """The observation (39,) at the beginning of an episode."""
        self._env.seed(seed)
        return np.asarray(self._env.reset()[0])

    def step(self, push: np.ndarray) -> tuple[np.ndarray, float, bool]:
        """One tick: observation (39,), reward, success."""
        observation, reward, _, _, info = self._env.step(push.astype(np.float32))
        return observation, float(reward), bool(info["success"])

    def command(self) -> np.ndarray:
        """Where the hand was told to go (3,), in metres; it is pulled there, and lags behind."""
        return np.asarray(self._env.data.mocap_pos[0])

    def frame(self) -> np.ndarray:
        """(H, W, 3) uint8; black without a renderer."""
        if self._renderer is None:
            return np.zeros(self._shape, np.uint8)
        self._renderer.update_scene(self._env.data, camera=self._camera)
        frame = self._renderer.render()
        return np.ascontiguousarray(frame[::-1, ::-1] if self._camera in UPSIDE_DOWN else frame)

    def close(self) -> None:
        """Free the renderer."""
        if self._renderer is not None:
            self._renderer.close()
        self._env.close()


UPSIDE_DOWN = ("corner", "corner2", "corner3", "corner4")  # cameras that film the table from above its far side


def _renderer(model: Any, height: int, width: int) -> Any:
    """A renderer without what is slow in software: shadows, reflections, haze."""
    import mujoco

    try:
        renderer = mujoco.Renderer(model, height, width)
    except Exception as error:  # of whatever kind: it depends on the library that is missing
        raise MissingDependency(
            f"MuJoCo cannot render ({error}); apt-get install libegl1 and set MUJOCO_GL=egl, or libosmesa6 and "
            "MUJOCO_GL=osmesa"
        ) from error
    flags = mujoco.mjtRndFlag
    for flag in (flags.mjRND_SHADOW, flags.mjRND_REFLECTION, flags.mjRND_HAZE):
        renderer.scene.flags[flag] = 0
    return renderer


def _import() -> Any:
    """MetaWorld's table of environments; MuJoCo is told what to render with where nobody said so."""
    if "MUJOCO_GL" not in os.environ and not os.environ.get("DISPLAY"):
        found = next((name for name, library in (("egl", "EGL"), ("osmesa", "OSMesa")) if _has(library)), None)
        if found is not None:
            os.environ["MUJOCO_GL"] = found
    try:
        from metaworld import env_dict
    except ImportError as error:
        raise MissingDependency(f"MetaWorld cannot be imported ({error}); get it with {INSTALL}") from error
    except AttributeError as error:  # PyOpenGL's, where the library that MUJOCO_GL names is missing
        raise MissingDependency(
            f"MuJoCo cannot load what MUJOCO_GL={os.environ.get('MUJOCO_GL')} names ({error}); apt-get install "
            "libegl1 for egl, libosmesa6 for osmesa"
        ) from error
    return env_dict


def _has(library: str) -> bool:
    return ctypes.util.find_library(library) is not None


def _check(tasks: tuple[str, ...], height: int, width: int, fov: float, skip: int, limit: int) -> None:
    if not tasks or len(set(tasks)) < len(tasks):
        raise InvalidInput(f"tasks are {list(tasks)}; name one or more, each once")
    if height < 1 or width < 1 or not 1 <= fov <= 170:
        raise InvalidInput(
            f"frames of {height} x {width} pixels with a field of view of {fov} degrees cannot be made; give at least "
            "1 x 1 pixels and 1 to 170 degrees"
        )
    if skip < 1 or limit < 1 or skip * limit > MOST_TICKS:
        raise InvalidInput(
            f"{limit} steps of {skip} ticks are no episode of MetaWorld; give 1 or more of each, at most {MOST_TICKS} "
            "ticks in all"
        )


register_source(
    "metaworld",
    MetaWorld,
    package=Package("metaworld", INSTALL, "metaworld"),
    policies={
        name: f"worldsim.envs.sources.metaworld_experts:{kind}"
        for name, kind in {
            "expert": "Expert", "other-expert": "OtherExpert", "play": "Play", "fumble": "Fumble", "biased": "Biased",
            "delayed": "Delayed", "weak": "Weak", "absent": "Absent",
        }.items()
    },
    mix=("expert", "expert", "expert", "other-expert", "play", "play", "persistent"),
)  # fmt: skip
