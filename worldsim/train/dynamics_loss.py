"""The loss of the dynamics.

Every frame of a clip is predicted at once from the true frames before it (teacher forcing), made imperfect in two
ways so that dreams do not drift: noise of a known level (diffusion forcing, Chen et al. 2024; GameNGen), and, for
half of the batches, the model's own predictions in place of true frames (scheduled sampling, Bengio et al. 2015, in
parallel over the clip). The drawn latents start from pure noise or from a random level between noise and frame, and
the network predicts the clean latents. Some frames teach it to do so in few steps, too (`worldsim.train.shortcuts`).

Own predictions are held near the truth, so that what happened in them is what happened in truth: a small object that
the model made up, in a clip that goes on without it, would teach it that such objects vanish, and one that it lost,
that they come from nowhere. They are drawn from a mixture of truth and noise, and where they still err by as much as an
object, they err by less.

Heads that read the new frame learn from recorded frames with some noise: these show what came, and what came is what a
head has to say. A share is drawn by the model from noise alone, so that heads do not meet such frames for the first
time in a dream. These may show something else than what came: the more of them, the less does a head believe any frame.
The step that ends an episode may have no recorded frame, so its frame is always drawn; without others like it, heads
would take that for the ending. What is left of this, `worldsim train calibrate` corrects.

With action tokens actions are learned together with frames (`worldsim.train.joint_loss`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.data.clips import ALONE, CONTEXT, STREAM
from worldsim.errors import InvalidInput, check_bounds
from worldsim.memory.base import Context
from worldsim.models.dynamics import Canvas, ContextFeatures, Dynamics
from worldsim.models.heads import SQUEEZED, Targets
from worldsim.models.registry import StepInputs, Streams
from worldsim.train.imperfect import blurred, drifted, erring, hidden
from worldsim.train.joint_loss import Joint, draw_joint, given_frames
from worldsim.train.shortcuts import shortcut_targets


@dataclass(frozen=True)
class LossConfig:
    """What the dynamics is trained on and how much each part of its loss counts."""

    context_noise: float = 0.3  # highest level of noise on past frames; most get far less, the level is drawn squared
    pure_noise: float = 0.15  # share of frames that are drawn from pure noise
    noise_level: float = -0.7  # mean of the others' levels, as a logit: most lie where it is decided what comes
    change: float = 6.25  # extra weight of a place that has changed as much as changes usually are: most stand still
    change_most: float = 12.0  # highest extra weight of a place that has changed by more
    own_frames_after: float = 0.2  # share of the training that is over before own predictions are worth seeing
    own_frames: float = 0.7  # share of a clip's frames that are replaced by own predictions, where they are
    own_frames_from: float = 0.5  # own predictions start from noise levels up to this
    own_frames_depth: int = 3  # steps that own predictions are made of own predictions, 1 to this
    own_frames_error: float = 0.3  # longest error of a place, over the usual change: less than the smallest object's
    shortcuts: float = 0.5  # share of the frames that are drawn once more in a shortcut step, in two batches of four
    shortcut_weight: float = 0.5
    ending_weight: float = 2.0
    event_weight: float = 2.0
    reward_weight: float = 0.1
    stream_noise: float = 0.05  # on normalised vectors at the last frame, so that a dream's own errors do not grow
    frame_noise: float = 0.3  # largest noise on recorded frames that heads read, as large as the model's own errors
    drawn_frames: float = 0.25  # share of the frames that heads read which are drawn from noise alone, as in a dream
    single_frames: int = 0  # more frames a step for heads that need nothing but one, as depth: these cost little
    single_steps: float = (
        0.0  # share of the steps that learn from single frames alone, in one process: these take little
    )
    memory_dropout: float = 0.15  # share of the clips learned without memories, and with a single one of several
    unseen: float = 0.0  # extra weight of a place that no memory's guide knows: there a frame is made up, not copied
    blur: float = 0.0  # share of the clips whose past and guides are blurred, as a dream's become that blurs once
    hidden: float = 0.0  # share of the frames of which guides do not know some columns, so that more is made up
    guide_errors: float = 0.0  # share of the clips with own frames whose guides err as these do
    drift: float = 0.0  # share of the clips with own frames along which their errors add up, as where nothing moves
    outcome_dropout: float = 0.3  # share of the features that ending, event and reward are predicted without
    action_known: float = 0.6  # with action tokens: share of the frames that are drawn with their action clean
    frame_known: float = 0.15  # share that is clean itself, to tell its actions; in the others both are noisy
    any_outcome: float = 0.3  # share of these in which it is not known what comes of the actions
    soon: int = 10  # steps within which success is soon
    action_weight: float = 0.5  # of the loss of the actions

    def __post_init__(self) -> None:
        share, weight = (0, 1), (0, 1e6)
        check_bounds(
            "loss", self, context_noise=share, pure_noise=share, noise_level=(-100, 100), change=weight,
            change_most=weight, own_frames_after=share, own_frames=share, own_frames_from=share,
            own_frames_depth=(1, 1000),
            own_frames_error=weight, shortcuts=share, shortcut_weight=weight, ending_weight=weight,
            event_weight=weight, reward_weight=weight, stream_noise=weight, frame_noise=weight,
            drawn_frames=share, memory_dropout=share, unseen=weight, blur=share, hidden=share,
            guide_errors=share, drift=share,
            single_frames=(0, 100_000), single_steps=(0, 0.999), outcome_dropout=(0, 0.99),
            action_known=share, frame_known=share, any_outcome=share, soon=(1, 10_000), action_weight=weight,
        )  # fmt: skip
        if self.action_known + self.frame_known > 1:
            raise InvalidInput(
                f"loss action_known is {self.action_known} and frame_known is {self.frame_known}; give shares that are "
                "at most 1 together"
            )


@dataclass(frozen=True)
class _Given:
    """What a clip's steps are given besides frames."""

    actions: Tensor  # (B, T, ...)
    ages: Tensor  # (B, T)
    streams: Streams  # (B, T, ...) at the last frames
    ahead: Streams  # (F, ...) at the next ones
    recalled: dict[str, Context]  # (F, ...), what memories say that were gone through before


