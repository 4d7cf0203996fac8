"""A toy set for action tokens: a dot in latents that moves as the actions say, and is to come to the goal."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from worldsim.data.episodes import Episodes
from worldsim.data.latents import LatentEpisodes, cache_latents

SHAPE = (4, 2, 4)  # of the latents of `small_training.fixed_tokenizer`
WIDTH = 0.5  # of the dot, where the plane is from -1 to 1


def latents_of(place: np.ndarray) -> np.ndarray:
    """A dot at places (..., 2), (..., 4, 2, 4) float32: every latent is bright near a place of its own."""
    rng = np.random.default_rng(0)
    centres = rng.uniform(-1, 1, (*SHAPE, 2))
    far = np.square(place[..., None, None, None, :] - centres).sum(-1)
    return (4 * np.exp(-far / (2 * WIDTH**2)) - 1).astype(np.float32)


def dots(store: Episodes, run: Path, tokenizer: object, streams: tuple[str, ...]) -> LatentEpisodes:
    """The episodes of a point robot, seen as dots; `streams` come with them."""
    clips = cache_latents(tokenizer, store, run, "cpu", streams=streams)  # type: ignore[arg-type]
    place = store.read("proprio", 0, store.num_steps)
    return dataclasses.replace(clips, latents=latents_of(place)[:, None].astype(np.float16))
