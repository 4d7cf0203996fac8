"""Models in which everything matters: no weight is zero, so no broken path can hide behind a closed gate."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from tiny import tiny_files
from torch import Tensor, nn

from worldsim.io.starts import Starts
from worldsim.io.weights import WorldFiles
from worldsim.models.dynamics import Dynamics, DynamicsConfig
from worldsim.sampling.sampler import SamplingConfig
from worldsim.spec import ActionSpec
from worldsim.world import World

STEERING = ActionSpec(low=(-1.0, 0.0), high=(1.0, 2.0))

SIZES = DynamicsConfig(
    channels=4, height=2, width=4, patch=(2, 1), actions=3, between=1, dim=16, heads=2, mlp_ratio=2,
    history_blocks=2, denoiser_blocks=1, latent_decoder_blocks=1, context_length=4, cond_dim=8, local=8, max_time=20,
)  # fmt: skip


def enliven(tensors: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """The tensors with random values where all are alike, as in gates, biases and last layers at first."""
    random = torch.Generator().manual_seed(seed)
    lively = {}
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.unique().numel() == 1:
            fan_in = math.prod(tensor.shape[1:]) if name.endswith("weight") else 4
            tensor = tensor + torch.randn(tensor.shape, generator=random) / math.sqrt(fan_in)
        lively[name] = tensor
    return lively


def lively_dynamics(seed: int = 0, config: DynamicsConfig = SIZES) -> Dynamics:
    """Float32 dynamics, training parts included, on the CPU."""
    torch.manual_seed(seed)
    model = Dynamics(config)
    model.load_state_dict(enliven(model.state_dict(), seed))
    return model.eval()


def lively_files(
    seed: int = 0,
    *,
    between: int = 1,
    steering: bool = False,
    sampling: SamplingConfig | None = None,
    reward_scale: float = 1.0,
    **changes: Any,
) -> WorldFiles:
    """Files of a world with 16x32 frames; `steering` gives it continuous actions, `changes` are of its dynamics."""
    files = tiny_files(seed, between=between)
    sizes = dataclasses.replace(SIZES, between=between, **changes)
    starts, spec = files.starts, files.config.actions
    if steering:
        sizes, spec = dataclasses.replace(sizes, actions=0, action_dim=2), STEERING
        old = Starts.from_tensors(starts)
        new = dataclasses.replace(old, actions=torch.rand((*old.actions.shape, 2)))
        starts = new.to_tensors()
    config = dataclasses.replace(
        files.config,
        actions=spec,
        dynamics=sizes,
        sampling=sampling or SamplingConfig(),
        reward_scale=reward_scale,
    )
    torch.manual_seed(seed)
    model = {n: t for n, t in files.model.items() if n.startswith("tokenizer.")}
    model |= {f"dynamics.{n}": t for n, t in Dynamics(sizes).state_dict().items()}
    lively = enliven(model, seed)
    lively["dynamics.latent_decoder.leave.weight"] *= 0.3  # a long dream stays in the range of latents
    for last in (name for name in lively if name.startswith("dynamics.heads.") and name.endswith("last.weight")):
        lively[last] *= 30.0  # rewards show what the heads read
    return WorldFiles(config, lively, starts, files.card)


def lively_world(seed: int = 0, **options: object) -> World:
    """The world of `lively_files`, on the CPU."""
    return World(lively_files(seed, **options), device="cpu")  # type: ignore[arg-type]


def randomise(module: nn.Module, seed: int = 0) -> None:
    """`enliven` a module in place."""
    module.load_state_dict(enliven(module.state_dict(), seed))