class DynamicsLoss(nn.Module):
    """Called by the loop with (batch, step, generator, progress).

    `change_scale` is the usual mean square change of a place where something changes, in the data
    (`worldsim.data.clips.change_scale`).
    """

    def __init__(self, dynamics: Dynamics, reward_scale: float, change_scale: float, config: LossConfig) -> None:
        super().__init__()
        self.dynamics, self.config = dynamics, config
        self.reward_scale, self.change_scale = reward_scale, change_scale

    def forward(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`latents` (B, T + 1, 1 + between, C, h, w); the others as in `Clips.draw`, (B, T + 1, ...)."""
        if "latents" not in batch:
            alone = self._single_frames(batch, generator)
            weights = {name: head.weight for name, head in self.dynamics.heads.named()}
            loss = torch.stack([weights[name] * value for name, value in alone.items()]).sum()
            return loss, {name: value.detach() for name, value in alone.items()}
        c, latents = self.config, batch["latents"].float()
        frames = latents[:, :-1, 0]  # (B, T, C, h, w), what each step comes from
        target = latents[:, 1:].flatten(0, 1).flatten(1, 2)  # (F, drawn, h, w), F = B * T
        actions, ages = batch["actions"][:, 1:], batch["ages"][:, :-1]
        known = {name: values[:, :-1] for name, values in self._streams(batch).items()}
        ahead = {name: values[:, 1:].flatten(0, 1) for name, values in self._streams(batch).items()}
        recalled = _recalled(batch)
        given = _Given(actions, ages, self._noisy(known, generator), ahead, recalled)
        context = frames
        if progress >= c.own_frames_after and step % 2:
            context = self._own_frames(frames, target, given, generator)
            errors = context - frames
            if c.guide_errors:
                given = replace(given, recalled=erring(recalled, errors, c.guide_errors, generator))
            if c.drift:
                context = drifted(context, errors, c.drift, generator)
        if c.blur:
            context, guides = blurred(context, given.recalled, c.blur, generator)
            given = replace(given, recalled=guides)
        if c.hidden:
            given = replace(given, recalled=hidden(given.recalled, c.hidden, generator))
        shown = _shown(batch)
        joint = self._joint(batch, shown, generator)
        features, base = self._context_features(context, given, generator, joint)
        previous = context.flatten(0, 1)  # (F, C, h, w)
        canvas = self.dynamics.prepare(features, base)
        t = self._levels(len(target), generator)
        acted: dict[str, Tensor] = {}
        if joint is None:
            drawn = self._draw(canvas, target, t, generator)
        else:
            canvas, t = replace(canvas, chunk=joint.chunk), torch.where(joint.shown, 1.0, t)
            drawn, acted = self._draw_both(canvas, target, t, joint, generator)
        counted = batch["weight"][:, 1:].flatten()
        learned = shown if joint is None else shown * ~joint.shown
        part = counted * learned / learned.sum().clamp(min=1)  # of the loss
        weight = _weight(frames, c.change / self.change_scale, c.change_most) + c.unseen * _unseen(recalled)
        error = (drawn - target).square()
        frame = (part * (weight * error).mean((1, 2, 3))).sum()
        shortcut = torch.zeros_like(frame)
        if step // 2 % 2:
            shortcut = self._shortcuts(canvas, target, weight, part, generator, joint)
        pair = None  # the new frames, the ones before them and whether they were drawn, for heads that read the new one
        if self.dynamics.heads.late:
            frame_read, was_drawn = self._frames_to_read(canvas, target, shown, joint, generator)
            pair = frame_read, previous, was_drawn
        heads = self._outcome(batch, features, given, pair, generator)
        loss = frame + c.shortcut_weight * shortcut
        if joint is not None:
            loss = loss + c.action_weight * acted["actions"]
        for name, value in self._single_frames(batch, generator).items():
            heads[name] = (heads[name] + value) / 2
        own = {"reward": c.reward_weight, "ending": c.ending_weight, "event": c.event_weight}
        for name, head in self.dynamics.heads.named():
            loss = loss + own.get(name, head.weight) * heads[name]
        one_step = shown * (t == 0) * (1 if joint is None else joint.told)
        mse = (one_step * error.mean((1, 2, 3))).sum() / one_step.sum().clamp(min=1)
        named = {"frame": frame, "one_step_mse": mse, "shortcut": shortcut, **acted, **heads}
        return loss, {name: value.detach() for name, value in named.items()}

    def _levels(self, count: int, generator: torch.Generator) -> Tensor:
        """Pure noise, or levels of a logit-normal distribution (Esser et al., 2024)."""
        logit = self.config.noise_level + torch.randn(count, generator=generator, device=generator.device)
        pure = torch.rand(count, generator=generator, device=generator.device) < self.config.pure_noise
        return torch.sigmoid(logit) * ~pure

    def _joint(self, batch: dict[str, Tensor], shown: Tensor, generator: torch.Generator) -> Joint | None:
        """What is known of each frame and its actions when it is drawn; None where frames alone are."""
        if self.dynamics.acting is None:
            return None
        level = self._levels(len(shown), generator)
        return draw_joint(self.dynamics.acting, self.config, batch, shown, level, generator)

    def _streams(self, batch: dict[str, Tensor]) -> Streams:
        """The recorded streams that the model reads or predicts, (B, T + 1, ...)."""
        return {name: batch[f"{STREAM}{name}"] for name in self.dynamics.config.streams}

    def _noisy(self, known: Streams, generator: torch.Generator) -> Streams:
        """Vectors at the last frames (B, T, ...) with some noise, each entry in its own unit; tokens as they are."""
        noisy = dict(known)
        for name, scale in self.dynamics.config.scales.items():
            if self.dynamics.config.streams[name].kind != "vector":
                continue
            values = known[name].float()
            noise = torch.randn(values.shape, generator=generator, device=values.device)
            unit = noise.new_tensor(scale.std).reshape(values.shape[2:])
            noisy[name] = values + self.config.stream_noise * noise * unit
        return noisy

    def _context_features(
        self, context: Tensor, given: _Given, generator: torch.Generator, joint: Joint | None = None
    ) -> tuple[ContextFeatures, Tensor]:
        """Run the history over noised frames (B, T, C, h, w), and the memories over these frames.

        With what frames are drawn as changes of, (F, C, h, w). Without a `joint` all are drawn with their actions.
        """
        shape = context.shape[:2]
        level = self.config.context_noise * torch.rand(shape, generator=generator, device=context.device).square()
        noise = torch.randn(context.shape, generator=generator, device=context.device)
        noisy = context + level[..., None, None, None] * noise
        before = torch.cat([noisy[:, :1], noisy[:, :-1]], dim=1)
        actions, ages, known = given.actions, given.ages, given.streams
        # Frames are drawn to fit what came: what is foreseen of noisy numbers is off by more than a dream's own.
        told = None if joint is None else joint.told
        features = self.dynamics.forward(noisy, before, actions, level, ages, known, given.ahead, told)
        if self.dynamics.memories is None:
            return features, context.flatten(0, 1)
        # What heads of the history foresee is what came, with the memories' own noise: early guesses are far off.
        ahead = {n: given.ahead[n] for n in self.dynamics.heads.sample(features.heads) if n in given.ahead}
        recalled = self.dynamics.memories.recall_clip(
            features, context, actions, ages, known, ahead, generator,
            known=given.recalled, dropout=self.config.memory_dropout,
        )  # fmt: skip
        return recalled.features, recalled.base

    def _draw(self, canvas: Canvas, target: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
        noisy = _noisy_frames(target, t, generator)
        return self.dynamics.denoise(canvas, noisy, t, torch.zeros_like(t)).float()

    def _draw_both(
        self, canvas: Canvas, target: Tensor, t: Tensor, joint: Joint, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The frames (F, drawn, h, w), and the loss of the actions with its parts."""
        noisy = given_frames(_noisy_frames(target, t, generator), joint.shown, canvas.previous.shape[1])
        drawn, actions = self.dynamics.denoise_both(canvas, noisy, t, torch.zeros_like(t))
        loss, metrics = joint.action_loss(actions)
        return drawn.float(), {"actions": loss, **metrics}

    def _shortcuts(
        self, canvas: Canvas, target: Tensor, weight: Tensor, part: Tensor, generator: torch.Generator,
        joint: Joint | None = None,
    ) -> Tensor:  # fmt: skip
        """The loss of some frames' shortcut steps; the history learns from frames alone.

        Only of those that are drawn with their actions: shortcut steps are for dreams.
        """
        rows = torch.randperm(len(target), generator=generator, device=target.device)
        if joint is not None:
            rows = rows[joint.told[rows]]
        among, count = len(rows), max(round(self.config.shortcuts * len(target)), 1)
        rows = rows[:count]
        some = canvas.rows(rows).detach()
        drawn, goal = shortcut_targets(self.dynamics, some, target[rows], generator)
        # Where a shortcut step has to end follows from where it begins, so what is to come may have a say here.
        c, difference = self.config, goal[:, : some.previous.shape[1]] - some.previous
        coming = _change(difference, c.change / self.change_scale, c.change_most)
        error = ((weight[rows] + coming) * (drawn - goal).square()).mean((1, 2, 3))
        return (part[rows] * error).sum() * among / max(len(rows), 1)

    def _single_frames(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The losses of heads that need nothing but a frame, on single recorded ones with some noise; often none."""
        if f"{ALONE}latents" not in batch:
            return {}
        frames = batch[f"{ALONE}latents"].float()
        size = self.config.frame_noise * torch.rand(len(frames), generator=generator, device=frames.device)
        noise = torch.randn(frames.shape, generator=generator, device=frames.device)
        said = self.dynamics.heads.said_of(frames + size[:, None, None, None] * noise)
        streams = {n.removeprefix(ALONE): values for n, values in batch.items() if n.startswith(ALONE)}
        nothing, every = frames.new_zeros(len(frames)), frames.new_ones(len(frames))
        targets = Targets(nothing, nothing.bool(), nothing.bool(), every, streams)
        return {name: head.loss(said[name], targets) for name, head in self.dynamics.heads.named() if name in said}

    @torch.no_grad()
    def _frames_to_read(
        self, canvas: Canvas, target: Tensor, shown: Tensor, joint: Joint | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The new frames (F, C, h, w) as heads read them: most are recorded ones with noise, the others (F,) drawn.

        Drawn with their actions, as in a dream.
        """
        c, true, count = self.config, target[:, : canvas.previous.shape[1]], len(target)
        size, free = torch.rand((2, count), generator=generator, device=target.device)
        noise = torch.randn(target.shape, generator=generator, device=target.device)
        noisy = true + (c.frame_noise * size)[:, None, None, None] * noise[:, : true.shape[1]]
        pure, whole = torch.zeros(count, device=target.device), torch.ones(count, device=target.device)
        drawn = self.dynamics.denoise(canvas, noise, pure, whole).float()  # in one shortcut step, as in most dreams
        if joint is not None:
            free = torch.where(joint.told, free * joint.told.float().mean(), 1.0)  # as many of fewer
        take_drawn = (free < c.drawn_frames) | (shown == 0)
        return torch.where(take_drawn[:, None, None, None], drawn[:, : true.shape[1]], noisy), take_drawn

    @torch.no_grad()
    def _own_frames(self, frames: Tensor, target: Tensor, given: _Given, generator: torch.Generator) -> Tensor:
        """The clip's frames, most of them replaced by what the model draws for them, some steps on."""
        c, longest = self.config, self.config.own_frames_error * (self.change_scale * frames.shape[2]) ** 0.5
        depth = int(torch.randint(1, c.own_frames_depth + 1, (), generator=generator, device=frames.device))
        own = frames
        for _ in range(depth):
            features, base = self._context_features(own, given, generator)
            canvas = self.dynamics.prepare(features, base)
            told = c.own_frames_from * torch.rand(len(target), generator=generator, device=target.device)
            drawn = self._draw(canvas, target, told, generator)
            drawn = drawn[:, : frames.shape[2]].unflatten(0, frames.shape[:2])
            drawn = torch.cat([frames[:, :1], drawn[:, :-1]], dim=1)  # the first frame stays
            drawn = frames + _shorten(drawn - frames, longest)
            replaced = torch.rand(frames.shape[:2], generator=generator, device=frames.device) < c.own_frames
            own = torch.where(replaced[..., None, None, None], drawn, frames)
        return own

    def _outcome(
        self, batch: dict[str, Tensor], features: ContextFeatures, given: _Given,
        pair: tuple[Tensor, Tensor, Tensor] | None, generator: torch.Generator,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The loss of each head; `pair` are the new frames and those before (F, C, h, w), where a head reads them.

        With a frame that was drawn, as the third part (F,) says, it reads streams as other heads foresee them, with
        another as they were recorded.
        """
        actions, ages, known = given.actions, given.ages, given.streams
        shape, dropout = (*features.tokens.shape[:2], SQUEEZED), self.config.outcome_dropout
        kept = torch.rand(shape, generator=generator, device=features.tokens.device) >= dropout
        level = torch.zeros_like(ages, dtype=torch.float32)  # no head needs that of the context
        streams = {name: values.flatten(0, 1) for name, values in known.items()}
        inputs = StepInputs(actions.flatten(0, 1), level.flatten(), ages.flatten(), streams)
        said = self.dynamics.heads(features.tokens, inputs, kept / (1 - dropout))
        came = {name: values[:, 1:].flatten(0, 1) for name, values in self._streams(batch).items()}
        if pair is not None:
            frame, previous, drawn = pair
            foreseen = self.dynamics.heads.sample(features.heads)
            ahead = {name: values.detach() for name, values in foreseen.items() if name in came}
            for name, values in ahead.items():
                own = drawn.view(-1, *(1,) * (values.ndim - 1))
                ahead[name] = torch.where(own, values, came[name].to(values.dtype))
            keep = kept / (1 - dropout)
            said |= self.dynamics.heads.of_frame(frame, previous, features.tokens, inputs, keep, ahead)
        targets = Targets(
            reward=batch["rewards"][:, 1:].flatten() / self.reward_scale,
            terminated=batch["terminated"][:, 1:].flatten(),
            event=batch["event"][:, 1:].flatten(),
            counted=batch["valid"][:, 1:].flatten() * batch["weight"][:, 1:].flatten(),
            streams=came, actions=inputs.actions,
        )  # fmt: skip
        return {name: head.loss(said[name], targets) for name, head in self.dynamics.heads.named()}


def _noisy_frames(target: Tensor, t: Tensor, generator: torch.Generator) -> Tensor:
    """Mixtures of frames (F, drawn, h, w) and noise, of levels (F,)."""
    noise = torch.randn(target.shape, generator=generator, device=target.device)
    mix = t[:, None, None, None]
    return mix * target + (1 - mix) * noise


def _recalled(batch: dict[str, Tensor]) -> dict[str, Context]:
    """The contexts (F, ...) in a batch, by the names of memories."""
    parts: dict[str, dict[str, Tensor]] = {}
    for key, values in batch.items():
        if key.startswith(CONTEXT):
            name, _, part = key.removeprefix(CONTEXT).rpartition(".")
            parts.setdefault(name, {})[part] = values[:, :-1].flatten(0, 1).float()
    return {name: Context(**of) for name, of in parts.items()}


def _unseen(recalled: dict[str, Context]) -> Tensor | float:
    """How little of each place (F, 1, h, w) the guide that knows most knows; 0 where there is no guide."""
    masks = [said.mask for said in recalled.values() if said.mask is not None]
    return 1 - torch.stack(masks).amax(0) if masks else 0.0


def _shorten(error: Tensor, longest: float) -> Tensor:
    """Errors (B, T, C, h, w), none of a place longer than that."""
    return error * (longest / error.norm(dim=2, keepdim=True).clamp(min=1e-6)).clamp(max=1.0)


def _weight(frames: Tensor, rate: float, most: float) -> Tensor:
    """What a place of clips (B, T, C, h, w) counts when the next frames are drawn, (F, 1, h, w).

    More, by `rate` a unit of mean square change and up to `most`, where the frame has just changed, there or beside.
    What is to come must have no say: were
    the places that will change to count more, then what appears or vanishes would do so too often.
    """
    change = _change((frames[:, 1:] - frames[:, :-1]).flatten(0, 1), rate, most)
    near = F.max_pool2d(change, 3, stride=1, padding=1).unflatten(0, (len(frames), -1))  # (B, T - 1, 1, h, w)
    return 1 + torch.cat([torch.zeros_like(near[:, :1]), near], dim=1).flatten(0, 1)


def _change(difference: Tensor, rate: float, most: float) -> Tensor:
    """How much more each place counts of frames that changed by (F, C, h, w), up to `most`: (F, 1, h, w)."""
    return (rate * difference.square().mean(1, keepdim=True)).clamp(max=most)


def _shown(batch: dict[str, Tensor]) -> Tensor:
    """(F,) float, 1 where there is a frame to learn from; some games give none at the end."""
    return (batch["valid"] & ~batch["terminated"])[:, 1:].flatten().float()
