"""Any gymnasium environment that observes or renders images as a source."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from PIL import Image

from worldsim.data.episodes import REQUIRED_STREAMS
from worldsim.envs.sources.base import SourceSpec, TimeStep, check_discrete
from worldsim.errors import InvalidAction, InvalidInput, InvalidState, MissingDependency, WorldsimError
from worldsim.spec import ActionSpec, StreamSpec

DEFAULT_FPS = 30.0
ATARI_FPS = 60.0
PROPRIO = "proprio"  # the stream of observations that are one vector
MOST_EXACT = 2.0**53  # integers up to here are floats, too: bounds are written as floats


class GymSource:
    """Steps a gymnasium environment and shows its frames, area-averaged to (height, width).

    `env` is a gymnasium id, made here with `env_kwargs`, or an environment with `render_mode="rgb_array"`, which its
    owner closes. `frames` says where frames come from: "observation", where the environment observes uint8 images
    (H, W, 3), or "render"; without it the observation where it is an image, as an agent of the environment sees it. A
    step holds its action for `frame_skip` steps of the environment, adds up their rewards and ends where the episode
    does; `between` adds the frames of all but the last of these. `streams` adds what the environment observes: a vector
    as "proprio", of a dict each vector and each image, as another camera of (height, width), under its own name.
    Actions are discrete, or a box of bounded floats or integers of one dimension; they are named as the environment
    names them. Its metadata may declare `augmentations`. Raises InvalidInput for an id that gymnasium does not know, an
    environment without `rgb_array` rendering, another kind of action, and, here or in a step, for a frame that is no
    uint8 image or a reward that is no finite float32.
    """

    def __init__(
        self,
        env: str | gym.Env[Any, Any],
        *,
        height: int = 64,
        width: int = 64,
        env_kwargs: Mapping[str, Any] | None = None,
        streams: bool = False,
        frames: Literal["observation", "render"] | None = None,
        frame_skip: int = 1,
        between: bool = False,
    ) -> None:
        kwargs = dict(env_kwargs or {})
        self._owned = isinstance(env, str)
        self._env = _make(env, kwargs) if isinstance(env, str) else _checked_env(env, kwargs)
        self._name, parameters = _description(env, kwargs)
        self._skip, self._between = frame_skip, between
        self._frame: np.ndarray | None = None
        self._running, self._steps = False, 0
        try:
            _check(height, width, frame_skip, between)
            self._observes = _observes_frames(self._name, self._env, frames)
            extras = _streams(self._name, self._env, height, width) if streams else {}
            if between:
                shape = (frame_skip - 1, height, width, 3)
                extras["between"] = StreamSpec("image", shape, "uint8", per_step=frame_skip - 1)
            options: dict[str, Any] = {"streams": streams, "between": between}
            options |= {"frame_skip": frame_skip} if frame_skip > 1 else {}
            options |= {"frames": "observation"} if self._observes else {}
            chosen = {name: value for name, value in options.items() if value}
            self.spec = SourceSpec(
                name=self._name,
                height=height,
                width=width,
                actions=_action_spec(self._name, self._env),
                fps=_steps_per_second(self._env) / frame_skip,
                frame_skip=frame_skip,
                max_episode_steps=_limit(self._env, frame_skip),
                augmentations=dict(self._env.metadata.get("augmentations", {})),
                extras=extras,
                parameters={**parameters, "height": height, "width": width, **chosen},
            )
        except WorldsimError:
            self.close()
            raise

    def reset(self, seed: int) -> TimeStep:
        """Start the episode that `seed` (taken modulo 2**31) names."""
        observation, _ = self._env.reset(seed=seed % 2**31)
        self._running, self._steps = True, 0
        self._frame = self._shown(observation)
        extras = self._observed(observation)
        if self._between:
            extras["between"] = np.stack([self._frame] * (self._skip - 1))
        return TimeStep(rgb=self._frame, extras=extras)

    def step(self, action: int | np.ndarray) -> TimeStep:
        """Play one action of the environment's own action space."""
        if not self._running:
            raise InvalidState("the episode is over or has not begun; call reset(seed) first")
        actions, space = self.spec.actions, self._env.action_space
        played: Any = check_discrete(action, actions.n, actions.start) if actions.discrete else self._in_box(action)
        if not space.contains(played):
            raise InvalidAction(f"action {action!r} is outside {space}; give one that is inside")
        self._steps += 1
        total, inside = 0.0, []
        for tick in range(self._skip):
            last = tick + 1 == self._skip
            observation, reward, terminated, truncated, _ = self._tick(played, shown=last or self._between)
            total += self._number(reward)
            if self._between and not last:
                inside.append(self._shown(observation))
            if terminated or truncated:
                break
        self._running = not (terminated or truncated)
        self._frame = self._shown(observation)
        extras = self._observed(observation)
        if self._between:  # of an episode that ended inside the step, the last one again
            inside += [self._frame] * (self._skip - 1 - len(inside))
            extras["between"] = np.stack(inside)
        return TimeStep(self._frame, total, bool(terminated), bool(truncated), extras)

    def render(self) -> np.ndarray:
        """The current frame (H, W, 3) uint8."""
        if self._frame is None:
            raise InvalidState("there is no frame before the first reset; call reset(seed) first")
        return self._frame.copy()

    def close(self) -> None:
        """Close the environment, if it was made here."""
        if self._owned:
            self._env.close()

    def _tick(self, action: Any, shown: bool) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step of the environment; what it observes is looked at where `shown`, and where the episode ends."""
        return self._env.step(action)

    def _in_box(self, action: int | np.ndarray) -> np.ndarray:
        """The action in the type of the space; floats are never cut to the integers below them."""
        values, dtype = np.asarray(action), self._env.action_space.dtype
        if self.spec.actions.dtype == "int64" and values.dtype.kind not in "iu":
            raise InvalidAction(f"action {action!r} has dtype {values.dtype}; give integers")
        return values.astype(dtype)

    def _shown(self, observation: Any) -> np.ndarray:
        """The frame (H, W, 3) uint8 of the current step."""
        frame: Any = observation if self._observes else _rendered(self._env)
        if not isinstance(frame, np.ndarray):
            shown = "None" if frame is None else f"a {type(frame).__name__}"
        elif frame.dtype == np.uint8 and (frame.ndim == 2 or (frame.ndim == 3 and frame.shape[-1] in (3, 4))):
            return self._shrink(frame)
        else:
            shown = f"{frame.dtype} {frame.shape}"
        raise InvalidInput(
            f"{self._name} {'observes' if self._observes else 'renders'} {shown} instead of a frame; let it give "
            "a uint8 array (H, W, 3) with values from 0 to 255"
        )

    def _observed(self, observation: Any) -> dict[str, np.ndarray]:
        """The streams of an observation."""
        parts = observation if isinstance(observation, dict) else {PROPRIO: observation}
        return {
            name: self._as_stream(spec, np.asarray(parts[name]))
            for name, spec in self.spec.extras.items()
            if name in parts
        }

    def _as_stream(self, spec: StreamSpec, value: np.ndarray) -> np.ndarray:
        return self._shrink(value) if spec.kind == "image" else value.astype(spec.dtype)

    def _shrink(self, frame: np.ndarray) -> np.ndarray:
        size = (self.spec.width, self.spec.height)
        return np.array(Image.fromarray(frame).convert("RGB").resize(size, Image.Resampling.BOX))

    def _number(self, reward: Any) -> float:
        """The reward as a float; arrays of one number are taken as that number."""
        try:
            value = np.asarray(reward, np.float64)
            with np.errstate(over="ignore"):
                if value.size == 1 and np.isfinite(np.float32(value.item())):
                    return float(value.item())
        except (TypeError, ValueError):
            pass  # of no number at all
        raise InvalidInput(
            f"{self._name} gave reward {reward!r} at step {self._steps} of an episode; let its step() return one "
            f"finite number of at most {np.finfo(np.float32).max:.2g}"
        )


def _rendered(env: gym.Env[Any, Any]) -> Any:
    """What an environment renders.

    Gymnasium's viewer of MuJoCo draws into whichever OpenGL context is current: with two simulators in one process,
    into that of the other, and frames are black or the other's. So its own is made current before.
    """
    viewer: Any = getattr(getattr(env.unwrapped, "mujoco_renderer", None), "viewer", None)
    if hasattr(viewer, "make_context_current"):
        viewer.make_context_current()
    return env.render()


def _check(height: int, width: int, frame_skip: int, between: bool) -> None:
    if height < 1 or width < 1:
        raise InvalidInput(f"frames of {height} x {width} pixels cannot be made; give at least 1 x 1")
    if frame_skip < 1 or (between and frame_skip < 2):
        raise InvalidInput(f"frame_skip is {frame_skip}; give at least 1, and at least 2 with frames between steps")


def _make(env_id: str, kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
    if env_id.startswith("ALE/"):
        try:
            import ale_py
        except ImportError as error:
            raise MissingDependency(f"{env_id} needs the Atari emulator; get it with `pip install ale-py`") from error
        gym.register_envs(ale_py)
    if "render_mode" in kwargs:
        raise InvalidInput(f"env kwargs {kwargs} name a render_mode; leave it out, frames need 'rgb_array'")
    try:
        return gym.make(env_id, render_mode="rgb_array", **kwargs)
    except gym.error.DependencyNotInstalled as error:
        raise MissingDependency(f"{env_id} needs a package that is not installed: {error}") from error
    except (gym.error.Error, ImportError) as error:
        raise InvalidInput(f"gymnasium cannot make {env_id!r} ({error}); check the id and its packages") from error
    except (TypeError, ValueError, KeyError, AssertionError) as error:
        if not kwargs:
            raise  # a fault of the environment's own
        raise InvalidInput(f"{env_id} cannot be made with env kwargs {kwargs} ({error}); give others") from error


def _checked_env(env: gym.Env[Any, Any], kwargs: dict[str, Any]) -> gym.Env[Any, Any]:
    """An environment that was made elsewhere."""
    if not isinstance(env, gym.Env):
        raise InvalidInput(f"a {type(env).__name__} is no source; give its name or a gymnasium environment")
    if kwargs:
        raise InvalidInput("env kwargs came with an environment that is made already; make it with them")
    if env.render_mode != "rgb_array":
        raise InvalidInput(f"{env} has render mode {env.render_mode!r}; make it with render_mode='rgb_array'")
    return env


def _description(env: str | gym.Env[Any, Any], kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """What a store says of the source: its name, and what it takes to make it again, as far as that is known."""
    if isinstance(env, str):
        env_id = env
    elif env.spec is not None:
        env_id = env.spec.id
        usual = gym.registry[env_id].kwargs if env_id in gym.registry else {}
        own = {name for name, value in env.spec.kwargs.items() if repr(value) != repr(usual.get(name))}
        kwargs = {name: env.spec.kwargs[name] for name in sorted(own - {"render_mode"})}
        if not _is_json(kwargs):
            kwargs = {}
    else:
        kind = type(env.unwrapped)
        return f"env:{kind.__module__}.{kind.__qualname__}", {}
    return f"gym:{env_id}", {"env_id": env_id, **({"env_kwargs": kwargs} if kwargs else {})}


def _observes_frames(name: str, env: gym.Env[Any, Any], frames: str | None) -> bool:
    """Whether frames are observations; raises InvalidInput where that is asked for and they are no images."""
    space = env.observation_space
    images = isinstance(space, gym.spaces.Box) and space.dtype == np.uint8 and space.shape[2:] == (3,)
    if frames not in (None, "observation", "render"):
        raise InvalidInput(f"frames is {frames!r}; give 'observation' or 'render'")
    if frames == "observation" and not images:
        raise InvalidInput(f"{name} observes {space}, no uint8 images (H, W, 3); give frames='render'")
    return images and frames != "render"


def _limit(env: gym.Env[Any, Any], frame_skip: int) -> int | None:
    """The environment's time limit in steps of the source."""
    limit = env.spec.max_episode_steps if env.spec else None
    return None if limit is None else -(-limit // frame_skip)


def _is_json(values: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(json.dumps(values)) == values)
    except (TypeError, ValueError):
        return False


def _action_spec(name: str, env: gym.Env[Any, Any]) -> ActionSpec:
    space = env.action_space
    if isinstance(space, gym.spaces.Discrete):
        meanings = _meanings(env, int(space.n))
        return ActionSpec(n=int(space.n), meanings=meanings, keys=_keys(meanings), start=int(space.start))
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1 and space.is_bounded("both"):
        low, high = tuple(map(float, space.low)), tuple(map(float, space.high))
        kind = space.dtype.kind if space.dtype is not None else ""
        if kind == "f":
            return ActionSpec(low=low, high=high)
        if kind in "iu" and max(map(abs, low + high)) <= MOST_EXACT:
            return ActionSpec(low=low, high=high, box_dtype=str(space.dtype))
    raise InvalidInput(
        f"{name} has actions {space}; worldsim takes Discrete actions or a bounded Box of one dimension, "
        "wrap the environment to have one of these"
    )


def _streams(name: str, env: gym.Env[Any, Any], height: int, width: int) -> dict[str, StreamSpec]:
    """The streams of an environment's observations; raises InvalidInput where there are none that can be recorded."""
    space = env.observation_space
    parts = dict(space.spaces) if isinstance(space, gym.spaces.Dict) else {PROPRIO: space}
    streams = {key: spec for key, part in parts.items() if (spec := _stream(part, height, width)) is not None}
    if not streams or streams.keys() & {*REQUIRED_STREAMS, "between"}:
        raise InvalidInput(
            f"{name} observes {space}; give an environment with vectors, or with a dict of vectors and images whose "
            f"names are not {', '.join(REQUIRED_STREAMS)}, or leave out its streams"
        )
    return streams


def _stream(space: gym.spaces.Space[Any], height: int, width: int) -> StreamSpec | None:
    """A vector or an image as a stream; None for what is neither."""
    if not isinstance(space, gym.spaces.Box):
        return None
    if space.dtype == np.uint8 and len(space.shape) == 3 and space.shape[-1] == 3:
        return StreamSpec("image", (height, width, 3), "uint8")
    if len(space.shape) != 1:
        return None
    low, high = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return StreamSpec("vector", space.shape, "float32")
    return StreamSpec("vector", space.shape, "float32", tuple(low.tolist()), tuple(high.tolist()))


def _meanings(env: gym.Env[Any, Any], n: int) -> tuple[str, ...]:
    """The names of the actions by the outermost environment that names them; none where they are of other actions."""
    while not callable(names := getattr(env, "get_action_meanings", None)):
        # A wrapper that changes actions leaves the names of the environment inside it without meaning.
        if isinstance(env, gym.ActionWrapper) or not isinstance(env, gym.Wrapper):
            return ()
        if env.action_space != env.env.action_space:
            return ()
        env = env.env
    found = tuple(map(str, names()))
    return found if len(found) == n else ()


def _steps_per_second(env: gym.Env[Any, Any]) -> float:
    frame_skip = env.spec.kwargs.get("frameskip") if env.spec else None
    if env.spec and env.spec.namespace == "ALE" and isinstance(frame_skip, int):
        return ATARI_FPS / frame_skip  # its render_fps does not count skipped frames
    return float(env.metadata.get("render_fps") or DEFAULT_FPS)


def _keys(meanings: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Keys for actions that are named as in ALE ("UPRIGHTFIRE"); none if any has another name."""
    keys = []
    for meaning in meanings:
        if not re.fullmatch("NOOP|(UP|DOWN)?(LEFT|RIGHT)?(FIRE)?", meaning):
            return ()
        words = re.findall("UP|DOWN|LEFT|RIGHT|FIRE", meaning)
        keys.append(tuple("space" if word == "FIRE" else word.lower() for word in words))
    return tuple(keys)
