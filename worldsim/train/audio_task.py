"""Training the head that makes a world's sound, on recorded frames and sound; nothing of the world changes.

The latents of a step's sound are drawn along a flow from noise (Lipman et al., 2023; Liu et al., 2023): the network
predicts the clean latents of noisy ones, given what was seen and heard. What it heard is recorded sound with noise on
it, and sometimes nothing, so that it listens to itself later without trusting itself too much.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.data.clips import STREAM
from worldsim.data.latents import LatentEpisodes, weights_digest
from worldsim.data.sound import CodecEncoder, heard_rows
from worldsim.errors import DamagedCheckpoint, InvalidInput, check_bounds
from worldsim.models.audio import AudioConfig, SoundModel
from worldsim.models.audio_codec import AudioCodec, AudioCodecConfig
from worldsim.models.dynamics import DynamicsConfig
from worldsim.models.tokenizer import Tokenizer
from worldsim.train.audio_codec_task import spectrogram
from worldsim.train.checkpoint import load_checkpoint, setting

DRAWS = 4  # noisy latents that are learned from at every step: the network that draws is small
EXAMPLES = 2  # clips of a preview


@dataclass(frozen=True)
class AudioLossConfig:
    """What is put on the clips that the head learns from."""

    frame_noise: float = 0.15  # most noise on the latents of frames: dreamed ones are not quite as recorded ones
    heard_noise: float = 0.6  # most noise on the sound that was heard
    deaf: float = 0.15  # share of the clips in which nothing was heard
    noise_level: float = -0.5  # mean of the logit of the level at which latents are to be cleaned; its deviation is 1.2
    warm_up: int = 4  # first steps of a clip that are not learned from: their past is not in the clip

    def __post_init__(self) -> None:
        size = (0, 100)
        check_bounds(
            "audio loss", self, frame_noise=size, heard_noise=size, deaf=(0, 1), noise_level=(-20, 20),
            warm_up=(0, 1000),
        )  # fmt: skip


class AudioLoss(nn.Module):
    """Flow matching; called by the loop with (batch, step, generator, progress)."""

    def __init__(self, model: SoundModel, config: AudioLossConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`latents` (B, T + 1, 1 + between, C, h, w), `actions` (B, T + 1, ...), `stream.audio` (B, T + 1, numbers),
        `valid` (B, T + 1) -> loss and metrics."""
        c, sound = self.config, batch[f"{STREAM}audio"]
        wanted, valid = sound[:, 1:], batch["valid"][:, 1:].clone()
        valid[:, : min(c.warm_up, valid.shape[1] - 1)] = False

        def noise(like: Tensor, most: float) -> Tensor:
            size = most * torch.rand(len(like), *(1,) * (like.dim() - 1), generator=generator, device=like.device)
            return size * torch.randn(like.shape, generator=generator, device=like.device)

        hears = torch.rand(len(sound), 1, 1, generator=generator, device=sound.device) >= c.deaf
        heard = (sound[:, :-1] + noise(wanted, c.heard_noise)) * hears
        latents = batch["latents"].float()
        latents = latents + noise(latents, c.frame_noise)
        context, _ = self.model.read(
            see(self.model, latents, batch["actions"]), heard, self.model.context.empty(len(sound))
        )
        clean = wanted.expand(DRAWS, *wanted.shape)  # (DRAWS, B, T, numbers)
        level = torch.randn(clean.shape[:-1], generator=generator, device=clean.device) * 1.2 + c.noise_level
        level = torch.sigmoid(level)
        drawn = torch.randn(clean.shape, generator=generator, device=clean.device)
        noisy = torch.lerp(drawn, clean, level[..., None])
        predicted = self.model.drawer(noisy, context.expand(DRAWS, *context.shape), level).float()
        error = (predicted - clean).square().mean(-1)  # (DRAWS, B, T)
        loss = (error * valid).sum() / (DRAWS * valid.sum()).clamp_min(1)
        return loss, {"error": loss.detach()}


def see(model: SoundModel, latents: Tensor, actions: Tensor) -> Tensor:
    """What is seen of clips, (B, T, features): latents (B, T + 1, 1 + between, C, h, w), actions (B, T + 1, ...)."""
    frames, previous, taken = (a.flatten(0, 1) for a in (latents[:, 1:], latents[:, :-1, 0], actions[:, 1:]))
    return model.reader(frames, previous, taken).unflatten(0, (len(latents), -1))


