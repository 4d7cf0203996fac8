"""The audio codec: a causal autoencoder between the samples of a step and one or two continuous latents.

Sound goes through it step by step without seams. Every layer looks back over the border between two steps, and what it
looks back at is an explicit state, a tree of tensors: a whole recording at once and one step after another give the
same. No layer looks ahead, so the sound of a step comes with the step.

Shapes: B batch, T steps, S samples a step, C channels, F = T * frames, L = T * latents, D numbers of a latent.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInput, check_bounds

USUAL_HOP = 128  # samples of a frame that a step is cut into, about as many
TAPS = 3  # frames that a convolution sees

State = dict[str, Tensor]  # what each layer looks back at, (B, ...) each


@dataclass(frozen=True)
class AudioCodecConfig:
    """Sizes of the codec."""

    rate: float  # samples a second
    samples: int  # a step
    channels: int = 2
    frames: int = 10  # that the samples of a step are cut into
    latents: int = 2  # a step
    dim: int = 48  # numbers of a latent
    width: int = 160  # of the layers
    encoder_blocks: int = 2
    decoder_blocks: int = 3
    level: float = 0.1  # RMS of recorded sound, full scale being 1: what the networks see has RMS 1

    def __post_init__(self) -> None:
        check_bounds(
            "audio codec", self, rate=(100, 200_000), samples=(1, 100_000), channels=(1, 2), frames=(1, 1000),
            latents=(1, 16), dim=(1, 1024), width=(1, 4096), encoder_blocks=(0, 32), decoder_blocks=(0, 32),
            level=(1e-6, 1),
        )  # fmt: skip
        if self.samples % self.frames or self.frames % self.latents:
            raise InvalidInput(
                f"audio codec frames is {self.frames}; give a divisor of the {self.samples} samples of a step and a "
                f"multiple of its {self.latents} latents"
            )

    @property
    def hop(self) -> int:
        """Samples of a frame."""
        return self.samples // self.frames

    @property
    def numbers(self) -> int:
        """Numbers of all latents of a step."""
        return self.latents * self.dim


def fitting_frames(samples: int, latents: int) -> int:
    """Frames of about `USUAL_HOP` samples that the samples of a step can be cut into, a multiple of its latents."""
    found = [n for n in range(latents, samples + 1, latents) if samples % n == 0]
    if not found:
        raise InvalidInput(
            f"a step has {samples} samples of sound, which {latents} latents do not divide; give --latents 1"
        )
    return min(found, key=lambda n: abs(samples / n - USUAL_HOP))


class CausalConv(nn.Module):
    """A convolution over time (B, F, in) -> (B, F, out) that looks back at `taps` frames, `dilation` apart."""

    def __init__(self, inputs: int, outputs: int, taps: int = TAPS, dilation: int = 1) -> None:
        super().__init__()
        self.inputs, self.taps, self.dilation = inputs, taps, dilation
        self.linear = nn.Linear(taps * inputs, outputs)

    def empty(self, batch: int) -> Tensor:
        """What there is to look back at before the first frame: nothing."""
        weight = self.linear.weight
        return torch.zeros(
            batch, (self.taps - 1) * self.dilation, self.inputs, dtype=weight.dtype, device=weight.device
        )

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, in) and the frames before it -> (B, F, out), and the frames before the next ones."""
        frames, seen = x.shape[1], torch.cat([past, x], dim=1)
        taps = [seen[:, i * self.dilation : i * self.dilation + frames] for i in range(self.taps)]
        return self.linear(torch.cat(taps, dim=-1)), seen[:, frames:]


class CausalBlock(nn.Module):
    """A residual block: layer norm, causal convolution, linear layer."""

    def __init__(self, width: int, taps: int = TAPS, dilation: int = 1) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = CausalConv(width, width, taps, dilation)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """(B, F, width) -> (B, F, width), with what `CausalConv` looks back at."""
        change, past = self.conv(self.norm(x), past)
        return x + self.out(F.gelu(change)), past


