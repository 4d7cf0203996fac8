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
from worldsim.train.clips import ClipConfig, Clips
from worldsim.train.dream import dream
from worldsim.train.dynamics_loss import DynamicsLoss, LossConfig
from worldsim.train.latents import LatentEpisodes, weights_digest

SELDOM_OLDER = 0.99  # share of the rows up to an age beyond which a world is told no more of it


class DynamicsTask:
    """Everything the loop needs to train the dynamics on latent episodes."""

    kind = "dynamics"

    def __init__(
        self, stores: list[LatentEpisodes], tokenizer: Tokenizer,
        *, batch: int = 2, clip: int = 32, patch: tuple[int, int] = (8, 1), seed: int = 0,
        loss: LossConfig | None = None, clips: ClipConfig | None = None,
        reward_scale: float | None = None, oldest: int | None = None,
    ) -> None:  # fmt: skip
        """`reward_scale` and `oldest` are those of the weights to go on with.

        By default the mean size of the data's rewards, and the age that one row of a hundred is beyond.
        """
        if clip < 2:
            raise InvalidInput(f"clip is {clip}; give at least 2 steps, so that there is a past to learn from")
        self.tokenizer, self.count, self.steps, self.seed = tokenizer, batch, clip, seed
        meta, between = stores[0].store.meta, stores[0].latents.shape[1] - 1
        grid = tokenizer.config
        if oldest is None:
            ages = np.concatenate([np.arange(length) for s in stores for length in s.store.lengths])
            oldest = max(int(np.quantile(ages, SELDOM_OLDER)), 1)
        self.settings = DynamicsConfig(
            channels=grid.channels, height=grid.latent_height, width=grid.latent_width, patch=patch,
            actions=meta.actions.n, action_dim=len(meta.actions.low), between=between, window=clip - 1,
            oldest=oldest, action_start=meta.actions.start,
        )  # fmt: skip
        torch.manual_seed(seed)  # the initial weights only
        # Rewards are learned in units of their usual size, so that a world of tiny rewards is no harder.
        sizes = np.concatenate([np.abs(s.rewards) for s in stores])
        usual = float(sizes[sizes > 0].mean()) if (sizes > 0).any() else 1.0
        self.reward_scale = usual if reward_scale is None else reward_scale
        self.model = DynamicsLoss(Dynamics(self.settings), self.reward_scale, loss or LossConfig())
        self.frames_per_batch = batch * clip
        self._clips = Clips(stores, clip, clips or ClipConfig())

    def config(self) -> dict[str, Any]:
        """What a resumed run must share."""
        return {
            "model": {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self.settings).items()},
            "batch": self.count, "clip": self.steps, "seed": self.seed, "reward_scale": self.reward_scale,
            "tokenizer": weights_digest(self.tokenizer), "loss": asdict(self.model.config),
            "clips": asdict(self._clips.config),
        }  # fmt: skip

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        """Clips of steps + 1 rows; a pure function of (seed, step, rank).

        What `Clips.draw` gives, stacked.
        """
        rng = np.random.default_rng([self.seed, step, rank])
        clips = [self._clips.draw(rng) for _ in range(self.count)]
        return {name: torch.from_numpy(np.stack([clip[name] for clip in clips])) for name in clips[0]}

    def pictures(self, averaged: nn.Module) -> np.ndarray:
        """Recorded row above dreamed row, two clips, every fourth step."""
        assert isinstance(averaged, DynamicsLoss)
        rows = []
        for index in range(2):
            clip = self._clips.draw(np.random.default_rng([self.seed, index]))
            latents = torch.from_numpy(clip["latents"].astype(np.float32))
            actions, ages = torch.from_numpy(clip["actions"]), torch.from_numpy(clip["ages"][:1])
            settings = SamplingConfig()
            dreamed = dream(averaged.dynamics, settings, latents[None], actions[None], ages, context=4, seed=index)
            for z in (latents[::4, 0], dreamed[0, ::4, 0]):
                device = next(self.tokenizer.parameters()).device
                rows.append(to_frames(self.tokenizer.decode(z.to(device))).cpu().numpy())
        return contact_sheet(rows)
