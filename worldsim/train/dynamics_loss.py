"""The loss of the dynamics.

Every frame of a clip is predicted at once from the true frames before it (teacher forcing), made imperfect in two
ways so that dreams do not drift: noise of a known level (diffusion forcing, Chen et al. 2024; GameNGen), and, for
half of the batches, the model's own predictions in place of true frames (scheduled sampling, Bengio et al. 2015, in
parallel over the clip). The drawn latents start from pure noise or from a random level between noise and picture, and
the network predicts the clean latents. Some frames teach it to do so in few steps, too (`leaps`).

Own predictions are held near the truth, so that what happened in them is what happened in truth: a fireball that the
model made up, in a clip that goes on without it, would teach it that fireballs vanish, and one that it lost, that they
come from nowhere. They are drawn from a mixture of truth and noise, and where they still err by as much as a fireball,
they err by less.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.models.dynamics import Canvas, Dynamics, HistoryOut
from worldsim.models.heads import SQUEEZED, Targets
from worldsim.models.registry import StepInputs, Streams
from worldsim.train.clips import STREAM
from worldsim.train.leaps import leap

MAX_CONTEXT_NOISE = 0.3  # most frames get far less: the level is drawn squared
PURE_NOISE = 0.15  # share of frames that are drawn from pure noise
LEVEL_MEAN = -0.7  # of the others' levels, as a logit: most lie where it is decided what comes, from 0.1 to 0.6
MAX_CHANGE = 12.0  # extra weight of places that have changed, as much as they did, up to this: most stand still
OWN_FRAMES_AFTER = 1500  # training steps before own predictions are worth seeing
OWN_FRAMES = 0.7  # share of a clip's frames that are replaced by own predictions, where they are
OWN_FROM = 0.5  # own predictions start from levels up to this
MAX_OWN_ERROR = 3.0  # length of a place's error: its latents are about 4 long, the smallest fireball makes 6 to 11
MAX_DEPTH = 3  # steps that own predictions are made of own predictions, 1 to this
LEAPS = 0.5  # share of the frames that are drawn once more, in a leap, in two batches of four
LEAP_WEIGHT = 0.5
OUTCOME_DROPOUT = 0.3  # share of the features that heads are told without: endings are few
STREAM_NOISE = 0.05  # on normalised vectors at the last frame, so that a dream's own errors do not grow


class DynamicsLoss(nn.Module):
    """Called by the loop with (batch, step, generator)."""

    def __init__(self, dynamics: Dynamics, reward_scale: float) -> None:
        super().__init__()
        self.dynamics = dynamics
        self.reward_scale = reward_scale

    def forward(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`latents` (B, T + 1, 1 + between, C, h, w); the others as in `Clips.draw`, (B, T + 1, ...)."""
        latents = batch["latents"].float()
        frames = latents[:, :-1, 0]  # (B, T, C, h, w), what each step comes from
        target = latents[:, 1:].flatten(0, 1).flatten(1, 2)  # (F, drawn, h, w), F = B * T
        actions, ages = batch["actions"][:, 1:], batch["ages"][:, :-1]
        known = {name: values[:, :-1] for name, values in self._streams(batch).items()}
        given = actions, ages, self._noisy(known, generator)
        context = frames
        if step >= OWN_FRAMES_AFTER and step % 2:
            context = self._own_frames(frames, target, *given, generator)
        seen = self._remember(context, *given, generator)
        canvas = self.dynamics.prepare(seen, context.flatten(0, 1))
        tau = self._levels(len(target), generator)
        drawn = self._draw(canvas, target, tau, generator)
        shown = _shown(batch)
        counted = batch["weight"][:, 1:].flatten()
        part = counted * shown / shown.sum().clamp(min=1)  # of the loss
        weight = _weight(frames)
        error = (drawn - target).square()
        picture = (part * (weight * error).mean((1, 2, 3))).sum()
        leaps = self._leaps(canvas, target, weight, part, generator) if step // 2 % 2 else torch.zeros_like(picture)
        heads = self._outcome(batch, seen, given, generator)
        loss = picture + LEAP_WEIGHT * leaps
        for name, head in self.dynamics.heads.named():
            loss = loss + head.weight * heads[name]
        one_step = shown * (tau == 0)
        mse = (one_step * error.mean((1, 2, 3))).sum() / one_step.sum().clamp(min=1)
        named = {"picture": picture, "one_step_mse": mse, "leaps": leaps, **heads}
        return loss, {name: value.detach() for name, value in named.items()}

    def _levels(self, count: int, generator: torch.Generator) -> Tensor:
        """Pure noise, or levels of a logit-normal distribution (Esser et al., 2024)."""
        logit = LEVEL_MEAN + torch.randn(count, generator=generator, device=generator.device)
        pure = torch.rand(count, generator=generator, device=generator.device) < PURE_NOISE
        return torch.sigmoid(logit) * ~pure

    def _streams(self, batch: dict[str, Tensor]) -> Streams:
        """The recorded streams that the model reads or predicts, (B, T + 1, ...)."""
        return {name: batch[f"{STREAM}{name}"] for name in self.dynamics.config.streams}

    def _noisy(self, known: Streams, generator: torch.Generator) -> Streams:
        """Vectors at the last frames (B, T, ...) with some noise, each entry in its own unit; tokens as they are."""
        noisy = dict(known)
        for name, scale in self.dynamics.config.scales.items():
            values = known[name].float()
            noise = torch.randn(values.shape, generator=generator, device=values.device)
            noisy[name] = values + STREAM_NOISE * noise * noise.new_tensor(scale.std).reshape(values.shape[2:])
        return noisy

    def _remember(
        self, context: Tensor, actions: Tensor, ages: Tensor, known: Streams, generator: torch.Generator
    ) -> HistoryOut:
        """Run the history over noised frames (B, T, C, h, w)."""
        shape = context.shape[:2]
        level = MAX_CONTEXT_NOISE * torch.rand(shape, generator=generator, device=context.device).square()
        noise = torch.randn(context.shape, generator=generator, device=context.device)
        noisy = context + level[..., None, None, None] * noise
        before = torch.cat([noisy[:, :1], noisy[:, :-1]], dim=1)
        return self.dynamics.remember(noisy, before, actions, level, ages, known)

    def _draw(self, canvas: Canvas, target: Tensor, tau: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(target.shape, generator=generator, device=target.device)
        mix = tau[:, None, None, None]
        return self.dynamics.denoise(canvas, mix * target + (1 - mix) * noise, tau, torch.zeros_like(tau)).float()

    def _leaps(
        self, canvas: Canvas, target: Tensor, weight: Tensor, part: Tensor, generator: torch.Generator
    ) -> Tensor:
        """The loss of some frames' leaps; the history learns from pictures alone."""
        count = max(round(LEAPS * len(target)), 1)
        rows = torch.randperm(len(target), generator=generator, device=target.device)[:count]
        some = canvas.rows(rows).detach()
        drawn, goal = leap(self.dynamics, some, target[rows], generator)
        # Where a leap has to end follows from where it begins, so what is to come may have a say here.
        coming = _change(goal[:, : some.previous.shape[1]] - some.previous)
        error = ((weight[rows] + coming) * (drawn - goal).square()).mean((1, 2, 3))
        return (part[rows] * error).sum() * len(target) / count

    @torch.no_grad()
    def _own_frames(
        self, frames: Tensor, target: Tensor, actions: Tensor, ages: Tensor, known: Streams, generator: torch.Generator
    ) -> Tensor:
        """The clip's frames, most of them replaced by what the model draws for them, 1 to MAX_DEPTH steps on."""
        depth = int(torch.randint(1, MAX_DEPTH + 1, (), generator=generator, device=frames.device))
        own = frames
        for _ in range(depth):
            seen = self._remember(own, actions, ages, known, generator)
            canvas = self.dynamics.prepare(seen, own.flatten(0, 1))
            told = OWN_FROM * torch.rand(len(target), generator=generator, device=target.device)
            drawn = self._draw(canvas, target, told, generator)
            drawn = drawn[:, : frames.shape[2]].unflatten(0, frames.shape[:2])
            drawn = torch.cat([frames[:, :1], drawn[:, :-1]], dim=1)  # the first frame stays
            drawn = frames + _shorten(drawn - frames, MAX_OWN_ERROR)
            replace = torch.rand(frames.shape[:2], generator=generator, device=frames.device) < OWN_FRAMES
            own = torch.where(replace[..., None, None, None], drawn, frames)
        return own

    def _outcome(
        self, batch: dict[str, Tensor], seen: HistoryOut, given: tuple[Tensor, Tensor, Streams],
        generator: torch.Generator,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The loss of each head."""
        actions, ages, known = given
        shape = (*seen.tokens.shape[:2], SQUEEZED)
        kept = torch.rand(shape, generator=generator, device=seen.tokens.device) >= OUTCOME_DROPOUT
        level = torch.zeros_like(ages, dtype=torch.float32)  # no head needs that of the context
        streams = {name: values.flatten(0, 1) for name, values in known.items()}
        inputs = StepInputs(actions.flatten(0, 1), level.flatten(), ages.flatten(), streams)
        said = self.dynamics.heads(seen.tokens, inputs, kept / (1 - OUTCOME_DROPOUT))
        targets = Targets(
            reward=batch["rewards"][:, 1:].flatten() / self.reward_scale,
            terminated=batch["terminated"][:, 1:].flatten(),
            event=batch["harmed"][:, 1:].flatten(),
            counted=batch["valid"][:, 1:].flatten() * batch["weight"][:, 1:].flatten(),
            streams={name: values[:, 1:].flatten(0, 1) for name, values in self._streams(batch).items()},
        )
        return {name: head.loss(said[name], targets) for name, head in self.dynamics.heads.named()}


def _shorten(error: Tensor, longest: float) -> Tensor:
    """Errors (B, T, C, h, w), none of a place longer than that."""
    return error * (longest / error.norm(dim=2, keepdim=True).clamp(min=1e-6)).clamp(max=1.0)


def _weight(frames: Tensor) -> Tensor:
    """What a place of clips (B, T, C, h, w) counts when the next frames are drawn, (F, 1, h, w).

    More where the picture has just changed, there or beside. What is to come must have no say: were the places that
    will change to count more, then what appears or vanishes would do so too often.
    """
    change = _change((frames[:, 1:] - frames[:, :-1]).flatten(0, 1))
    near = F.max_pool2d(change, 3, stride=1, padding=1).unflatten(0, (len(frames), -1))  # (B, T - 1, 1, h, w)
    return 1 + torch.cat([torch.zeros_like(near[:, :1]), near], dim=1).flatten(0, 1)


def _change(difference: Tensor) -> Tensor:
    """How much each place of pictures changed by (F, C, h, w), up to MAX_CHANGE: (F, 1, h, w)."""
    return difference.square().mean(1, keepdim=True).clamp(max=MAX_CHANGE)


def _shown(batch: dict[str, Tensor]) -> Tensor:
    """(F,) float, 1 where there is a picture to learn from; some games give none at the end."""
    return (batch["valid"] & ~batch["terminated"])[:, 1:].flatten().float()
