"""The decoders of a tokenizer by name: from latents to images.

Names stand in `TokenizerConfig.decoder`. All of them take latents (B, C, h, w) as the encoder says them and give images
(B, 3, 8 h, 8 w), so that one can take another's place on the same latents. One that has `scales`, the parts of an
image's resolution that it computes at, takes as many `TokenizerConfig.decoder_widths`, which are its `usual` ones where
none are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from worldsim.errors import InvalidInput
from worldsim.models.layers import ResidualBlock
from worldsim.models.registry import Registry

if TYPE_CHECKING:
    from worldsim.models.tokenizer import TokenizerConfig

decoders: Registry[nn.Module] = Registry("decoder")


def check_widths(config: TokenizerConfig) -> None:
    """Raise InvalidInput unless there is a width for each scale of the decoder, where it says which it has."""
    scales = getattr(decoders.kind(config.decoder), "scales", None)
    if scales is not None and len(config.decoder_widths) != len(scales):
        wanted = " and ".join(f"1/{scale}" for scale in scales)
        raise InvalidInput(
            f"decoder {config.decoder!r} has widths {config.decoder_widths}; give one each for {wanted} of the image"
        )


def usual_widths(name: str) -> tuple[int, ...]:
    """The widths that a decoder is made with where none are given, one for each of its scales."""
    return tuple(getattr(decoders.kind(name), "usual", ()))


def stack(width: int, blocks: int, inner: int | None = None) -> nn.Sequential:
    """So many residual blocks of one width in a row."""
    return nn.Sequential(*(ResidualBlock(width, inner) for _ in range(blocks)))


def up(width: int, narrower: int) -> list[nn.Module]:
    """Double the resolution."""
    return [nn.Conv2d(width, 4 * narrower, 1), nn.PixelShuffle(2)]


@decoders.register("residual")
class ResidualDecoder(nn.Sequential):
    """Residual blocks at 1/8, 1/4 and 1/2 of the image; 0.48 GFLOP for a frame of 64x128 at the usual sizes."""

    scales, usual = (2, 4, 8), (32, 64, 128)

    def __init__(self, config: TokenizerConfig, name: str) -> None:
        half, quarter, eighth = config.decoder_widths
        super().__init__(
            nn.Conv2d(config.channels, eighth, 1), stack(eighth, config.blocks + 1), nn.SiLU(),
            *up(eighth, quarter), stack(quarter, config.blocks), nn.SiLU(),
            *up(quarter, half), stack(half, 1), nn.SiLU(),
            nn.Conv2d(half, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip


@decoders.register("subpixel")
class SubpixelDecoder(nn.Sequential):
    """Residual blocks at 1/8 and 1/4 of the image alone, whose pixels the last layer then makes 4x4 at a time.

    Sub-pixel convolution (Shi et al., 2016, "Real-time single image and video super-resolution using an efficient
    sub-pixel convolutional neural network"): on CPUs few large convolutions are faster than many small ones, and those
    at 1/2 of the image wait for memory. Blocks are narrower inside: they have half as many channels there as at 1/4.
    0.145 GFLOP for a frame of 64x128 at widths of 64 and 112.
    """

    scales, usual = (4, 8), (64, 112)

    def __init__(self, config: TokenizerConfig, name: str) -> None:
        quarter, eighth = config.decoder_widths
        inner = max(quarter // 2, 1)
        super().__init__(
            nn.Conv2d(config.channels, eighth, 1), stack(eighth, config.blocks, inner), nn.SiLU(),
            *up(eighth, quarter), stack(quarter, config.blocks, inner), nn.SiLU(),
            nn.Conv2d(quarter, 48, 3, padding=1), nn.PixelShuffle(4),
        )  # fmt: skip
