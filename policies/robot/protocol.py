"""What a robot policy is, in LeRobot's words (release 0.6), so that its policies run here as they are.

A policy chooses actions for a batch of B episodes that begin together:

    policy.reset()                          # before the first step of the episodes
    actions = policy.select_action(batch)   # (B, A), at every step

`batch` is a dict of tensors with the batch first, on the CPU:

    observation.image              (B, 3, H, W)  float32, 0 to 1; of several cameras observation.images.<camera>
    observation.state              (B, D)        float32, the stream `proprio`
    observation.environment_state  (B, E)        float32, all other vectors of the world, in the order of their names
    observation.<stream>           (B, ...)      each of these vectors by itself
    task                           list of B     str, the task's name

A policy may say `sees_frames = False`, for which no frame is decoded, and may have `seed(seeds)`, which is called
before `reset` with a number for each episode; what it draws from torch's generator is seeded by the first of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from worldsim.config import SourceConfig
from worldsim.envs.sources.base import SourceSpec, TimeStep
from worldsim.envs.sources.registry import POLICIES
from worldsim.errors import InvalidInput, MissingDependency, WorldsimError
from worldsim.policies.data import make_policy
from worldsim.spec import WorldSpec

Batch = dict[str, Any]
STATE, TASK, SUCCESS = "proprio", "task", "success"  # streams that have a meaning here
LEROBOT = "lerobot:"  # and the folder of a policy that LeRobot saved
WORLD = "world:"  # and a world that acts by its action tokens
CLONED = ".safetensors"  # the end of a policy's file that `worldsim robot clone` wrote


@runtime_checkable
class RobotPolicy(Protocol):
    """Chooses actions for a batch of episodes."""

    def reset(self) -> None:
        """Begin a batch of episodes."""
        ...

    def select_action(self, batch: Batch) -> Tensor:
        """The next actions, (B, A), in the units of the world's action space."""
        ...


MakePolicy = Callable[[], RobotPolicy]


def make_batch(
    spec: WorldSpec, frames: np.ndarray | None, streams: Mapping[str, np.ndarray], tasks: Sequence[str]
) -> Batch:
    """What policies are given: frames (B, H, W, 3) uint8, or None for those that see none, and streams (B, ...)."""
    batch: Batch = {"task": list(tasks)}
    if frames is not None:
        images = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255  # (B, 3, H, W)
        parts = images.chunk(len(spec.cameras), dim=2) if spec.cameras else (images,)
        names = [f"images.{camera}" for camera in spec.cameras] or ["image"]
        batch |= {f"observation.{name}": part for name, part in zip(names, parts, strict=True)}
    vectors = {
        name: torch.from_numpy(np.asarray(streams[name], np.float32)).flatten(1)
        for name, one in sorted(spec.streams.items())
        if one.kind == "vector" and name in streams
    }
    if STATE in vectors:
        batch["observation.state"] = vectors.pop(STATE)
    if vectors:
        batch["observation.environment_state"] = torch.cat(list(vectors.values()), dim=1)
    return batch | {f"observation.{name}": values for name, values in vectors.items()}


def chosen(policy: RobotPolicy, batch: Batch, spec: WorldSpec) -> np.ndarray:
    """The actions of a policy, (B, A) float32 within the world's bounds.

    Raises InvalidInput for actions of another number or dimension, and for numbers that are not finite.
    """
    rows, (size,) = len(batch["task"]), spec.actions.shape
    actions = torch.as_tensor(policy.select_action(batch)).detach().cpu()
    if tuple(actions.shape) != (rows, size) or not torch.isfinite(actions).all():
        raise InvalidInput(
            f"policy {type(policy).__name__} chose actions of shape {tuple(actions.shape)}, or such as are not finite; "
            f"world {spec.name!r} takes finite numbers ({rows}, {size}), one row an episode"
        )
    return np.clip(actions.numpy().astype(np.float32), spec.actions.low, spec.actions.high).astype(np.float32)


def sees_frames(policy: RobotPolicy) -> bool:
    """Whether frames have to be decoded for a policy: one that says nothing of it is taken to look at them."""
    said = getattr(policy, "sees_frames", None)
    features = getattr(getattr(policy, "config", None), "input_features", None)
    if said is None and isinstance(features, Mapping):  # LeRobot's policies list what they read
        return any(name.startswith("observation.image") for name in features)
    return said is not False


