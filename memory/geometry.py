"""Geometry of remembered views: where a pixel of one view lies in another, and what another view would see.

Poses are (x, y, z, yaw): yaw is counterclockwise from +x in radians, z up; the camera is level. Depth is along the
viewing axis, in the units of the pose. Depths are warped into the new view first, the nearest wins, and colours are
then fetched backwards, bilinearly: that loses 3 to 4 dB less than splatting colours, and no pixel is resampled twice.
Shapes: B batch, K views, H rows, W columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

NEAREST = 1.0  # depth in front of a camera below which nothing is drawn
FAR = 1e9
AGREES = 0.08  # share by which depths of one point may differ in two views
LEAKS = 0.85  # a pixel is seen through a crack where most of its neighbours are nearer than this share of its depth


@dataclass(frozen=True)
class Camera:
    """A pinhole camera, its sizes in pixels."""

    height: int
    width: int
    focal: tuple[float, float] = (0.5, 0.5)  # focal length over the width, and over the height, of the frame

    def rays(self, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
        """Tangents to the right of each column, (W,), and down of each row, (H,), at the centres of pixels."""
        across = ((torch.arange(self.width, device=device) + 0.5) / self.width - 0.5) / self.focal[0]
        down = ((torch.arange(self.height, device=device) + 0.5) / self.height - 0.5) / self.focal[1]
        return across, down

    def coarse(self, stride: int) -> Camera:
        """The same view in fewer pixels."""
        return Camera(self.height // stride, self.width // stride, self.focal)


@dataclass(frozen=True)
class Views:
    """Remembered views of B worlds."""

    frames: Tensor  # (B, K, 3, H, W) float
    depth: Tensor  # (B, K, H, W) float
    pose: Tensor  # (B, K, 4)
    worth: Tensor  # (B, K) float, how much a view counts where several show a point; 0: there is none


def project(camera: Camera, depth: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Where the pixels of views lie in others: column, row (in pixels) and depth there, (..., H, W) each.

    `depth` (..., H, W) of the views at poses `source` (..., 4), seen from poses `target` (..., 4).
    """
    across, down = camera.rays(depth.device)
    turn = target[..., 3] - source[..., 3]
    east, north = source[..., 0] - target[..., 0], source[..., 1] - target[..., 1]
    cos, sin = torch.cos(target[..., 3]), torch.sin(target[..., 3])
    parts = torch.cos(turn), torch.sin(turn), east * cos + north * sin, east * sin - north * cos
    a, b, ahead, right = (part[..., None, None] for part in parts)
    rise = (target[..., 2] - source[..., 2])[..., None, None]
    aside = depth * across
    z = a * depth - b * aside + ahead
    front = z.clamp(min=NEAREST)
    u = ((b * depth + a * aside + right) / front * camera.focal[0] + 0.5) * camera.width
    v = ((depth * down[:, None] + rise) / front * camera.focal[1] + 0.5) * camera.height
    return u, v, z


def splat_depth(camera: Camera, views: Views, target: Tensor) -> Tensor:
    """Depth of the nearest remembered point in every pixel of the views at `target` (B, 4): (B, H, W), FAR for none."""
    batch, height, width = len(target), camera.height, camera.width
    u, v, z = project(camera, views.depth, views.pose, target[:, None])
    seen = (z > NEAREST) & (u >= 0) & (u < width) & (v >= 0) & (v < height) & (views.worth > 0)[..., None, None]
    place = torch.where(seen, v.long() * width + u.long(), height * width)
    empty = z.new_full((batch, height * width + 1), FAR)
    nearest = empty.scatter_reduce(1, place.flatten(1), z.flatten(1), "amin")
    return mend(nearest[:, :-1].view(batch, height, width))


def mend(depth: Tensor) -> Tensor:
    """Depths (B, H, W) without the cracks that splatting leaves: holes, and what is seen through them."""
    around = F.unfold(F.pad(depth[:, None], (1, 1, 1, 1), value=FAR), 3)  # (B, 9, H * W)
    around = around.view(len(depth), 9, *depth.shape[1:])
    nearer = (around < LEAKS * depth[:, None]).sum(1)
    hole = depth >= FAR
    known = (around < FAR).sum(1)
    return torch.where((hole & (known >= 3)) | (~hole & (nearer >= 5)), around.amin(1), depth)


