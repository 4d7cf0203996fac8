"""From a world's folder back to a training run, so that a world can be trained on, with more data or more time."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from worldsim.errors import InvalidInput
from worldsim.io.files import write_json
from worldsim.io.folders import find_world
from worldsim.io.weights import read_world
from worldsim.train.checkpoint import save_checkpoint
from worldsim.train.export import RECORD, read_records


def unpack_world(name: str | Path, run: Path) -> None:
    """Write the checkpoints that `worldsim train … --resume` goes on from: weights, but no optimizer state.

    `name` is a shipped name, a local folder or a hub id. Raises InvalidInput if the folder holds a run already, and
    DamagedWorld for a world that cannot be read.
    """
    folder = find_world(name)
    files = read_world(folder)
    records = read_records(folder / RECORD)
    settings: dict[str, dict[str, Any]] = {
        "tokenizer": {"model": asdict(files.config.tokenizer)},
        "dynamics": {"model": asdict(files.config.dynamics), "reward_scale": files.config.reward_scale},
    }
    for kind in settings:
        if (run / f"{kind}.safetensors").exists():
            raise InvalidInput(f"{run} holds a {kind} already; unpack into a new folder")
    for kind, config in settings.items():
        mine = {n: t.float() for n, t in files.model.items() if n.startswith(f"{kind}.")}
        tensors = {f"{copy}.{n}": t.clone() for copy in ("model", "average") for n, t in mine.items()}
        calls = records[kind]["calls"] if kind in records else []
        step = int(calls[-1]["reached_step"]) if calls else 0
        plain = json.loads(json.dumps(config))  # tuples as lists, as a checkpoint has them
        save_checkpoint(run / f"{kind}.safetensors", tensors, {"kind": kind, "step": step, "config": plain})
        if kind in records:
            write_json(run / f"{kind}.json", records[kind], indent=None)
