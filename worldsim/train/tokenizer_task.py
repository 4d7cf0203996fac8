"""Training the tokenizer: images drawn from episodes, reconstructed through a noisy latent.

The encoder's output gets noise of size 1 and pays for its size what a code of that precision would cost, 1/2 log(1 +
z^2) nats (as in learned image compression; Balle et al., 2017). So it says loudly what matters to the image and
nothing where nothing does.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.data.episodes import Episodes
from worldsim.data.latents import encode_frames
from worldsim.errors import InvalidInput, check_bounds
from worldsim.io.media import contact_sheet
from worldsim.models.tokenizer import Tokenizer, TokenizerConfig, to_frames, to_images

RUN = 2  # frames taken in a row, to see what moves
MEASURED_RUNS = 256  # runs that the RMS of latents is measured on
SMALLEST_RMS = 1e-6  # an encoder that says less says nothing
FIRST_RMS = 2.0  # of what an untrained encoder says: far below the noise of size 1, nothing is learned for a long time


@dataclass(frozen=True)
class TokenizerLossConfig:
    """How much each part of the reconstruction loss counts."""

    absolute: float = 0.3  # of the errors' absolute values
    squared: float = 5.0  # of their squares
    gradient: float = 0.3  # of the differences between neighbouring errors: keeps edges sharp
    rate: float = 0.006  # nats a latent number -> loss
    moving: float = 5.0  # extra weight of pixels that changed since the frame before: small moving things are rare

    def __post_init__(self) -> None:
        weight = (0, 1e6)
        check_bounds("loss", self, absolute=weight, squared=weight, gradient=weight, rate=weight, moving=weight)


class TokenizerLoss(nn.Module):
    """Reconstruction loss; called by the loop with (batch, step, generator, progress)."""

    def __init__(self, tokenizer: Tokenizer, config: TokenizerLossConfig) -> None:
        super().__init__()
        self.tokenizer, self.config = tokenizer, config

    def forward(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`frames` (B, RUN, H, W, 3) uint8 -> loss and metrics."""
        c, frames = self.config, batch["frames"]
        images = to_images(frames.flatten(0, 1)).contiguous(memory_format=torch.channels_last)
        said = self.tokenizer.encoder(images).float()
        noise = torch.randn(said.shape, generator=generator, device=said.device)
        decoded = self.tokenizer.decoder(said + noise).float()
        rate = 0.5 * torch.log1p(said.square()).mean()
        loss = reconstruction_loss(decoded, images, images.unflatten(0, frames.shape[:2]), c)
        squared = (decoded - images).detach().square()
        return loss + c.rate * rate, {"psnr": psnr(squared.mean()), "rate": rate.detach()}


def reconstruction_loss(decoded: Tensor, goal: Tensor, runs: Tensor, config: TokenizerLossConfig) -> Tensor:
    """The cost of images (B * RUN, 3, H, W) against `goal`; what moves in `runs` (B, RUN, 3, H, W) costs more."""
    c = config
    moved = (runs[:, 0] - runs[:, 1]).abs().amax(1, keepdim=True)  # (B, 1, H, W)
    weight = 1 + c.moving * (2 * moved).clamp(max=1).repeat_interleave(RUN, dim=0)
    error = decoded - goal
    weighted = (weight * (c.absolute * error.abs() + c.squared * error.square())).mean()
    return weighted + c.gradient * _gradient_loss(error)


def _gradient_loss(error: Tensor) -> Tensor:
    """L1 of the error's horizontal and vertical differences: keeps edges sharp."""
    return error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()


