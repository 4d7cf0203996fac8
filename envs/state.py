"""The whole of one environment's state, to return to it, to hand it on, or to write it to a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worldsim.envs.progress import Counters
from worldsim.errors import InvalidInput
from worldsim.spec import WorldProtocol
from worldsim.tree import clone
from worldsim.tree_io import load_extra, load_tree, save_tree

EXTRA = {"world": str, "step": int, "episode": int, "seed": int, "ended": bool}  # kept beside the tree in a file


@dataclass(frozen=True)
class EnvState:
    """A state that can be restored any number of times, into a `WorldEnv` or a row of a `WorldVectorEnv`."""

    world: str  # which world made it: its name and the fingerprint of its weights
    tree: Any  # the world's own state, a batch of one
    step: int  # steps taken in this episode
    episode: int  # resets since the environment was last seeded
    seed: int
    ended: bool  # whether the next call has to be a reset

    def save(self, path: Path | str) -> None:
        """Write the state to a .safetensors file; raises InvalidInput where that cannot be."""
        counters = {"step": self.step, "episode": self.episode, "seed": self.seed, "ended": self.ended}
        save_tree(path, self.tree, {"world": self.world, **counters})

    @classmethod
    def load(cls, path: Path | str, world: WorldProtocol) -> EnvState:
        """Read a state of the same world; raises InvalidInput when it is damaged or another world's."""
        extra = load_extra(path)
        if {name: type(value) for name, value in extra.items()} != EXTRA:
            raise InvalidInput(f"{str(path)!r} holds no environment's state; pass a file that EnvState.save wrote")
        if extra["world"] != _identity(world):
            raise InvalidInput(f"{str(path)!r} is a state of {extra['world']!r}, not of {_identity(world)!r}")
        with torch.no_grad():
            template = world.reset([0])
        return cls(tree=load_tree(path, template), **extra)


def pack(world: WorldProtocol, tree: Any, counters: Counters) -> EnvState:
    """Join a world's state (a batch of one, not copied) and the counters."""
    assert counters.seed is not None
    return EnvState(_identity(world), tree, counters.step, counters.episode, counters.seed, counters.ended)


def unpack(world: WorldProtocol, state: EnvState) -> tuple[Any, Counters]:
    """The world's state, copied, and the counters; raises InvalidInput for a state of another world."""
    if not isinstance(state, EnvState):
        raise InvalidInput(f"a {type(state).__name__} is no state; pass what save_state() returned")
    if state.world != _identity(world):
        raise InvalidInput(f"this is a state of world {state.world!r}, not of {_identity(world)!r}")
    return clone(state.tree), Counters(state.seed, state.episode, state.step, state.ended)


def _identity(world: WorldProtocol) -> str:
    return f"{world.spec.name} {world.spec.weights}".strip()
