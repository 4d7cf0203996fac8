"""A 3D map: depth and colour of every frame averaged into voxels (a TSDF) by Open3D, and drawn from the next pose.

Newcombe et al., 2011 (KinectFusion); Open3D's `VoxelBlockGrid` (Dong et al., 2021). It averages depth over many views,
which a single keyframe cannot, and draws coarser frames: a guide for the denoiser, of which nothing is kept as it is.
The state is a table of voxel blocks of fixed size, so it is saved, restored and forked as any other; where it is full,
the blocks farthest from the camera go. `export_ply` writes a map as a mesh or a cloud of points.

Open3D is optional: pip install "worldsim[spatial]".
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from worldsim.errors import InvalidInput, MissingDependency, check_bounds
from worldsim.memory import posed
from worldsim.memory.base import Codec, Context, MemorySpec, Observed, Query
from worldsim.memory.geometry import Camera
from worldsim.memory.keyframes import fill
from worldsim.models.dynamics import DynamicsConfig
from worldsim.models.memories import memories
from worldsim.models.registry import options_of
from worldsim.models.tokenizer import STRIDE

SIDE = 8  # voxels along the side of a block
VALUES = 5  # of a voxel: distance to the surface, weight, colour
Map = dict[str, Tensor]  # blocks (B, M, 3) int32, values (B, M, SIDE ** 3 * VALUES) float32, count (B,) int64


@dataclass(frozen=True)
class MapOptions:
    """Size and grain of the map."""

    capacity: int = 512  # blocks
    voxel: float = 8.0  # side of a voxel, in units of the pose
    far: float = 600.0  # depth beyond which nothing is mapped
    focal: tuple[float, float] = (0.5, 0.5)  # focal length of the camera over the width and the height of a frame
    pose: str = "pose"  # stream of poses
    depth: str = "depth"  # stream of depth

    def __post_init__(self) -> None:
        check_bounds("map3d", self, capacity=(8, 1_000_000), voxel=(1e-6, 1e9), far=(1e-6, 1e9))
        if len(self.focal) != 2 or min(self.focal) <= 0:
            raise InvalidInput(f"map3d focal is {self.focal}; give two numbers above 0")


@memories.register("map3d")
class Map3D(nn.Module):
    """The memory "map3d": a guide in latents, drawn from voxels, and its mask."""

    def __init__(self, config: DynamicsConfig, stream: str) -> None:
        super().__init__()
        o = self.options = options_of(config, "map3d", stream, MapOptions)
        absent = [name for name in (o.pose, o.depth) if name not in config.streams]
        if absent:
            raise InvalidInput(f"map3d needs the streams {', '.join(absent)}; train with them")
        require_open3d()
        self.camera = Camera(config.height * STRIDE, config.width * STRIDE, o.focal)
        self.spec = MemorySpec(guide=config.channels)
        self.codec: Codec | None = None

    def bind(self, codec: Codec) -> None:
        """As `PixelMemory.bind`."""
        self.codec = codec

    def empty(self, batch: int) -> Map:
        """As `Memory.empty`."""
        size = (batch, self.options.capacity)
        return {
            "blocks": torch.zeros(*size, 3, dtype=torch.int32),
            "values": torch.zeros(*size, SIDE**3 * VALUES),
            "count": torch.zeros(batch, dtype=torch.int64),
        }

    def read(self, tree: Map, query: Query) -> Context:
        """As `Memory.read`."""
        if self.options.pose not in query.predicted:
            raise InvalidInput(f"map3d reads at the next {self.options.pose!r}, which no head foresees; add one")
        assert self.codec is not None
        poses = query.predicted[self.options.pose].float().cpu()
        drawn = [self._draw(_row(tree, row), pose) for row, pose in enumerate(poses)]
        frames, mask = (torch.stack(parts).to(query.latents.device) for parts in zip(*drawn, strict=True))
        images = (fill(frames, mask) * 2 - 1).to(query.latents.dtype).contiguous(memory_format=torch.channels_last)
        share = F.avg_pool2d(mask[:, None], STRIDE)
        return Context(self.codec.encode(images), share.to(query.latents.dtype))

    def write(self, tree: Map, observed: Observed) -> Map:
        """As `Memory.write`."""
        assert self.codec is not None
        o, size = self.options, (self.camera.height, self.camera.width)
        frames = ((self.codec.decode(observed.latents).float().cpu() + 1) / 2).clamp(0, 1)
        inverse = 1 / observed.streams[o.depth].float().cpu().clamp(min=1e-3)[:, None]
        depth = 1 / F.interpolate(inverse, size, mode="bilinear", align_corners=False)[:, 0]
        poses = observed.streams[o.pose].float().cpu()
        rows = [self._integrate(_row(tree, row), frames[row], depth[row], poses[row]) for row in range(len(poses))]
        device = tree["count"].device
        return {name: torch.stack([row[name] for row in rows]).to(device) for name in tree}

    def _integrate(self, row: Map, frame: Tensor, depth: Tensor, pose: Tensor) -> Map:
        """One world's map with one more frame."""
        grid = Grid(self.options, row)
        grid.add(self.camera, frame, depth, pose)
        blocks, values = grid.table()
        if len(blocks) > self.options.capacity:
            middle = (blocks + 0.5) * self.options.voxel * SIDE - pose[:3].numpy()
            nearest = np.sort(np.argsort(np.linalg.norm(middle, axis=1), kind="stable")[: self.options.capacity])
            blocks, values = blocks[nearest], values[nearest]
        new = {name: torch.zeros_like(leaf, device="cpu") for name, leaf in row.items()}
        new["blocks"][: len(blocks)] = torch.from_numpy(blocks)
        new["values"][: len(blocks)] = torch.from_numpy(values)
        new["count"] = torch.tensor(len(blocks))
        return new

    def _draw(self, row: Map, pose: Tensor) -> tuple[Tensor, Tensor]:
        """The frame (3, H, W) in [0, 1] and mask (H, W) that a map shows from a pose."""
        size = (self.camera.height, self.camera.width)
        if not int(row["count"]):
            return torch.zeros(3, *size), torch.zeros(size)
        return Grid(self.options, row).draw(self.camera, pose)

    def export_ply(self, tree: Map, path: Path | str, *, row: int = 0, mesh: bool = True) -> None:
        """Write one world's map as a coloured mesh, or as a cloud of points, to a `.ply` file."""
        Grid(self.options, _row(tree, row)).save(Path(path), mesh=mesh)