def psnr(mean_square: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of images in [-1, 1]."""
    return 10 * torch.log10(4.0 / mean_square)


@dataclass(frozen=True)
class Place:
    """Where a run of two frames is."""

    store: int
    row: int  # of the first frame
    between: bool  # the second one is the last frame before the next row, not the next row's own


class Runs:
    """Runs of RUN frames from random places of episode stores, in which successive frames show what moves."""

    def __init__(self, stores: list[Episodes], cameras: tuple[str, ...]) -> None:
        self.stores, self.cameras = stores, cameras
        # Rows that the next row of the same game follows.
        self._rows = [np.setdiff1d(np.arange(store.num_steps), store.ends - 1) for store in stores]
        counts = np.array([len(rows) for rows in self._rows])
        if not counts.sum():
            raise InvalidInput(f"no game in {stores[0].path} has two images; record longer ones")
        self._shares = counts / counts.sum()

    def draw(self, rng: np.random.Generator) -> Place:
        """A place, any row as likely as another."""
        index = int(rng.choice(len(self.stores), p=self._shares))
        row = int(rng.choice(self._rows[index]))
        return Place(index, row, "between" in self.stores[index].streams and bool(rng.random() < 0.5))

    def frames(self, place: Place) -> np.ndarray:
        """The frames there, (RUN, H, W, 3) uint8."""
        store, row = self.stores[place.store], place.row
        if not place.between:
            return store.frames(self.cameras, row, row + RUN)
        first = store.frames(self.cameras, row, row + 1)[0]
        return np.stack([first, store.read("between", row + 1, row + 2)[0, -1]])


class TokenizerTask:
    """Everything the loop needs to train a tokenizer on episode stores."""

    kind = "tokenizer"

    def __init__(
        self, stores: list[Episodes], config: TokenizerConfig,
        *, batch: int = 12, loss: TokenizerLossConfig | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.stores, self.settings, self.runs, self.seed = stores, config, batch, seed
        torch.manual_seed(seed)  # the initial weights only
        self.model = TokenizerLoss(Tokenizer(config), loss or TokenizerLossConfig())
        self.frames_per_batch = batch * RUN
        self._runs = Runs(stores, config.cameras)
        self._speak_up()

    @torch.no_grad()
    def _speak_up(self) -> None:
        """Scale the untrained encoder's last layer so that it says things of mean 0 and RMS `FIRST_RMS` of the data.

        An initialisation by data, as of Mishkin and Matas (2016).
        """
        rng, encoder = np.random.default_rng(self.seed), self.model.tokenizer.encoder
        frames = np.concatenate([self._run(rng) for _ in range(self.runs)])  # (runs * RUN, H, W, 3)
        said = encoder(to_images(torch.from_numpy(frames)))  # (N, C, h, w)
        mean, last = said.mean((0, 2, 3)), encoder[-1]
        scale = FIRST_RMS / (said - mean[:, None, None]).square().mean().sqrt().clamp_min(SMALLEST_RMS)
        last.weight.mul_(scale)
        last.bias.sub_(mean).mul_(scale)

    def config(self) -> dict[str, Any]:
        """What a resumed run must share."""
        return {
            "model": plain(asdict(self.settings)), "batch": self.runs, "seed": self.seed,
            "loss": asdict(self.model.config),
        }  # fmt: skip

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        """Runs of images from random places of random stores; a pure function of (seed, step, rank)."""
        rng = np.random.default_rng([self.seed, step, rank])
        runs = [self._run(rng) for _ in range(self.runs)]
        return {"frames": torch.from_numpy(np.stack(runs))}

    def _run(self, rng: np.random.Generator) -> np.ndarray:
        return self._runs.frames(self._runs.draw(rng))

    def measure(self, averaged: nn.Module) -> None:
        """Make latents of RMS 1: set `log_rms` from a sample of the data, the same one for a seed.

        It is measured and not learned, since gradients would need hundreds of steps to get there.
        """
        tokenizer, rng = averaged.tokenizer, np.random.default_rng(self.seed)
        assert isinstance(tokenizer, Tokenizer)
        tokenizer.log_rms.zero_()
        squares = []
        for _ in range(0, MEASURED_RUNS, self.runs):
            frames = np.concatenate([self._run(rng) for _ in range(self.runs)])  # (runs * RUN, H, W, 3)
            squares.append(float(encode_frames(tokenizer, frames).double().square().mean()))
        tokenizer.log_rms.fill_(0.5 * np.log(max(float(np.mean(squares)), SMALLEST_RMS**2)))

    def preview(self, averaged: nn.Module) -> np.ndarray:
        """Real row above reconstructed row."""
        rng = np.random.default_rng(self.seed)
        frames = np.stack([self._run(rng)[0] for _ in range(8)])
        tokenizer = averaged.tokenizer
        assert isinstance(tokenizer, Tokenizer)
        device = next(tokenizer.parameters()).device
        decoded = to_frames(tokenizer.decode(tokenizer.encode(to_images(torch.from_numpy(frames)).to(device))))
        return contact_sheet([frames, decoded.cpu().numpy()])


def plain(value: Any) -> Any:
    """JSON-able settings: tuples as lists, as they come back from JSON."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value
