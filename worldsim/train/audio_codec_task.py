"""Training the audio codec: sound drawn from episodes, reconstructed through noisy latents.

As in the tokenizer of frames, what the encoder says gets noise of size 1 and pays for its size. The loss compares
waveforms, and spectrograms in several resolutions (Yamamoto et al., 2020), since the ear hardly hears phases.

High tones are mostly noise that no latent tells the codec of. Left to itself it puts that noise at the same places of
every step, which buzzes. So jumps from sample to sample are to be as large at each place as they are in the recording.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.data.episodes import Episodes
from worldsim.data.sound import heard_rows, sound_format, sound_level
from worldsim.errors import InvalidInput, check_bounds
from worldsim.models.audio_codec import AudioCodec, AudioCodecConfig, fitting_frames, to_float, to_mid_side

WARM_UP = 1  # steps of a clip that are not learned from: their past is not in the clip
MEASURED_CLIPS = 64  # that the RMS of latents is measured on
SMALLEST_RMS = 1e-6  # an encoder that says less says nothing
PLACES = 65  # of a step, over which the recording's jumps are averaged
FLOOR = 1e-2  # of magnitudes, in units of the level: what is quieter is silence


@dataclass(frozen=True)
class AudioCodecLossConfig:
    """How much each part of the reconstruction loss counts."""

    waveform: float = 1.0  # of the errors' absolute values, mid and side
    magnitude: float = 1.0  # of the spectrograms' errors
    log_magnitude: float = 0.3  # of the errors of their logarithms: what is quiet counts, too
    windows: tuple[int, ...] = (1024, 256)  # of the spectrograms, in samples
    rate: float = 0.003  # nats a latent number -> loss
    even: float = 0.1  # of how unevenly jumps from sample to sample lie in a step

    def __post_init__(self) -> None:
        weight = (0, 1e6)
        check_bounds(
            "audio codec loss", self, waveform=weight, magnitude=weight, log_magnitude=weight, windows=(16, 65_536),
            rate=weight, even=weight,
        )  # fmt: skip


class AudioCodecLoss(nn.Module):
    """Reconstruction loss; called by the loop with (batch, step, generator, progress)."""

    def __init__(self, codec: AudioCodec, config: AudioCodecLossConfig) -> None:
        super().__init__()
        self.codec, self.config = codec, config

    def forward(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`audio` (B, T, S, C) int16 -> loss and metrics."""
        c, sizes = self.config, self.codec.config
        sound = to_float(batch["audio"]).flatten(1, 2)  # (B, T * S, C)
        said, _ = self.codec.say(sound, self.codec.empty_encoder(len(sound)))
        noise = torch.randn(said.shape, generator=generator, device=said.device)
        decoded, _ = self.codec.voice(said + noise, self.codec.empty_decoder(len(sound)))
        real, made = (a.float()[:, WARM_UP * sizes.samples :] / sizes.level for a in (sound, decoded))
        rate = 0.5 * torch.log1p(said.float().square()).mean()
        waveform = (to_mid_side(made) - to_mid_side(real)).abs().mean()
        # One resolution a step: spectrograms cost more than the networks.
        magnitude, logs = spectral_loss(made, real, c.windows[step % len(c.windows) :][:1])
        loss = c.waveform * waveform + c.magnitude * magnitude + c.log_magnitude * logs + c.rate * rate
        loss = loss + c.even * unevenness(made, real, sizes.samples)
        return loss, {"si_sdr": si_sdr(made.detach(), real), "magnitude": magnitude.detach(), "rate": rate.detach()}


