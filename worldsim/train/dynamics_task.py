"""Training data and bookkeeping of the dynamics; the loss is in `dynamics_loss`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.errors import InvalidInput
from worldsim.media import contact_sheet
from worldsim.models.dynamics import Dynamics, DynamicsConfig
from worldsim.models.tokenizer import Tokenizer, to_frames
from worldsim.sampling import SamplingConfig
from worldsim.train.dream import dream
from worldsim.train.dynamics_loss import DynamicsLoss
from worldsim.train.latents import LatentEpisodes, weights_digest

# Share of the clips that are chosen for a row where much changes: an explosion fills the picture in one row of a
# hundred, and a dream that errs there is lost. Only what comes after that row is learned from: to learn from what leads
# up to it, in clips chosen because it came, would make it come too often in dreams.
EVENTFUL = 0.25
EMPHASIS = 4  # such a row's chance grows with its change to this power


class DynamicsTask:
    """Everything the loop needs to train the dynamics on latent episodes."""

    kind = "dynamics"

    def __init__(
        self, stores: list[LatentEpisodes], tokenizer: Tokenizer,
        *, batch: int = 4, clip: int = 16, patch: tuple[int, int] = (8, 1), seed: int = 0,
        reward_scale: float | None = None,
    ) -> None:  # fmt: skip
        """`reward_scale` (default: the mean size of the data's rewards) is that of the weights to go on with."""
        if clip < 2:
            raise InvalidInput(f"clip is {clip}; give at least 2 steps, so that there is a past to learn from")
        self.stores, self.tokenizer, self.clips, self.steps, self.seed = stores, tokenizer, batch, clip, seed
        meta, between = stores[0].store.meta, stores[0].latents.shape[1] - 1
        grid = tokenizer.config
        self.settings = DynamicsConfig(
            channels=grid.channels, height=grid.latent_height, width=grid.latent_width, patch=patch,
            actions=meta.actions.n, action_dim=len(meta.actions.low), between=between, window=clip - 1,
        )  # fmt: skip
        torch.manual_seed(seed)  # the initial weights only
        # Rewards are learned in units of their usual size, so that a world of tiny rewards is no harder.
        sizes = np.concatenate([np.abs(s.rewards) for s in stores])
        usual = float(sizes[sizes > 0].mean()) if (sizes > 0).any() else 1.0
        self.reward_scale = usual if reward_scale is None else reward_scale
        self.model = DynamicsLoss(Dynamics(self.settings), self.reward_scale)
        self.frames_per_batch = batch * clip
        self._rows = np.array([len(s.latents) for s in stores])
        # Running sums, to draw rows by how much changes in them.
        self._changes = [np.cumsum(changes(s) ** EMPHASIS) for s in stores]
        self._events = np.array([running[-1] for running in self._changes])

    def config(self) -> dict[str, Any]:
        """What a resumed run must share."""
        return {
            "model": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.settings).items()},
            "batch": self.clips, "clip": self.steps, "seed": self.seed, "reward_scale": self.reward_scale,
            "tokenizer": weights_digest(self.tokenizer),
        }  # fmt: skip

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        """Clips of steps + 1 rows; a pure function of (seed, step, rank)."""
        rng = np.random.default_rng([self.seed, step, rank])
        clips = [self._clip(rng) for _ in range(self.clips)]
        return {name: torch.from_numpy(np.stack([clip[name] for clip in clips])) for name in clips[0]}

    def _clip(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """One clip, plain or eventful. Of the plain ones every row of the data is met equally often."""
        eventful = rng.random() < EVENTFUL
        share = self._events if eventful else self._rows
        number = int(rng.choice(len(self.stores), p=share / share.sum()))
        store = self.stores[number]
        if eventful:
            row = int(np.searchsorted(self._changes[number], rng.random() * self._changes[number][-1]))
        else:
            row = int(rng.integers(len(store.latents)))
        episode = int(np.searchsorted(store.ends, row, side="right"))
        first, end = int(store.ends[episode - 1]) if episode else 0, int(store.ends[episode])
        low, high = (row - self.steps // 2, row) if eventful else (first - self.steps + 1, end - 1)
        start = int(np.clip(rng.integers(low, high), first, max(first, end - 1 - self.steps)))
        clip = np.arange(start, start + self.steps + 1)
        rows = np.minimum(clip, end - 1)  # a short episode repeats its last row
        return {
            "latents": store.latents[rows], "actions": store.actions[rows], "rewards": store.rewards[rows],
            "terminated": store.terminated[rows], "valid": (clip < end) & (clip > row if eventful else True),
        }  # fmt: skip

    def pictures(self, averaged: nn.Module) -> np.ndarray:
        """Recorded row above dreamed row, two clips, every fourth step."""
        assert isinstance(averaged, DynamicsLoss)
        rows = []
        for index in range(2):
            clip = self._clip(np.random.default_rng([self.seed, index]))
            latents = torch.from_numpy(clip["latents"].astype(np.float32))
            actions = torch.from_numpy(clip["actions"])
            dreamed = dream(averaged.dynamics, SamplingConfig(), latents[None], actions[None], context=4, seed=index)
            for z in (latents[::4, 0], dreamed[0, ::4, 0]):
                device = next(self.tokenizer.parameters()).device
                rows.append(to_frames(self.tokenizer.decode(z.to(device))).cpu().numpy())
        return contact_sheet(rows)


def changes(store: LatentEpisodes) -> np.ndarray:
    """Mean square change of the latents from the row before, (T,) float64; 0 for the first row of an episode.

    A sequence that never changes gets equal chances.
    """
    change = np.zeros(len(store.latents))
    for start in range(1, len(change), 2000):
        rows = store.latents[start - 1 : start + 2000, 0].astype(np.float32)
        change[start : start + 2000] = np.square(np.diff(rows, axis=0)).mean((1, 2, 3))
    change[np.concatenate([[0], store.ends[:-1]])] = 0
    return change if change.any() else np.ones_like(change)
