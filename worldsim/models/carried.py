"""Heads that carry something from step to step, such as sound that rings on.

They are trained by themselves once the frames of a world no longer change, and their weights lie in a file of their
own: a world draws the same frames to the bit with such a head and without it. What a head carries is a tree in
`WorldState.heads`, under the head's name, so it is saved, restored, forked and guessed with the rest of the state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from worldsim.models.registry import StepInputs


@dataclass(frozen=True)
class Drawn:
    """A step of B worlds as such a head sees it: after its frame was drawn, or given."""

    latents: Tensor  # (B, 1 + between, C, h, w), the new frame first; (B, 1, C, h, w) where it was given
    previous: Tensor  # (B, C, h, w), the frame before
    inputs: StepInputs  # the action that led to it, and how late it was


class CarriedHead(nn.Module):
    """One thing that a step says, of its own past, too. No random draw but of the noise that it is given."""

    noise_stream: int  # of `worldsim.sampling.noise`, its own
    noise_shape: tuple[int, ...]  # of the noise of one step of one world

    def empty(self, batch: int) -> Any:
        """What is carried before the first step: a tree of tensors (B, ...)."""
        raise NotImplementedError

    def step(self, carried: Any, drawn: Drawn, noise: Tensor) -> tuple[Any, Tensor]:
        """The new tree, its leaves new tensors, and what the step says, (B, ...); `noise` is (B, *noise_shape)."""
        raise NotImplementedError


CarriedHeads = Mapping[str, CarriedHead]  # by the name of what they say
