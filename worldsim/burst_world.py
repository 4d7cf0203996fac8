"""A world that draws several steps of one action in one pass: `BurstWorld`, a sampler of its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.actions import check_actions
from worldsim.engine import Eager
from worldsim.errors import InvalidInput
from worldsim.holding import HeldStep, held_spec
from worldsim.sampling import draw_burst, look_back, step_noise
from worldsim.spec import Pictures, Stages, WorldSpec, WorldStep
from worldsim.stages import finish
from worldsim.world import World, WorldState, check_step


class BurstWorld:
    """A world each step of which is `world.config.burst` steps of a learned world with the same action.

    All of them are drawn at once, by a head that has learned where the dynamics' own steps lead
    (`worldsim.models.burst`), and read by the history at once, which is less work than one after the other. What it
    draws is nearly what `HeldWorld` draws, and like that a function of (weights, state, action, noise): on the same
    device the same seed gives the same bytes. The states are those of the learned world; either can go on from the
    other's.
    Raises InvalidInput for a world that has no such head, or that is compiled.
    """

    def __init__(self, world: World) -> None:
        if world.burst is None:
            raise InvalidInput(
                f"world {world.config.name!r} has not learned to draw bursts; run `worldsim train burst`, or hold "
                "actions step by step"
            )
        if not isinstance(world.engine, Eager):
            raise InvalidInput("bursts are not compiled; pass the world uncompiled")
        self.world = world
        self.burst = world.burst
        self.spec: WorldSpec = held_spec(world.spec, self.burst.steps)

    def __deepcopy__(self, memo: dict[int, Any]) -> BurstWorld:
        """As the world does: weights are shared."""
        return BurstWorld(copy.deepcopy(self.world, memo))

    def with_sampling(self, **changes: Any) -> BurstWorld:
        """As the world does."""
        return BurstWorld(self.world.with_sampling(**changes))

    def reset(self, seed: Sequence[int], **options: Any) -> WorldState:
        """As the world does."""
        return self.world.reset(seed, **options)

    def step(
        self, state: WorldState, actions: np.ndarray, *, pictures: Pictures = "all"
    ) -> tuple[WorldState, WorldStep]:
        """Take the same actions for all steps of a burst; arguments and errors as the world has them."""
        return finish(self.stages(state, actions, pictures=pictures))

    @torch.inference_mode()
    def stages(self, state: WorldState, actions: np.ndarray, *, pictures: Pictures = "all") -> Stages:
        """`step` in stages."""
        world, steps = self.world, self.burst.steps
        check_step(state, pictures)
        taken = torch.as_tensor(check_actions(world.config.actions, actions, len(state.time)), device=world.device)
        dynamics, sampling = world.dynamics, world.config.sampling
        noises = [step_noise(dynamics, state.seed, state.episode, state.time + i) for i in range(steps)]
        yield "history"
        seen = look_back(dynamics, sampling, state.past, taken, state.cache, noises[0].context)
        yield "drawing"
        drawn = draw_burst(dynamics, self.burst, sampling, state.past, seen, noises)
        latents = drawn.unflatten(2, (-1, world.config.tokenizer.channels))  # (B, steps, 1 + between, C, h, w)
        held = HeldStep(len(taken))
        held.add(world.outcome(state, latents[:, 0], seen.reward, seen.end_logit))
        yield "catching up"
        past = _pasts(state.past, latents[:, :, 0])  # (B, steps, 2, C, h, w)
        context = torch.stack([one.context for one in noises[1:]], dim=1)
        later = look_back(
            dynamics, sampling, past[:, :-1].flatten(0, 1), taken.repeat_interleave(steps - 1, dim=0), state.cache,
            context.flatten(0, 1), steps - 1,
        )  # fmt: skip
        reward, end_logit = (a.unflatten(0, (-1, steps - 1)) for a in (later.reward, later.end_logit))
        for i in range(1, steps):
            at = WorldState(state.past, state.cache, state.seed, state.episode, state.time + i)
            held.add(world.outcome(at, latents[:, i], reward[:, i - 1], end_logit[:, i - 1]))
        new = WorldState(past[:, -1], state.cache, state.seed, state.episode, state.time + steps)
        yield "decoding"
        return new, held.outcome(self._shown(new, latents, pictures))

    def _shown(self, new: WorldState, latents: Tensor, pictures: Pictures) -> list[np.ndarray]:
        """The pictures that are asked for, (B, H, W, 3) each, oldest first."""
        if pictures == "none":
            return []
        if pictures == "frame":
            return [self.world.render(new)]
        in_order = torch.cat([latents[:, :, 1:], latents[:, :, :1]], dim=2).flatten(1, 2)  # a step's own frame is last
        return [picture.copy() for picture in np.moveaxis(self.world.decode(in_order), 1, 0)]

    def render(self, state: WorldState) -> np.ndarray:
        """As the world does."""
        return self.world.render(state)

    def latents(self, state: WorldState) -> np.ndarray:
        """As the world does."""
        return self.world.latents(state)


def _pasts(past: Tensor, frames: Tensor) -> Tensor:
    """The last frame and the one before after each of the steps that drew `frames` (B, steps, C, h, w)."""
    before = torch.cat([past[:, :1], frames[:, :-1]], dim=1)
    return torch.stack([frames, before], dim=2)
