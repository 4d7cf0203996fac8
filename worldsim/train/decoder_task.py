"""Training a lighter decoder for a finished world, on the latents of its own tokenizer: no dynamics are trained anew.

It learns from recorded frames, and, where its latents have more noise than those have, from what the old decoder makes
of them (knowledge distillation; Hinton et al., 2015): dreamed latents are never quite recorded ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.data.latents import LatentEpisodes, weights_digest
from worldsim.errors import DamagedCheckpoint, InvalidInput, check_bounds
from worldsim.io.files import write_json
from worldsim.io.folders import find_world
from worldsim.io.media import contact_sheet
from worldsim.io.weights import read_world, write_world
from worldsim.models.decoders import decoders
from worldsim.models.tokenizer import Tokenizer, TokenizerConfig, to_frames, to_images
from worldsim.train.checkpoint import load_checkpoint, setting
from worldsim.train.export import RECORD, read_records
from worldsim.train.record import TrainingRecord
from worldsim.train.tokenizer_task import RUN, Runs, TokenizerLossConfig, plain, psnr, reconstruction_loss

AVERAGE = "average.decoder."  # in the names of a checkpoint


@dataclass(frozen=True)
class DecoderLossConfig:
    """What a lighter decoder learns from."""

    noise: float = 0.25  # on latents, at most; 1 is what the tokenizer itself was trained with
    teacher: float = 0.1  # share of the runs whose goal is the old decoder's image, at latents with twice that noise
    reconstruction: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)

    def __post_init__(self) -> None:
        check_bounds("loss", self, noise=(0, 10), teacher=(0, 1))


class DecoderLoss(nn.Module):
    """Reconstruction loss of a decoder whose encoder stands still; called by the loop as `Task.model` says."""

    def __init__(self, decoder: nn.Module, teacher: Tokenizer, config: DecoderLossConfig) -> None:
        super().__init__()
        self.decoder, self.config = decoder, config
        self._teacher = [teacher]  # in a list, as its weights are no part of this module

    def forward(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`frames` (B, RUN, H, W, 3) uint8, `latents` (B, RUN, C, h, w) -> loss and metrics."""
        c, frames, (teacher,) = self.config, batch["frames"], self._teacher
        share = c.teacher * len(frames)
        taught = (int(share * (step + 1)) - int(share * step)) * RUN  # images, the first ones; `teacher` of all in time
        images = to_images(frames.flatten(0, 1)).contiguous(memory_format=torch.channels_last)
        latents = batch["latents"].flatten(0, 1).float() * torch.exp(teacher.log_rms.float())
        size = c.noise * torch.rand(len(latents), 1, 1, 1, generator=generator, device=latents.device)
        size[:taught] *= 2
        noisy = latents + size * torch.randn(latents.shape, generator=generator, device=latents.device)
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        goal = images
        if taught:
            with torch.no_grad():
                goal = torch.cat([teacher.decoder(noisy[:taught]).float().clamp(-1, 1), images[taught:]])
        decoded = self.decoder(noisy).float()
        loss = reconstruction_loss(decoded, goal, images.unflatten(0, frames.shape[:2]), c.reconstruction)
        error = (decoded - images)[taught:].detach() if taught < len(images) else (decoded - goal).detach()
        return loss, {"psnr": psnr(error.square().mean())}


class DecoderTask:
    """Everything the loop needs to train another decoder for `tokenizer`, of the sizes in `config`."""

    kind = "decoder"

    def __init__(
        self, stores: list[LatentEpisodes], tokenizer: Tokenizer, config: TokenizerConfig,
        *, batch: int = 12, loss: DecoderLossConfig | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.stores, self.tokenizer, self.settings = stores, tokenizer, config
        self.count, self.seed = batch, seed
        torch.manual_seed(seed)  # the initial weights only
        self.frames_per_batch = batch * RUN
        self._runs = Runs([store.store for store in stores], config.cameras)
        decoder = decoders.kind(config.decoder)(config, config.decoder)
        self.model = DecoderLoss(decoder, tokenizer, loss or DecoderLossConfig())

    def config(self) -> dict[str, Any]:
        """What a resumed run must share."""
        return {
            "model": plain(asdict(self.settings)), "tokenizer": weights_digest(self.tokenizer), "batch": self.count,
            "seed": self.seed, "loss": plain(asdict(self.model.config)),
        }  # fmt: skip

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        """Runs of frames and their latents from random places; a pure function of (seed, step, rank)."""
        rng = np.random.default_rng([self.seed, step, rank])
        places = [self._runs.draw(rng) for _ in range(self.count)]
        latents = []
        for place in places:
            rows = self.stores[place.store].latents
            second = -1 if place.between else 0
            latents.append(np.stack([rows[place.row, 0], rows[place.row + 1, second]]))
        frames = np.stack([self._runs.frames(place) for place in places])
        return {"frames": torch.from_numpy(frames), "latents": torch.from_numpy(np.stack(latents))}

    def measure(self, averaged: nn.Module) -> None:
        """Nothing: the size of latents is the old tokenizer's."""

    def preview(self, averaged: nn.Module) -> np.ndarray:
        """Real frames above the old decoder's above the new one's."""
        decoder = averaged.decoder
        assert isinstance(decoder, nn.Module)
        batch = self.batch(0, 0)
        frames, latents = batch["frames"][:8, 0], batch["latents"][:8, 0].float()
        scaled = latents.to(self.tokenizer.log_rms.device) * torch.exp(self.tokenizer.log_rms.float())
        images = [network(scaled) for network in (self.tokenizer.decoder, decoder)]
        made = [to_frames(one).cpu().numpy() for one in images]
        return contact_sheet([frames.numpy(), *made])


def lighter(config: TokenizerConfig, widths: Sequence[int]) -> TokenizerConfig:
    """The sizes of a tokenizer with a sub-pixel decoder; raises InvalidInput for widths that it cannot have."""
    return replace(config, decoder="subpixel", decoder_widths=tuple(widths))


def export_decoder(world: str | Path, run: Path, out: Path) -> None:
    """Write the world `world` with the decoder that was trained in `run`; all else in it stays as it is.

    Raises InvalidInput, with nothing written, where the run has no decoder, and DamagedCheckpoint where that is not of
    this world's latents.
    """
    path = run / f"{DecoderTask.kind}.safetensors"
    if not path.exists():
        raise InvalidInput(f"{path} does not exist; run `worldsim train decoder {world} --out {run}` first")
    folder = find_world(world)
    files, records = read_world(folder), read_records(folder / RECORD)
    tensors, meta = load_checkpoint(path)
    config = setting(path, meta, "model", TokenizerConfig)
    own = files.config.tokenizer
    if replace(own, decoder=config.decoder, decoder_widths=config.decoder_widths) != config:
        raise DamagedCheckpoint(f"checkpoint {path} decodes the latents of another world; give the one it is for")
    old = "tokenizer.decoder."
    model = {name: tensor for name, tensor in files.model.items() if not name.startswith(old)}
    new = {old + n.removeprefix(AVERAGE): t.to(torch.bfloat16) for n, t in tensors.items() if n.startswith(AVERAGE)}
    changed = replace(files.config, tokenizer=config)
    write_world(out, replace(files, config=changed, model=model | new))
    write_json(out / RECORD, records | {"decoder": TrainingRecord(run / "decoder.json").to_json()}, indent=None)
