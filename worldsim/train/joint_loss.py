"""Frame and actions learned by one network, each with its own noise level (Unified World Models; Zhu et al., 2025).

Every frame of a batch is drawn in one of three ways, by chance: with its action clean, as a world draws it; with the
frame clean and the next actions noisy, to tell what was done; with both noisy, to say what to do and what comes of it.
In the last two no number of the next state is known, for it would give the action away.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from worldsim.data.clips import AHEAD, EXISTS, OUTCOME
from worldsim.models.acting import UNKNOWN, Acting, Chunk

if TYPE_CHECKING:
    from worldsim.train.dynamics_loss import LossConfig


@dataclass(frozen=True)
class Joint:
    """What is known of F frames when they are drawn."""

    told: Tensor  # (F,) bool, the action is clean, as in a dream
    shown: Tensor  # (F,) bool, the next frame is
    chunk: Chunk  # of the actions, as the denoiser is given them
    clean: Tensor  # (F, K, A) in deviations of the data
    counted: Tensor  # (F, K) float, how much each counts; 0 where it is not drawn or not in the episode

    def action_loss(self, predicted: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared error of predicted actions (F, K, A) in deviations of the data, and that of the first ones apart."""
        error = (predicted - self.clean).square().mean(-1)  # (F, K)
        both = ~self.told & ~self.shown
        metrics = {
            name: (error * of * self.counted)[:, 0].sum() / (of * self.counted)[:, 0].sum().clamp(min=1e-6)
            for name, of in (("told_actions", self.shown[:, None]), ("own_actions", both[:, None]))
        }
        return (error * self.counted).sum() / self.counted.sum().clamp(min=1e-6), metrics


def draw_joint(
    acting: Acting, config: LossConfig, batch: dict[str, Tensor], there: Tensor, level: Tensor,
    generator: torch.Generator,
) -> Joint:  # fmt: skip
    """Draw what is known of each frame of a batch, F = B * T.

    `there` (F,) is 0 where the data have no frame: these are drawn with their actions. `level` (F,) are those of noisy
    actions.
    """
    chance, said = torch.rand((2, len(there)), generator=generator, device=generator.device)
    told = (chance < config.action_known) | (there == 0)
    shown = ~told & (chance < config.action_known + config.frame_known)
    ahead, exists = batch[AHEAD][:, :-1].flatten(0, 1), batch[EXISTS][:, :-1].flatten(0, 1)
    clean = acting.normalise(ahead).float()
    level = level[:, None] * exists  # what is not in the episode is unknown
    noise = torch.randn(clean.shape, generator=generator, device=clean.device)
    noisy = torch.lerp(noise, clean, level[..., None])
    taken = acting.taken(batch["actions"][:, 1:].flatten(0, 1))
    outcome = batch[OUTCOME][:, :-1].flatten()
    outcome = torch.where(told | shown | (said < config.any_outcome), UNKNOWN, outcome)
    chunk = Chunk(
        torch.where(told[:, None, None], taken.actions, noisy), torch.where(told[:, None], taken.level, level), outcome
    )
    counted = exists * (~told * batch["weight"][:, 1:].flatten() * there)[:, None]
    return Joint(told, shown, chunk, clean, counted)


def given_frames(noisy: Tensor, shown: Tensor, channels: int) -> Tensor:
    """Frames as they are drawn (F, drawn, h, w), where `shown` (F,) bool says that they are known.

    What lies between the last frame and the new one is not known where actions are told from frames: it is 0.
    """
    known = noisy.clone()
    known[:, channels:] = torch.where(shown[:, None, None, None], 0.0, noisy[:, channels:])
    return known
