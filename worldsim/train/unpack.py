"""From a world's folder back to a training run, so that a world can be trained on, with more data or more time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from worldsim.data.latents import load_tokenizer, weights_digest
from worldsim.errors import InvalidInput
from worldsim.io.files import write_json
from worldsim.io.folders import find_world
from worldsim.io.weights import read_world
from worldsim.train.add_audio import STAGES
from worldsim.train.checkpoint import save_checkpoint
from worldsim.train.export import RECORD, read_records


def unpack_world(name: str | Path, run: Path, *, sound: bool = False) -> None:
    """Write the checkpoints that `worldsim train … --resume` goes on from: weights, but no optimizer state.

    With `sound` that of the world is among them, so that `worldsim train add-audio` gives it to what is made of the
    run; it fits as long as the tokenizer stays the same.

    `name` is a shipped name, a local folder or a hub id. Raises InvalidInput if the folder holds a run already or the
    world has no sound that was asked for, and DamagedWorld for a world that cannot be read.
    """
    folder = find_world(name)
    files = read_world(folder)
    records = read_records(folder / RECORD)
    for kind in ("tokenizer", "dynamics", *STAGES):
        if (run / f"{kind}.safetensors").exists():
            raise InvalidInput(f"{run} holds a {kind} already; unpack into a new folder")
    c = files.config
    if sound and c.audio is None:
        raise InvalidInput(f"world {str(name)!r} has no sound; unpack it without")
    dynamics = {"model": asdict(c.dynamics), "reward_scale": c.reward_scale}
    _unpack("tokenizer", "tokenizer.", files.model, {"model": asdict(c.tokenizer)}, run, records)
    _unpack("dynamics", "dynamics.", files.model, dynamics, run, records)
    if sound and c.audio is not None:
        # The head knows the latents that it was trained on by the tokenizer's weights.
        head = {"model": asdict(c.audio), "tokenizer": weights_digest(load_tokenizer(run, "cpu"))}
        _unpack("audio-codec", "codec.", files.audio, {"model": asdict(c.audio.codec)}, run, records)
        _unpack("audio", "model.", files.audio, head, run, records)


def _unpack(
    kind: str, prefix: str, weights: Mapping[str, Tensor], config: dict[str, Any], run: Path, records: dict[str, Any]
) -> None:
    """Write the checkpoint of one part, whose weights have names that begin with `prefix`, and its record."""
    mine = {n: t.float() for n, t in weights.items() if n.startswith(prefix)}
    tensors = {f"{copy}.{n}": t.clone() for copy in ("model", "average") for n, t in mine.items()}
    calls = records[kind]["calls"] if kind in records else []
    step = int(calls[-1]["reached_step"]) if calls else 0
    plain = json.loads(json.dumps(config))  # tuples as lists, as a checkpoint has them
    save_checkpoint(run / f"{kind}.safetensors", tensors, {"kind": kind, "step": step, "config": plain})
    if kind in records:
        write_json(run / f"{kind}.json", records[kind], indent=None)
