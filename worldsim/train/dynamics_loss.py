"""The loss of the dynamics.

Every frame of a clip is predicted at once from the true frames before it (teacher forcing), made imperfect in two
ways so that dreams do not drift: noise of a known level (diffusion forcing, Chen et al. 2024; GameNGen), and, for
half of the batches, the model's own one-step predictions in place of true frames (scheduled sampling, Bengio et al.
2015, in parallel over the clip). The drawn latents start from pure noise or from a random level between noise and
picture, and the network predicts the clean latents.

Latents do not know what the eye sees: every place of the grid has the same energy, be it bare floor or a monster.
So some of the drawn latents are also decoded and compared as pictures.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.models.dynamics import Dynamics, HistoryOut
from worldsim.models.events import divergence, sample_events, straight_through
from worldsim.models.tokenizer import unit_rms

MAX_CONTEXT_NOISE = 0.3  # most frames get far less: the level is drawn squared
PURE_NOISE = 0.6  # share of frames that are drawn from pure noise, as one-step sampling does
CHANGE_WEIGHT = 4.0  # extra weight of latents that changed: most of a picture stands still
OWN_FRAMES_AFTER = 1500  # training steps before own predictions are worth seeing
OWN_FRAMES = 0.7  # share of a clip's frames that are replaced by own predictions, where they are
PRIOR_WEIGHT = 0.01  # nats -> loss, for learning how likely events are
EVENT_COST = 2e-4  # nats -> loss, for saying no more in the events than helps the picture
DECODED = 8  # drawn frames of a batch that are compared as pictures; decoding costs as much as drawing
PIXEL_WEIGHT = 20.0
END_WEIGHT = 0.1
REWARD_WEIGHT = 0.1


class DynamicsLoss(nn.Module):
    """Called by the loop with (batch, step, generator)."""

    def __init__(self, dynamics: Dynamics, decode: Callable[[Tensor], Tensor], reward_scale: float) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.decode = decode  # a frozen tokenizer's: latents (F, C, h, w) -> pictures (F, 3, H, W)
        self.reward_scale = reward_scale

    def forward(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`latents` (B, T + 1, 1 + between, C, h, w), `actions`, `rewards`, `terminated`, `valid` (B, T + 1, ...)."""
        latents = batch["latents"].float()
        frames = latents[:, :-1, 0]  # (B, T, C, h, w), what each step comes from
        target = latents[:, 1:].flatten(0, 1).flatten(1, 2)  # (F, drawn, h, w), F = B * T
        actions = batch["actions"][:, 1:]
        events = self.dynamics.posterior(frames.flatten(0, 1), target)
        context = frames
        if step >= OWN_FRAMES_AFTER and step % 2:
            context = self._own_frames(frames, target, actions, events.detach(), generator)
        seen, _ = self._remember(context, actions, generator)
        tau = self._levels(len(target), generator)
        drawn = self._draw(seen, context, straight_through(events, _uniform(events, generator)), target, tau, generator)
        seen_pixels = self._compare_pictures(drawn, target, _shown(batch), generator)
        loss, metrics = self._sum(batch, frames, target, drawn, tau, events, seen)
        return loss + PIXEL_WEIGHT * seen_pixels, {**metrics, "pixels": seen_pixels.detach()}

    def _compare_pictures(self, drawn: Tensor, target: Tensor, shown: Tensor, generator: torch.Generator) -> Tensor:
        """Pixel error of a few drawn frames against what the tokenizer makes of the true latents."""
        chosen = torch.randint(len(drawn), (DECODED,), generator=generator, device=drawn.device)
        channels = self.dynamics.config.channels
        own, true = unit_rms(drawn[chosen, :channels]), target[chosen, :channels]
        with torch.no_grad():
            wanted = self.decode(true.contiguous(memory_format=torch.channels_last)).float()
        # Linear beyond a third of full scale: a latent that went astray decodes to anything, and would drown the rest.
        made = self.decode(own.contiguous(memory_format=torch.channels_last)).float()
        linear = F.l1_loss(made, wanted, reduction="none")
        error = 0.3 * linear + 3 * F.smooth_l1_loss(made, wanted, beta=0.3, reduction="none")
        weight = shown[chosen]
        return (weight * error.mean((1, 2, 3))).sum() / weight.sum().clamp(min=1)

    def _levels(self, count: int, generator: torch.Generator) -> Tensor:
        tau, pure = (torch.rand(count, generator=generator, device=generator.device) for _ in range(2))
        return tau * (pure >= PURE_NOISE)

    def _remember(self, context: Tensor, actions: Tensor, generator: torch.Generator) -> tuple[HistoryOut, Tensor]:
        """Run the history over noised frames (B, T, C, h, w)."""
        shape = context.shape[:2]
        level = MAX_CONTEXT_NOISE * torch.rand(shape, generator=generator, device=context.device).square()
        noise = torch.randn(context.shape, generator=generator, device=context.device)
        noisy = context + level[..., None, None, None] * noise
        before = torch.cat([noisy[:, :1], noisy[:, :-1]], dim=1)
        return self.dynamics.remember(noisy, before, actions, level), noisy

    def _draw(
        self, seen: HistoryOut, context: Tensor, events: Tensor, target: Tensor, tau: Tensor, generator: torch.Generator
    ) -> Tensor:
        noise = torch.randn(target.shape, generator=generator, device=target.device)
        mix = tau[:, None, None, None]
        return self.dynamics.denoise(seen, context.flatten(0, 1), events, mix * target + (1 - mix) * noise, tau).float()

    @torch.no_grad()
    def _own_frames(
        self, frames: Tensor, target: Tensor, actions: Tensor, events: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The clip's frames with most of them replaced by what the model itself draws for them in one step."""
        seen, _ = self._remember(frames, actions, generator)
        tau = torch.zeros(len(target), device=target.device)
        happened = sample_events(events, _uniform(events, generator))
        drawn = self._draw(seen, frames, happened, target, tau, generator)
        drawn = unit_rms(drawn[:, : frames.shape[2]]).unflatten(0, frames.shape[:2])
        own = torch.cat([frames[:, :1], drawn[:, :-1]], dim=1)  # the first frame stays
        replace = torch.rand(frames.shape[:2], generator=generator, device=frames.device) < OWN_FRAMES
        return torch.where(replace[..., None, None, None], own, frames)

    def _sum(
        self, batch: dict[str, Tensor], frames: Tensor, target: Tensor, drawn: Tensor, tau: Tensor,
        events: Tensor, seen: HistoryOut,
    ) -> tuple[Tensor, dict[str, Tensor]]:  # fmt: skip
        valid = batch["valid"][:, 1:].flatten().float()
        ended = batch["terminated"][:, 1:].flatten().float()
        shown = _shown(batch)
        count = shown.sum().clamp(min=1)
        previous = frames.flatten(0, 1)
        change = (target[:, : previous.shape[1]] - previous).square().mean(1, keepdim=True)
        error = (drawn - target).square()
        weighted = ((1 + CHANGE_WEIGHT * change.clamp(max=1)) * error).mean((1, 2, 3))
        picture = (shown * weighted).sum() / count
        learned = (shown * divergence(events.detach(), seen.event_logits)).sum() / count
        said = (shown * divergence(events, seen.event_logits.detach())).sum() / count
        end = F.binary_cross_entropy_with_logits(seen.end_logit, ended, weight=valid)
        wanted = batch["rewards"][:, 1:].flatten() / self.reward_scale
        reward = (valid * (seen.reward - wanted).square()).mean()
        loss = picture + PRIOR_WEIGHT * learned + EVENT_COST * said + END_WEIGHT * end + REWARD_WEIGHT * reward
        one_step = shown * (tau == 0)
        mse = (one_step * error.mean((1, 2, 3))).sum() / one_step.sum().clamp(min=1)
        return loss, {
            "picture": picture.detach(), "one_step_mse": mse.detach(), "event_nats": learned.detach(),
            "end": end.detach(), "reward": reward.detach(),
        }  # fmt: skip


def _shown(batch: dict[str, Tensor]) -> Tensor:
    """(F,) float, 1 where there is a picture to learn from; some games give none at the end."""
    return (batch["valid"] & ~batch["terminated"])[:, 1:].flatten().float()


def _uniform(logits: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(logits.shape[:-1], generator=generator, device=logits.device)
