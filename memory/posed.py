"""A store of frames with their depths and poses, of fixed capacity: what memories of places remember.

A frame is kept where it shows something new: no kept one is near in place and direction (novelty gating, as Memory
Forcing; Huang et al., 2025). When the store is full, of the two kept frames that are most alike the later one goes, so
that first sights stay. The last frame is there in any case.

Frames lie in `capacity` + 2 slots, and a write goes to a slot that the tree before does not read: that tree still reads
as it did, so a step can be undone, and nothing is copied but the new frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldsim.memory.geometry import Camera, Views, apart

Posed = dict[str, Tensor]
# frames (B, S, 3, H, W) uint8, depth (B, S, H, W) float16, pose (B, S, 4) float32 and step (B, S) int64 of S slots;
# keys (B, capacity) int64 the slots of kept frames, count (B,) int64 how many of these there are, last (B,) int64.


@dataclass(frozen=True)
class Gate:
    """How many frames are kept, and which."""

    capacity: int = 128
    near: float = 32.0  # units of the pose: nearer than this to a kept frame, a frame is new only by its direction
    turn: float = 0.26  # radians: nearer than this to the direction of a kept frame, only by its place


def empty(gate: Gate, camera: Camera, batch: int) -> Posed:
    """Nothing seen yet."""
    slots, size = gate.capacity + 2, (camera.height, camera.width)
    return {
        "frames": torch.zeros(batch, slots, 3, *size, dtype=torch.uint8),
        "depth": torch.ones(batch, slots, *size, dtype=torch.float16),
        "pose": torch.zeros(batch, slots, 4),
        "step": torch.full((batch, slots), -1),
        "keys": torch.zeros(batch, gate.capacity, dtype=torch.int64),
        "count": torch.zeros(batch, dtype=torch.int64),
        "last": torch.zeros(batch, dtype=torch.int64),
    }


def kept(tree: Posed) -> Tensor:
    """Which of the keys are in use, (B, capacity) bool."""
    return torch.arange(tree["keys"].shape[1], device=tree["keys"].device) < tree["count"][:, None]


def write(gate: Gate, tree: Posed, frames: Tensor, depth: Tensor, pose: Tensor, step: Tensor) -> Posed:
    """With a new last frame: frames (B, 3, H, W) uint8, depth (B, H, W), pose (B, 4), step (B,)."""
    rows = torch.arange(len(pose), device=pose.device)
    there, keys = kept(tree), tree["keys"]
    slot = _free_slot(tree, there)
    tree["frames"][rows, slot] = frames
    tree["depth"][rows, slot] = depth.clamp(1e-3, 6e4).to(torch.float16)
    poses, steps = tree["pose"].clone(), tree["step"].clone()
    poses[rows, slot], steps[rows, slot] = pose.float(), step
    known = poses.gather(1, keys[..., None].expand(-1, -1, 4))  # (B, capacity, 4)
    far, turned = apart(known, pose[:, None].float())
    new = ~(there & (far < gate.near) & (turned < gate.turn)).any(1)
    place = torch.where(tree["count"] < gate.capacity, tree["count"], _redundant(gate, known, steps.gather(1, keys)))
    place = place.clamp(max=gate.capacity - 1)
    new_keys = keys.clone()
    new_keys[rows, place] = torch.where(new, slot, keys[rows, place])
    count = torch.where(new, (tree["count"] + 1).clamp(max=gate.capacity), tree["count"])
    return {**tree, "pose": poses, "step": steps, "keys": new_keys, "count": count, "last": slot}


def _free_slot(tree: Posed, there: Tensor) -> Tensor:
    """A slot that this tree does not read, (B,): there are two more than keys, and one is the last frame's."""
    used = torch.zeros_like(tree["step"], dtype=torch.int64)
    used.scatter_add_(1, tree["keys"], there.long())
    used.scatter_add_(1, tree["last"][:, None], torch.ones_like(tree["last"])[:, None])
    return (used == 0).long().argmax(1)


def _redundant(gate: Gate, pose: Tensor, step: Tensor) -> Tensor:
    """Of the two kept frames that are most alike, the later one, as an index into the keys, (B,)."""
    direction = torch.stack([torch.cos(pose[..., 3]), torch.sin(pose[..., 3])], -1) / gate.turn
    place = torch.cat([pose[..., :3] / max(gate.near, 1e-6), direction], -1)
    distance = torch.cdist(place, place) + torch.eye(pose.shape[1], device=pose.device) * 1e9
    alike = distance.flatten(1).argmin(1)
    first, second = alike // pose.shape[1], alike % pose.shape[1]
    later = step.gather(1, first[:, None]) > step.gather(1, second[:, None])
    return torch.where(later[:, 0], first, second)


def views(tree: Posed, slots: Tensor, worth: Tensor) -> Views:
    """The views in some slots (B, K) that are worth so much (B, K)."""
    rows = torch.arange(len(slots), device=slots.device)[:, None]
    frames, depth = tree["frames"][rows, slots].float() / 255, tree["depth"][rows, slots].float()
    return Views(frames, depth, tree["pose"][rows, slots], worth)
