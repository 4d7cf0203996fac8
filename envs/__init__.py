"""Gymnasium environments over a world, the real simulators as recording sources, and the play window."""

from worldsim.envs.state import EnvState
from worldsim.envs.vector_env import WorldVectorEnv
from worldsim.envs.world_env import WorldEnv

__all__ = ["EnvState", "WorldEnv", "WorldVectorEnv"]
