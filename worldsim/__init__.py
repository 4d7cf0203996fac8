"""worldsim: Gymnasium environments whose worlds are learned."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from worldsim.registration import register_worlds
from worldsim.spec import ActionSpec, WorldProtocol, WorldSpec, WorldStep

if TYPE_CHECKING:
    from worldsim.rollout import WorldState
    from worldsim.world import World

__version__ = "0.1.0"
__all__ = ["ActionSpec", "World", "WorldProtocol", "WorldSpec", "WorldState", "WorldStep"]

# Imported when they are asked for: they need PyTorch, which takes a second or more; recording and most of the command
# line do not.
_LATE = {"World": "worldsim.world", "WorldState": "worldsim.rollout"}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATE[name]), name)


register_worlds()
