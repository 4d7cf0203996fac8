"""Beginning a training with the weights of a finished world, which has other actions, heads or pictures."""

from __future__ import annotations

import torch
from torch import nn

from worldsim.errors import InvalidInput
from worldsim.io.folders import find_world
from worldsim.io.weights import read_world


def start_from(model: nn.Module, world: str, part: str = "") -> str:
    """Copy those weights of a finished world that have the names and shapes of weights of `model`.

    `world` is a shipped name, a local folder or a hub id, `part` the beginning of its names that `model` has not, such
    as "tokenizer.". Returns a sentence that says how much was taken. Raises InvalidInput where nothing fits, and
    DamagedWorld for a world that cannot be read.
    """
    files = read_world(find_world(world))
    known = {name.removeprefix(part): tensor for name, tensor in (files.model | files.audio).items()}
    own = model.state_dict()
    fitting = [name for name, tensor in own.items() if name in known and known[name].shape == tensor.shape]
    if not fitting:
        raise InvalidInput(
            f"start: no weights of world {world!r} have the names and shapes of this model's; choose a world that was "
            "made with the same settings, or leave it out"
        )
    with torch.no_grad():
        for name in fitting:
            own[name].copy_(known[name])
    taken, all_of_it = (sum(own[name].numel() for name in names) for names in (fitting, own))
    return f"{taken:,} of {all_of_it:,} weights begin as those of {world}"
