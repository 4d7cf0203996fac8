"""Policies that play real simulators for data, by name: they cover what can happen there."""

from __future__ import annotations

import numpy as np

from worldsim.envs.sources.base import Row, SourceSpec
from worldsim.envs.sources.doom_take_cover import Dodge, Sweep
from worldsim.envs.sources.wandering import Return, Spin, Wander
from worldsim.errors import InvalidInput, MissingDependency
from worldsim.policies.data_policy import Action, DataPolicy, DataPolicyClass, PersistentRandom, UniformRandom

__all__ = ["MIXES", "POLICIES", "DataPolicy", "Mix", "make_policy", "policy_needs"]

POLICIES: dict[str, DataPolicyClass] = {
    "random": UniformRandom,
    "persistent": PersistentRandom,
    "sweep": Sweep,
    "dodge": Dodge,
    "wander": Wander,
    "spin": Spin,
    "return": Return,
}
# What `mix` draws from for each episode, by source; a name that stands twice is drawn twice as often.
MIXES = {
    "doom-take-cover": ("random", "persistent", "sweep", "dodge", "dodge"),
    "doom-my-way-home": ("persistent", "wander", "wander", "spin", "return"),
}
DEFAULT_MIX = ("random", "persistent")
AGENT = "agent:"  # and the path of a saved agent


class Mix:
    """Draws one of several policies for each episode."""

    def __init__(self, names: tuple[str, ...], spec: SourceSpec) -> None:
        self._names = names
        self._policies = {name: POLICIES[name](spec) for name in names}
        self.current = names[0]  # name of the policy of this episode

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode with one policy drawn by `rng`."""
        self.current = self._names[int(rng.integers(len(self._names)))]
        self._policies[self.current].reset(rng)

    def act(self, row: Row) -> Action:
        """What the drawn policy does."""
        return self._policies[self.current].act(row)


def policy_needs(name: str, source: str) -> frozenset[str]:
    """Optional streams that a policy must see, known before the source is made."""
    if name.startswith(AGENT):
        return frozenset()
    return frozenset(need for part in _parts(name, source) for need in POLICIES[part].needs)


def make_policy(name: str, spec: SourceSpec) -> DataPolicy:
    """A data policy by name, "mix", which draws one that suits the source for each episode, or "agent:" and a file.

    Raises InvalidInput for an unknown name, or a source without the actions or streams that the policy needs.
    """
    if name.startswith(AGENT):
        return _agent_policy(spec, name.removeprefix(AGENT))
    parts = _parts(name, spec.name)
    missing = policy_needs(name, spec.name) - set(spec.extras)
    if missing:
        raise InvalidInput(
            f"policy {name!r} needs {', '.join(sorted(missing))}, which {spec.name!r} does not give; use another policy"
        )
    return Mix(parts, spec) if name == "mix" else POLICIES[name](spec)


def _agent_policy(spec: SourceSpec, path: str) -> DataPolicy:
    try:
        from worldsim.policies.agent_data import AgentPolicy
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f'agents need Stable-Baselines3 ({error}); get it with pip install "worldsim[rl]"'
        ) from error
    return AgentPolicy(spec, path)


def _parts(name: str, source: str) -> tuple[str, ...]:
    if name == "mix":
        return MIXES.get(source, DEFAULT_MIX)
    if name not in POLICIES:
        raise InvalidInput(
            f"unknown policy {name!r}; the policies are mix, {', '.join(POLICIES)}, agent:PATH.safetensors"
        )
    return (name,)
