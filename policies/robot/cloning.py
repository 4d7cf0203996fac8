"""Policies cloned from recordings: a small network that learns what was done at a frame (behaviour cloning).

It sees the frame, `observation.state` and the task, as LeRobot's policies do, and neither object nor goal but by what
the frame shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput
from worldsim.models.registry import Normalise, Scale
from worldsim.policies.robot.protocol import STATE, SUCCESS, TASK, Batch
from worldsim.runtime.devices import autocast_dtype
from worldsim.train.checkpoint import load_checkpoint, save_checkpoint, setting

KIND = "cloned-policy"
SAYS: dict[str, type] = {"kind": str, "config": dict}  # what its file says of itself
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class CloneConfig:
    """What a cloned policy sees, and its statistics."""

    height: int
    width: int
    tasks: tuple[str, ...]  # names; none in a world of one task
    state: Scale  # of `proprio`; of no entries where there is none
    action: Scale
    channels: int = 32  # of the first convolution
    hidden: int = 256


class CloneNet(nn.Module):
    """Actions of frames (B, 3, H, W) from 0 to 1, states (B, D) and task numbers (B,)."""

    def __init__(self, config: CloneConfig) -> None:
        super().__init__()
        c, wide = config, 2 * config.channels
        self.see = nn.Sequential(
            nn.Conv2d(3, c.channels, 5, stride=2, padding=2), nn.SiLU(),
            nn.Conv2d(c.channels, wide, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(wide, wide, 3, stride=2, padding=1), nn.SiLU(),
            nn.Flatten(), nn.Linear(wide * -(-c.height // 8) * -(-c.width // 8), c.hidden), nn.SiLU(),
        )  # fmt: skip
        self.state, self.action = Normalise(c.state), Normalise(c.action)
        inputs = c.hidden + len(c.state.mean) + len(c.tasks)
        self.tasks, self.reads_state = len(c.tasks), bool(c.state.mean)
        self.act = nn.Sequential(
            nn.Linear(inputs, c.hidden), nn.SiLU(), nn.Linear(c.hidden, c.hidden), nn.SiLU(),
            nn.Linear(c.hidden, len(c.action.mean)),
        )  # fmt: skip

    def forward(self, images: Tensor, state: Tensor, task: Tensor) -> Tensor:
        """(B, A), in deviations of the data."""
        parts = [self.see(2 * images - 1).float()]  # (B, hidden)
        if self.reads_state:
            parts.append(self.state(state))
        if self.tasks:
            parts.append(F.one_hot(task, self.tasks).float())
        said: Tensor = self.act(torch.cat(parts, dim=1))
        return said


class ClonedPolicy:
    """A cloned policy with LeRobot's interface."""

    sees_frames = True

    def __init__(self, net: CloneNet, config: CloneConfig) -> None:
        self._net, self._config = net.eval().requires_grad_(False), config

    def reset(self) -> None:
        """It remembers nothing."""

    def select_action(self, batch: Batch) -> Tensor:
        """The next actions (B, A); raises InvalidInput for a batch without what it sees, or with an unknown task."""
        c = self._config
        image = batch.get("observation.image")
        if image is None or image.shape[1:] != (3, c.height, c.width):
            raise InvalidInput(
                f"a cloned policy sees observation.image of (B, 3, {c.height}, {c.width}), the batch has "
                f"{None if image is None else tuple(image.shape)}; play it in a world of that size"
            )
        if unknown := [name for name in batch["task"] if c.tasks and name not in c.tasks]:
            raise InvalidInput(f"the cloned policy knows no task {unknown[0]!r}; it knows {', '.join(c.tasks)}")
        if c.state.mean and batch.get("observation.state", torch.zeros(1, 0)).shape[1] != len(c.state.mean):
            raise InvalidInput(
                f"a cloned policy reads observation.state of (B, {len(c.state.mean)}); the batch differs"
            )
        task = torch.tensor([c.tasks.index(name) if c.tasks else 0 for name in batch["task"]])
        return self._net.action.undo(self._net(image, batch.get("observation.state"), task))

    def save(self, path: Path) -> None:
        """Write it to a .safetensors file."""
        said = asdict(self._config)
        save_checkpoint(path, self._net.state_dict(), {"kind": KIND, "config": {"model": said}})

    @classmethod
    def load(cls, path: Path) -> ClonedPolicy:
        """Read what `save` wrote; raises InvalidInput for what is not there or something else."""
        if not path.exists():
            raise InvalidInput(f"policy {path} does not exist; `worldsim robot clone STORE --out {path}` makes one")
        tensors, meta = load_checkpoint(path, SAYS)
        if meta["kind"] != KIND:
            raise InvalidInput(f"{path} holds a {meta['kind']}; give the file of a policy of `worldsim robot clone`")
        config = setting(path, meta, "model", CloneConfig)
        net = CloneNet(config)
        net.load_state_dict(tensors)
        return cls(net, config)


