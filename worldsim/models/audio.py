"""The sound of a step from its frame: `AudioHead`, a causal network that draws latents of the audio codec.

One step, in order:

    frame     convolutions over the new frame's latents and how they differ from those before (as in SoundReactor, the
              difference tells what happens now), and the action
    context   a causal stack reads this and what was heard last, back for some steps; its state is explicit
    kind      which kind of sound this is, by how loud it is and how strongly it begins: what is rare and loud comes as
              often as it was recorded, where a mean over all that may follow is quiet
    drawing   a small network draws latents of that kind of sound from noise, along a flow, in a few steps
    codec     its decoder makes samples of them; what rings on is carried to the next step
    choice    of several sounds that are drawn so, the first one that begins as strongly as its kind is taken

It reads nothing that comes later, so the sound is there with the frame. All of it is float32: it is small, and sound is
finer than frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInput, check_bounds
from worldsim.models.audio_codec import AudioCodec, AudioCodecConfig, CausalStack, to_int16
from worldsim.models.carried import CarriedHead, Drawn
from worldsim.models.layers import fourier_features
from worldsim.models.onsets import onset_strength, past_samples
from worldsim.sampling.noise import STREAM_AUDIO
from worldsim.sampling.sampler import levels, solve_ode

if TYPE_CHECKING:
    from worldsim.models.dynamics import DynamicsConfig

LEVEL_FEATURES = 32
CONTEXT_TAPS = 4  # steps that a layer of the context sees
GAINS = (1e-3, 30.0)  # by which a step's sound is brought to the loudness of its kind
RAMP = 8  # a gain is reached within a step's first RAMPth part, without a seam
KIND_NOISE = 2  # numbers that choose the kind of a step's sound; those before them are for its latents
AGES = 32  # steps since the beginning of an episode that are told apart: many a sound comes right then


@dataclass(frozen=True)
class SoundKinds:
    """Kinds of a step's sound: a level of onset strength and one of loudness (see `worldsim.train.sound_kinds`)."""

    onsets: tuple[float, ...]  # onset strengths from which the next level begins, ascending
    loudness: tuple[float, ...]  # likewise, RMS of full scale
    rms: tuple[float, ...] = ()  # of each level of loudness, to which a step's sound is brought; none: left as drawn
    certainty: float = 1.0  # 1: levels are drawn by their probability; above: what is probable comes, by thresholds
    onset_bias: tuple[float, ...] = ()  # added to the log-odds of reaching each level, calibrated; none: nothing
    loudness_bias: tuple[float, ...] = ()  # likewise
    lowest: tuple[int, ...] = ()  # level of loudness that follows each one, but for 1 % of the steps; none: any
    highest: tuple[int, ...] = ()  # likewise

    def __post_init__(self) -> None:
        check_bounds("sound kinds", self, certainty=(1e-3, 1e6))
        for name, given in (("onsets", self.onsets), ("loudness", self.loudness)):
            if any(a >= b for a, b in pairwise(given)):
                raise InvalidInput(f"sound kinds {name} are {given}; give ascending ones")
        if len(self.rms) not in (0, len(self.loudness) + 1):
            raise InvalidInput(f"sound kinds rms has {len(self.rms)} numbers; give {len(self.loudness) + 1}, or none")
        for name, bias, edges in (
            ("onset_bias", self.onset_bias, self.onsets), ("loudness_bias", self.loudness_bias, self.loudness),
        ):  # fmt: skip
            if len(bias) not in (0, len(edges)):
                raise InvalidInput(f"sound kinds {name} has {len(bias)} numbers; give {len(edges)}, or none")
        if not len(self.lowest) == len(self.highest) in (0, self.levels[1]):
            raise InvalidInput(f"sound kinds lowest and highest need {self.levels[1]} levels each, or none")

    @property
    def levels(self) -> tuple[int, int]:
        """How many levels of onset and of loudness there are; a kind is level of onset * these + level of loudness."""
        return len(self.onsets) + 1, len(self.loudness) + 1

    @property
    def count(self) -> int:
        """How many kinds there are."""
        return self.levels[0] * self.levels[1]


