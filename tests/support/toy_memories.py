"""Toy memories, registered from outside the package: latents, a recurrent state with weights, pixels."""

import torch
from torch import nn

from worldsim.memory.base import Context, MemorySpec
from worldsim.models.memories import memories


@memories.register("first_frame")
class FirstFrame(nn.Module):
    """Remembers the first frame's latents for good, and gives them as a guide."""

    def __init__(self, config, stream):
        super().__init__()
        self.shape = config.channels, config.height, config.width
        self.spec = MemorySpec(guide=config.channels)

    def empty(self, batch):
        return {"frame": torch.zeros(batch, *self.shape), "written": torch.zeros(batch, dtype=torch.bool)}

    def read(self, tree, query):
        mask = tree["written"].float()[:, None, None, None].expand(-1, 1, *self.shape[1:])
        return Context(guide=tree["frame"], mask=mask)

    def write(self, tree, observed):
        kept = tree["written"][:, None, None, None]
        frame = torch.where(kept, tree["frame"], observed.latents.float())
        return {"frame": frame, "written": torch.ones_like(tree["written"])}


@memories.register("mean")
class Mean(nn.Module):
    """A recurrent state with weights, that a whole frame is conditioned on; keeps its reads and writes for tests."""

    def __init__(self, config, stream):
        super().__init__()
        self.spec = MemorySpec(condition=8)
        self.enter = nn.Linear(config.channels, 8)
        self.queries, self.observed = [], []

    def empty(self, batch):
        return torch.zeros(batch, 8)

    def read(self, tree, query):
        self.queries.append(query)
        return Context(condition=tree)

    def write(self, tree, observed):
        self.observed.append(observed)
        seen = self.enter(observed.latents.mean((2, 3)).to(self.enter.weight.dtype))
        return 0.9 * tree + 0.1 * torch.tanh(seen).float()


@memories.register("pixels")
class Pixels(FirstFrame):
    """As the first frame, but kept in pixels at half of the resolution."""

    def __init__(self, config, stream):
        super().__init__(config, stream)
        self.codec = None

    def bind(self, codec):
        self.codec = codec

    def empty(self, batch):
        kept = torch.zeros(batch, 3, 4 * self.shape[1], 4 * self.shape[2], dtype=torch.uint8)
        return {"frame": kept, "written": torch.zeros(batch, dtype=torch.bool)}

    def read(self, tree, query):
        frames = nn.functional.interpolate(tree["frame"].float() / 127.5 - 1, scale_factor=2)
        return Context(guide=self.codec.encode(frames.to(query.latents.dtype)))

    def write(self, tree, observed):
        frames = nn.functional.avg_pool2d(self.codec.decode(observed.latents).float(), 2)
        frames = ((frames + 1) * 127.5).clamp(0, 255).to(torch.uint8)
        frame = torch.where(tree["written"][:, None, None, None], tree["frame"], frames)
        return {"frame": frame, "written": torch.ones_like(tree["written"])}
