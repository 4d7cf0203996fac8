"""Muon: steps whose matrices are orthogonal, for convolutions that have to be learned in minutes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's: singular values come near 1 soon, and not quite to it
ITERATIONS = 5
MOMENTUM = 0.95
SPECTRAL = 10.0  # how far a matrix moves in a step, in its largest singular value, over the learning rate


class Muon(torch.optim.AdamW):
    """AdamW for vectors, orthogonalised momentum for matrices and convolutions (Jordan et al., 2024, "Muon").

    A convolution counts as a matrix of its output channels and all else. Matrices move by SPECTRAL times the learning
    rate, which vectors share, so that one schedule serves both.
    """

    def __init__(
        self, parameters: Iterable[nn.Parameter], lr: float, betas: tuple[float, float], weight_decay: float
    ) -> None:
        given = list(parameters)
        groups = [[p for p in given if p.ndim < 2], [p for p in given if p.ndim >= 2]]
        super().__init__([{"params": group} for group in groups], lr=lr, betas=betas, weight_decay=weight_decay)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move every parameter that has a gradient; those of matrices are used up."""
        group = self.param_groups[1]
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                # AdamW loads no state without a step.
                state.update(step=torch.zeros(()), momentum=torch.zeros_like(parameter))
            state["momentum"].lerp_(parameter.grad, 1 - MOMENTUM)
            ahead = parameter.grad.lerp(state["momentum"], MOMENTUM)  # Nesterov's
            matrix = ahead.flatten(1)
            size = max(1.0, matrix.shape[0] / matrix.shape[1]) ** 0.5
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(orthogonal(matrix).view_as(parameter), alpha=-SPECTRAL * size * group["lr"])
            parameter.grad = None  # nothing is left for AdamW
        return super().step(closure)


def orthogonal(matrix: Tensor) -> Tensor:
    """The nearest matrix (m, n) whose singular values are 1, or rather from 0.7 to 1.2, by Newton-Schulz iterations."""
    a, b, c = COEFFICIENTS
    x = matrix / (torch.linalg.matrix_norm(matrix) + 1e-7)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    for _ in range(ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.T
