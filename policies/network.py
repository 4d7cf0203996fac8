"""The agent's networks and how PPO trains them: small, for two processor cores that also dream."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch.nn.functional as F
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from worldsim.policies.observation import ObservationConfig

# For 32 worlds: 1,024 decisions between updates of 16 gradient steps, which take less time than the decisions.
PPO_OPTIONS: dict[str, Any] = {
    "n_steps": 32, "batch_size": 512, "n_epochs": 8, "learning_rate": 5e-4, "gae_lambda": 0.9,
    "clip_range": 0.2, "ent_coef": 0.01, "vf_coef": 0.5, "max_grad_norm": 0.5,
}  # fmt: skip
# Options of PPO that are numbers: an agent's file holds them, so that it is trained on as it was.
NUMBERS = (*PPO_OPTIONS, "gamma", "target_kl", "clip_range_vf")
# Discount of one step of a world, whatever an agent holds its actions for. Looks 140 steps ahead.
STEP_DISCOUNT = 0.993


class LatentCNN(BaseFeaturesExtractor):
    """Features of stacked latents (C, h, w), whose grid is too small for the network that Atari frames have."""

    def __init__(self, observation_space: gym.spaces.Box, features_dim: int = 128, width: int = 32) -> None:
        super().__init__(observation_space, features_dim)
        channels, height, self.columns = observation_space.shape
        self.rows = height
        self.near = nn.Sequential(
            nn.Conv2d(channels, width, 1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
        )
        places = -(-height // 2) * -(-self.columns // 2)
        # Space to depth: on CPUs the backward pass of a strided convolution is slow.
        self.far = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(4 * width, 2 * width, 1), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(2 * width * places, features_dim), nn.ReLU(),
        )  # fmt: skip

    def forward(self, observations: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, features_dim)."""
        near = self.near(observations)
        return self.far(F.pad(near, (0, self.columns % 2, 0, self.rows % 2)))


def ppo_options(observation: ObservationConfig) -> dict[str, Any]:
    """How PPO trains an agent that acts as often as `observation` says."""
    return {**PPO_OPTIONS, "gamma": STEP_DISCOUNT**observation.hold}


def make_ppo(
    envs: VecEnv, observation: ObservationConfig, *, seed: int = 0, tensorboard: str | None = None, **options: Any
) -> PPO:
    """An untrained agent for these environments; `options` go to PPO in place of `ppo_options`."""
    chosen = {**ppo_options(observation), **options}
    chosen["batch_size"] = min(chosen["batch_size"], chosen["n_steps"] * envs.num_envs)
    policy, network = _networks(observation)
    return PPO(policy, envs, policy_kwargs=network, seed=seed, tensorboard_log=tensorboard, device="cpu", **chosen)


def make_policy(
    observation: ObservationConfig, shape: tuple[int, ...], actions: gym.spaces.Space[Any]
) -> ActorCriticPolicy:
    """The networks of `make_ppo` alone, with weights drawn at random, for stacked observations of `shape` (C, h, w)."""
    policy, network = _networks(observation)
    low, high, dtype = (-np.inf, np.inf, np.float32) if observation.kind == "latents" else (0, 255, np.uint8)
    return policy(gym.spaces.Box(low, high, shape, dtype), actions, lambda _: 0.0, ortho_init=False, **network)


def _networks(observation: ObservationConfig) -> tuple[type[ActorCriticPolicy], dict[str, Any]]:
    """The class of a policy that observes so, and its options."""
    heads = {"net_arch": {"pi": [64], "vf": [64]}}
    if observation.kind == "latents":
        return ActorCriticPolicy, {**heads, "features_extractor_class": LatentCNN}
    return ActorCriticCnnPolicy, {**heads, "features_extractor_kwargs": {"features_dim": 128}}
