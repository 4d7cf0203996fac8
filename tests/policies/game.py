"""Tiny worlds with random weights whose real games are at hand."""

import dataclasses

import counter_env
import numpy as np
from tiny import tiny_files

from worldsim.config import SourceConfig
from worldsim.io.starts import Starts
from worldsim.io.weights import WorldFiles
from worldsim.models.dynamics import Dynamics
from worldsim.models.tokenizer import Tokenizer
from worldsim.world import World

COUNTER = SourceConfig(f"gym:{counter_env.DISCRETE}", fps=12.0, frame_skip=1, max_episode_steps=8)


def with_source(files: WorldFiles, source: SourceConfig) -> World:
    return World(dataclasses.replace(files, config=dataclasses.replace(files.config, source=source)), device="cpu")


def counter_world(seed: int = 0, source: SourceConfig = COUNTER) -> World:
    """16x32 frames, three actions from 1 on, episodes of 8 steps at most, as the counter game has."""
    files = tiny_files(seed)
    config = dataclasses.replace(
        files.config,
        actions=dataclasses.replace(files.config.actions, start=1),
        dynamics=dataclasses.replace(files.config.dynamics, action_start=1),
    )
    starts = {**files.starts, "actions": files.starts["actions"] + 1}
    return with_source(dataclasses.replace(files, config=config, starts=starts), source)


def doom_world() -> World:
    """Decoding, actions and clock of take cover; nothing else of it."""
    files = tiny_files()
    tokenizer = dataclasses.replace(files.config.tokenizer, height=64, width=128)
    dynamics = dataclasses.replace(files.config.dynamics, height=8, width=16, patch=(8, 1))
    parts = {"tokenizer": Tokenizer(tokenizer), "dynamics": Dynamics(dynamics)}
    weights = {f"{part}.{n}": t for part, module in parts.items() for n, t in module.state_dict().items()}
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((4, 3, dynamics.channels, 8, 16), dtype=np.float32)
    starts = Starts.pack(latents, rng.integers(0, 3, (4, 2)), np.array([0, 0, 3, 4]), beginnings=2).to_tensors()
    config = dataclasses.replace(files.config, tokenizer=tokenizer, dynamics=dynamics)
    source = SourceConfig("doom-take-cover", fps=17.5, frame_skip=2, max_episode_steps=1050)
    return with_source(WorldFiles(config, weights, starts, ""), source)
