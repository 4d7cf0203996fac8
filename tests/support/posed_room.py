"""A square room painted by smooth waves, its frames and exact depth from any pose, and a store of walks in it."""

import numpy as np
import torch
from recordings import basic_streams
from tiny import ACTIONS

from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import Episodes, EpisodesMeta
from worldsim.memory.geometry import Camera
from worldsim.spec import StreamSpec

FOCAL = (0.5, 0.6)
MOTIONS = np.array([[3.0, 0, 0], [0, 0, 0.25], [0, 0, -0.25]], np.float32)  # of the three actions


def room(pose: torch.Tensor, camera: Camera) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames (B, 3, H, W) in [0, 1] and depth (B, H, W) of a room with walls 100 units from its middle, at `pose`."""
    across, down = camera.rays()
    yaw = pose[:, 3, None]
    east, north = torch.cos(yaw) + across * torch.sin(yaw), torch.sin(yaw) - across * torch.cos(yaw)
    walls = [
        (torch.where(d > 0, 100 - pose[:, i, None], -100 - pose[:, i, None]) / d) for i, d in enumerate((east, north))
    ]
    flat = torch.where(down > 0, 40.0, 60.0) / down.abs()
    depth = torch.minimum(torch.minimum(*walls)[:, None], flat[:, None])
    x = pose[:, 0, None, None] + depth * east[:, None]
    y = pose[:, 1, None, None] + depth * north[:, None]
    z = -depth * down[:, None]
    tones = ((1, 2, 1), (2, -1, 2), (1, 1, -2))
    waves = [0.5 + 0.5 * torch.sin(0.06 * (a * x + b * y + c * z) + a) for a, b, c in tones]
    return torch.stack(waves, 1), depth


def poses(*rows: tuple[float, float, float]) -> torch.Tensor:
    """(x, y, yaw) each -> (B, 4)."""
    return torch.tensor([[x, y, 0.0, yaw] for x, y, yaw in rows])


def posed_streams(height: int, width: int) -> dict[str, StreamSpec]:
    """What a store of posed frames has besides frames."""
    return {
        "pose": StreamSpec("vector", (4,), "float32"),
        "motion": StreamSpec("vector", (3,), "float32"),
        "depth": StreamSpec("depth", (height, width), "float16", (1.0,), (1000.0,)),
    }


def posed_episodes(path, *, episodes=4, length=60, seed=0) -> Episodes:
    """Walks in the room, 16x32 pixels: ahead for a while, round for a while; most places are seen again."""
    camera, rng = Camera(16, 32, FOCAL), np.random.default_rng(seed)
    meta = EpisodesMeta("room", ACTIONS, basic_streams(16, 32) | posed_streams(16, 32), fps=10.0)
    with EpisodeWriter(path, meta) as writer:
        for _ in range(episodes):
            pose, motion, action = np.zeros(4, np.float32), np.zeros(3, np.float32), 0
            for t in range(length):
                frames, depth = room(torch.from_numpy(pose)[None], camera)
                writer.append({
                    "rgb": (frames[0] * 255).byte().permute(1, 2, 0).numpy(), "action": action,
                    "reward": np.float32(0), "terminated": False, "truncated": t == length - 1, "pose": pose,
                    "motion": motion, "depth": depth[0].numpy().astype(np.float16),
                })  # fmt: skip
                action = 1 if rng.random() < 0.8 else int(rng.integers(3))
                motion = MOTIONS[action]
                turned = np.float32(pose[3] + motion[2])
                step = motion[0] * np.array([np.cos(pose[3]), np.sin(pose[3])], np.float32)
                pose = np.array([*np.clip(pose[:2] + step, -60, 60), 0, turned], np.float32)
            writer.end_episode()
    return Episodes.open(path)
