"""Teaching a world to draw several steps in one pass: `Burst` learns where the steps of the dynamics lead.

The world is its own teacher. It dreams with held actions, step by step, and the burst is to draw the same from the
same noise: nothing is left to chance, so a plain squared error teaches it (as in the distillation of samplers; Luhman
and Luhman, 2021). No recording is needed.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from worldsim.errors import InvalidInput
from worldsim.media import contact_sheet
from worldsim.models.burst import Burst
from worldsim.models.dynamics import Dynamics
from worldsim.models.tokenizer import to_frames
from worldsim.sampling import draw, first_noise, look_back, step_noise
from worldsim.world import World, WorldState

ROWS = 64  # dreams in a batch of the teacher's
BURSTS = 20  # that a dream goes on for, before another one begins
REPEATED = 0.6  # chance that the next burst has the action of the one before
LIVELY = (1.0, 1.0, 2.0, 3.0)  # times the world's own surprise, from dream to dream: agents train with more of it


@dataclass(frozen=True)
class Lesson:
    """Bursts that the teacher has dreamed; F is their number, K the drawn latents of all their steps but the first."""

    tokens: Tensor  # (F, N, D), the history's output at the first step
    cond: Tensor  # (F, cond_dim)
    past: Tensor  # (F, 2, C, h, w), the frame that the first step drew and the one before
    noisy: Tensor  # (F, K, h, w), what the later steps were drawn from
    goal: Tensor  # (F, K, h, w), what they drew

    def drawn_by(self, burst: Burst, dynamics: Dynamics) -> Tensor:
        """What a burst draws in place of `goal`."""
        return burst(dynamics, self.tokens, self.cond, self.past, self.noisy)


class BurstLoss(nn.Module):
    """How far a burst is from its goal; called by the loop with (batch, step, generator)."""

    def __init__(self, burst: Burst, dynamics: Dynamics) -> None:
        super().__init__()
        self.burst = burst
        self._fixed = (dynamics,)  # in a tuple: its weights are not those that are trained

    def forward(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The fields of a `Lesson` -> loss and metrics."""
        drawn = Lesson(**batch).drawn_by(self.burst, self._fixed[0]).float()
        goal, last = batch["goal"].float(), batch["past"][:, 0].float()
        squared = (drawn - goal).square().unflatten(1, (self.burst.steps - 1, -1)).mean((0, 2, 3, 4))  # (steps - 1,)
        change = (goal - last.repeat(1, goal.shape[1] // last.shape[1], 1, 1)).square().mean()
        metrics = {f"error_{i + 2}": (value / change).detach() for i, value in enumerate(squared)}
        return squared.mean() / change, metrics


class BurstTask:
    """Everything the loop needs to train a burst of a world's."""

    kind = "burst"

    def __init__(self, world: World, steps: int, *, batch: int = 64, lessons: int = 32_768, seed: int = 0) -> None:
        if not world.config.actions.discrete:
            raise InvalidInput(f"world {world.config.name!r} has continuous actions; bursts are of discrete ones")
        if lessons < 1 or batch < 1:
            raise InvalidInput(f"{lessons} lessons in batches of {batch} teach nothing; give at least 1 each")
        self.world, self.steps, self.count, self.seed = world, steps, batch, seed
        torch.manual_seed(seed)  # the initial weights of what the dynamics has none for
        burst = Burst(world.config.dynamics, steps)
        burst.begin_as(world.dynamics)
        self.model = BurstLoss(burst, world.dynamics)
        self.frames_per_batch = batch * steps
        self._wanted = lessons

    @functools.cached_property
    def _lesson(self) -> Lesson:
        """Dreamed when it is first needed: a run that cannot begin is refused before that, which takes minutes."""
        return dream_lessons(self.world, self.steps, self._wanted, self.seed)

    def config(self) -> dict[str, Any]:
        """What a resumed run must share."""
        return {
            "world": self.world.spec.weights, "sampling": asdict(self.world.config.sampling), "steps": self.steps,
            "batch": self.count, "lessons": self._wanted, "seed": self.seed,
        }  # fmt: skip

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        """Some of the lessons; a pure function of (seed, step, rank)."""
        rng = np.random.default_rng([self.seed, step, rank])
        rows = torch.from_numpy(rng.integers(len(self._lesson.cond), size=self.count))
        return {name: tensor[rows] for name, tensor in vars(self._lesson).items()}

    @torch.inference_mode()
    def pictures(self, averaged: nn.Module) -> np.ndarray:
        """What the steps drew above what the burst draws: the last pictures of some bursts."""
        assert isinstance(averaged, BurstLoss)
        some = {name: tensor[:: max(len(tensor) // 8, 1)][:8] for name, tensor in vars(self._lesson).items()}
        device = self.world.device
        lesson = Lesson(**{name: tensor.to(device, torch.float32) for name, tensor in some.items()})
        dynamics = Dynamics(self.world.config.dynamics).to(device)
        dynamics.load_state_dict({n: t.float() for n, t in self.world.dynamics.state_dict().items()})
        drawn = lesson.drawn_by(averaged.burst, dynamics)
        c, d = self.world.config.tokenizer.channels, self.world.config.dynamics.drawn_channels
        rows = [to_frames(self.world.tokenizer.decode(z[:, -d : c - d or None].to(self.world.dtype)))
                for z in (lesson.goal, drawn)]  # fmt: skip
        return contact_sheet([row.cpu().numpy() for row in rows])


@torch.inference_mode()
def dream_lessons(world: World, steps: int, count: int, seed: int) -> Lesson:
    """At least `count` bursts of dreams from anywhere, drawn step by step; the same for the same arguments."""
    made: list[Lesson] = []
    rng = np.random.default_rng([seed, steps])
    start = "anywhere" if "anywhere" in world.spec.starts else "beginning"
    with tqdm(total=count, unit="burst", desc="dreaming lessons", mininterval=2.0) as bar:
        while (done := sum(len(lesson.cond) for lesson in made)) < count:
            lively = LIVELY[done // (ROWS * BURSTS) % len(LIVELY)] * world.config.sampling.surprise
            drawn = world.with_sampling(surprise=min(lively, 1.0))
            state = world.reset(range(done, done + ROWS), episode=[seed] * ROWS, start=start)
            actions = torch.from_numpy(world.config.actions.draw(rng, ROWS))
            for _ in range(BURSTS):
                fresh = torch.from_numpy(world.config.actions.draw(rng, ROWS))
                actions = torch.where(torch.from_numpy(rng.random(ROWS) < REPEATED), actions, fresh)
                state, lesson = _dream_one(drawn, state, actions.to(world.device), steps)
                made.append(lesson)
                bar.update(ROWS)
    return Lesson(*(torch.cat([getattr(lesson, name) for lesson in made]) for name in vars(made[0])))


def _dream_one(world: World, state: WorldState, actions: Tensor, steps: int) -> tuple[WorldState, Lesson]:
    """One burst, step by step, from the noise that a burst is drawn from."""
    dynamics, sampling = world.dynamics, world.config.sampling
    as_given = dataclasses.replace(sampling, temperature=1.0, surprise=0.0)  # the noise has them already
    pasts, outs, noises, frames = [state.past], [], [], []
    for i in range(steps):
        drawn_from = step_noise(dynamics, state.seed, state.episode, state.time + i)
        outs.append(look_back(dynamics, sampling, pasts[i], actions, state.cache, drawn_from.context))
        known = pasts[min(i, 1)]  # of later frames a burst knows nothing
        noises.append(first_noise(sampling, known, outs[i].ages, drawn_from))
        given = dataclasses.replace(drawn_from, picture=noises[i])
        frames.append(draw(dynamics, as_given, pasts[i], outs[i], given).latents)
        pasts.append(torch.stack([frames[i][:, : state.past.shape[2]], pasts[i][:, 0]], dim=1))
    new = WorldState(pasts[-1], state.cache, state.seed, state.episode, state.time + steps)
    kept = (outs[0].tokens, outs[0].cond, pasts[1], torch.cat(noises[1:], dim=1), torch.cat(frames[1:], dim=1))
    return new, Lesson(*(tensor.to("cpu", copy=True) for tensor in kept))