class CausalStack(nn.Module):
    """Blocks one after the other; their states go by their numbers."""

    def __init__(self, width: int, dilations: list[int], taps: int = TAPS) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CausalBlock(width, taps, dilation) for dilation in dilations)

    def empty(self, batch: int) -> State:
        """The state before the first frame."""
        return {str(i): block.conv.empty(batch) for i, block in enumerate(self.blocks)}  # type: ignore[union-attr,operator]

    def forward(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        """(B, F, width) -> (B, F, width) and the new state."""
        new = {}
        for i, block in enumerate(self.blocks):
            x, new[str(i)] = block(x, state[str(i)])
        return x, new


class AudioCodec(nn.Module):
    """Encoder and decoder; sound is (B, T * S, C) in [-1, 1], latents are (B, T, latents, dim) of RMS 1."""

    log_rms: Tensor

    def __init__(self, config: AudioCodecConfig) -> None:
        super().__init__()
        self.config = c = config
        frame, stride = c.hop * c.channels, c.frames // c.latents
        self.analysis = CausalConv(frame, c.width, taps=2)
        self.encoder = CausalStack(c.width, _dilations(c.encoder_blocks))
        self.squeeze = nn.Linear(stride * c.width, c.dim)
        self.expand = nn.Linear(c.dim, stride * c.width)
        self.decoder = CausalStack(c.width, _dilations(c.decoder_blocks))
        self.synthesis = nn.Linear(c.width, 2 * frame)  # a frame of sound and what rings on in the next one
        self.register_buffer("log_rms", torch.zeros(()))  # of what the encoder says, measured after training

    # -- state --------------------------------------------------------------------------------------------------

    def empty_encoder(self, batch: int) -> State:
        """The encoder's state before the first step: silence."""
        return {"analysis": self.analysis.empty(batch), **_named("encoder", self.encoder.empty(batch))}

    def empty_decoder(self, batch: int) -> State:
        """The decoder's state before the first step: nothing rings on."""
        c, weight = self.config, self.synthesis.weight
        tail = torch.zeros(batch, c.hop * c.channels, dtype=weight.dtype, device=weight.device)
        return {"tail": tail, **_named("decoder", self.decoder.empty(batch))}

    # -- encoding -----------------------------------------------------------------------------------------------

    def say(self, sound: Tensor, state: State) -> tuple[Tensor, State]:
        """Sound (B, T * S, C) -> what the encoder says of it, (B, T, latents, dim), before it is scaled to RMS 1."""
        c = self.config
        frames = to_mid_side(sound / c.level).unflatten(1, (-1, c.hop)).flatten(2)  # (B, F, hop * C)
        x, analysis = self.analysis(frames, state["analysis"])
        x, inner = self.encoder(x, _of("encoder", state))
        said = self.squeeze(x.unflatten(1, (-1, c.frames // c.latents)).flatten(2))  # (B, L, D)
        return said.unflatten(1, (-1, c.latents)), {"analysis": analysis, **_named("encoder", inner)}

    def encode(self, sound: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Sound (B, T * S, C) -> latents (B, T, latents, dim) of RMS 1, and the state after it."""
        said, state = self.say(sound, self.empty_encoder(len(sound)) if state is None else state)
        return said / self.log_rms.exp(), state

    # -- decoding -----------------------------------------------------------------------------------------------

    def voice(self, said: Tensor, state: State) -> tuple[Tensor, State]:
        """What the encoder says, (B, T, latents, dim) -> sound (B, T * S, C)."""
        c = self.config
        x = self.expand(said.flatten(1, 2)).unflatten(2, (-1, c.width)).flatten(1, 2)  # (B, F, width)
        x, inner = self.decoder(x, _of("decoder", state))
        now, later = self.synthesis(x).chunk(2, dim=-1)  # (B, F, hop * C) each
        ringing = torch.cat([state["tail"][:, None], later], dim=1)
        frames = now + ringing[:, :-1]
        sound = from_mid_side(frames.unflatten(2, (c.hop, c.channels)).flatten(1, 2)) * c.level
        return sound, {"tail": ringing[:, -1], **_named("decoder", inner)}

    def decode(self, latents: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Latents (B, T, latents, dim) -> sound (B, T * S, C), and the state after it."""
        return self.voice(
            latents * self.log_rms.exp(), self.empty_decoder(len(latents)) if state is None else state
        )  # fmt: skip


def _dilations(blocks: int) -> list[int]:
    """1, 2, 4, 1, 2, 4, …: a few frames back, and some steps."""
    return [2 ** (i % 3) for i in range(blocks)]


def _named(part: str, state: State) -> State:
    return {f"{part}{name}": tensor for name, tensor in state.items()}


def _of(part: str, state: State) -> State:
    return {name.removeprefix(part): tensor for name, tensor in state.items() if name.startswith(part)}


def to_mid_side(sound: Tensor) -> Tensor:
    """Left and right (..., 2) as their mean and half their difference; mono (..., 1) stays as it is."""
    if sound.shape[-1] == 1:
        return sound
    left, right = sound.unbind(-1)
    return torch.stack([(left + right) / 2, (left - right) / 2], dim=-1)


def from_mid_side(sound: Tensor) -> Tensor:
    """The inverse of `to_mid_side`."""
    if sound.shape[-1] == 1:
        return sound
    mid, side = sound.unbind(-1)
    return torch.stack([mid + side, mid - side], dim=-1)


def to_float(samples: Tensor) -> Tensor:
    """int16 as floats in [-1, 1)."""
    return samples.float() / 32_768


def to_int16(sound: Tensor) -> Tensor:
    """Floats as int16; what is louder than full scale is clipped, what is not finite is silence."""
    return (sound.nan_to_num(0.0, 0.0, 0.0).clamp(-1, 1) * 32_767).round().to(torch.int16)
