"""The decoders of a tokenizer by name: from latents to images.

Names stand in `TokenizerConfig.decoder`. All of them take latents (B, C, h, w) as the encoder says them and give images
(B, 3, 8 h, 8 w), and all sizes come from the same config, so that one can take another's place on the same latents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from worldsim.models.layers import ResidualBlock, SlimBlock
from worldsim.models.registry import Registry

if TYPE_CHECKING:
    from worldsim.models.tokenizer import TokenizerConfig

decoders: Registry[nn.Module] = Registry("decoder")


def stack(block: type[nn.Module], width: int, blocks: int) -> nn.Sequential:
    """So many blocks of one width in a row."""
    return nn.Sequential(*(block(width) for _ in range(blocks)))


def up(width: int, narrower: int) -> list[nn.Module]:
    """Double the resolution."""
    return [nn.Conv2d(width, 4 * narrower, 1), nn.PixelShuffle(2)]


@decoders.register("residual")
class ResidualDecoder(nn.Sequential):
    """Residual blocks at 1/8, 1/4 and 1/2 of the image; 0.48 GFLOP for a frame of 64x128 at the usual sizes."""

    def __init__(self, config: TokenizerConfig, name: str) -> None:
        half, quarter, eighth = config.decoder_widths
        super().__init__(
            nn.Conv2d(config.channels, eighth, 1), stack(ResidualBlock, eighth, config.blocks + 1), nn.SiLU(),
            *up(eighth, quarter), stack(ResidualBlock, quarter, config.blocks), nn.SiLU(),
            *up(quarter, half), stack(ResidualBlock, half, 1), nn.SiLU(),
            nn.Conv2d(half, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip


@decoders.register("subpixel")
class SubpixelDecoder(nn.Sequential):
    """Slim blocks at 1/8 and 1/4 of the image, and one convolution at 1/2, whose channels are pixels.

    That is sub-pixel convolution (Shi et al., 2016): what is computed at a high resolution is hardly more than the
    image itself. 0.13 GFLOP for a frame of 64x128 at the widths (16, 48, 96).
    """

    def __init__(self, config: TokenizerConfig, name: str) -> None:
        half, quarter, eighth = config.decoder_widths
        super().__init__(
            nn.Conv2d(config.channels, eighth, 1), stack(SlimBlock, eighth, config.blocks + 1), nn.SiLU(),
            *up(eighth, quarter), stack(SlimBlock, quarter, config.blocks), nn.SiLU(),
            *up(quarter, half), nn.SiLU(),
            nn.Conv2d(half, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip
