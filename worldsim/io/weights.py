"""What is in a world's folder, read and written: config, weights, starts and card (`worldsim.io.folders` finds it).

A folder may come from anybody: only regular files of a sensible size are read, and nothing is allocated for networks
that the weights are not of.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from worldsim.config import WorldConfig
from worldsim.errors import DamagedWorld, InvalidInput
from worldsim.io.files import fsync, read_bytes, replacing_folder
from worldsim.io.folders import AUDIO, CARD, CONFIG, MODEL, STARTS
from worldsim.migration import migrate_weights
from worldsim.models.audio import AudioHead
from worldsim.models.dynamics import Dynamics
from worldsim.models.shapes import shapes_only
from worldsim.models.tokenizer import Tokenizer

WEIGHT_BYTES, CARD_BYTES = 16 * 2**30, 4 * 2**20  # the largest files that are read


@dataclass(frozen=True)
class WorldFiles:
    """What a folder holds, checked."""

    config: WorldConfig
    model: dict[str, Tensor]
    starts: dict[str, Tensor]
    card: str
    audio: dict[str, Tensor] = field(default_factory=dict)  # weights of `worldsim.models.audio.AudioHead`, if any


def read_world(folder: Path) -> WorldFiles:
    """Read and check a world's folder: version, SHA-256 of every weight file, finite weights of the right shapes."""
    config = WorldConfig.read(folder / CONFIG)
    names = (MODEL, STARTS) if config.audio is None else (MODEL, STARTS, AUDIO)
    files = {name: _read_tensors(folder / name, config.sha256.get(name)) for name in names}
    model, audio = migrate_weights(files[MODEL]), files.get(AUDIO, {})
    _check_shapes(config, model, audio, str(folder))
    return WorldFiles(config, model, files[STARTS], read_card(folder), audio)


def read_card(folder: Path) -> str:
    """The card of a world, "" where it has none; raises DamagedWorld if it cannot be read."""
    path = folder / CARD
    try:
        return read_bytes(path, CARD_BYTES).decode("utf-8", errors="replace") if path.exists() else ""
    except OSError as error:
        raise DamagedWorld(f"world card {path} cannot be read ({error}); restore it, or delete it") from error


def _check_shapes(
    config: WorldConfig, tensors: Mapping[str, Tensor], audio: Mapping[str, Tensor], where: str
) -> None:  # fmt: skip
    """Compare the weights with networks that take no memory, so that no config makes us build others than these."""
    with shapes_only():
        parts: dict[str, torch.nn.Module] = {
            "tokenizer": Tokenizer(config.tokenizer),
            "dynamics": Dynamics(config.dynamics),
        }
        if config.audio is not None:
            parts["audio"] = AudioHead(config.audio, config.dynamics)
    wanted = {f"{part}.{n}": tuple(t.shape) for part, module in parts.items() for n, t in module.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in {**tensors, **_prefixed(audio)}.items()}
    differ = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    if differ:
        name = differ[0]
        raise DamagedWorld(
            f"the weights of {where} do not fit its config ({name} is {found.get(name, 'missing')} instead of "
            f"{wanted.get(name, 'absent')}, {len(differ)} differ); restore the world's folder"
        )


def _prefixed(audio: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"audio.{name}": tensor for name, tensor in audio.items()}


def _read_tensors(path: Path, sha256: str | None) -> dict[str, Tensor]:
    try:
        data = read_bytes(path, WEIGHT_BYTES)
        found = hashlib.sha256(data).hexdigest()
        tensors = load(data) if found == sha256 else {}
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:  # those of types that torch lacks, too
        raise DamagedWorld(
            f"weights {path} cannot be read ({error}); restore the file or load the world anew"
        ) from error
    if found != sha256:
        raise DamagedWorld(
            f"weights {path} have SHA-256 {found[:12]}…, config.json says {str(sha256)[:12]}…: the file is damaged or "
            "was replaced; restore it, or save the world again"
        )
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise DamagedWorld(f"weights {path}: tensor {name!r} holds values that are not finite; restore the file")
    return tensors


def write_world(folder: Path, files: WorldFiles) -> None:
    """Write a world's folder, whole or not at all.

    What else lies in an existing folder stays there. Raises InvalidInput where nothing can be written.
    """
    folder = folder.resolve()
    try:
        with replacing_folder(folder) as partial:
            _fill(partial, files)
    except (OSError, SafetensorError) as error:
        raise InvalidInput(
            f"world folder {folder} cannot be written ({error}); give another folder, or free space on that disk"
        ) from error


def _fill(partial: Path, files: WorldFiles) -> None:
    hashes = {}
    parts = {MODEL: files.model, STARTS: files.starts} | ({AUDIO: files.audio} if files.audio else {})
    for name, tensors in parts.items():
        _write_tensors(partial / name, tensors)
        hashes[name] = hashlib.sha256((partial / name).read_bytes()).hexdigest()
    (partial / CONFIG).write_text(dataclasses.replace(files.config, sha256=hashes).to_json(), encoding="utf-8")
    if files.card:
        (partial / CARD).write_text(files.card, encoding="utf-8")


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
    path.chmod(0o644)
    fsync(path)


def load_strictly(modules: Mapping[str, torch.nn.Module], tensors: Mapping[str, Tensor], where: str) -> None:
    """Load the tensors under each prefix into its module; names and shapes must match exactly, none may be left."""
    stray = [name for name in tensors if not name.startswith(tuple(modules))]
    try:
        if stray:
            raise RuntimeError(f"unexpected {', '.join(stray)}")
        for prefix, module in modules.items():
            own = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
            module.load_state_dict(own, strict=True)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise DamagedWorld(
            f"the weights of {where} do not fit its config ({reason}); restore the world's folder"
        ) from error