def load_policy(name: str, spec: WorldSpec, source: SourceConfig) -> MakePolicy:
    """What makes a policy of a world that was recorded from `source`, by its name.

    A data policy of the world's source ("expert", "biased:0.05"), the file of a cloned one (.safetensors), world:PATH
    of a world with action tokens, MODULE:CALLABLE of something that gives a policy when it is called, or lerobot:FOLDER
    of one that LeRobot saved. Raises InvalidInput for an unknown name and for what has
    no `reset` and `select_action`, MissingDependency without LeRobot.
    """
    if name.startswith(LEROBOT):
        return lambda: _checked(_from_lerobot(name.removeprefix(LEROBOT)), name)
    if name.startswith(WORLD):
        from worldsim.policies.robot.world_policy import WorldPolicy

        acting = WorldPolicy(name.removeprefix(WORLD))
        return lambda: acting
    if name.endswith(CLONED):
        from worldsim.policies.robot.cloning import ClonedPolicy

        cloned = ClonedPolicy.load(Path(name))
        return lambda: cloned
    if name.partition(":")[0] in POLICIES:
        made = SourceSpec(
            source.name, spec.height, spec.width, spec.actions, spec.steps_per_second, extras=dict(spec.streams),
            parameters=source.parameters,
        )  # fmt: skip
        return lambda: FromDataPolicy(name, made)
    module, colon, where = name.partition(":")
    if not colon:
        raise InvalidInput(
            f"policy {name!r} is none of {', '.join(POLICIES)}; give one of these, MODULE:CALLABLE, "
            f"{WORLD}PATH, {LEROBOT}FOLDER, or the file of a cloned one"
        )
    try:
        make = getattr(import_module(module), where)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(
            f"policy {name!r} cannot be imported ({error}); give MODULE:CALLABLE that can be found from here"
        ) from error
    return lambda: _checked(make(), name)


def _checked(policy: Any, name: str) -> RobotPolicy:
    if not isinstance(policy, RobotPolicy):
        raise InvalidInput(
            f"policy {name!r} gave a {type(policy).__name__} without reset() and select_action(batch); give one with "
            "LeRobot's interface"
        )
    return policy


def _from_lerobot(folder: str) -> Any:
    """A policy that LeRobot saved, with its own pre- and postprocessing around it."""
    try:
        from lerobot.configs.policies import PreTrainedConfig
        from lerobot.policies.factory import get_policy_class, make_pre_post_processors
    except ImportError as error:
        raise MissingDependency(f"LeRobot cannot be imported ({error}); pip install lerobot") from error
    config = PreTrainedConfig.from_pretrained(folder)
    policy = get_policy_class(config.type).from_pretrained(folder)
    before, after = make_pre_post_processors(config, pretrained_path=folder)
    return Processed(policy.eval(), before, after)


class Processed:
    """A policy between a preprocessor of batches and a postprocessor of actions, as LeRobot has them."""

    def __init__(self, policy: Any, before: Callable[[Batch], Batch], after: Callable[[Tensor], Tensor]) -> None:
        self.policy, self._before, self._after = policy, before, after
        self.config = policy.config

    def reset(self) -> None:
        """Forget the queued actions."""
        self.policy.reset()

    def select_action(self, batch: Batch) -> Tensor:
        """The next actions (B, A)."""
        actions: Tensor = self._after(self.policy.select_action(self._before(batch)))
        return actions


class FromDataPolicy:
    """A data policy of a source in every episode of a batch; it sees streams and no frames."""

    sees_frames = False

    def __init__(self, name: str, spec: SourceSpec) -> None:
        self._name, self._spec = name, spec
        self._seeds: Sequence[int] = (0,)
        self._rows: list[Any] = []
        self._tasks = list(spec.extras[TASK].names) if TASK in spec.extras else []
        try:
            make_policy(name, spec)
        except WorldsimError as error:
            raise InvalidInput(f"policy {name!r} cannot play this world ({error})") from error

    def seed(self, seeds: Sequence[int]) -> None:
        """Numbers that the randomness of the next episodes derives from."""
        self._seeds = seeds

    def reset(self) -> None:
        """Begin a batch of episodes."""
        self._rows = []

    def select_action(self, batch: Batch) -> Tensor:
        """The next actions (B, A)."""
        tasks = batch["task"]
        if not self._rows:
            self._rows = [make_policy(self._name, self._spec) for _ in tasks]
            for row, policy in enumerate(self._rows):
                policy.reset(np.random.default_rng([self._seeds[row % len(self._seeds)], 7]))
        frame = np.zeros((1, 1, 3), np.uint8)
        actions = []
        for row, (policy, task) in enumerate(zip(self._rows, tasks, strict=True)):
            extras = {name: batch[f"observation.{name}"][row].numpy() for name in self._vectors(batch)}
            if STATE in self._spec.extras:
                extras[STATE] = batch["observation.state"][row].numpy()
            if self._tasks:
                extras[TASK] = np.asarray(self._tasks.index(task))
            actions.append(policy.act(TimeStep(rgb=frame, extras=extras)))
        return torch.from_numpy(np.stack(actions).astype(np.float32))

    def _vectors(self, batch: Batch) -> list[str]:
        return [name for name in self._spec.extras if f"observation.{name}" in batch]
