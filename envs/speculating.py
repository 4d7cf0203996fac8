"""Environments that compute ahead of time: what joins a world, an observer and a `Speculator`."""

from __future__ import annotations

from functools import partial

from worldsim.actions import check_action, check_actions
from worldsim.envs.observing import Observer
from worldsim.rollout import step_stages
from worldsim.spec import WorldProtocol
from worldsim.speculation import Speculation, Speculator
from worldsim.speculation.settings import check_speculation


def make_speculator(
    speculate: bool | Speculation | None, world: WorldProtocol, observer: Observer, num_envs: int | None, clip: bool
) -> Speculator:
    """What steps `num_envs` environments, or a single one (None), whose policy sees and acts without a batch axis.

    `clip` is for the actions that a policy proposes: what is done with those that are taken.
    """
    spec = world.spec.actions
    step = partial(step_stages, world, decode=observer.decode)
    check = (
        partial(check_actions, spec, rows=num_envs, clip=clip) if num_envs else partial(check_action, spec, clip=clip)
    )
    return Speculator(step, spec, num_envs or 1, check_speculation(speculate), check=check)
