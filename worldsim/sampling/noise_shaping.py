"""Noise shaping: a frame is drawn from larger noise in some patches, so that rare events come as often as they should.

Noise with heavy tails makes what is rare more frequent and leaves the rest as it is (compare Pandey et al., 2024,
"Heavy-tailed diffusion models"); a higher temperature makes all of a frame less certain.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.errors import InvalidInput, check_bounds


@dataclass(frozen=True)
class NoiseShaping:
    """Where the noise that a frame is drawn from is larger: in patches of three by three latents."""

    rate: float = 0.01  # chance of a latent to be the centre of a patch, for each unit of the motion
    rate_growth: float = 0.0  # by what share of itself `rate` grows with every step of an episode
    rows: tuple[int, int] | None = None  # of latents, the first and the one after the last that centres lie in
    noise_scale: float = 2.0  # of the noise in a patch, over that elsewhere
    protection_threshold: float = 9.0  # length of latents beyond which they, and their neighbours, are left out

    def __post_init__(self) -> None:
        check_bounds(
            "noise shaping", self, rate=(0, 1), rate_growth=(0, 1000), noise_scale=(0, 100),
            protection_threshold=(0, 1e6),
        )  # fmt: skip
        rows = self.rows
        if rows is not None and not (len(rows) == 2 and 0 <= rows[0] < rows[1]):
            raise InvalidInput(f"noise shaping rows is {rows}; give the first, 0 or more, and the one after the last")

    def apply(self, noise: Tensor, past: Tensor, ages: Tensor, uniform: Tensor) -> Tensor:
        """The noise (F, drawn, h, w), scaled in the patches that `uniform` (F, 1, h, w), from 0 to 1, chooses.

        `past` (F, 2, C, h, w) has the last frame's latents and those of the frame before; the motion is the mean
        length by which they differ. `ages` (F,) are steps since the beginning of the episode. The more moves, the more
        seldom does something new come of plain noise, so the more patches there are; and the later in an episode. What
        is there already is protected, lest it vanish: what moves has longer latents than what stands.
        """
        last, before = past.unbind(1)  # (F, C, h, w)
        motion = torch.linalg.vector_norm(last - before, dim=1, keepdim=True).mean((2, 3), keepdim=True)
        rate = self.rate * (1 + self.rate_growth * ages[:, None, None, None])
        centres = uniform < rate * motion  # (F, 1, h, w)
        if self.rows is not None:
            first, stop = self.rows
            centres[:, :, :first] = False
            centres[:, :, stop:] = False
        protected = torch.linalg.vector_norm(last, dim=1, keepdim=True) > self.protection_threshold
        patches = _with_neighbours(centres) & ~_with_neighbours(protected)
        return torch.where(patches, self.noise_scale * noise, noise)


def _with_neighbours(chosen: Tensor) -> Tensor:
    """The latents that are chosen (F, 1, h, w), and those around them."""
    return F.max_pool2d(chosen.float(), 3, stride=1, padding=1) > 0
