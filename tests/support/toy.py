"""A world small enough to read: a bright bar walks over noise; all that the environments need of a world."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import torch

from worldsim.sampling import noise
from worldsim.sampling.sampler import SamplingConfig
from worldsim.spec import ActionSpec, WorldSpec, WorldStep

DISCRETE = ActionSpec(n=3, meanings=("NOOP", "LEFT", "RIGHT"), keys=((), ("left",), ("right", "d")))
CONTINUOUS = ActionSpec(low=(-1.0, -1.0), high=(1.0, 1.0))


@dataclass
class ToyState:
    """The batch's state; `step` writes into it, as the protocol allows."""

    position: torch.Tensor  # (B,) float32
    recent: torch.Tensor  # (B, 4) float32, a ring buffer as a real world has
    counters: dict[str, np.ndarray]  # seed, episode, step: (B,) int64


class ToyWorld:
    """A deterministic `WorldProtocol`; counts its calls."""

    def __init__(self, actions=DISCRETE, size=16, end=0.0, between=0, non_finite_at=None, limit=None, ages=False):
        self.spec = WorldSpec(
            name="toy", height=size, width=size, actions=actions, steps_per_second=17.5,
            frames_per_step=1 + between, max_episode_steps=limit, ages=ages,
        )  # fmt: skip
        self.end, self.between, self.non_finite_at = end, between, non_finite_at
        self.resets: list[tuple[int, int]] = []
        self.batches: list[int] = []

    def reset(self, seed, *, episode=None, frames=None, actions=None, age=(0,)):
        episode = [0] * len(seed) if episode is None else episode
        self.resets += list(zip(seed, episode, strict=True))
        step = np.zeros(len(seed), np.int64)
        counters = {"seed": np.array(seed, np.int64), "episode": np.array(episode, np.int64), "step": step}
        position = torch.from_numpy(noise.uniform(seed, episode, step, noise.STREAM_START, ()))
        if frames is not None:
            position += torch.from_numpy(frames.mean(axis=(1, 2, 3, 4))).float() + actions.sum() + age[0]
        return ToyState(position, torch.zeros(len(seed), 4), counters)

    def step(self, state, actions):
        self.batches.append(len(actions))
        count = state.counters
        count["step"] += 1
        key = (count["seed"], count["episode"], count["step"])
        move = torch.from_numpy(np.asarray(actions, np.float32).reshape(len(actions), -1).sum(axis=1))
        state.position += 0.1 * move + torch.from_numpy(noise.normal(*key, noise.STREAM_FRAME, ()))
        state.recent[range(len(actions)), count["step"] % 4] = state.position
        broken = count["step"] == (self.non_finite_at or -1)
        reward = np.where(broken, np.nan, state.recent.sum(dim=1).numpy()).astype(np.float32)
        terminated = noise.uniform(*key, noise.STREAM_END, ()) < self.end
        extras = {
            "non_finite": broken,
            "termination_probability": np.full(len(actions), self.end, np.float32),
        }
        if self.between:
            extras["between"] = np.stack([self.render(state) // 2] * self.between, axis=1)
        return state, WorldStep(self.render(state), reward, terminated, extras)

    def render(self, state):
        count = state.counters
        size = (self.spec.height, self.spec.width, 3)
        ground = noise.uniform(count["seed"], count["episode"], count["step"], noise.STREAM_FRAME, size) * 200
        place = (state.position.numpy() * 7).astype(int) % self.spec.width
        ground[np.arange(len(place)), :, place] = 255
        return ground.astype(np.uint8)


class LatentToy(ToyWorld):
    """A toy that offers latents, kinds of starts and a temperature; notes which frames it was asked for."""

    def __init__(self, **kwargs):
        super().__init__(**{"between": 1, **kwargs})
        self.spec = replace(self.spec, latent_shape=(2, 4, 4), starts=("beginning", "anywhere"))
        self.asked: list[str] = []
        self.begun: list[str] = []
        self.renders = 0
        self.sampling = SamplingConfig()

    def reset(self, seed, *, start="beginning", **options):
        self.begun += [start] * len(seed)
        return super().reset(seed, **options)

    def step(self, state, actions, *, decode="all"):
        self.asked.append(decode)
        state, step = super().step(state, actions)
        if decode != "all":
            del step.extras["between"]
        return state, step if decode != "none" else replace(step, frame=step.frame[:, :0, :0])

    def render(self, state):
        self.renders += 1
        return super().render(state)

    def latents(self, state):
        return np.tile(state.position.numpy().reshape(-1, 1, 1, 1), (1, *self.spec.latent_shape)).astype(np.float32)

    def with_sampling(self, sampling):
        other = copy.copy(self)
        other.sampling = sampling
        return other
