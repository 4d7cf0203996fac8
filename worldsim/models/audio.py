"""The sound of a step from its frame: `AudioHead`, a causal network that draws latents of the audio codec.

One step, in order:

    frame     convolutions over the new frame's latents and how they differ from those before (as in SoundReactor, the
              difference tells what happens now), and the action
    context   a causal stack reads this and what was heard last, back for some steps; its state is explicit
    kind      which kind of sound this is, by how loud it is and how strongly it begins, drawn by its probability: what
              is rare and loud comes as often as it was recorded, where a mean over all that may follow is quiet
    drawing   a small network draws the latents of that kind of sound from noise, along a flow, in a few steps
    codec     its decoder makes samples of them; what rings on is carried to the next step

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
from worldsim.sampling.noise import STREAM_AUDIO
from worldsim.sampling.sampler import levels, solve_ode

if TYPE_CHECKING:
    from worldsim.models.dynamics import DynamicsConfig

LEVEL_FEATURES = 32
CONTEXT_TAPS = 4  # steps that a layer of the context sees
GAINS = (0.05, 4.0)  # by which a step's sound is brought to the loudness of its kind
RAMP = 8  # a gain is reached within a step's first RAMPth part, without a seam
AGES = 32  # steps since the beginning of an episode that are told apart: many a sound comes right then


@dataclass(frozen=True)
class SoundKinds:
    """Kinds of a step's sound: a level of onset strength and one of loudness (see `worldsim.train.sound_kinds`)."""

    onsets: tuple[float, ...]  # onset strengths from which the next level begins, ascending
    loudness: tuple[float, ...]  # likewise, RMS of full scale
    rms: tuple[float, ...] = ()  # of each level of loudness, to which a step's sound is brought; none: left as drawn
    certainty: float = 1.0  # by which log-odds are multiplied: above 1 what is likely becomes more so

    def __post_init__(self) -> None:
        check_bounds("sound kinds", self, certainty=(0, 100))
        for name, given in (("onsets", self.onsets), ("loudness", self.loudness)):
            if any(a >= b for a, b in pairwise(given)):
                raise InvalidInput(f"sound kinds {name} are {given}; give ascending ones")
        if len(self.rms) not in (0, len(self.loudness) + 1):
            raise InvalidInput(f"sound kinds rms has {len(self.rms)} numbers; give {len(self.loudness) + 1}, or none")

    @property
    def count(self) -> int:
        """How many kinds there are; kind // (levels of loudness) is the level of onset."""
        return (len(self.onsets) + 1) * (len(self.loudness) + 1)


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
    listens: bool = True  # whether it hears its own last latents; trained briefly, it follows frames better deaf
    gain: float = 1.0  # of the samples, calibrated so that it is as loud as the recording

    def __post_init__(self) -> None:
        widths = (1, 4096)
        check_bounds(
            "audio", self, features=widths, width=widths, dilations=(1, 1024), hidden=widths, steps=(1, 256),
            temperature=(0, 100), gain=(0, 100),
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

    def choose(self, context: Tensor, uniform: Tensor) -> Tensor:
        """Draw kinds (B,) by their probability given the context (B, width), with `uniform` (B,) in [0, 1]."""
        logits = self.config.kinds.certainty * self.kind(context)
        reached = F.softmax(logits, dim=-1).cumsum(-1)
        return (reached[:, :-1] < uniform[:, None]).sum(-1)

    def draw(self, context: Tensor, kinds: Tensor, noise: Tensor) -> Tensor:
        """Latents (B, numbers) of these kinds (B,) from noise, given the context (B, width)."""
        steps, context = self.config.steps, context + self.as_kind(kinds)

        def predict(z: Tensor, t: float) -> Tensor:
            return self.drawer(z, context, torch.full(z.shape[:-1], t, device=z.device))

        return solve_ode(predict, self.config.temperature * noise, [*levels(steps), 1.0], small=False)

    def nothing_heard(self, batch: int) -> dict[str, Tensor]:
        """What was heard before the first step: latents (B, numbers) and their kind (B,)."""
        weight = self.kind.weight
        kind = torch.full((batch,), self.config.kinds.count, dtype=torch.int64, device=weight.device)
        return {"last": weight.new_zeros(batch, self.config.codec.numbers), "kind": kind}

    def hear(
        self, seen: Tensor, heard: dict[str, Tensor], noise: Tensor, state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One step: seen (B, features), heard before it, noise (B, numbers + 1) -> heard now, the context's state."""
        last = heard["last"] * self.config.listens
        context, state = self.read(seen[:, None], last[:, None], heard["kind"][:, None], state)
        uniform = torch.special.ndtr(noise[:, -1])  # the last number chooses the kind
        kind = self.choose(context[:, 0], uniform)
        return {"last": self.draw(context[:, 0], kind, noise[:, :-1]), "kind": kind}, state


class AudioHead(CarriedHead):
    """Sound as a head of a world: (B, samples, channels) int16 a step."""

    noise_stream = STREAM_AUDIO

    def __init__(self, config: AudioConfig, dynamics: DynamicsConfig) -> None:
        super().__init__()
        self.config = config
        self.noise_shape = (config.codec.numbers + 1,)
        self.model = SoundModel(config, dynamics)
        self.codec = AudioCodec(config.codec)

    def empty(self, batch: int) -> dict[str, dict[str, Tensor]]:
        """Silence: nothing was seen, heard, or rings on."""
        context, codec = self.model.context.empty(batch), self.codec.empty_decoder(batch)
        gain = {"last": self.codec.log_rms.new_ones(batch)}
        return {"heard": self.model.nothing_heard(batch), "context": context, "codec": codec, "gain": gain}

    def step(
        self, carried: dict[str, dict[str, Tensor]], drawn: Drawn, noise: Tensor
    ) -> tuple[dict[str, dict[str, Tensor]], Tensor]:
        """As `CarriedHead.step`."""
        seen = self.model.reader(drawn.latents, drawn.previous, drawn.inputs.actions, drawn.inputs.ages)
        heard, state = self.model.hear(seen, carried["heard"], noise, carried["context"])
        c = self.config.codec
        sound, ringing = self.codec.decode(heard["last"].unflatten(1, (1, c.latents, c.dim)), carried["codec"])
        sound, gain = self._as_loud(sound, heard["kind"], carried["gain"]["last"])
        tree = {"heard": heard, "context": state, "codec": ringing, "gain": {"last": gain}}
        return tree, to_int16(self.config.gain * sound)

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
