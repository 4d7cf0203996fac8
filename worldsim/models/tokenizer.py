"""The tokenizer: a convolutional autoencoder between images and a small grid of continuous latents.

Images are (B, 3, H, W) in [-1, 1]; latents are (B, C, H / 8, W / 8), of RMS 1 over many images. A place where
little is to be seen has small latents, a place full of detail has large ones: the training noise and a cost for size
make equal distances between latents about equal distances between images (Kato et al., 2020, call it isometric),
so that whoever predicts latents with a squared error cares for what the eye sees.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from worldsim.errors import InvalidInput, check_bounds
from worldsim.models.decoders import check_widths, decoders, stack

STRIDE = 8  # image pixels to a latent, in both directions


@dataclass(frozen=True)
class TokenizerConfig:
    """Sizes of the autoencoder."""

    height: int = 64
    width: int = 128
    channels: int = 16  # of a latent
    encoder_widths: tuple[int, int, int] = (32, 64, 96)  # at 1/2, 1/4 and 1/8 of the image
    decoder_widths: tuple[int, ...] = (32, 64, 128)  # as the decoder's `scales`, here at 1/2, 1/4 and 1/8 of the image
    blocks: int = 2  # residual blocks at 1/4 and 1/8; the decoder has one more at 1/8
    cameras: tuple[str, ...] = ("rgb",)  # image streams of one size that make a frame, one above the other
    decoder: str = "residual"  # name in `worldsim.models.decoders`

    def __post_init__(self) -> None:
        if self.height % STRIDE or self.width % STRIDE:
            raise InvalidInput(
                f"images are {self.height} x {self.width} pixels; both sides must be multiples of {STRIDE}"
            )
        if not self.cameras or self.height % len(self.cameras):
            raise InvalidInput(
                f"frames of {self.height} rows are of the cameras {self.cameras}; give equal shares of rows to each"
            )
        decoders.check([self.decoder])
        sides, widths = (STRIDE, 8192), (1, 4096)
        check_bounds(
            "tokenizer", self, height=sides, width=sides, channels=(1, 512),
            encoder_widths=widths, decoder_widths=widths, blocks=(0, 64),
        )  # fmt: skip
        check_widths(self)

    @property
    def latent_height(self) -> int:
        """Rows of the latent grid."""
        return self.height // STRIDE

    @property
    def latent_width(self) -> int:
        """Columns of the latent grid."""
        return self.width // STRIDE


def _down(width: int, wider: int) -> list[nn.Module]:
    """Halve the resolution. On CPUs a strided 3x3 convolution's backward pass costs ten times this."""
    return [nn.PixelUnshuffle(2), nn.Conv2d(4 * width, wider, 1)]


class Tokenizer(nn.Module):
    """Images to latents (`encode`) and back (`decode`)."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        half, quarter, eighth = config.encoder_widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, half, 3, padding=1), nn.SiLU(),
            *_down(half, quarter), stack(quarter, config.blocks), nn.SiLU(),
            *_down(quarter, eighth), stack(eighth, config.blocks), nn.SiLU(),
            nn.Conv2d(eighth, config.channels, 1),
        )  # fmt: skip
        self.decoder = decoders.kind(config.decoder)(config, config.decoder)
        self.log_rms: Tensor  # of what the encoder says, over many images; measured, not learned
        self.register_buffer("log_rms", torch.zeros(()))

    def encode(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [-1, 1] -> latents (B, C, h, w)."""
        return self.encoder(images) * torch.exp(-self.log_rms)

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) -> images (B, 3, H, W), about [-1, 1], not clipped."""
        return self.decoder(latents * torch.exp(self.log_rms))


def to_images(frames: Tensor) -> Tensor:
    """(B, H, W, 3) uint8 -> (B, 3, H, W) float32 in [-1, 1]."""
    return frames.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def to_frames(images: Tensor) -> Tensor:
    """(B, 3, H, W) about [-1, 1] -> (B, H, W, 3) uint8; clipped, and NaN becomes 0."""
    scaled = torch.nan_to_num(images.float(), nan=-1.0).add(1.0).mul_(127.5).round_().clamp_(0, 255)
    return scaled.to(torch.uint8).permute(0, 2, 3, 1).contiguous()
