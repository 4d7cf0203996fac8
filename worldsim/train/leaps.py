"""Learning to draw in few steps: a long leap has to end where many small steps do.

These are shortcut models (Frans et al., 2024) with a prediction of the clean latents. Their goals come from chains of
two leaps of half the size; here they come from the smallest steps themselves, so that no error is handed on from size
to size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.models.dynamics import Canvas, Dynamics
from worldsim.sampling.sampler import FINE, follow, leap_of, levels

STEPS = (1, 2, 2, 4)  # numbers of denoising steps to learn, as often as they stand here
TEMPERATURES = (0.6, 1.4)  # sizes of the noise that leaps begin from


def leap(dynamics: Dynamics, canvas: Canvas, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """One leap, the same for all frames: what the network predicts and what it should, (F, drawn, h, w) each.

    It begins at a mixture of the true latents `target` (F, drawn, h, w) and noise. The straight line to what it should
    predict leads through the point that small steps reach.
    """
    device = target.device
    steps = STEPS[_integer(len(STEPS), generator)]
    which = _integer(steps, generator)
    low, high = TEMPERATURES
    size = low + (high - low) * torch.rand(len(target), 1, 1, 1, generator=generator, device=device)
    noise = size * torch.randn(target.shape, generator=generator, device=device)
    taus = [*levels(FINE), 1.0][which * FINE // steps : (which + 1) * FINE // steps + 1]
    start = taus[0] * target + (1 - taus[0]) * noise
    with torch.no_grad():
        z = follow(lambda z, tau: _predict(dynamics, canvas, z, tau, 0.0), start, taus, small=True)
    goal = start + (z - start) * ((1 - taus[0]) / (taus[-1] - taus[0]))
    return _predict(dynamics, canvas, start, taus[0], leap_of(steps)), goal


def _predict(dynamics: Dynamics, canvas: Canvas, z: Tensor, tau: float, size: float) -> Tensor:
    at, far = (torch.full((len(z),), value, device=z.device) for value in (tau, size))
    return dynamics.denoise(canvas, z, at, far).float()


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator, device=generator.device))