@dataclass(frozen=True)
class AudioConfig:
    """Sizes of the head that makes the sound, and how it is drawn."""

    codec: AudioCodecConfig
    kinds: SoundKinds
    features: int = 96  # numbers that are read of a frame
    width: int = 192  # of the context
    dilations: tuple[int, ...] = (1, 4)  # of its layers, in steps: it looks back for 3 times their sum
    hidden: int = 320  # of the network that draws
    steps: int = 8  # in which a step's latents are drawn
    temperature: float = 1.0  # scale of the noise that they are drawn from
    candidates: int = 1  # sounds that are drawn for a step, of which one is taken
    listens: bool = True  # whether it hears its own last sound; trained briefly, it follows frames better deaf
    gain: float = 1.0  # of the samples, calibrated so that it is as loud as the recording
    delay: int = 0  # steps by which its sound is late: made of so many more frames, it bounds what frames can tell

    def __post_init__(self) -> None:
        widths = (1, 4096)
        check_bounds(
            "audio", self, features=widths, width=widths, dilations=(1, 1024), hidden=widths, steps=(1, 256),
            temperature=(0, 100), candidates=(1, 64), gain=(0, 100), delay=(0, 1000),
        )  # fmt: skip


class FrameReader(nn.Module):
    """What is seen of a step: the new frame's latents, their change, and those between, as one vector."""

    def __init__(self, config: DynamicsConfig, features: int) -> None:
        super().__init__()
        c, inner = config, 48
        self.between = c.between
        self.enter = nn.Conv2d((2 + c.between) * c.channels, inner, 3, padding=1)
        self.shrink = nn.Conv2d(inner, 64, 3, stride=2, padding=1)
        cells = -(-c.height // 2) * -(-c.width // 2)
        self.leave = nn.Linear(64 * cells, features)
        self.first = c.action_start if c.actions else None
        self.action = nn.Embedding(c.actions, features) if c.actions else nn.Linear(c.action_dim, features)
        self.age = nn.Embedding(AGES + 1, features)

    def forward(self, latents: Tensor, previous: Tensor, actions: Tensor, ages: Tensor) -> Tensor:
        """Latents (F, 1 + between, C, h, w), those of the frame before (F, C, h, w), actions, ages -> (F, features).

        `ages` (F,) are steps from the beginning of the episode to the frame before.

        Of a frame that was given without those between, they are taken to lie halfway.
        """
        frame, previous = latents[:, 0].float(), previous.float()
        between = latents[:, 1:].float() - previous[:, None]
        if latents.shape[1] == 1 and self.between:
            between = ((frame - previous) / 2)[:, None].expand(-1, self.between, *frame.shape[1:])
        grid = torch.cat([frame, frame - previous, between.flatten(1, 2)], dim=1)  # (F, (2 + between) * C, h, w)
        x = F.silu(self.shrink(F.silu(self.enter(grid))))
        taken = actions - self.first if self.first is not None else actions.to(self.action.weight.dtype)
        return self.leave(x.flatten(1)) + self.action(taken) + self.age(ages.clamp(0, AGES))


class Drawer(nn.Module):
    """Predicts clean latents of noisy ones, given the context: a residual network shaped by it (FiLM)."""

    def __init__(self, numbers: int, width: int, hidden: int) -> None:
        super().__init__()
        self.enter = nn.Linear(numbers, hidden)
        self.cond = nn.Linear(width + LEVEL_FEATURES, 2 * hidden)
        self.inner = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(2))
        self.leave = nn.Linear(hidden, numbers)
        self.guess = nn.Linear(width, numbers)  # of the context alone, which the network adds to

    def forward(self, noisy: Tensor, context: Tensor, level: Tensor) -> Tensor:
        """Noisy latents (..., numbers), context (..., width), level (...) from 0, noise, to 1 -> (..., numbers)."""
        features = fourier_features(level, LEVEL_FEATURES).to(context.dtype)
        scale, shift = self.cond(torch.cat([context, features], dim=-1)).chunk(2, dim=-1)
        x = F.gelu(self.enter(noisy) * (1 + scale) + shift)
        for layer in self.inner:
            x = x + F.gelu(layer(x))
        return self.guess(context) + self.leave(x)


