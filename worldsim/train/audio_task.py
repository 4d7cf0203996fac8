"""Training the head that makes a world's sound, on recorded frames and sound; nothing of the world changes.

The latents of a step's sound are drawn along a flow from noise (Lipman et al., 2023; Liu et al., 2023): the network
predicts the clean latents of noisy ones, given what was seen and heard, and the kind of the sound. What kind it is is
learned by itself, as a class. What it heard is recorded sound with noise on it, sometimes nothing, and now and then
another kind than it was, so that it listens to itself later without trusting itself too much.

Loud onsets are rare and most of what the ear notices: clips are drawn so that all levels of onset come up. Recordings
are short for what there is to learn, so features are dropped out, and frames get much noise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.data.clips import STREAM
from worldsim.data.latents import LatentEpisodes, weights_digest
from worldsim.data.sound import CodecEncoder, heard_rows
from worldsim.errors import DamagedCheckpoint, InvalidInput, check_bounds
from worldsim.models.audio import KIND_NOISE, AudioConfig, SoundModel
from worldsim.models.audio_codec import AudioCodec, AudioCodecConfig
from worldsim.models.dynamics import DynamicsConfig
from worldsim.models.tokenizer import Tokenizer
from worldsim.train.audio_codec_task import spectrogram
from worldsim.train.checkpoint import load_checkpoint, setting
from worldsim.train.sound_kinds import choose_kinds, kinds_of, measure_sound, onset_rows

DRAWS = 2  # noisy latents that are learned from at every step: the network that draws is small
EXAMPLES = 2  # clips of a preview


@dataclass(frozen=True)
class AudioLossConfig:
    """What is put on the clips that the head learns from."""

    frame_noise: float = 0.5  # most noise on the latents of frames: dreamed ones are not quite as recorded ones
    shift: int = 1  # most cells of the latents' grid by which the frames of a clip are shifted
    heard_noise: float = 0.6  # most noise on the sound that was heard
    deaf: float = 0.5  # share of the clips in which nothing was heard
    misheard: float = 0.1  # share of the steps before which another kind of sound was heard
    dropout: float = 0.3  # share of the features that are dropped
    kind: float = 0.5  # weight of the loss of kinds, in nats
    balanced: float = 0.5  # share of the clips that are chosen by a level of onset, all levels alike
    noise_level: float = -0.5  # mean of the logit of the level at which latents are to be cleaned; its deviation is 1.2
    warm_up: int = 6  # first steps of a clip that are not learned from, unless an episode begins there

    def __post_init__(self) -> None:
        size = (0, 100)
        check_bounds(
            "audio loss", self, frame_noise=size, shift=(0, 64), heard_noise=size, deaf=(0, 1), misheard=(0, 1),
            dropout=(0, 0.99), kind=size, balanced=(0, 1), noise_level=(-20, 20), warm_up=(0, 1000),
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
        `kinds`, `ages`, `valid` (B, T + 1) -> loss and metrics."""
        c, sound, kinds = self.config, batch[f"{STREAM}audio"], batch["kinds"]
        wanted, valid = sound[:, 1:], batch["valid"][:, 1:].clone()
        begins = batch["ages"][:, :1] == 0
        valid[:, : min(c.warm_up, valid.shape[1] - 1)] &= begins
        latents = batch["latents"].float()
        latents = _shifted(latents, c.shift, generator)
        latents = latents + _noise(latents, c.frame_noise, generator)
        hears = _uniform(sound[:, :1, :1], generator) >= c.deaf
        heard = (sound[:, :-1] + _noise(wanted, c.heard_noise, generator)) * hears
        seen = _drop(see(self.model, latents, batch["actions"], batch["ages"]), c.dropout, generator)
        last = torch.where(hears[..., 0], self._last_kinds(kinds, generator), self.model.config.kinds.count)
        context, _ = self.model.read(seen, heard, last, self.model.context.empty(len(sound)))
        context = _drop(context, c.dropout, generator)
        chosen = F.cross_entropy(self.model.kind(context).float().transpose(1, 2), kinds[:, 1:], reduction="none")
        error = self._flow(wanted, context + self.model.as_kind(kinds[:, 1:]), generator)
        error, chosen = ((one * valid).sum() / valid.sum().clamp_min(1) for one in (error, chosen))
        return error + c.kind * chosen, {"error": error.detach(), "kind": chosen.detach()}

    def _last_kinds(self, kinds: Tensor, generator: torch.Generator) -> Tensor:
        """Kinds (B, T + 1) -> those heard before each step (B, T): none before the first, now and then a wrong one."""
        count, last = self.model.config.kinds.count, kinds[:, :-1]
        other = torch.randint(count, last.shape, generator=generator, device=last.device)
        last = torch.where(_uniform(last.float(), generator) < self.config.misheard, other, last)
        return torch.cat([torch.full_like(last[:, :1], count), last[:, 1:]], dim=1)

    def _flow(self, wanted: Tensor, context: Tensor, generator: torch.Generator) -> Tensor:
        """Error of the clean latents (B, T, numbers) that are predicted of noisy ones: (B, T)."""
        clean = wanted.expand(DRAWS, *wanted.shape)  # (DRAWS, B, T, numbers)
        level = torch.randn(clean.shape[:-1], generator=generator, device=clean.device) * 1.2 + self.config.noise_level
        level = torch.sigmoid(level)
        drawn = torch.randn(clean.shape, generator=generator, device=clean.device)
        noisy = torch.lerp(drawn, clean, level[..., None])
        predicted = self.model.drawer(noisy, context.expand(DRAWS, *context.shape), level).float()
        return (predicted - clean).square().mean((0, -1))


