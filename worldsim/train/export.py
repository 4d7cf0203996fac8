"""From a finished training run to a world's folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.config import SourceConfig, WorldConfig, check_world_name
from worldsim.data.episodes import Episodes
from worldsim.data.latents import encode_frames, load_tokenizer
from worldsim.errors import DamagedWorld, InvalidInput
from worldsim.io.files import read_json, write_json
from worldsim.io.starts import Starts
from worldsim.io.weights import WorldFiles, read_card, write_world
from worldsim.models.dynamics import Dynamics, DynamicsConfig
from worldsim.models.ensemble import Members
from worldsim.models.shapes import shapes_only
from worldsim.models.state_heads import Exact
from worldsim.models.tokenizer import Tokenizer
from worldsim.sampling.sampler import SamplingConfig
from worldsim.train.checkpoint import load_checkpoint, setting
from worldsim.train.record import TrainingRecord, checked_record

CONTEXT = 3  # frames of a start
TRAINED = ("tokenizer", "dynamics", "decoder", "audio-codec", "audio")  # the stages that keep a `TrainingRecord`
RECORD = "training.json"  # how the weights came to be: time, steps, loss curves


def export_world(
    name: str, stores: list[Episodes], run: Path, out: Path,
    *, starts: int, context: int = CONTEXT, sampling: SamplingConfig | None = None,
) -> None:  # fmt: skip
    """Write the averaged weights in bf16; an existing card is kept.

    The training record comes with them, as training.json. Raises InvalidInput for a name that a world cannot have.
    """
    check_world_name(name)
    tokenizer = load_tokenizer(run)
    path = run / "dynamics.safetensors"
    if not path.exists():
        raise InvalidInput(f"{path} does not exist; run `worldsim train dynamics --out {run}` first")
    tensors, meta = load_checkpoint(path)
    source = stores[0].meta
    config = WorldConfig(
        name=name,
        source=SourceConfig(
            source.source, source.fps, source.frame_skip, source.pixel_aspect, source.max_episode_steps,
            dict(source.source_parameters),
        ),
        actions=source.actions,
        tokenizer=tokenizer.config,
        dynamics=setting(path, meta, "model", DynamicsConfig),
        sampling=sampling or SamplingConfig(),
        reward_scale=setting(path, meta, "reward_scale", float),
    )  # fmt: skip
    card = read_card(out) or f"# {name}\n"
    with shapes_only():
        dynamics = Dynamics(config.dynamics)
    read_off = dynamics.heads.streams_read_off  # depth is a hundred times as large as latents
    streams = tuple(name for name in config.dynamics.streams if name not in read_off)
    packed = pick_starts(tokenizer, stores, starts, streams, context).to_tensors()
    write_world(out, WorldFiles(config, _weights(tokenizer, tensors, dynamics), packed, card))
    records = {kind: TrainingRecord(run / f"{kind}.json").to_json() for kind in ("tokenizer", "dynamics")}
    write_json(out / RECORD, records, indent=None)


def read_records(path: Path) -> dict[str, Any]:
    """The training records of a world, by stage; none where none ship. Raises DamagedWorld."""
    try:
        records = read_json(path) if path.exists() else {}
        if not isinstance(records, dict):
            raise ValueError("it has no stages")
        return {kind: checked_record(record) if kind in TRAINED else record for kind, record in records.items()}
    except (OSError, ValueError) as error:
        raise DamagedWorld(f"training record {path} cannot be read ({error}); restore it, or delete it") from error


def _averaged(tensors: Mapping[str, Tensor], part: str) -> dict[str, Tensor]:
    """The averaged weights of one part of a model."""
    prefix = "average."
    return {n[len(prefix) :]: t for n, t in tensors.items() if n.startswith(prefix + part)}


def _weights(tokenizer: Tokenizer, tensors: dict[str, Tensor], dynamics: Dynamics) -> dict[str, Tensor]:
    """All in bf16 but what computes in float32."""
    modules = dynamics.named_modules()
    exact = tuple(f"dynamics.{name}." for name, module in modules if isinstance(module, Exact | Members))
    weights = {f"tokenizer.{n}": t for n, t in tokenizer.state_dict().items()} | _averaged(tensors, "dynamics.")
    return {name: t if name.startswith(exact) else t.to(torch.bfloat16) for name, t in weights.items()}


def pick_starts(
    tokenizer: Tokenizer, stores: list[Episodes], count: int, streams: Sequence[str] = (), context: int = CONTEXT
) -> Starts:
    """Half of the starts are beginnings of episodes, half lie anywhere but at an end, any row as likely as another.

    Each has `context` frames. Raises InvalidInput where no episode is longer than twice that.
    """
    if context < 1:
        raise InvalidInput(f"context is {context}; give at least one frame for a start to begin with")
    rng = np.random.default_rng(0)
    places = [(store, int(e - n), int(e)) for store in stores for e, n in zip(store.ends, store.lengths, strict=True)]
    places = [p for p in places if p[2] - p[1] > 2 * context]
    if not places:
        raise InvalidInput(f"no episode is longer than {2 * context} steps; record longer episodes to take starts from")
    begin = [places[i] for i in np.linspace(0, len(places) - 1, max(count // 2, 1)).astype(int)]
    firsts = [(store, first, 0) for store, first, _ in begin]  # store, row, age
    # By rows, not by episodes: most of the time in a game is spent in the long ones, and late in them.
    widths = np.array([end - 2 * context - first for _, first, end in places])
    lasts = np.cumsum(widths)
    for nth in ((np.arange(len(begin)) + rng.random(len(begin))) / len(begin) * lasts[-1]).astype(int):
        index = int(np.searchsorted(lasts, nth, side="right"))
        store, first, _ = places[index]
        age = int(nth - (lasts[index] - widths[index]))
        firsts.append((store, first + age, age))
    frames = [store.frames(tokenizer.config.cameras, row, row + context) for store, row, _ in firsts]
    latents = np.stack([encode_frames(tokenizer, one).cpu().numpy() for one in frames])
    actions = np.stack([store.read("action", row + 1, row + context) for store, row, _ in firsts])
    ages = np.array([age for *_, age in firsts])
    others = {name: np.stack([store.read(name, row, row + context) for store, row, _ in firsts]) for name in streams}
    return Starts.pack(latents, actions, ages, len(begin), others)