def spectral_loss(made: Tensor, real: Tensor, windows: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Mean absolute error of magnitudes over the mean magnitude, and of their logarithms; sound (B, N, C)."""
    length = real.shape[1]
    kept = [window for window in windows if window <= length] or [max(length // 2, 2)]
    errors, logs = [], []
    for window in kept:
        a, b = (magnitudes(sound, window) for sound in (made, real))
        errors.append((a - b).abs().mean() / b.mean().clamp_min(FLOOR))
        logs.append((torch.log(a + FLOOR) - torch.log(b + FLOOR)).abs().mean())
    return torch.stack(errors).mean(), torch.stack(logs).mean()


def unevenness(made: Tensor, real: Tensor, samples: int) -> Tensor:
    """How much less even than in the recording the jumps from sample to sample are, over the places of a step.

    Sound is (B, T * samples, C). The mean square of all jumps at a place is compared with the recording's, whose own
    scatter is averaged out over `PLACES` places; the mean of all errors of its logarithm.
    """
    pairs = []
    for sound in (made, real):
        jumps = F.pad(sound.diff(dim=1).square(), (0, 0, 0, 1)).mean(2)  # (B, T * samples)
        pairs.append(jumps.unflatten(1, (-1, samples)).mean((0, 1)))
    smooth = F.avg_pool1d(pairs[1][None, None], PLACES, stride=1, padding=PLACES // 2, count_include_pad=False)[0, 0]
    return (torch.log(pairs[0] + FLOOR**2) - torch.log(smooth[:samples] + FLOOR**2)).abs().mean()


def magnitudes(sound: Tensor, window: int) -> Tensor:
    """Spectrogram of sound (B, N, C): (B * C, window // 2 + 1, frames), of a window that moves by a third."""
    shape = torch.hann_window(window, device=sound.device)
    flat = sound.transpose(1, 2).flatten(0, 1).float()
    spectrum = torch.stft(flat, window, window // 3, window=shape, center=False, return_complex=True)
    return (spectrum.real.square() + spectrum.imag.square() + 1e-8).sqrt() / shape.sum().sqrt()


def si_sdr(made: Tensor, real: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., 2019), mean over sounds (B, N, C).

    Silent recordings do not count.
    """
    made, real = (a.transpose(1, 2).flatten(0, 1).double() for a in (made, real))
    power = real.square().sum(1)
    scale = (made * real).sum(1) / power.clamp_min(1e-12)
    target = scale[:, None] * real
    ratio = target.square().sum(1) / (made - target).square().sum(1).clamp_min(1e-12)
    heard = power > 1e-6 * real.shape[1]
    decibels = 10 * torch.log10(ratio.clamp_min(1e-6))
    return (decibels * heard).sum() / heard.sum().clamp_min(1)


class AudioCodecTask:
    """Everything the loop needs to train an audio codec on episode stores."""

    kind = "audio-codec"

    def __init__(
        self, stores: list[Episodes],
        *, batch: int = 8, clip: int = 13, latents: int = 2, dim: int = 48, width: int = 160,
        loss: AudioCodecLossConfig | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        """Clips have `clip` steps. Raises InvalidInput for stores without sound, silent or unlike each other."""
        if clip < 2:
            raise InvalidInput(f"clip is {clip}; give at least 2 steps of sound")
        self.stores, self.clips, self.steps, self.seed = stores, batch, clip, seed
        found = sound_format(stores)
        self.settings = AudioCodecConfig(
            found.rate, found.samples, found.channels, fitting_frames(found.samples, latents), latents, dim, width,
            level=sound_level(stores),
        )  # fmt: skip
        torch.manual_seed(seed)  # the initial weights only
        self.model = AudioCodecLoss(AudioCodec(self.settings), loss or AudioCodecLossConfig())
        self.frames_per_batch = batch * clip
        self._starts = [_starts(store, clip) for store in stores]
        counts = np.array([len(rows) for rows in self._starts])
        if not counts.sum():
            raise InvalidInput(f"no episode of {stores[0].path} has {clip} steps of sound; record longer ones")
        self._shares = counts / counts.sum()

    def config(self) -> dict[str, Any]:
        """What a resumed run must share."""
        loss = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.model.config).items()}
        return {
            "model": asdict(self.settings), "batch": self.clips, "clip": self.steps, "seed": self.seed, "loss": loss,
        }  # fmt: skip

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        """Clips from random places of random stores, half of them with left and right exchanged."""
        rng = np.random.default_rng([self.seed, step, rank])
        clips = [self._clip(rng) for _ in range(self.clips)]
        return {"audio": torch.from_numpy(np.stack(clips))}

    def _clip(self, rng: np.random.Generator) -> np.ndarray:
        index = rng.choice(len(self.stores), p=self._shares)
        start = int(rng.choice(self._starts[index]))
        sound = self.stores[index].read("audio", start, start + self.steps)
        return sound[..., ::-1].copy() if rng.random() < 0.5 else sound

    def measure(self, averaged: nn.Module) -> None:
        """Make latents of RMS 1: set `log_rms` from a sample of the data, the same one for a seed."""
        codec, rng = averaged.codec, np.random.default_rng(self.seed)
        assert isinstance(codec, AudioCodec)
        sound = to_float(torch.from_numpy(np.stack([self._clip(rng) for _ in range(MEASURED_CLIPS)]))).flatten(1, 2)
        said = codec.say(sound.to(codec.log_rms.device), codec.empty_encoder(len(sound)))[0]
        codec.log_rms.fill_(float(said.double().square().mean().sqrt().clamp_min(SMALLEST_RMS).log()))

    def preview(self, averaged: nn.Module) -> np.ndarray:
        """Spectrograms, real above reconstructed."""
        codec, rng = averaged.codec, np.random.default_rng(self.seed)
        assert isinstance(codec, AudioCodec)
        sound = to_float(torch.from_numpy(self._clip(rng)))[None].flatten(1, 2).to(codec.log_rms.device)
        decoded = codec.decode(codec.encode(sound)[0])[0]
        return np.concatenate([spectrogram(one[0].cpu().numpy(), self.settings.level) for one in (sound, decoded)])


def _starts(store: Episodes, clip: int) -> np.ndarray:
    """Rows at which clips of one episode can begin, whose sound all counts."""
    heard, first = heard_rows(store), 0
    found = []
    for end in store.ends.tolist():
        last = end - int(not heard[end - 1])
        found.append(np.arange(first, last - clip + 1))
        first = end
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def spectrogram(sound: np.ndarray, level: float, *, window: int = 512) -> np.ndarray:
    """A picture of sound (N, C): an image (H, W, 3) uint8, high tones above low ones, 60 dB from black to white."""
    window = min(window, len(sound))
    power = magnitudes(torch.from_numpy(sound.mean(1, keepdims=True) / level)[None].float(), window)[0]
    decibels = 20 * torch.log10(power.flip(0) + 1e-6)
    grey = ((decibels + 30) / 60).clamp(0, 1) * 255
    return grey.to(torch.uint8).numpy()[..., None].repeat(3, axis=-1)