class SoundModel(nn.Module):
    """From what is seen and heard to the latents of a step's sound; all but the codec."""

    def __init__(self, config: AudioConfig, dynamics: DynamicsConfig) -> None:
        super().__init__()
        self.config, numbers, width = config, config.codec.numbers, config.width
        self.reader = FrameReader(dynamics, config.features)
        self.enter = nn.Linear(config.features + numbers, width)
        self.last_kind = nn.Embedding(config.kinds.count + 1, width)  # the last one: nothing was heard yet
        self.context = CausalStack(width, list(config.dilations), CONTEXT_TAPS)
        self.kind = nn.Linear(width, config.kinds.count)
        self.as_kind = nn.Embedding(config.kinds.count, width)
        self.drawer = Drawer(numbers, width, config.hidden)

    def read(
        self, seen: Tensor, heard: Tensor, kinds: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What was seen at T steps (B, T, features), heard before each (B, T, numbers), kinds of that (B, T) ->
        context (B, T, width)."""
        x = self.enter(torch.cat([F.silu(seen), heard], dim=-1)) + self.last_kind(kinds)
        x, state = self.context(x, state)
        return F.gelu(x), state

    def kind_odds(self, context: Tensor) -> Tensor:
        """Probabilities (..., onset levels, loudness levels) of kinds given the context (..., width)."""
        return F.softmax(self.kind(context), dim=-1).unflatten(-1, self.config.kinds.levels)

    def choose(self, context: Tensor, heard: dict[str, Tensor], uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Draw kinds (B,) given the context (B, width), with `uniform` (B, 2) in [0, 1]: kinds, and levels of onset.

        First comes the level of onset, then the level of loudness. What is probable stays so for some steps, but begins
        once: only a level above that of the step before is an onset. And loudness changes as it does in recordings, in
        which silence may end softly: else each moment of doubt makes a silence, and the sound after it an onset.
        """
        odds, kinds = self.kind_odds(context), self.config.kinds
        level = _draw_level(odds.sum(-1), uniform[:, 0], kinds.certainty, kinds.onset_bias)
        onset = level * (level > heard["level"])
        given = odds[torch.arange(len(onset), device=onset.device), onset]  # (B, loudness levels)
        loud = _draw_level(given / given.sum(-1, keepdim=True), uniform[:, 1], kinds.certainty, kinds.loudness_bias)
        if kinds.lowest:
            last = heard["kind"] % kinds.levels[1]
            low, high = (torch.tensor(each, device=loud.device)[last] for each in (kinds.lowest, kinds.highest))
            loud = torch.where(heard["kind"] < kinds.count, loud.clamp(low, high), loud)
        return onset * kinds.levels[1] + loud, level

    def draw(self, context: Tensor, kinds: Tensor, noise: Tensor) -> Tensor:
        """Latents (B, numbers) of these kinds (B,) from noise, given the context (B, width)."""
        steps, context = self.config.steps, context + self.as_kind(kinds)

        def predict(z: Tensor, t: float) -> Tensor:
            return self.drawer(z, context, torch.full(z.shape[:-1], t, device=z.device))

        return solve_ode(predict, self.config.temperature * noise, [*levels(steps), 1.0], small=False)

    def nothing_heard(self, batch: int) -> dict[str, Tensor]:
        """What was heard before the first step: latents (B, numbers), their kind (B,), and the level of onset (B,)."""
        weight = self.kind.weight
        kind = torch.full((batch,), self.config.kinds.count, dtype=torch.int64, device=weight.device)
        silence = weight.new_zeros(batch, self.config.codec.numbers)
        return {"last": silence, "kind": kind, "level": torch.zeros_like(kind)}

    def decide(
        self, seen: Tensor, heard: dict[str, Tensor], uniform: Tensor, state: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """One step's seen (B, features), heard before it, uniform (B, 2) -> context (B, width), the kind and level of
        its sound, the context's state."""
        last, kind = heard["last"], heard["kind"]
        if not self.config.listens:
            last, kind = torch.zeros_like(last), torch.full_like(kind, self.config.kinds.count)
        context, state = self.read(seen[:, None], last[:, None], kind[:, None], state)
        kind, level = self.choose(context[:, 0], heard, uniform)
        return context[:, 0], {"kind": kind, "level": level}, state


def _draw_level(odds: Tensor, uniform: Tensor, certainty: float, bias: tuple[float, ...]) -> Tensor:
    """A level (B,) of those whose probabilities are (B, levels): the highest that is reached.

    A level is reached where the log-odds of it or a higher one lie above logistic noise, which is less the larger the
    certainty. Without a bias, and certain by 1, that draws levels by their probability.
    """
    if odds.shape[-1] == 1:
        return torch.zeros_like(uniform, dtype=torch.int64)
    tail = odds.flip(-1).cumsum(-1).flip(-1)[:, 1:]  # (B, levels - 1), of this level or a higher one
    reach = torch.logit(tail, eps=1e-6)
    if bias:
        reach = reach + torch.tensor(bias, dtype=reach.dtype, device=reach.device)
    reached = reach > torch.logit(uniform, eps=1e-6)[:, None] / certainty
    return (reached * torch.arange(1, odds.shape[-1], device=odds.device)).amax(-1)


class AudioHead(CarriedHead):
    """Sound as a head of a world: (B, samples, channels) int16 a step."""

    noise_stream = STREAM_AUDIO

    def __init__(self, config: AudioConfig, dynamics: DynamicsConfig) -> None:
        super().__init__()
        self.config = config
        self.noise_shape = (KIND_NOISE + config.candidates * config.codec.numbers,)
        self.model = SoundModel(config, dynamics)
        self.codec = AudioCodec(config.codec)

    def empty(self, batch: int) -> dict[str, dict[str, Tensor]]:
        """Silence: nothing was seen, heard, or rings on."""
        context, codec, one = self.model.context.empty(batch), self.codec.empty_decoder(batch), self.codec.log_rms
        made = {"gain": one.new_ones(batch), "past": one.new_zeros(batch, past_samples(self.config.codec.samples))}
        return {"heard": self.model.nothing_heard(batch), "context": context, "codec": codec, "made": made}

    def step(
        self, carried: dict[str, dict[str, Tensor]], drawn: Drawn, noise: Tensor
    ) -> tuple[dict[str, dict[str, Tensor]], Tensor]:
        """As `CarriedHead.step`."""
        seen = self.model.reader(drawn.latents, drawn.previous, drawn.inputs.actions, drawn.inputs.ages)
        uniform = torch.special.ndtr(noise[:, :KIND_NOISE])
        context, kind, state = self.model.decide(seen, carried["heard"], uniform, carried["context"])
        latents, ringing, made, sound = self._make(context, kind["kind"], carried, noise[:, KIND_NOISE:])
        tree = {"heard": {"last": latents, **kind}, "context": state, "codec": ringing, "made": made}
        return tree, to_int16(sound)

    def _make(
        self, context: Tensor, kind: Tensor, carried: dict[str, dict[str, Tensor]], noise: Tensor
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor], Tensor]:
        """A sound (B, S, C) of a kind (B,): its latents, what the codec and the next step carry, its samples."""
        c, count = self.config, self.config.candidates

        def each(tree: dict[str, Tensor]) -> dict[str, Tensor]:
            return {name: tensor.repeat_interleave(count, dim=0) for name, tensor in tree.items()}

        kinds = kind.repeat_interleave(count)
        latents = self.model.draw(context.repeat_interleave(count, dim=0), kinds, noise.reshape(len(kinds), -1))
        steps = latents.unflatten(1, (1, c.codec.latents, c.codec.dim))
        sound, ringing = self.codec.decode(steps, each(carried["codec"]))
        before = each(carried["made"])
        sound, gain = self._as_loud(sound, kinds, before["gain"])
        sound = c.gain * sound
        past = torch.cat([before["past"], sound.mean(-1)], dim=1)
        made = {"gain": gain, "past": past[:, sound.shape[1] :].clone()}
        if count > 1:
            rows = self._nearest(onset_strength(past, sound.shape[1], c.codec.rate), kinds)
            latents, sound = latents[rows], sound[rows]
            ringing, made = ({n: t[rows] for n, t in tree.items()} for tree in (ringing, made))
        return latents, ringing, made, sound

    def _nearest(self, strength: Tensor, kinds: Tensor) -> Tensor:
        """Rows (B,) of the candidates (B * candidates,) that are taken: the first whose onset is of its kind's level.

        That is drawing by rejection from the sounds of the level; where none is of it, the nearest is taken.
        """
        k = self.config.kinds
        edges = strength.new_tensor([-torch.inf, *k.onsets, torch.inf])
        level = kinds // k.levels[1]
        off = torch.maximum(edges[level] - strength, strength - edges[level + 1]).clamp_min(0)
        count = self.config.candidates
        best = off.unflatten(0, (-1, count)).argmin(1)
        return torch.arange(len(best), device=best.device) * count + best

    def _as_loud(self, sound: Tensor, kind: Tensor, last: Tensor) -> tuple[Tensor, Tensor]:
        """Sound (B, S, C) brought to the loudness of its kind (B,), from the gain before (B,) on, and the new gain."""
        kinds = self.config.kinds
        if not kinds.rms:
            return sound, last.clone()
        wanted = torch.tensor(kinds.rms, dtype=sound.dtype, device=sound.device)[kind % len(kinds.rms)]
        gain = (wanted / sound.square().mean((1, 2)).sqrt().clamp_min(1e-6)).clamp(*GAINS)
        size = sound.shape[1]
        ramp = (torch.arange(1, size + 1, device=sound.device) * RAMP / size).clamp(max=1)
        return sound * torch.lerp(last[:, None], gain[:, None], ramp)[..., None], gain
