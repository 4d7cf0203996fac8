"""Events: a few categorical codes a token that say which of several possible things happens in a step."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


class EventPrior(nn.Module):
    """How likely each code is, from the history alone."""

    def __init__(self, dim: int, groups: int, classes: int) -> None:
        super().__init__()
        self.groups = groups
        self.net = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, groups * classes))

    def forward(self, tokens: Tensor) -> Tensor:
        """(F, N, D) -> logits (F, N, groups, classes)."""
        return rearrange(self.net(tokens), "f n (g k) -> f n g k", g=self.groups)


class EventPosterior(nn.Module):
    """Which codes describe what did happen, from the previous frame and the true next one; used in training only."""

    def __init__(self, channels: int, width: int, patch: tuple[int, int], groups: int, classes: int) -> None:
        super().__init__()
        self.groups, self.patch = groups, patch
        self.local = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU()
        )
        self.net = nn.Linear(width * patch[0] * patch[1], groups * classes)

    def forward(self, previous: Tensor, drawn: Tensor) -> Tensor:
        """Previous latents (F, C, h, w) and the true drawn ones -> logits (F, N, groups, classes)."""
        p, q = self.patch
        base = previous.repeat(1, drawn.shape[1] // previous.shape[1], 1, 1)
        local = self.local(torch.cat([previous, drawn - base], dim=1))
        tokens = rearrange(local, "f c (h p) (w q) -> f (h w) (c p q)", p=p, q=q)
        return rearrange(self.net(tokens), "f n (g k) -> f n g k", g=self.groups)


def sample_events(logits: Tensor, uniform: Tensor, temperature: float = 1.0) -> Tensor:
    """Draw codes by inverting the cumulative probabilities, one uniform number a code.

    `logits` (F, N, groups, classes), `uniform` (F, N, groups) in [0, 1) -> one-hot float32 of the logits' shape.
    A temperature below 1 makes rare events rarer, above 1 more frequent; 0 always takes the likeliest.
    """
    classes = logits.shape[-1]
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), classes).float()
    cumulative = torch.softmax(logits.float() / temperature, dim=-1).cumsum(-1)
    index = (uniform.unsqueeze(-1) >= cumulative).sum(-1).clamp_(max=classes - 1)
    return F.one_hot(index, classes).float()


def straight_through(logits: Tensor, uniform: Tensor) -> Tensor:
    """A sample whose gradient is that of the probabilities (Bengio et al., 2013), for training the posterior."""
    probabilities = torch.softmax(logits.float(), dim=-1)
    return sample_events(logits, uniform) + probabilities - probabilities.detach()


def divergence(q_logits: Tensor, p_logits: Tensor) -> Tensor:
    """KL(q || p) in nats, summed over a frame's codes: (F, N, groups, classes) each -> (F,)."""
    log_q, log_p = F.log_softmax(q_logits.float(), dim=-1), F.log_softmax(p_logits.float(), dim=-1)
    return (log_q.exp() * (log_q - log_p)).sum((1, 2, 3))
