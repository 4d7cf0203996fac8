"""A video of an agent at play, in a dream or in the real game."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv

from worldsim.io.media import save_video
from worldsim.policies.agent import Agent
from worldsim.policies.agent_envs import dream_envs, real_envs
from worldsim.world import World


def film(
    agent: Agent, world: World, out: Path, *, real: bool = False, trust_source: bool = False, decisions: int = 300
) -> list[Path]:
    """Write `dream.mp4` of an agent in the world and, with `real`, `real.mp4` in the real game; returns their paths."""
    pace = world.spec.steps_per_second  # a step of the real game shows one frame, a dreamed one all of them
    shown = {"dream": (dream_envs(world, 1, agent.observation, between=True), pace * world.spec.frames_per_step)}
    if real:
        shown["real"] = real_envs(world, 1, agent.observation, between=True, trust_source=trust_source), pace
    try:
        for place, (envs, fps) in shown.items():
            record_video(agent, envs, out / f"{place}.mp4", decisions=decisions, fps=fps)
    finally:
        for envs, _ in shown.values():
            envs.close()
    return [out / f"{place}.mp4" for place in shown]


def record_video(
    policy: PolicyPredictor, envs: VecEnv, path: Path, *, decisions: int, fps: float, seed: int = 0, scale: int = 4
) -> None:
    """Write an MP4 of the first row of `envs`, which were made with `between`, until its episode ends.

    `fps` counts frames: decisions a second times the frames of one. At most `decisions` are shown.
    """
    envs.seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        save_video(path, _frames(policy, envs, decisions), fps, scale=scale)


def _frames(policy: PolicyPredictor, envs: VecEnv, decisions: int) -> Iterator[np.ndarray]:
    observation = envs.reset()
    yield _shown(envs)
    for _ in range(decisions):
        actions, _ = policy.predict(observation, deterministic=True)  # type: ignore[arg-type]
        observation, _, dones, infos = envs.step(actions)
        yield from infos[0].get("between", ())
        if dones[0]:  # what the row shows by now is its next episode
            return
        yield _shown(envs)


def _shown(envs: VecEnv) -> np.ndarray:
    frame = envs.get_images()[0]
    assert frame is not None
    return frame
