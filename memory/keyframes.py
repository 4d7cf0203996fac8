"""Keyframes with geometry: what was seen before, drawn from where one will stand next.

Frames are kept as they were first seen, with depth and pose (`worldsim.memory.posed`). Those that show most of the next
view, by the overlap of views, are warped to it with a z-buffer, with the last frame: a guide frame and where it is
known. This is the map rendered along the next pose of *Video World Models with Long-term Spatial Memory* (Wu et al.,
2025), with keyframes in place of a point cloud: pixels are never resampled twice, and time and size are bounded.

Needs a stream of poses (x, y, z, yaw), predicted from the history, and one of depth, read off the drawn frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInput, check_bounds
from worldsim.memory import posed
from worldsim.memory.base import Codec, Context, FromAbove, MemorySpec, Observed, Query
from worldsim.memory.geometry import Camera, choose, coverage, project, render
from worldsim.memory.posed import Gate, Posed
from worldsim.models.dynamics import DynamicsConfig
from worldsim.models.memories import memories
from worldsim.models.registry import options_of
from worldsim.models.tokenizer import STRIDE

COARSE = 8  # pixels in a row and a column of a cell in which overlaps are counted
FAR_AWAY = 4.0  # medians of depth beyond which a surface is left out of the plan: a guess of depth may be far off
LATER = 0.5  # what the last frame is worth beside keyframes: those show things as they were first seen


@dataclass(frozen=True)
class KeyframeOptions:
    """What is kept, and how it is drawn."""

    capacity: int = 128  # keyframes
    recall: int = 4  # keyframes that a guide is made of, besides the last frame
    near: float = 32.0  # units of the pose within which a frame of the same direction is not kept
    turn: float = 0.26  # radians within which a frame of the same place is not kept
    focal: tuple[float, float] = (0.5, 0.5)  # focal length of the camera over the width and the height of a frame
    pose: str = "pose"  # stream of poses
    depth: str = "depth"  # stream of depth
    sure: float = (
        0.98  # share of a latent's pixels that have to be known for it to be kept as remembered; above 1: none
    )
    fine: float = 0.0  # how finely a keyframe has to show what is kept as remembered; 1: as finely as the frame
    base: bool = False  # whether a frame is drawn as a change of the guide, where that is known, not of the last frame
    pose_noise: float = 0.5  # units, on the poses of kept frames in training
    turn_noise: float = 0.004  # radians, likewise
    depth_noise: float = 0.03  # share, of each kept frame's depth in training

    def __post_init__(self) -> None:
        count, size = (1, 100_000), (0, 1e9)
        check_bounds(
            "keyframes", self, capacity=count, recall=count, near=size, turn=size, sure=(0, 2), fine=(0, 10),
            pose_noise=size, turn_noise=size, depth_noise=(0, 1),
        )  # fmt: skip
        if len(self.focal) != 2 or min(self.focal) <= 0:
            raise InvalidInput(f"keyframes focal is {self.focal}; give two numbers above 0")


class Guide(NamedTuple):
    """What is remembered of views that are about to be drawn."""

    frames: Tensor  # (B, 3, H, W) in [0, 1], 0 where nothing is known
    mask: Tensor  # (B, H, W), 1 where something is
    depth: Tensor  # (B, H, W)
    sure: Tensor  # (B, H, W), 1 where keyframes show it finely enough to be kept


@memories.register("keyframes")
class Keyframes(nn.Module):
    """The memory "keyframes": a guide in latents, its mask, and a gate where the guide is sure."""

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__()
        o = self.options = options_of(config, "keyframes", stream, KeyframeOptions)
        absent = [name for name in (o.pose, o.depth) if name not in config.streams]
        if absent:
            raise InvalidInput(f"keyframes need the streams {', '.join(absent)}; train with them")
        self.camera = Camera(config.height * STRIDE, config.width * STRIDE, o.focal)
        self.keep = Gate(o.capacity, o.near, o.turn)
        self.spec = MemorySpec(guide=config.channels, gate=True, base=o.base)
        self.codec: Codec | None = None

    def bind(self, codec: Codec) -> None:
        """As `PixelMemory.bind`."""
        self.codec = codec

    def empty(self, batch: int) -> Posed:
        """As `Memory.empty`."""
        return posed.empty(self.keep, self.camera, batch)

    def read(self, tree: Posed, query: Query) -> Context:
        """As `Memory.read`; raises InvalidInput where no head of the history foresees the next pose."""
        if self.options.pose not in query.predicted:
            raise InvalidInput(
                f"keyframes read at the next {self.options.pose!r}, which no head foresees; add its head"
            )
        guide = self.guide(tree, query.predicted[self.options.pose].float(), query.generator)
        return self.context(guide, query.latents.dtype)

    def write(self, tree: Posed, observed: Observed) -> Posed:
        """As `Memory.write`."""
        o, size = self.options, (self.camera.height, self.camera.width)
        if o.pose not in observed.streams or o.depth not in observed.streams:
            raise InvalidInput(f"keyframes want {o.pose!r} and {o.depth!r} of every frame; add heads that say them")
        assert self.codec is not None
        pixels = self.codec.decode(observed.latents).float()
        frames = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        depth = observed.streams[o.depth].float()
        if depth.shape[1:] != size:  # inverse depth is linear in the frame on every plane
            inverse = 1 / depth.clamp(min=1e-3)[:, None]
            depth = 1 / F.interpolate(inverse, size, mode="bilinear", align_corners=False)[:, 0]
        pose = observed.streams[o.pose].float()
        return posed.write(self.keep, tree, frames, depth, pose, observed.episode_step)

    def recalled(self, tree: Posed, pose: Tensor) -> tuple[Tensor, Tensor]:
        """The slots of the keyframes that show most of the view at `pose` (B, 4), (B, K), and whether each helps."""
        rows, there = torch.arange(len(pose), device=pose.device)[:, None], posed.kept(tree)
        coarse, half = self.camera.coarse(COARSE), COARSE // 2
        depth = tree["depth"][rows, tree["keys"], half::COARSE, half::COARSE].float()
        known = tree["pose"][rows, tree["keys"]]
        index, enough = choose(coverage(coarse, depth, known, there, pose), self.options.recall)
        return tree["keys"].gather(1, index), enough

    def guide(self, tree: Posed, pose: Tensor, generator: torch.Generator | None = None) -> Guide:
        """What is remembered of the view at `pose` (B, 4).

        With a generator, of kept frames whose pose and depth err as a model's own do: for training.
        """
        slots, enough = self.recalled(tree, pose)
        step = tree["step"].gather(1, slots).float()  # the earlier a view, the more it is worth
        order = (step[:, :, None] > step[:, None]).float().sum(-1)  # 0 for the first
        worth = torch.where(enough, 1.0 - 0.08 * order, torch.zeros_like(order))
        written = (tree["step"].gather(1, tree["last"][:, None]) >= 0).float()
        slots, worth = torch.cat([slots, tree["last"][:, None]], 1), torch.cat([worth, LATER * written], 1)
        seen = posed.views(tree, slots, worth)
        if generator is not None:
            seen = self._blurred(seen, generator)
        frames, mask, fine, depth = render(self.camera, seen, pose)
        # The last frame holds nothing: what it shows was drawn of the one before, and would blur from step to step.
        best = fine[:, :-1].amax(1)
        return Guide(frames, mask, depth, ((best > 0) & (best >= self.options.fine)).to(mask.dtype))

    def _blurred(self, seen: posed.Views, generator: torch.Generator) -> posed.Views:
        """Views whose pose and depth are a little off."""
        o, shape = self.options, seen.pose.shape

        def noise(size: tuple[int, ...]) -> Tensor:
            return torch.randn(size, generator=generator, device=generator.device).to(seen.pose.device)

        scale = seen.pose.new_tensor([o.pose_noise, o.pose_noise, 0.0, o.turn_noise])
        depth = seen.depth * torch.exp(o.depth_noise * noise(shape[:2]))[..., None, None]
        return posed.Views(seen.frames, depth, seen.pose + scale * noise(tuple(shape)), seen.worth)

    def context(self, guide: Guide, dtype: torch.dtype) -> Context:
        """The guide in latents, the share of known pixels of each, and where the new frame is to be as remembered."""
        assert self.codec is not None
        filled = fill(guide.frames, guide.mask)
        latents = self.codec.encode((filled * 2 - 1).to(dtype).contiguous(memory_format=torch.channels_last))
        share, sure = (F.avg_pool2d(part[:, None], STRIDE) for part in (guide.mask, guide.sure))  # (B, 1, h, w)
        return Context(latents, share.to(dtype), gate=sure >= self.options.sure)

    def from_above(self, tree: Posed, streams: dict[str, Tensor], row: int) -> FromAbove:
        """As `PlacesMemory.from_above`: the farthest surface of every fourth column, which is a wall's."""
        pose = streams[self.options.pose][row : row + 1].float()
        one = {name: leaf[row : row + 1] for name, leaf in tree.items()}
        slots = one["keys"][0, : int(one["count"][0])]
        slots = slots[torch.argsort(one["step"][0, slots])]
        recalled, enough = self.recalled(one, pose)
        used = torch.isin(slots, recalled[enough]) if len(slots) else torch.zeros(0, dtype=torch.bool)
        known, across = one["pose"][0, slots], self.camera.rays(pose.device)[0][::4]
        depth = one["depth"][0, slots][:, :, ::4].float().amax(1)  # (K, W / 4)
        cos, sin = torch.cos(known[:, 3:]), torch.sin(known[:, 3:])
        x = known[:, :1] + depth * (cos + across * sin)
        y = known[:, 1:2] + depth * (sin - across * cos)
        seen = depth < FAR_AWAY * depth.median() if depth.numel() else depth > 0
        points = torch.stack([x[seen], y[seen]], -1)
        return FromAbove(*(part.cpu().numpy() for part in (points, known[:, [0, 1, 3]], used, pose[0, [0, 1, 3]])))

    def paste(self, tree: Posed, pose: Tensor, depth: Tensor, image: Tensor, alpha: Tensor) -> Posed:
        """The tree with a picture pasted on what is seen from `pose` (4,): in all kept frames that show the place.

        `depth` (H, W) of that view, `image` (3, H, W) in [0, 1] where `alpha` (H, W) is 1.
        """
        frames = tree["frames"].clone()
        both = torch.cat([image * alpha, alpha.expand(1, -1, -1)])  # premultiplied, so that edges do not darken
        for row in range(len(frames)):
            for slot in torch.nonzero(tree["step"][row] >= 0)[:, 0].tolist():
                there = tree["depth"][row, slot].float()[None]
                u, v, z = project(self.camera, there, tree["pose"][row, slot][None], pose[None])
                grid = torch.stack([u * (2 / self.camera.width) - 1, v * (2 / self.camera.height) - 1], -1)
                got = F.grid_sample(torch.cat([both, 1 / depth[None]])[None], grid, align_corners=False)[0]
                sees = (z[0] > 1) & ((got[4] * z[0] - 1).abs() < 0.08) & (grid[0].abs() < 1).all(-1)
                share = got[3] * sees
                mixed = frames[row, slot].float() * (1 - share) + 255 * got[:3] * sees
                frames[row, slot] = mixed.round().clamp(0, 255).to(torch.uint8)
        return {**tree, "frames": frames}


def fill(frames: Tensor, mask: Tensor) -> Tensor:
    """Frames (B, 3, H, W) whose unknown pixels are the mean of the known ones near by, (B, H, W) being the mask."""
    weight = mask[:, None]
    out, known = frames * weight, weight
    for size in (STRIDE, 4 * STRIDE):
        pooled, share = (F.avg_pool2d(x, size, ceil_mode=True) for x in (frames * weight, weight))
        mean = F.interpolate(pooled / share.clamp(min=1e-6), scale_factor=size)[..., : mask.shape[1], : mask.shape[2]]
        there = F.interpolate((share > 0).to(frames.dtype), scale_factor=size)[..., : mask.shape[1], : mask.shape[2]]
        new = there * (1 - known)
        out, known = out + mean * new, known + new
    whole = (frames * weight).mean((2, 3), keepdim=True) / weight.mean((2, 3), keepdim=True).clamp(min=1e-6)
    return out + torch.where(weight.mean((2, 3), keepdim=True) > 0, whole, whole.new_full((), 0.5)) * (1 - known)
