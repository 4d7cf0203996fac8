"""Policies that play real simulators for data, by name: they cover what can happen there.

Sources bring policies of their own and say which suit them (`worldsim.envs.sources.registry`).
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from worldsim.envs.sources.base import SourceSpec, TimeStep
from worldsim.envs.sources.registry import MIX, POLICIES, mix_of, player_of, resolve
from worldsim.errors import InvalidInput, MissingDependency
from worldsim.policies.data_policy import Action, DataPolicy, DataPolicyClass

__all__ = ["DataPolicy", "Mix", "make_policy", "policy_needs"]

AGENT = "agent:"  # and the path of a saved agent


class Mix:
    """Draws one of several policies for each episode."""

    def __init__(self, names: tuple[str, ...], spec: SourceSpec) -> None:
        self._names = names
        self._policies = {name: _made(name, spec) for name in names}
        self.current = names[0]  # name of the policy of this episode

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode with one policy drawn by `rng`."""
        self.current = self._names[int(rng.integers(len(self._names)))]
        self._policies[self.current].reset(rng)

    def act(self, row: TimeStep) -> Action:
        """What the drawn policy does."""
        return self._policies[self.current].act(row)


def policy_needs(name: str, source: str) -> frozenset[str]:
    """Optional streams that a policy must see, known before the source is made."""
    if name.startswith(AGENT) or player_of(source) is not None:
        return frozenset()
    return frozenset(need for part in _parts(name, source) for need in _policy_class(part).needs)


def make_policy(name: str, spec: SourceSpec) -> DataPolicy:
    """A data policy by name, some with a number ("lane:0.5"); "mix" draws one that suits the source for each episode.

    "agent:" and a file is a trained agent.

    Raises InvalidInput for an unknown name, or a source without the actions or streams that the policy needs.
    """
    if name.startswith(AGENT):
        return _agent_policy(spec, name.removeprefix(AGENT))
    if (plays := player_of(spec.name)) is not None:
        return cast(DataPolicy, plays(spec, name))
    parts = _parts(name, spec.name)
    missing = policy_needs(name, spec.name) - set(spec.extras)
    if missing:
        raise InvalidInput(
            f"policy {name!r} needs {', '.join(sorted(missing))}, which {spec.name!r} does not give; use another policy"
        )
    return Mix(parts, spec) if name == MIX else _made(name, spec)


def _policy_class(name: str) -> DataPolicyClass:
    kind = name.partition(":")[0]
    if kind not in POLICIES:
        raise InvalidInput(
            f"unknown policy {name!r}; the policies are mix, {', '.join(POLICIES)}, agent:PATH.safetensors"
        )
    return cast(DataPolicyClass, resolve(POLICIES[kind]))


def _made(name: str, spec: SourceSpec) -> DataPolicy:
    """The policy of a name; what follows a colon is a number that it takes, such as its skill."""
    kind, colon, number = name.partition(":")
    made: Any = _policy_class(kind)
    if not colon:
        return cast(DataPolicy, made(spec))
    try:
        return cast(DataPolicy, made(spec, float(number)))
    except (TypeError, ValueError) as error:
        raise InvalidInput(
            f"policy {name!r} is no {kind} with a number that it takes ({error}); give {kind!r}"
        ) from error


def _agent_policy(spec: SourceSpec, path: str) -> DataPolicy:
    try:
        from worldsim.policies.agent_data import AgentPolicy
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f'agents need Stable-Baselines3 ({error}); get it with pip install "worldsim[rl]"'
        ) from error
    return AgentPolicy(spec, path)


def _parts(name: str, source: str) -> tuple[str, ...]:
    return mix_of(source) if name == MIX else (name,)
