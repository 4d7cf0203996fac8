"""Sound for a finished world: the trained head and codec, packed beside weights that stay as they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from worldsim.data.episodes import Episodes
from worldsim.data.latents import load_tokenizer, weights_digest
from worldsim.errors import InvalidInput
from worldsim.io.files import write_json
from worldsim.io.folders import find_world
from worldsim.io.weights import read_world, write_world
from worldsim.models.audio import AudioConfig
from worldsim.models.tokenizer import TokenizerConfig
from worldsim.train.audio_task import load_codec
from worldsim.train.calibrate_sound import calibrate_sound, with_sound
from worldsim.train.checkpoint import load_checkpoint, setting
from worldsim.train.export import RECORD, read_records
from worldsim.train.record import TrainingRecord

STAGES = ("audio-codec", "audio")  # of the training, whose records come with the weights


def add_audio(
    world: str | Path, run: Path, out: Path,
    *, temperature: float = 1.0, certainty: float = 4.0, candidates: int = 6, listens: bool = False,
    calibrate: Path | None = None,
) -> None:  # fmt: skip
    """Write the world with the sound that was trained in `run`, in bf16; frames stay the same to the bit.

    `temperature` is the scale of the noise that sound is drawn from, `certainty` sharpens which kind of sound follows,
    and of `candidates` sounds that are drawn the one is taken that is of that kind. With `listens` it hears its own
    last sound. `calibrate` is an episode store with sound, better none of the training: dreams are made as loud as it
    is, with onsets as often (`worldsim.train.calibrate_sound`).

    `world` is a shipped name, a local folder or a hub id. Raises InvalidInput where the head was trained on another
    tokenizer's latents, or its steps are of another length.
    """
    path = run / "audio.safetensors"
    if not path.exists():
        raise InvalidInput(f"{path} does not exist; run `worldsim train audio --out {run}` first")
    folder = find_world(world)
    files, codec = read_world(folder), load_codec(run)
    tensors, meta = load_checkpoint(path)
    _check_tokenizer(files.model, files.config.tokenizer, run, str(folder), meta["config"].get("tokenizer"))
    prefix = "average.model."
    audio = {f"model.{n[len(prefix) :]}": t for n, t in tensors.items() if n.startswith(prefix)}
    audio |= {f"codec.{n}": t for n, t in codec.state_dict().items()}
    packed = {n: t.to(torch.bfloat16) for n, t in audio.items()}
    sound = setting(path, meta, "model", AudioConfig)
    kinds = dataclasses.replace(sound.kinds, certainty=certainty)
    sound = dataclasses.replace(
        sound, temperature=temperature, candidates=candidates, listens=listens, kinds=kinds
    )  # fmt: skip
    loud = dataclasses.replace(files, config=dataclasses.replace(files.config, audio=sound), audio=packed)
    if calibrate is not None:
        loud = with_sound(loud, calibrate_sound(loud, Episodes.open(calibrate)))
    write_world(out, loud)
    records = {kind: TrainingRecord(run / f"{kind}.json").to_json() for kind in STAGES}
    write_json(out / RECORD, read_records(folder / RECORD) | records, indent=None)


def _check_tokenizer(model: Mapping[str, Tensor], config: TokenizerConfig, run: Path, where: str, trained: str) -> None:
    """The head reads latents: they have to be the world's."""
    mine, prefix = load_tokenizer(run, "cpu"), "tokenizer."
    theirs = {n[len(prefix) :]: t for n, t in model.items() if n.startswith(prefix)}
    same = mine.config == config and trained == weights_digest(mine)
    if same:  # worlds keep weights in bf16, a run that trained them does not
        pairs = [(t.to(torch.bfloat16), theirs[n].to(torch.bfloat16)) for n, t in mine.state_dict().items()]
        same = all(torch.equal(*pair) for pair in pairs)
    if not same:
        raise InvalidInput(
            f"the sound in {run} was trained on latents of another tokenizer than that of {where}; train it in a run "
            f"of that world, which `worldsim train unpack {where} --out RUN` makes"
        )