def export_keyframes(tree: posed.Posed, camera: Camera, path: Path | str, *, row: int = 0, mesh: bool = True) -> None:
    """Write what one world's keyframes show, put together as a map, to a `.ply` file."""
    options = MapOptions(capacity=100_000)
    grid = Grid(options, None)
    for slot in tree["keys"][row, : int(tree["count"][row])].tolist():
        frame = tree["frames"][row, slot].float().cpu() / 255
        grid.add(camera, frame, tree["depth"][row, slot].float().cpu(), tree["pose"][row, slot].cpu())
    grid.save(Path(path), mesh=mesh)


class Grid:
    """Open3D's grid of voxel blocks, made of a table of blocks and read back into one."""

    NAMES = ("tsdf", "weight", "color")

    def __init__(self, options: MapOptions, row: Map | None) -> None:
        """`row` holds blocks (M, 3), values (M, ...) and count (); None for an empty grid."""
        self.o3d, self.options = require_open3d(), options
        core = self.core = self.o3d.core
        kinds = (core.float32,) * 3
        self.grid = self.o3d.t.geometry.VoxelBlockGrid(
            self.NAMES, kinds, ((1,), (1,), (3,)), options.voxel, SIDE, min(options.capacity * 2, 4096)
        )
        count = 0 if row is None else int(row["count"])
        if row is not None and count:
            keys = core.Tensor(row["blocks"][:count].cpu().numpy())
            values = row["values"][:count].cpu().reshape(count, SIDE, SIDE, SIDE, VALUES).numpy()
            parts = [np.ascontiguousarray(values[..., a:b]) for a, b in ((0, 1), (1, 2), (2, 5))]
            self.grid.hashmap().insert(keys, [core.Tensor(part) for part in parts])

    def table(self) -> tuple[np.ndarray, np.ndarray]:
        """Blocks (n, 3) int32 and their values (n, ...) float32, in the order of the blocks' places."""
        table = self.grid.hashmap()
        index = table.active_buf_indices().to(self.core.int64)
        keys = table.key_tensor()[index].numpy()
        parts = [table.value_tensor(k)[index].numpy() for k in range(3)]
        order = np.lexsort(keys.T)
        return keys[order], np.concatenate(parts, -1)[order].reshape(len(keys), -1)

    def add(self, camera: Camera, frame: Tensor, depth: Tensor, pose: Tensor) -> None:
        """Average in one frame (3, H, W) in [0, 1] with its depth (H, W), seen from a pose (4,)."""
        image = self.o3d.t.geometry.Image
        near = np.where(depth.numpy() < self.options.far, depth.numpy(), 0).astype(np.float32)
        deep = image(self.core.Tensor(np.ascontiguousarray(near[..., None])))
        colour = image(self.core.Tensor(np.ascontiguousarray(frame.permute(1, 2, 0).numpy())))
        how = (*self._lens(camera, pose), 1.0, self.options.far)
        blocks = self.grid.compute_unique_block_coordinates(deep, *how)
        self.grid.integrate(blocks, deep, colour, *how)

    def draw(self, camera: Camera, pose: Tensor) -> tuple[Tensor, Tensor]:
        """What is seen from a pose: frame (3, H, W) in [0, 1] and mask (H, W)."""
        table = self.grid.hashmap()
        blocks = table.key_tensor()[table.active_buf_indices().to(self.core.int64)]
        view = (*self._lens(camera, pose), camera.width, camera.height, ["depth", "color"], 1.0, 1.0, self.options.far)
        level = self.o3d.utility.VerbosityLevel.Error
        with self.o3d.utility.VerbosityContextManager(level):
            self.grid.ray_cast(blocks, *view, 0.5)  # the first one of a grid only makes room for its ranges
            seen = self.grid.ray_cast(blocks, *view, 0.5)
        mask = torch.from_numpy(seen["depth"].numpy().copy())[..., 0] > 0
        frame = torch.from_numpy(seen["color"].numpy().copy()).permute(2, 0, 1).clamp(0, 1)
        return frame * mask, mask.float()

    def save(self, path: Path, *, mesh: bool) -> None:
        """Write a `.ply` file; raises InvalidInput for another ending."""
        if path.suffix != ".ply":
            raise InvalidInput(f"{path} is no .ply file; give one")
        if mesh:
            self.o3d.io.write_triangle_mesh(str(path), self.grid.extract_triangle_mesh(0.5).to_legacy())
        else:
            self.o3d.io.write_point_cloud(str(path), self.grid.extract_point_cloud(0.5).to_legacy())

    def _lens(self, camera: Camera, pose: Tensor) -> tuple[Any, Any]:
        """Open3D's intrinsic and extrinsic matrices: x to the right, y down, z ahead."""
        x, y, z, yaw = (float(value) for value in pose)
        wide, high = camera.focal[0] * camera.width, camera.focal[1] * camera.height
        # Open3D counts from the middle of the first pixel.
        inner = np.array([[wide, 0, camera.width / 2 - 0.5], [0, high, camera.height / 2 - 0.5], [0, 0, 1]])
        turn = np.array([[np.sin(yaw), -np.cos(yaw), 0], [0, 0, -1], [np.cos(yaw), np.sin(yaw), 0]])
        outer = np.eye(4)
        outer[:3, :3], outer[:3, 3] = turn, -turn @ np.array([x, y, z])
        return self.core.Tensor(inner), self.core.Tensor(outer)


def require_open3d() -> Any:
    """Open3D; raises MissingDependency where it is not installed, or lacks a system library."""
    try:
        import open3d
    except (ImportError, OSError) as error:
        raise MissingDependency(
            f'maps need Open3D ({error}); get it with pip install "worldsim[spatial]", on Debian and Ubuntu after '
            "apt-get install libgl1 libgomp1 libegl1 libx11-6 libusb-1.0-0"
        ) from error
    return open3d


def _row(tree: Map, row: int) -> Map:
    return {name: leaf[row] for name, leaf in tree.items()}
