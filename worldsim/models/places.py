"""Heads that say where things are: depth of the drawn frame, and the camera's next pose from its motion."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInput
from worldsim.models.conditions import ActionCondition, stream_spec
from worldsim.models.heads import Features, Head, Reads, Targets, heads
from worldsim.models.layers import ResidualBlock
from worldsim.models.registry import Normalise, Scale, Streams, options_of

if TYPE_CHECKING:
    from worldsim.models.dynamics import DynamicsConfig


@dataclass(frozen=True)
class DepthOptions:
    """How depth is predicted."""

    # Of a level camera between a flat floor and a flat ceiling, with upright walls: units from the camera down to the
    # floor and up to the ceiling, and focal length over the height of the frame. Depth is then one number a column.
    planes: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.planes) not in (0, 3) or not all(value > 0 for value in self.planes):
            raise InvalidInput(f"depth has planes {self.planes}; give floor, ceiling and focal length, or none")


@heads.register("depth")
class DepthHead(Head):
    """Log depth of the drawn frame in deviations of the data, (F, H, W), or (F, W) of its columns between planes.

    "depth" predicts the stream of that name, at the resolution that it was recorded with: a whole number of pixels
    to each of the latents. It reads the frame alone.
    """

    outputs = 32  # numbers that tell every place of the whole frame
    reads: Reads = "frame"
    reads_off = True
    width = 64  # of its convolutions

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__(config, stream)
        shape, grid = stream_spec(config, stream).shape, (config.height, config.width)
        self.factor = shape[-1] // config.width
        if len(shape) != 2 or shape != (grid[0] * self.factor, grid[1] * self.factor):
            raise InvalidInput(f"depth {stream!r} has shape {shape}; record it with as many pixels to each of {grid}")
        self.planes = options_of(config, "depth", stream, DepthOptions).planes
        self.normalise, self.shape = Normalise(config.scales.get(stream, Scale((0.0,), (1.0,)))), shape
        self.low, self.high = (float(bound.min()) for bound in stream_spec(config, stream).bounds())
        self.whole = nn.Linear(self.outputs, self.width)
        self.enter = nn.Conv2d(config.channels, self.width, 3, padding=1)
        self.blocks = nn.ModuleList(ResidualBlock(self.width) for _ in range(3))
        sees, says = (self.width * grid[0], self.factor) if self.planes else (self.width, self.factor**2)
        self.leave = nn.Conv2d(sees, says, 1)

    def forward(self, features: Features) -> Tensor:
        """As `Head.forward`."""
        assert features.frame is not None
        dtype = self.enter.weight.dtype
        x = self.enter(features.frame.to(dtype)) + self.whole(features.read.to(dtype))[..., None, None]
        for block in self.blocks:
            x = block(x)
        x = F.silu(x)  # (F, width, h, w)
        if self.planes:
            columns = self.leave(x.flatten(1, 2)[:, :, None])  # (F, factor, 1, w)
            return columns.float().transpose(1, 3).flatten(1)
        return F.pixel_shuffle(self.leave(x), self.factor)[:, 0].float()

    def loss(self, out: Tensor, targets: Targets) -> Tensor:
        """Mean absolute error of the logarithm."""
        depth = targets.streams[self.stream].float().clamp(min=1e-3)
        wanted = self._normalised(depth.amax(1) if self.planes else depth)  # the horizon shows what a column ends at
        return (targets.counted * (out - wanted).abs().flatten(1).mean(1)).mean()

    def sample(self, out: Tensor) -> Streams:
        """The depth in the stream's unit, within its bounds."""
        mean, std = self.normalise.mean, self.normalise.std
        depth = torch.exp((out * std + mean).clamp(-20, 20))
        if self.planes:
            depth = torch.minimum(depth[:, None], self._flat(depth))
        return {self.stream: depth.clamp(self.low, self.high)}

    def _normalised(self, depth: Tensor) -> Tensor:
        return (depth.log() - self.normalise.mean) / self.normalise.std

    def _flat(self, like: Tensor) -> Tensor:
        """Depth of floor and ceiling in every row, (H, 1)."""
        floor, ceiling, focal = self.planes
        rows = self.shape[0]
        down = (torch.arange(rows, device=like.device) + 0.5 - rows / 2) / (focal * rows)
        return torch.where(down > 0, floor, ceiling)[:, None] / down.abs().clamp(min=1e-6)[:, None]


@dataclass(frozen=True)
class PoseOptions:
    """What the pose follows from."""

    motion: str = "motion"  # stream of what moved since the last step: forward, left, turn in the camera's own frame


@heads.register("pose")
class PoseHead(Head):
    """The next motion and the pose that it leads to, (F, 7): motion in deviations of the data, then x, y, z, yaw.

    It never sees where it is, only how it moved, its action and what the history says, so that it holds in places
    that it never saw; walls are known from the history's frames. Both streams are part of the state.
    """

    outputs = 32  # numbers that the history says to it
    width = 128

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__(config, stream)
        self.motion = options_of(config, "pose", stream, PoseOptions).motion
        spec, pose = stream_spec(config, self.motion), stream_spec(config, stream)
        if spec.shape != (3,) or pose.shape != (4,):
            raise InvalidInput(
                f"the head pose predicts {stream!r} of shape {pose.shape} by {self.motion!r} of shape {spec.shape}; "
                "give x, y, z, yaw and forward, left, turn"
            )
        self.normalise = Normalise(config.scales.get(self.motion, Scale()))
        self.action = ActionCondition(config, stream)
        self.net = nn.Sequential(
            nn.Linear(3 + config.cond_dim + self.outputs, self.width), nn.SiLU(),
            nn.Linear(self.width, self.width), nn.SiLU(), nn.Linear(self.width, 3),
        )  # fmt: skip

    def forward(self, features: Features) -> Tensor:
        """As `Head.forward`."""
        inputs, dtype = features.inputs, cast(nn.Linear, self.net[0]).weight.dtype
        last = self.normalise(inputs.stream(self.motion).float())
        read = torch.cat([last.to(dtype), self.action(inputs).to(dtype), features.read.to(dtype)], dim=-1)
        motion = last + self.net(read).float()
        return torch.cat([motion, moved(inputs.stream(self.stream).float(), self.normalise.undo(motion))], dim=-1)

    def loss(self, out: Tensor, targets: Targets) -> Tensor:
        """Squared error of the motion in deviations of the data."""
        wanted = self.normalise(targets.streams[self.motion].float())
        return (targets.counted * (out[:, :3] - wanted).square().mean(1)).mean()

    def sample(self, out: Tensor) -> Streams:
        """Both streams, as recorded."""
        return {self.motion: self.normalise.undo(out[:, :3]), self.stream: out[:, 3:]}


def moved(pose: Tensor, motion: Tensor) -> Tensor:
    """Poses (..., 4) after a motion (..., 3): forward, left (units) and turn (radians), in the frame of the pose."""
    cos, sin = torch.cos(pose[..., 3]), torch.sin(pose[..., 3])
    ahead, left, turn = motion.unbind(-1)
    x, y = pose[..., 0] + ahead * cos - left * sin, pose[..., 1] + ahead * sin + left * cos
    return torch.stack([x, y, pose[..., 2], pose[..., 3] + turn], -1)
