"""worldsim: Gymnasium environments whose worlds are learned."""

from worldsim.registration import register_worlds
from worldsim.rollout import WorldState
from worldsim.spec import ActionSpec, WorldProtocol, WorldSpec, WorldStep
from worldsim.world import World

__version__ = "0.1.0"
__all__ = ["ActionSpec", "World", "WorldProtocol", "WorldSpec", "WorldState", "WorldStep"]

register_worlds()