def fetch(camera: Camera, views: Views, target: Tensor, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Colours of the pixels of views at `target` (B, 4) whose `depth` (B, H, W) is known (FAR: it is not).

    -> frames (B, 3, H, W), 0 where no view shows the point; mask (B, H, W), 1 where one does; and how finely each view
    shows it (B, K, H, W): 1 as finely as the frame, 0.5 at half of its resolution, 0 not at all.
    """
    inverse = 1 / views.depth[:, :, None]
    got, share, fine = _blend(camera, views, torch.cat([views.frames, inverse], 2), target, depth)
    return (got[:, :, :3] * share[:, :, None]).sum(1), (fine > 0).any(1).to(views.frames.dtype), fine


def refined(camera: Camera, views: Views, target: Tensor, depth: Tensor) -> Tensor:
    """Depths (B, H, W) as the views have it where they show these points: a little nearer to the truth than a splat."""
    got, share, fine = _blend(camera, views, 1 / views.depth[:, :, None], target, depth, ratio=True)
    return torch.where((fine > 0).any(1), depth / (got[:, :, 0] * share).sum(1).clamp(min=1e-6), depth)


def _blend(
    camera: Camera, views: Views, channels: Tensor, target: Tensor, depth: Tensor, *, ratio: bool = False
) -> tuple[Tensor, Tensor, Tensor]:
    """What views show of the points that are seen from `target` at `depth`: channels (B, K, c, H, W), the last of which
    is inverse depth; what each view counts (B, K, H, W), in sum 1 or 0; and how finely it shows them (B, K, H, W).

    A view counts where its depth agrees, and the more, the more finely it shows the point: to the sixth power. With
    `ratio` the last channel is multiplied by the point's depth in that view, 1 where they are the same.
    """
    batch, count = views.worth.shape
    height, width = camera.height, camera.width
    u, v, z = project(camera, depth[:, None].expand(-1, count, -1, -1), target[:, None], views.pose)
    grid = torch.stack([u * (2 / width) - 1, v * (2 / height) - 1], -1).flatten(0, 1)
    got = F.grid_sample(channels.flatten(0, 1), grid, mode="bilinear", padding_mode="border", align_corners=False)
    got = got.view(batch, count, -1, height, width)
    same = got[:, :, -1] * z
    off = (same - 1).abs()
    inside = (z > NEAREST) & (u > 0) & (u < width) & (v > 0) & (v < height) & (off < AGREES)
    seen = inside & (depth < FAR)[:, None] & (views.worth > 0)[..., None, None]
    fine = torch.where(seen, depth[:, None] / z.clamp(min=NEAREST), torch.zeros_like(z))
    square = (fine.clamp(max=1.2) * (1 - (0.5 / AGREES) * off)).clamp(min=1e-3).square()
    weight = torch.where(seen, square * square * square * views.worth[..., None, None], torch.zeros_like(z))
    share = weight / weight.sum(1).clamp(min=1e-20)[:, None]
    if ratio:
        got = same[:, :, None]
    return got, share, fine


def render(camera: Camera, views: Views, target: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What is remembered of the views at `target` (B, 4): frames (B, 3, H, W), mask, how finely each view shows it
    (B, K, H, W), as `fetch`, and depth (B, H, W)."""
    depth = refined(camera, views, target, splat_depth(camera, views, target))
    return *fetch(camera, views, target, depth), depth


def coverage(camera: Camera, depth: Tensor, pose: Tensor, there: Tensor, target: Tensor) -> Tensor:
    """How finely each of K views shows every cell of the views at `target` (B, 4): (B, K, cells) from 0 to 1.

    `depth` (B, K, h, w) in the cells of `camera`, `pose` (B, K, 4), `there` (B, K) bool. A cell that another view shows
    to be covered by something nearer counts as not seen.
    """
    batch, count, height, width = depth.shape
    cells = height * width
    u, v, z = project(camera, depth, pose, target[:, None])
    seen = (z > NEAREST) & (u >= 0) & (u < width) & (v >= 0) & (v < height) & there[..., None, None]
    cell = torch.where(seen, v.long() * width + u.long(), cells).flatten(2)  # (B, K, cells)
    z = z.flatten(2)
    nearest = z.new_full((batch, cells + 1), FAR).scatter_reduce(1, cell.flatten(1), z.flatten(1), "amin")
    visible = (z < 1.2 * nearest.gather(1, cell.flatten(1)).view_as(z) + 8) & (cell < cells)
    fine = torch.where(visible, (z / depth.flatten(2)).clamp(max=1.0), torch.zeros_like(z))
    return z.new_zeros(batch, count, cells + 1).scatter_reduce(2, cell, fine, "amax")[..., :-1]


def choose(cover: Tensor, count: int, least: float = 0.3) -> tuple[Tensor, Tensor]:
    """Greedily the views that add most to what is covered: indices (B, count), and whether each adds enough (B, count).

    `cover` (B, K, cells) as `coverage` gives it (as WorldMem; Xiao et al., 2025).
    """
    best = torch.zeros_like(cover[:, 0])
    chosen, enough = [], []
    for _ in range(min(count, cover.shape[1])):
        gain = (cover - best[:, None]).clamp(min=0).sum(-1)  # (B, K)
        most, index = gain.max(1)
        chosen.append(index)
        enough.append(most > least)
        best = torch.maximum(best, cover.gather(1, index[:, None, None].expand(-1, 1, cover.shape[2]))[:, 0])
    return torch.stack(chosen, 1), torch.stack(enough, 1)


def apart(pose: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (units) and angle (radians, 0 to pi) between poses (..., 4)."""
    turn = torch.remainder(pose[..., 3] - other[..., 3] + torch.pi, 2 * torch.pi) - torch.pi
    return torch.linalg.vector_norm(pose[..., :3] - other[..., :3], dim=-1), turn.abs()
