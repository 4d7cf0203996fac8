"""What memories that learn nothing say of recorded episodes, computed once and kept beside the latents.

They are gone through whole episodes, so that a training clip knows what was seen long before it, which clips of some
seconds do not show; and the time that geometry takes is paid once, not in every batch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from worldsim.data.latents import LatentEpisodes
from worldsim.data.stream_cache import cached, rows_digest
from worldsim.memory.base import Memory, MemorySpec, Observed, Query
from worldsim.models.memories import Memories
from worldsim.runtime.devices import autocast_dtype

EPISODES = 16  # gone through together


def with_contexts(
    episodes: LatentEpisodes, memories: Memories, options: dict[str, Any], digest: str, folder: Path
) -> LatentEpisodes:
    """The episodes with what memories without weights say at every row of the next one, as arrays in `folder`.

    `options` are those of the modules, `digest` names the tokenizer's weights. Memories that give more than a guide
    and its mask are left to the clips.
    """
    contexts: dict[str, np.ndarray] = {}
    for name, memory in memories.without_weights():
        if replace(memory.spec, guide=0, gate=False, base=False) != MemorySpec():
            continue
        said = options.get(name, {})
        made_of = {
            "rows": len(episodes.latents), "store": rows_digest(episodes.store), "tokenizer": digest, "memory": name,
            "options": {key: list(one) if isinstance(one, tuple) else one for key, one in said.items()},
        }  # fmt: skip
        place = folder / f"{episodes.store.path.name}-{name}-{len(episodes.latents)}"
        both = cached(place, made_of, partial(_compute, episodes, memory, name))
        guide = memory.spec.guide
        contexts |= {f"{name}.guide": both[:, :guide], f"{name}.mask": both[:, guide:]}
    return replace(episodes, contexts=contexts)


@torch.no_grad()
def _compute(episodes: LatentEpisodes, memory: Memory, name: str, path: Path) -> None:
    """Write guide and mask of every row, (T, guide + 1, h, w); of the last row of an episode, none."""
    shape = (len(episodes.latents), memory.spec.guide + 1, *episodes.latents.shape[3:])
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float16, shape=shape)
    generator, firsts = torch.Generator().manual_seed(0), np.concatenate([[0], episodes.ends[:-1]])
    title = f"{name} of {episodes.store.path.name}"
    for index in tqdm(range(0, len(firsts), EPISODES), desc=title, unit_scale=EPISODES, unit="episode"):
        some, dtype = slice(index, index + EPISODES), autocast_dtype(torch.device("cpu"))
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):  # as latents of frames are encoded
            _go_through(episodes, memory, firsts[some], episodes.ends[some], array, generator)
    array.flush()


def _go_through(
    episodes: LatentEpisodes, memory: Memory, firsts: np.ndarray, ends: np.ndarray, array: np.ndarray,
    generator: torch.Generator,
) -> None:  # fmt: skip
    """Some episodes in step; those that are over repeat their last row, which is not kept."""
    tree, batch = memory.empty(len(firsts)), len(firsts)
    for t in range(int((ends - firsts).max()) - 1):
        rows, following = np.minimum(firsts + t, ends - 1), np.minimum(firsts + t + 1, ends - 1)
        now, ahead = _streams(episodes, rows), _streams(episodes, following)
        latents = torch.from_numpy(episodes.latents[rows, 0].astype(np.float32))
        led, next_actions = torch.from_numpy(episodes.actions[rows]), torch.from_numpy(episodes.actions[following])
        ages = torch.from_numpy(rows - firsts)
        tree = memory.write(tree, Observed(latents, now, led if t else None, ages))
        query = Query(latents, next_actions, ages, now, ahead, latents.new_zeros(batch, 0, 0), generator)
        context = memory.read(tree, query)
        live = firsts + t + 1 < ends
        assert context.guide is not None
        array[rows[live], :-1] = context.guide.float().numpy()[live]
        array[rows[live], -1:] = 1.0 if context.mask is None else context.mask.float().numpy()[live]


def _streams(episodes: LatentEpisodes, rows: np.ndarray) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(values[rows])) for name, values in episodes.streams.items()}