class AudioTask:
    """Everything the loop needs to train the head on latent episodes that come with latents of their sound."""

    kind = "audio"

    def __init__(
        self, stores: list[LatentEpisodes], tokenizer: Tokenizer, codec: AudioCodec,
        *, batch: int = 16, clip: int = 40, seed: int = 0, loss: AudioLossConfig | None = None,
        sizes: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """`stores` have the stream "audio" as the codec encodes it; `sizes` are fields of `AudioConfig`."""
        if clip < 2:
            raise InvalidInput(f"clip is {clip}; give at least 2 steps")
        self.stores, self.codec, self.clips, self.steps, self.seed = stores, codec, batch, clip, seed
        self.settings = AudioConfig(codec.config, **(sizes or {}))
        self._made_of = {"tokenizer": weights_digest(tokenizer), "codec": CodecEncoder(codec).digest}
        torch.manual_seed(seed)  # the initial weights only
        self.model = AudioLoss(SoundModel(self.settings, frame_sizes(stores, tokenizer)), loss or AudioLossConfig())
        self.frames_per_batch = batch * clip
        self._heard = [heard_rows(store.store) for store in stores]
        self._shares = np.array([len(store.latents) for store in stores]) / sum(len(s.latents) for s in stores)

    def config(self) -> dict[str, Any]:
        """What a resumed run must share."""
        model = asdict(self.settings) | {"dilations": list(self.settings.dilations)}
        return {
            "model": model, "batch": self.clips, "clip": self.steps, "seed": self.seed,
            "loss": asdict(self.model.config), **self._made_of,
        }  # fmt: skip

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        """Clips of steps + 1 rows of one episode each; a pure function of (seed, step, rank)."""
        rng = np.random.default_rng([self.seed, step, rank])
        clips = [self._clip(rng) for _ in range(self.clips)]
        return {name: torch.from_numpy(np.stack([clip[name] for clip in clips])) for name in clips[0]}

    def _clip(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        index = rng.choice(len(self.stores), p=self._shares)
        store, heard = self.stores[index], self._heard[index]
        row = int(rng.integers(len(store.latents)))
        episode = int(np.searchsorted(store.ends, row, side="right"))
        first, end = int(store.ends[episode - 1]) if episode else 0, int(store.ends[episode])
        start = int(np.clip(row - self.steps // 2, first, max(first, end - 1 - self.steps)))
        clip = np.arange(start, start + self.steps + 1)
        rows = np.minimum(clip, end - 1)  # a short episode repeats its last row
        return {
            "latents": store.latents[rows], "actions": store.actions[rows],
            f"{STREAM}audio": store.streams["audio"][rows], "valid": (clip < end) & heard[rows],
        }  # fmt: skip

    def measure(self, averaged: nn.Module) -> None:
        """Nothing: all that the head knows is learned."""

    def preview(self, averaged: nn.Module) -> np.ndarray:
        """Spectrograms of clips: recorded, and as the head hears them while it listens to itself."""
        assert isinstance(averaged, AudioLoss)
        device = next(averaged.parameters()).device
        codec, images = self.codec.to(device), []
        for index in range(EXAMPLES):
            clip = self._clip(np.random.default_rng([self.seed, index]))
            tensors = {name: torch.from_numpy(np.asarray(values)).to(device)[None] for name, values in clip.items()}
            made = listen(averaged.model, tensors["latents"], tensors["actions"], seed=index)
            c = codec.config
            for latents in (tensors[f"{STREAM}audio"][:, 1:], made):
                sound = codec.decode(latents.unflatten(2, (c.latents, c.dim)))[0][0]
                images.append(spectrogram(sound.cpu().numpy(), c.level))
        return np.concatenate(images)


def listen(model: SoundModel, latents: Tensor, actions: Tensor, *, seed: int) -> Tensor:
    """What the head makes of clips (as of `see`) while it listens to itself: (B, T, numbers), from silence on."""
    seen = see(model, latents.float(), actions)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    state, heard, made = model.context.empty(len(seen)), seen.new_zeros(len(seen), model.config.codec.numbers), []
    for t in range(seen.shape[1]):
        context, state = model.read(seen[:, t : t + 1], heard[:, None], state)
        heard = model.draw(context[:, 0], torch.randn(heard.shape, generator=generator).to(heard.device))
        made.append(heard)
    return torch.stack(made, dim=1)


def frame_sizes(stores: list[LatentEpisodes], tokenizer: Tokenizer) -> DynamicsConfig:
    """What of a world's dynamics the head depends on: the grid of its latents, its actions, its frames between."""
    actions, grid = stores[0].store.meta.actions, tokenizer.config
    return DynamicsConfig(
        channels=grid.channels, height=grid.latent_height, width=grid.latent_width, patch=(1, 1), actions=actions.n,
        action_dim=len(actions.low), action_start=actions.start, between=stores[0].latents.shape[1] - 1,
    )  # fmt: skip


def load_codec(run: Path) -> AudioCodec:
    """The averaged weights of the codec trained in a run folder; raises DamagedCheckpoint, InvalidInput if none."""
    path = run / "audio-codec.safetensors"
    if not path.exists():
        raise InvalidInput(f"{path} does not exist; run `worldsim train audio-codec --out {run}` first")
    tensors, meta = load_checkpoint(path)
    codec = AudioCodec(setting(path, meta, "model", AudioCodecConfig))
    prefix = "average.codec."
    try:
        codec.load_state_dict({n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix)}, strict=True)
    except RuntimeError as error:
        raise DamagedCheckpoint(
            f"checkpoint {path} does not fit its own settings ({' '.join(str(error).split())}); restore it from a copy"
        ) from error
    return codec.eval().requires_grad_(False)