def _uniform(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(like.shape, generator=generator, device=like.device)


def _noise(like: Tensor, most: float, generator: torch.Generator) -> Tensor:
    """Noise of the shape of clips (B, ...), up to the size `most`, another size for each clip."""
    size = most * torch.rand(len(like), *(1,) * (like.dim() - 1), generator=generator, device=like.device)
    return size * torch.randn(like.shape, generator=generator, device=like.device)


def _shifted(latents: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Clips (B, T, K, C, h, w), the grids of each shifted another way, by up to `most` cells.

    What is shifted in repeats the border (Yarats et al., 2021).
    """
    if not most:
        return latents
    by = torch.randint(-most, most + 1, (2, len(latents)), generator=generator, device=latents.device)
    rows, columns = (
        (torch.arange(size, device=latents.device) + one[:, None]).clamp(0, size - 1)
        for size, one in zip(latents.shape[-2:], by, strict=True)
    )
    return torch.stack([clip[..., y, :][..., x] for clip, y, x in zip(latents, rows, columns, strict=True)])


def _drop(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Dropout (Srivastava et al., 2014) by the generator of the training."""
    return x * (_uniform(x, generator) >= share) / (1 - share)


def see(model: SoundModel, latents: Tensor, actions: Tensor, ages: Tensor) -> Tensor:
    """What is seen of clips, (B, T, features): latents (B, T + 1, 1 + between, C, h, w), actions (B, T + 1, ...), ages
    (B, T + 1), steps since the beginning of the episode at each frame."""
    parts = latents[:, 1:], latents[:, :-1, 0], actions[:, 1:], ages[:, :-1]
    return model.reader(*(a.flatten(0, 1) for a in parts)).unflatten(0, (len(latents), -1))


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
        of_path = {store.store.path: measure_sound(store.store) for store in stores}  # mirrored ones sound alike
        measured = [of_path[store.store.path] for store in stores]
        self.settings = AudioConfig(codec.config, choose_kinds(measured), **(sizes or {}))
        self._made_of = {"tokenizer": weights_digest(tokenizer), "codec": CodecEncoder(codec).digest}
        torch.manual_seed(seed)  # the initial weights only
        self.model = AudioLoss(SoundModel(self.settings, frame_sizes(stores, tokenizer)), loss or AudioLossConfig())
        self.frames_per_batch = batch * clip
        self._heard = [heard_rows(store.store) for store in stores]
        self._kinds = [kinds_of(self.settings.kinds, *one) for one in measured]
        self._levels = onset_rows(self.settings.kinds, self._kinds)
        self._shares = np.array([len(store.latents) for store in stores]) / sum(len(s.latents) for s in stores)

    def config(self) -> dict[str, Any]:
        """What a resumed run must share."""
        model = asdict(self.settings) | {"dilations": list(self.settings.dilations)}
        model["kinds"] = {k: list(v) if isinstance(v, tuple) else v for k, v in model["kinds"].items()}
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
        index, row = self._row(rng)
        store, heard = self.stores[index], self._heard[index]
        episode = int(np.searchsorted(store.ends, row, side="right"))
        first, end = int(store.ends[episode - 1]) if episode else 0, int(store.ends[episode])
        before = int(rng.integers(self.steps // 4, self.steps + 1))
        start = int(np.clip(row - before, first, max(first, end - 1 - self.steps)))
        clip = np.arange(start, start + self.steps + 1)
        rows = np.minimum(clip, end - 1)  # a short episode repeats its last row
        late = np.maximum(rows - self.settings.delay, first)  # whose sound is made of these frames
        valid = (clip < end) & heard[late] & (rows - self.settings.delay >= first)
        return {
            "latents": store.latents[rows], "actions": store.actions[rows], "kinds": self._kinds[index][late],
            f"{STREAM}audio": store.streams["audio"][late], "ages": rows - first, "valid": valid,
        }  # fmt: skip

    def _row(self, rng: np.random.Generator) -> tuple[int, int]:
        """A store and a row of it that a clip is to hold: any, or one of a level of onset."""
        if rng.random() < self.model.config.balanced:
            rows = self._levels[int(rng.integers(len(self._levels)))]
            index, row = rows[int(rng.integers(len(rows)))].tolist()
            return index, row
        index = int(rng.choice(len(self.stores), p=self._shares))
        return index, int(rng.integers(len(self.stores[index].latents)))

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
            made = listen(averaged.model, tensors["latents"], tensors["actions"], tensors["ages"], seed=index)[0]
            c = codec.config
            for latents in (tensors[f"{STREAM}audio"][:, 1:], made):
                sound = codec.decode(latents.unflatten(2, (c.latents, c.dim)))[0][0]
                images.append(spectrogram(sound.cpu().numpy(), c.level))
        return np.concatenate(images)


def listen(
    model: SoundModel, latents: Tensor, actions: Tensor, ages: Tensor, *, seed: int
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What the head makes of clips (as of `see`) while it listens to itself, from silence on: latents (B, T, numbers)
    and kinds (B, T)."""
    seen = see(model, latents.float(), actions, ages)
    generator = torch.Generator(device="cpu").manual_seed(seed)
    state, heard, made = model.context.empty(len(seen)), model.nothing_heard(len(seen)), []
    for t in range(seen.shape[1]):
        noise = torch.randn(len(seen), model.config.codec.numbers, generator=generator).to(seen.device)
        uniform = torch.rand(len(seen), KIND_NOISE, generator=generator).to(seen.device)
        context, kind, state = model.decide(seen[:, t], heard, uniform, state)
        heard = {"last": model.draw(context, kind["kind"], noise), **kind}
        made.append(heard)
    return torch.stack([one["last"] for one in made], dim=1), torch.stack([one["kind"] for one in made], dim=1)


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