@dataclass(frozen=True)
class Shown:
    """What was done at N frames."""

    images: np.ndarray  # (N, H, W, 3) uint8
    states: np.ndarray  # (N, D) float32
    tasks: np.ndarray  # (N,) int64
    actions: np.ndarray  # (N, A) float32
    names: tuple[str, ...]  # of the tasks


def read_shown(stores: Sequence[Episodes], episodes: int | None = None, tasks: Sequence[str] = ()) -> Shown:
    """The frames of the first `episodes` of the stores, up to each one's success, and what was done there.

    Of `tasks` alone, where some are named. Raises InvalidInput for discrete actions, for stores of too few episodes,
    and for tasks that they do not know.
    """
    meta = stores[0].meta
    if meta.actions.discrete:
        raise InvalidInput(f"episode store {str(stores[0].path)!r} has discrete actions; a robot's are continuous")
    names = meta.streams[TASK].names if TASK in meta.streams else ()
    if unknown := [task for task in tasks if task not in names]:
        raise InvalidInput(f"the stores have no task {unknown[0]!r}; they have {', '.join(names) or 'none'}")
    wanted = [names.index(task) for task in tasks]
    chosen = [
        (store, index)
        for store in stores
        for index in range(len(store))
        if store.lengths[index] > 1 and (not tasks or int(_first(store, TASK, index)) in wanted)
    ]
    if not chosen or (episodes is not None and not 1 <= episodes <= len(chosen)):
        raise InvalidInput(f"episodes is {episodes}, the stores have {len(chosen)} of two rows or more; give 1 to that")
    parts: list[tuple[np.ndarray, ...]] = []
    for store, index in chosen[:episodes]:
        one = store.episode(index)
        rows = len(one["action"]) - 1
        if SUCCESS in one and one[SUCCESS].any():
            rows = min(rows, max(int(np.argmax(one[SUCCESS])), 1))
        state = one[STATE][:rows] if STATE in one else np.zeros((rows, 0), np.float32)
        task = one[TASK][:rows] if TASK in one else np.zeros(rows, np.int64)
        parts.append((one["rgb"][:rows], state, task.astype(np.int64), one["action"][1 : rows + 1]))
    images, states, numbers, actions = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Shown(images, states, numbers, actions, tuple(names))


def _first(store: Episodes, stream: str, index: int) -> np.ndarray:
    """What a stream says in the first row of an episode."""
    row = int(store.ends[index] - store.lengths[index])
    return store.read(stream, row, row + 1)[0]


def clone(
    shown: Shown, *, seconds: float = 60.0, steps: int | None = None, batch: int = 64, seed: int = 0,
    tell: Callable[[int, float], Any] = lambda step, loss: None,
) -> ClonedPolicy:  # fmt: skip
    """A policy that does what was done; trained for `seconds`, or so many `steps`, the same for the same seed."""
    height, width = shown.images.shape[1:3]
    config = CloneConfig(height, width, shown.names, _scale(shown.states), _scale(shown.actions))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # the initial weights only
        net = CloneNet(config)
    optimizer = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
    rng, begin, step, progress = np.random.default_rng([seed, 17]), time.monotonic(), 0, 0.0
    dtype = autocast_dtype(torch.device("cpu"))
    while progress < 1:
        optimizer.param_groups[0]["lr"] = LEARNING_RATE * min(1.0, (progress + 0.02) / 0.05) * (1 - progress)
        rows = rng.integers(len(shown.images), size=batch)
        images = torch.from_numpy(shown.images[rows]).permute(0, 3, 1, 2).float() / 255
        wanted = net.action(torch.from_numpy(shown.actions[rows]))
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            said = net(images, torch.from_numpy(shown.states[rows]), torch.from_numpy(shown.tasks[rows]))
        loss = F.smooth_l1_loss(said.float(), wanted, beta=0.2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        progress = step / steps if steps is not None else (time.monotonic() - begin) / seconds
        tell(step, float(loss.detach()))
    return ClonedPolicy(net, config)


def _scale(rows: np.ndarray) -> Scale:
    std = rows.std(axis=0)
    return Scale(tuple(rows.mean(axis=0).tolist()), tuple(np.where(std > 1e-6, std, 1.0).tolist()))
