"""A world as a policy: the model that simulates also acts, by denoising actions of what it sees (action tokens)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInput
from worldsim.io.folders import find_world
from worldsim.models.action_tokens import SOON, Known
from worldsim.policies.robot.protocol import STATE, TASK, Batch
from worldsim.sampling.noise import STREAM_ACTIONS, STREAM_NEXT, normal
from worldsim.train.actions_task import load_actions
from worldsim.world import World


class WorldPolicy:
    """Acts by the action tokens of the world in `path`, with LeRobot's interface.

    It sees the frame, the one before, and the streams that its tokens were trained with. Of each chunk `act_steps`
    actions are taken before it looks again. Raises InvalidInput for a world without action tokens.
    """

    sees_frames = True

    def __init__(self, path: str | Path, *, device: str = "auto", act_steps: int = 2, outcome: int = SOON) -> None:
        self.world = World.from_pretrained(path, device=device)
        self.tokens = load_actions(self.world, find_world(path))
        if not 1 <= act_steps <= self.tokens.config.chunk:
            raise InvalidInput(f"act_steps is {act_steps}; give 1 to {self.tokens.config.chunk}, the chunk's length")
        self._act_steps, self._outcome = act_steps, outcome
        self._seeds: Sequence[int] = (0,)
        self.reset()

    def seed(self, seeds: Sequence[int]) -> None:
        """Numbers that the noise of the next episodes derives from."""
        self._seeds = seeds

    def reset(self) -> None:
        """Begin a batch of episodes."""
        self._previous: Tensor | None = None
        self._queue: list[Tensor] = []
        self._time = 0

    @torch.no_grad()
    def select_action(self, batch: Batch) -> Tensor:
        """The next actions (B, A)."""
        frame = self._latents(batch)
        if self._previous is None:
            self._previous = frame
        if not self._queue:
            self._queue = list(self._chunk(frame, batch)[:, : self._act_steps].unbind(1))
        self._previous, self._time = frame, self._time + 1
        return self._queue.pop(0)

    def predict_action_chunk(self, batch: Batch) -> Tensor:
        """The next actions (B, chunk, A), without taking note of the frame."""
        return self._chunk(self._latents(batch), batch)

    def _chunk(self, frame: Tensor, batch: Batch) -> Tensor:
        count, tokens = len(frame), self.tokens
        keys = [self._seeds[row % len(self._seeds)] for row in range(count)]
        zeros = [0] * count
        noise = normal(keys, zeros, [self._time] * count, STREAM_ACTIONS, (tokens.numbers_drawn,))
        next_noise = normal(keys, zeros, [self._time] * count, STREAM_NEXT, tuple(frame.shape[1:]))
        previous = frame if self._previous is None else self._previous
        known = Known(
            frame, previous, self._streams(batch), torch.ones(count, dtype=torch.bool, device=frame.device),
            torch.from_numpy(next_noise).to(frame.device), torch.zeros(count, device=frame.device),
            torch.full((count,), self._outcome, device=frame.device),
        )  # fmt: skip
        return tokens.draw(known, torch.from_numpy(noise).to(frame.device)).cpu()

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
        for name in self.tokens.config.streams:
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
