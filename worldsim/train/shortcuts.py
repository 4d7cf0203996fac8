"""Learning to draw in few steps: a long shortcut step has to end where many small steps do.

These are shortcut models (Frans et al., 2024) with a prediction of the clean latents. Their goals come from chains of
two shortcut steps of half the size; here they come from the smallest steps themselves, so that no error is handed on
from size to size.
"""

from __future__ import annotations

import torch
from torch import Tensor

from worldsim.models.dynamics import Canvas, Dynamics
from worldsim.sampling.sampler import TEACHER_STEPS, levels, solve_ode, step_size

STEPS = (1, 2, 2, 4)  # numbers of denoising steps to learn, as often as they stand here
TEMPERATURES = (0.6, 1.4)  # sizes of the noise that shortcut steps begin from


def shortcut_targets(
    dynamics: Dynamics, canvas: Canvas, target: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One shortcut step, the same for all frames: what the network predicts and what it should, (F, drawn, h, w) each.

    It begins at a mixture of the true latents `target` (F, drawn, h, w) and noise. The straight line to what it should
    predict leads through the point that small steps reach.
    """
    device = target.device
    steps = STEPS[_integer(len(STEPS), generator)]
    which = _integer(steps, generator)
    low, high = TEMPERATURES
    size = low + (high - low) * torch.rand(len(target), 1, 1, 1, generator=generator, device=device)
    noise = size * torch.randn(target.shape, generator=generator, device=device)
    times = [*levels(TEACHER_STEPS), 1.0][which * TEACHER_STEPS // steps : (which + 1) * TEACHER_STEPS // steps + 1]
    start = times[0] * target + (1 - times[0]) * noise
    with torch.no_grad():
        # Within the range of the data, as frames are drawn: one goal far beyond it undoes many good steps.
        z = solve_ode(lambda z, t: dynamics.limited(_predict(dynamics, canvas, z, t, 0.0)), start, times, small=True)
    goal = start + (z - start) * ((1 - times[0]) / (times[-1] - times[0]))
    return _predict(dynamics, canvas, start, times[0], step_size(steps)), goal


def _predict(dynamics: Dynamics, canvas: Canvas, z: Tensor, t: float, size: float) -> Tensor:
    at, far = (torch.full((len(z),), value, device=z.device) for value in (t, size))
    return dynamics.denoise(canvas, z, at, far).float()


def _integer(below: int, generator: torch.Generator) -> int:
    return int(torch.randint(below, (), generator=generator, device=generator.device))
