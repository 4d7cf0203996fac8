"""Pasts and guides as imperfect as those of a dream, for training: blurred, astray, with own errors, with holes.

A dream remembers frames that it drew itself. A model that only ever saw guides made of recorded frames believes every
error in them, and shows it again whenever it comes by (noise on memory frames, as WorldMem; Xiao et al., 2025).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from worldsim.memory.base import Context

Contexts = dict[str, Context]  # (F, ...) of F = B * T steps, by the names of memories


def blurred(context: Tensor, recalled: Contexts, share: float, generator: torch.Generator) -> tuple[Tensor, Contexts]:
    """Past frames (B, T, C, h, w) and guides, in a `share` of the clips blurred by as much as it happens."""
    how, free = torch.rand((2, len(context)), generator=generator, device=context.device)
    clips = (how * (free < share)).view(-1, 1, 1, 1)  # (B, 1, 1, 1)
    rows = clips.repeat_interleave(context.shape[1], 0)
    flat = context.flatten(0, 1)
    past = torch.lerp(flat, _blur(flat), rows).unflatten(0, context.shape[:2])
    return past, _guides(recalled, lambda guide: torch.lerp(guide, _blur(guide), rows))


def drifted(context: Tensor, errors: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Past frames (B, T, C, h, w) that have gone astray, in a `share` of the clips.

    What own frames got wrong, `errors` like `context`, adds up along the clip, as it does in a dream in which nothing
    moves: each frame is drawn as a change of the last one. Errors that differ from frame to frame are told from what
    all frames agree on; these are not.
    """
    how, free = torch.rand((2, len(context)), generator=generator, device=context.device)
    before = errors.cumsum(1) - errors  # of the frames before each one, whose own is there already
    length = before.norm(dim=2, keepdim=True)
    most = context.shape[2] ** 0.5  # as long as the latents of a place usually are
    return context + (how * (free < share)).view(-1, 1, 1, 1, 1) * before * (most / length.clamp(min=most))


def erring(recalled: Contexts, errors: Tensor, share: float, generator: torch.Generator) -> Contexts:
    """Guides that show, in a `share` of the clips, what own frames got wrong: `errors` (B, T, C, h, w).

    Each of another step: what is wrong in memory is not what is wrong in the last frame.
    """
    count, steps = errors.shape[:2]
    some = torch.rand(count, generator=generator, device=errors.device) < share
    order = torch.randperm(steps, generator=generator, device=errors.device)
    added = (errors[:, order] * some.view(-1, 1, 1, 1, 1)).flatten(0, 1)  # (F, C, h, w)
    return _guides(recalled, lambda guide: guide + added)


def hidden(recalled: Contexts, share: float, generator: torch.Generator) -> Contexts:
    """Guides that do not know a band of columns, in a `share` of the frames: more has to be made up."""
    result = {}
    for name, said in recalled.items():
        if said.mask is not None:
            count, width, device = len(said.mask), said.mask.shape[-1], said.mask.device
            free, one, other = torch.rand((3, count, 1), generator=generator, device=device)
            column = (torch.arange(width, device=device) + 0.5) / width
            band = (free < share) & (column >= torch.minimum(one, other)) & (column <= torch.maximum(one, other))
            said = replace(said, mask=said.mask * ~band[:, None, None])  # (F, 1, h, w)
        result[name] = said
    return result


def _guides(recalled: Contexts, change: Callable[[Tensor], Tensor]) -> Contexts:
    """The contexts with their guides changed; those without one stay as they are."""
    return {
        name: said if said.guide is None else replace(said, guide=change(said.guide)) for name, said in recalled.items()
    }


def _blur(grid: Tensor) -> Tensor:
    """The mean of each latent and its neighbours, (F, C, h, w)."""
    return F.avg_pool2d(grid, 3, stride=1, padding=1, count_include_pad=False)
