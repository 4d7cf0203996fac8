"""Training data and bookkeeping of the dynamics; the loss is in `dynamics_loss`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.data.clips import ALONE, STREAM, ClipConfig, Clips, change_scale
from worldsim.data.contexts import with_contexts
from worldsim.data.latents import LatentEpisodes, latent_range, weights_digest
from worldsim.data.outcomes import outcomes
from worldsim.errors import InvalidInput
from worldsim.io.media import contact_sheet
from worldsim.memory.base import Codec
from worldsim.models.dynamics import HEADS, Dynamics, DynamicsConfig, usual_conditions
from worldsim.models.heads import Reads
from worldsim.models.registry import Scale
from worldsim.models.tokenizer import Tokenizer, to_frames
from worldsim.sampling.sampler import SamplingConfig
from worldsim.train.dream import dream
from worldsim.train.dynamics_loss import DynamicsLoss, LossConfig

# Fields of `DynamicsConfig` that say something of the data.
STATISTICS = ("max_time", "action_scale", "scales", "latent_low", "latent_high")
SELDOM_OLDER = 0.99  # share of the rows up to an age beyond which a world is told no more of it


class DynamicsTask:
    """Everything the loop needs to train the dynamics on latent episodes."""

    kind = "dynamics"

    def __init__(
        self, stores: list[LatentEpisodes], tokenizer: Tokenizer,
        *, batch: int = 2, clip: int = 32, patch: tuple[int, int] = (8, 1), seed: int = 0,
        loss: LossConfig | None = None, clips: ClipConfig | None = None,
        reward_scale: float | None = None, changed: float | None = None, begun: DynamicsConfig | None = None,
        conditions: tuple[str, ...] | None = None, heads: tuple[str, ...] = HEADS, period: int = 1,
        head_reads: dict[str, Reads] | None = None, memories: tuple[str, ...] = (), foreseen: tuple[str, ...] = (),
        options: dict[str, dict[str, Any]] | None = None, cache: Path | None = None,
        redraw: bool = False, history_blocks: int = 4, denoiser_blocks: int = 2, action_tokens: int = 0,
    ) -> None:  # fmt: skip
        """`conditions`, `heads` and `memories` name the modules of the model; their streams come with the stores.

        `head_reads` says what a head reads, where that is not the history alone, or the head's own choice; `options`
        are those of modules, by name. Frames are drawn to fit the streams `foreseen` as heads predict them, and with
        `redraw` anew, not as changes of the last one. With `action_tokens` the next so many actions are denoised
        together with the frame. In the folder `cache` is kept what memories without weights say of the stores;
        without it they are gone through in every clip.

        With a `period` above 1 the model is also told the phase of a clock that strikes every so many steps.

        `reward_scale`, `changed` and `begun` are those of the weights to go on with; by default what they say of the
        data is taken from it: the mean size of rewards, that of changes (`change_scale`), the age that one row of a
        hundred is beyond, means and deviations.
        """
        if clip < 2:
            raise InvalidInput(f"clip is {clip}; give at least 2 steps, so that there is a past to learn from")
        self.tokenizer, self.count, self.steps, self.seed = tokenizer, batch, clip, seed
        meta, between = stores[0].store.meta, stores[0].latents.shape[1] - 1
        for name in stores[0].streams:
            shapes = {store.streams[name].shape[1:] for store in stores}
            if len(shapes) > 1:
                raise InvalidInput(f"stream {name!r} has shapes {sorted(shapes)}; train on stores of one kind")
        grid = tokenizer.config
        conditions = usual_conditions(action_tokens) if conditions is None else conditions
        statistics = _statistics(stores)
        if begun is not None:
            kept = {name: getattr(begun, name) for name in STATISTICS}
            statistics |= {name: value for name, value in kept.items() if value != ()}  # weights of old know no limits
        self.settings = DynamicsConfig(
            channels=grid.channels, height=grid.latent_height, width=grid.latent_width, patch=patch,
            actions=meta.actions.n, action_dim=len(meta.actions.low), between=between, context_length=clip - 1,
            action_start=meta.actions.start, output_heads=heads, period=period,
            conditions=(*conditions, "episode_phase") if period > 1 else conditions,
            head_reads=dict(head_reads or {}), memories=memories, foreseen=foreseen,
            redraw=redraw, history_blocks=history_blocks, denoiser_blocks=denoiser_blocks, action_tokens=action_tokens,
            options=dict(options or {}),
            streams={name: meta.streams[name] for name in stores[0].streams}, **statistics,
        )  # fmt: skip
        torch.manual_seed(seed)  # the initial weights only
        # Rewards are learned in units of their usual size, so that a world of tiny rewards is no harder.
        sizes = np.concatenate([np.abs(s.rewards) for s in stores])
        usual = float(sizes[sizes > 0].mean()) if (sizes > 0).any() else 1.0
        self.reward_scale = usual if reward_scale is None else reward_scale
        self.change_scale = change_scale(stores) if changed is None else changed
        scales = self.reward_scale, self.change_scale
        self.model = DynamicsLoss(Dynamics(self.settings), *scales, loss or LossConfig())
        if self.model.dynamics.redrawn is not None:
            self.model.dynamics.redrawn.background.data.copy_(_mean_latents(stores))
        recall = self.model.dynamics.memories
        if recall is not None:
            recall.bind(Codec(tokenizer.encode, tokenizer.decode))
            if cache is not None:
                digest, said = weights_digest(tokenizer), self.settings.options
                stores = [with_contexts(one, recall, said, digest, cache) for one in stores]
        self.frames_per_batch = batch * clip
        ahead: dict[str, Any] = {}
        if action_tokens:
            flag, soon = _success(heads), self.model.config.soon
            ahead = {"ahead": action_tokens, "outcomes": [outcomes(store, flag, soon) for store in stores]}
        self._clips = Clips(stores, clip, clips or ClipConfig(), **ahead)

    def config(self) -> dict[str, Any]:
        """What a resumed run must share."""
        return {
            "model": json.loads(json.dumps(asdict(self.settings))),
            "batch": self.count, "clip": self.steps, "seed": self.seed,
            "reward_scale": self.reward_scale, "change_scale": self.change_scale,
            "tokenizer": weights_digest(self.tokenizer), "loss": asdict(self.model.config),
            "clips": asdict(self._clips.config),
        }  # fmt: skip

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        """Clips of steps + 1 rows; a pure function of (seed, step, rank).

        What `Clips.draw` gives, stacked.
        """
        rng, loss = np.random.default_rng([self.seed, step, rank]), self.model.config
        count, streams = loss.single_frames, self.model.dynamics.heads.streams_read_off
        batch: dict[str, np.ndarray] = {}
        single = np.random.default_rng([self.seed, step]).random() < loss.single_steps
        if not (count and streams and single) or torch.distributed.is_initialized():
            clips = [self._clips.draw(rng) for _ in range(self.count)]
            batch = {name: np.stack([clip[name] for clip in clips]) for name in clips[0]}
        if count and streams:
            alone = self._clips.draw_frames(count, rng, sorted(streams))
            batch |= {f"{ALONE}{name}": values for name, values in alone.items()}
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def measure(self, averaged: nn.Module) -> None:
        """Nothing: all that the dynamics knows is learned, or was measured before training."""

    def preview(self, averaged: nn.Module) -> np.ndarray:
        """Recorded row above dreamed row, two clips, every fourth step."""
        assert isinstance(averaged, DynamicsLoss)
        rows = []
        for index in range(2):
            clip = self._clips.draw(np.random.default_rng([self.seed, index]))
            latents = torch.from_numpy(clip["latents"].astype(np.float32))
            actions, ages = torch.from_numpy(clip["actions"]), torch.from_numpy(clip["ages"][:1])
            settings = SamplingConfig()
            recorded = {n: torch.from_numpy(clip[f"{STREAM}{n}"])[None] for n in self.settings.streams}
            dreamed = dream(
                averaged.dynamics, settings, latents[None], actions[None], ages, recorded, context=4, seed=index
            )
            for z in (latents[::4, 0], dreamed[0, ::4, 0]):
                device = next(self.tokenizer.parameters()).device
                rows.append(to_frames(self.tokenizer.decode(z.to(device))).cpu().numpy())
        return contact_sheet(rows)


def _statistics(stores: list[LatentEpisodes]) -> dict[str, Any]:
    """What a model is told of its data: the fields STATISTICS of its config."""
    ages = np.concatenate([np.arange(length) for s in stores for length in s.store.lengths])
    meta = stores[0].store.meta
    led = np.concatenate([np.delete(s.actions, s.ends - s.store.lengths, axis=0) for s in stores])  # not to a reset
    scales = {}
    for name in stores[0].streams:
        kind, parts = meta.streams[name].kind, [s.streams[name] for s in stores]
        if kind == "vector":
            scales[name] = _scale(np.concatenate(parts))
        elif kind == "depth":
            scales[name] = _log_scale(parts)
    ranges = [latent_range(s) for s in stores]
    return {
        "latent_low": tuple(np.min([low for low, _ in ranges], axis=0).tolist()),
        "latent_high": tuple(np.max([high for _, high in ranges], axis=0).tolist()),
        "max_time": max(int(np.quantile(ages, SELDOM_OLDER)), 1),
        "action_scale": Scale() if meta.actions.discrete or not len(led) else _scale(led),
        "scales": scales,
    }


def _mean_latents(stores: list[LatentEpisodes]) -> Tensor:
    """Of the frames of some thousand rows, (C, h, w)."""
    some = [store.latents[:: max(len(store.latents) // 2000, 1), 0].astype(np.float32) for store in stores]
    return torch.from_numpy(np.concatenate(some).mean(0))


def _scale(values: np.ndarray) -> Scale:
    """Mean and deviation of rows (T, ...); what never changes has deviation 1."""
    flat = values.reshape(len(values), -1).astype(np.float64)
    std = flat.std(axis=0)
    return Scale(tuple(flat.mean(axis=0).tolist()), tuple(np.where(std > 1e-6, std, 1.0).tolist()))


def _log_scale(parts: list[np.ndarray]) -> Scale:
    """Mean and deviation of the logarithm of depths (T, H, W), all pixels alike, of some thousand rows."""
    some = np.concatenate([rows[:: max(len(rows) // 2000, 1)] for rows in parts]).astype(np.float64)
    logs = np.log(some.clip(1e-3))
    return Scale((float(logs.mean()),), (max(float(logs.std()), 1e-3),))


def modules_of(
    stores: list[LatentEpisodes], foreseen: Sequence[str] = (), action_tokens: int = 0
) -> dict[str, tuple[str, ...]]:
    """The conditions and heads of a model that learns the stores' streams.

    Vectors are conditions and are predicted, unless they stay what they are for a whole episode; those that are
    `foreseen` by the head `motion`. Depth is read off the drawn frame. Tokens are tasks, and booleans are predicted.
    With action tokens the action is none of the conditions.
    """
    specs = stores[0].store.meta.streams
    vectors = [name for name in stores[0].streams if specs[name].kind == "vector"]
    tokens = [name for name in stores[0].streams if specs[name].kind == "token"]
    flags = [name for name in tokens if specs[name].dtype == "bool"]
    moving = [name for name in vectors if any(_moves(store, name) for store in stores)]
    predicted = tuple(_module("motion" if name in foreseen else "proprio", name) for name in moving)
    depth = tuple(_module("depth", name) for name in stores[0].streams if specs[name].kind == "depth")
    return {
        "conditions": (
            *usual_conditions(action_tokens),
            *(_module("proprio", name) for name in vectors),
            *(_module("task", name) for name in tokens if name not in flags),
        ),
        "heads": (*HEADS, *predicted, *depth, *(_module("success", name) for name in flags)),
    }


def _success(heads: Sequence[str]) -> str | None:
    """The stream that the first head `success` predicts; None where there is no such head."""
    named = (name.partition(":") for name in heads)
    return next((stream or kind for kind, _, stream in named if kind == "success"), None)


def _module(kind: str, stream: str) -> str:
    """The name of a module for a stream."""
    return kind if kind == stream else f"{kind}:{stream}"


def _moves(store: LatentEpisodes, name: str) -> bool:
    """Whether a stream changes inside an episode."""
    values = store.streams[name]
    changed = (values[1:] != values[:-1]).reshape(max(len(values) - 1, 0), -1).any(1)
    changed[store.ends[:-1] - 1] = False  # from one episode to the next
    return bool(changed.any())
