"""Training tasks small enough for tests: narrow networks on a store of three short episodes."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lively import randomise

from worldsim.data.episodes import Episodes
from worldsim.data.latents import LatentEpisodes, cache_latents
from worldsim.models.dynamics import DynamicsConfig
from worldsim.models.tokenizer import Tokenizer, TokenizerConfig
from worldsim.train import dynamics_task
from worldsim.train.dynamics_task import DynamicsTask
from worldsim.train.loop import LoopConfig, Trainer
from worldsim.train.tokenizer_task import TokenizerTask

FRAMES = TokenizerConfig(
    height=16, width=32, channels=4, encoder_widths=(8, 8, 16), decoder_widths=(8, 8, 16), blocks=1
)
PATCH = (2, 1)
CLIP = 8

narrow = functools.partial(
    DynamicsConfig, dim=32, heads=2, mlp_ratio=2, history_blocks=1, denoiser_blocks=1, latent_decoder_blocks=1,
    cond_dim=16, local=16,
)  # fmt: skip


def brief(steps: int, **options: Any) -> LoopConfig:
    """A loop of so many steps with a learning rate that depends on the step alone."""
    return LoopConfig(steps=steps, **{"warmup": 1, "cooldown": 0.0, "lr": 3e-3, "ema": 0.9, "device": "cpu", **options})


def tokenizer_task(store: Episodes, *, batch: int = 4, seed: int = 0) -> TokenizerTask:
    return TokenizerTask([store], FRAMES, batch=batch, seed=seed)


def fixed_tokenizer() -> Tokenizer:
    torch.manual_seed(0)
    tokenizer = Tokenizer(FRAMES)
    randomise(tokenizer)
    return tokenizer.eval().requires_grad_(False)


def latent_store(store: Episodes, run: Path) -> LatentEpisodes:
    return cache_latents(fixed_tokenizer(), store, run, "cpu")


def narrow_dynamics_task(
    stores: list[LatentEpisodes], monkeypatch: Any, *, batch: int = 4, clip: int = CLIP, seed: int = 0, **recipe: Any
) -> DynamicsTask:
    monkeypatch.setattr(dynamics_task, "DynamicsConfig", narrow)
    return DynamicsTask(stores, fixed_tokenizer(), batch=batch, clip=clip, patch=PATCH, seed=seed, **recipe)


def train(task: Any, config: LoopConfig, out: Path, *, resume: bool = False) -> Trainer:
    trainer = Trainer(task, config, out, resume=resume)
    trainer.run(lambda values, step: None, lambda frame, step: None)
    return trainer


def loss_of(task: Any, *, batches: int = 4, metric: str | None = None) -> float:
    """The mean loss, or one of its metrics, over batches that training does not reach."""
    values = []
    for index in range(batches):
        generator = torch.Generator().manual_seed(index)
        with torch.no_grad():
            loss, metrics = task.model(task.batch(100_000 + index, 0), 0, generator)
        values.append(float(loss if metric is None else metrics[metric]))
    return float(np.mean(values))
