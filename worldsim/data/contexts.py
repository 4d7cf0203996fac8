"""What memories that learn nothing say of recorded episodes, computed once and kept beside the latents.

They are gone through whole episodes, so that a training clip knows what was seen long before it, which clips of some
seconds do not show; and the time that geometry takes is paid once, not in every batch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from tqdm import tqdm

from worldsim.data.latents import LatentEpisodes, _rows_digest
from worldsim.io.files import replacing
from worldsim.memory.base import Memory, MemorySpec, Observed, Query
from worldsim.models.memories import Memories

EPISODES = 16  # gone through together
PARTS = ("guide", "mask")


def with_contexts(
    episodes: LatentEpisodes, memories: Memories, options: dict[str, Any], digest: str, folder: Path
) -> LatentEpisodes:
    """The episodes with what memories without weights say at every row of the next one, as arrays in `folder`.

    `options` are those of the modules, `digest` names the tokenizer's weights. Memories that give more than a guide
    and its mask are left to the clips.
    """
    contexts: dict[str, np.ndarray] = {}
    for name, memory in memories.without_weights():
        if replace(memory.spec, guide=0, gate=False) != MemorySpec():
            continue
        made_of = [_rows_digest(episodes.store), digest, name, options.get(name, {}), sorted(episodes.streams)]
        key = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:12]
        paths = {part: folder / f"{episodes.store.path.name}-{key}-{part}.npy" for part in PARTS}
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if not all(path.exists() for path in paths.values()):
                _compute(episodes, memory, paths, name)
        contexts |= {f"{name}.{part}": np.load(path, mmap_mode="r") for part, path in paths.items()}
    return replace(episodes, contexts=contexts)


@torch.no_grad()
def _compute(episodes: LatentEpisodes, memory: Memory, paths: dict[str, Path], name: str) -> None:
    """Write the guide and the mask of every row; of the last row of an episode, none."""
    count, grid = len(episodes.latents), episodes.latents.shape[2:]
    with replacing(paths["guide"]) as guides, replacing(paths["mask"]) as masks:
        made = {"mode": "w+", "dtype": np.float16}
        guide = np.lib.format.open_memmap(guides, shape=(count, memory.spec.guide, *grid[1:]), **made)
        mask = np.lib.format.open_memmap(masks, shape=(count, 1, *grid[1:]), **made)
        generator = torch.Generator().manual_seed(0)
        firsts = np.concatenate([[0], episodes.ends[:-1]])
        title = f"{name} of {episodes.store.path.name}"
        for index in tqdm(range(0, len(firsts), EPISODES), desc=title, unit_scale=EPISODES, unit="episode"):
            some = slice(index, index + EPISODES)
            _go_through(episodes, memory, firsts[some], episodes.ends[some], guide, mask, generator)


def _go_through(
    episodes: LatentEpisodes, memory: Memory, firsts: np.ndarray, ends: np.ndarray, guide: np.ndarray, mask: np.ndarray,
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
        guide[rows[live]] = context.guide.float().numpy()[live]
        mask[rows[live]] = 1.0 if context.mask is None else context.mask.float().numpy()[live]


def _streams(episodes: LatentEpisodes, rows: np.ndarray) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.asarray(values[rows])) for name, values in episodes.streams.items()}
