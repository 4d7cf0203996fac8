"""Gymnasium environments over a world, the real simulators as recording sources, and the play window."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from worldsim.envs.state import EnvState
    from worldsim.envs.vector_env import WorldVectorEnv
    from worldsim.envs.world_env import WorldEnv

__all__ = ["EnvState", "WorldEnv", "WorldVectorEnv"]

# Imported when they are asked for, as in `worldsim`: sources need no PyTorch.
_LATE = {
    "EnvState": "worldsim.envs.state",
    "WorldEnv": "worldsim.envs.world_env",
    "WorldVectorEnv": "worldsim.envs.vector_env",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)
