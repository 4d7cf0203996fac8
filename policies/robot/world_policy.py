"""A world as a policy: the model that simulates also acts, by denoising actions of what it sees (action tokens)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInput
from worldsim.models.acting import SOON
from worldsim.policies.robot.actors import Moment, actor_of, by_seed
from worldsim.policies.robot.protocol import STATE, TASK, Batch
from worldsim.world import World


class WorldPolicy:
    """Acts by the action tokens of the world in `path`, with LeRobot's interface.

    A world that has them in its own denoiser imagines the next frame with the actions that lead there; otherwise they
    are drawn by the network beside it. It sees frames and the streams that these read. Of each chunk `act_steps`
    actions are taken before it draws anew. Raises InvalidInput for a world without action tokens.
    """

    sees_frames = True

    def __init__(self, path: str | Path, *, device: str = "auto", act_steps: int = 2, outcome: int = SOON) -> None:
        self.world = World.from_pretrained(path, device=device)
        self._actor = actor_of(self.world, path)
        if not 1 <= act_steps <= self._actor.chunk:
            raise InvalidInput(f"act_steps is {act_steps}; give 1 to {self._actor.chunk}, the chunk's length")
        self._act_steps, self._outcome = act_steps, outcome
        self._seeds: Sequence[int] = (0,)
        self.reset()

    def seed(self, seeds: Sequence[int]) -> None:
        """Numbers that the noise of the next episodes derives from."""
        self._seeds = seeds

    def reset(self) -> None:
        """Begin a batch of episodes."""
        self._past: Any = None
        self._queue: list[Tensor] = []
        self._time = 0

    @torch.no_grad()
    def select_action(self, batch: Batch) -> Tensor:
        """The next actions (B, A)."""
        moment = self._moment(batch)
        seen, self._past = self._actor.look(moment, self._past)
        if not self._queue:
            chunk = self._actor.act(moment, seen, self._outcome).cpu()
            self._queue = list(chunk[:, : self._act_steps].unbind(1))
        self._time += 1
        return self._queue.pop(0)

    @torch.no_grad()
    def predict_action_chunk(self, batch: Batch) -> Tensor:
        """The next actions (B, chunk, A), without taking note of the frame."""
        moment = self._moment(batch)
        seen, _ = self._actor.look(moment, self._past)
        return self._actor.act(moment, seen, self._outcome).cpu()

    def _moment(self, batch: Batch) -> Moment:
        frame = self._latents(batch)
        return Moment(frame, self._streams(batch), by_seed(self._seeds, len(frame)), self._time)

    def _latents(self, batch: Batch) -> Tensor:
        names = [name for name in batch if name.startswith("observation.image")]
        if not names:
            raise InvalidInput("the batch has no observation.image; a world acts by what it sees")
        images = torch.cat([batch[name] for name in names], dim=2)  # cameras one above the other
        frames = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return torch.from_numpy(self.world.encode(np.ascontiguousarray(frames.cpu().numpy()))).to(self.world.device)

    def _streams(self, batch: Batch) -> dict[str, Tensor]:
        """The values that the tokens read; raises InvalidInput where the batch lacks one, or names an unknown task."""
        values: dict[str, Tensor] = {}
        for name in self._actor.streams:
            spec = self.world.spec.streams[name]
            if name == TASK:
                if unknown := [task for task in batch["task"] if task not in spec.names]:
                    raise InvalidInput(f"the world knows no task {unknown[0]!r}; it knows {', '.join(spec.names)}")
                values[name] = torch.tensor([spec.names.index(task) for task in batch["task"]])
                continue
            key = "observation.state" if name == STATE else f"observation.{name}"
            if key not in batch:
                raise InvalidInput(f"the batch has no {key}, which these action tokens read")
            values[name] = batch[key].reshape(-1, *spec.shape)
        return {name: value.to(self.world.device) for name, value in values.items()}
