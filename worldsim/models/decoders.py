"""The decoders of a tokenizer by name: from latents to images.

Names stand in `TokenizerConfig.decoder`. All of them take latents (B, C, h, w) as the encoder says them and give images
(B, 3, 8 h, 8 w), and all sizes come from the same config, so that one can take another's place on the same latents.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from worldsim.models.layers import FactoredBlock, FactoredConv, ResidualBlock
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


@decoders.register("factored")
class FactoredDecoder(nn.Sequential):
    """The residual decoder with every 3x3 convolution of its blocks factored into two of fewer operations.

    Begun from a trained residual decoder of the same widths (`start_from`) it is close to that before any training.
    0.15 GFLOP for a frame of 64x128 at the usual sizes.
    """

    def __init__(self, config: TokenizerConfig, name: str) -> None:
        half, quarter, eighth = config.decoder_widths
        finest, fine, coarse = config.decoder_ranks
        super().__init__(
            nn.Conv2d(config.channels, eighth, 1),
            nn.Sequential(*(FactoredBlock(eighth, coarse, outward=True) for _ in range(config.blocks + 1))), nn.SiLU(),
            *up(eighth, quarter),
            nn.Sequential(*(FactoredBlock(quarter, fine) for _ in range(config.blocks))), nn.SiLU(),
            *up(quarter, half), nn.Sequential(FactoredBlock(half, finest)), nn.SiLU(),
            nn.Conv2d(half, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    @torch.no_grad()
    def start_from(self, trained: nn.Module, latents: Tensor) -> None:
        """Take the weights of a `ResidualDecoder`, as far as the ranks hold what it makes of latents (B, C, h, w)."""
        given = trained.state_dict()
        self.load_state_dict({n: t for n, t in given.items() if n in self.state_dict()}, strict=False)
        for name, module in self.named_modules():
            if isinstance(module, FactoredConv):
                conv = trained.get_submodule(name)
                assert isinstance(conv, nn.Conv2d)
                seen: list[Tensor] = []
                hook = module.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0]))
                self(latents)
                hook.remove()
                module.take(conv, seen[0])
