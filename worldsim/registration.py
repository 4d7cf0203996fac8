"""The gymnasium ids of the worlds that ship; strings only: importing worldsim imports no environment."""

from __future__ import annotations

import re

import gymnasium as gym

from worldsim.io.folders import shipped_worlds


def env_id_of(world: str) -> str:
    """The gymnasium id of a shipped world: `some-world` is SomeWorld-v0, `some-world-v1` is SomeWorld-v1."""
    name, version = re.fullmatch(r"(.+?)(?:-v(\d+))?", world).groups(default="0")  # type: ignore[union-attr]
    return f"worldsim/{''.join(word[:1].upper() + word[1:] for word in re.split('[-_.]+', name))}-v{version}"


# id -> name of the world. No max_episode_steps: the environments keep the recorded game's limit themselves,
# so that a restored state knows how far it is; gymnasium's own wrapper would count a second time. No order or
# passive checks by gymnasium either: the environments have errors of their own, and a state may be restored
# into a fresh environment, which those wrappers would take for one that was never reset.
WORLDS = {env_id_of(name): name for name in shipped_worlds()}


def register_worlds() -> None:
    """Register every shipped world for `gym.make` and `gym.make_vec`; may be called twice."""
    for env_id, name in WORLDS.items():
        if env_id not in gym.registry:
            gym.register(
                env_id,
                entry_point="worldsim.envs.world_env:WorldEnv",
                vector_entry_point="worldsim.envs.vector_env:WorldVectorEnv",
                order_enforce=False,
                disable_env_checker=True,
                kwargs={"world": name},
            )
