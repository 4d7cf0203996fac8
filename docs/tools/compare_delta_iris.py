"""Steps a second of a world and of Δ-IRIS (Micheli et al., 2024), in turns on this machine.

    git clone https://github.com/vmicheli/delta-iris
    python docs/tools/compare_delta_iris.py doom-take-cover delta-iris

Δ-IRIS runs as its public code does, with the sizes of its `config/params/atari.yaml` and random weights: frames of
64x64, four tokens a frame. It is stepped in float32, as published, and in bfloat16 by autocast; the world as it is, and
compiled (`World.compiled`), which has no counterpart there.
"""

from __future__ import annotations

import argparse
import sys
import time
import types
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from worldsim.bench.steps import describe_machine, machine, matmul_gflops
from worldsim.envs import WorldVectorEnv
from worldsim.world import World

ACTIONS, BURN_IN = 18, 5


def delta_iris(source: Path, batch: int) -> Callable[[], object]:
    """A function that takes one step of `batch` environments of Δ-IRIS."""
    sys.path.insert(0, str(source / "src"))
    for name in ("gym", "cv2", "torchvision", "data", "models.actor_critic"):  # no part of a step
        sys.modules[name] = mock.MagicMock()
    envs = types.ModuleType("envs")  # without what its `__init__` imports
    envs.__path__ = [str(source / "src" / "envs")]
    sys.modules["envs"] = envs
    from envs.world_model_env import WorldModelEnv
    from models.convnet import FrameCnnConfig
    from models.tokenizer import Tokenizer, TokenizerConfig
    from models.transformer import TransformerConfig
    from models.world_model import WorldModel, WorldModelConfig

    def convolutions(image: int, latent: int, channels: int) -> FrameCnnConfig:
        return FrameCnnConfig(image, latent, channels, mult=[1, 1, 2, 2, 4], down=[1, 0, 1, 1, 0])

    torch.manual_seed(0)
    tokenizer = Tokenizer(
        TokenizerConfig(
            image_channels=3, image_size=64, num_actions=ACTIONS, num_tokens=4, decoder_act_channels=4,
            codebook_size=1024, codebook_dim=64, max_codebook_updates_with_revival=0,
            encoder_config=convolutions(7, 64, 64), decoder_config=convolutions(3, 16 + 4 + 64, 64),
            frame_cnn_config=convolutions(3, 16, 32),
        )
    )  # fmt: skip
    transformer = TransformerConfig(
        tokens_per_block=6, max_blocks=26, attention="causal", num_layers=3, num_heads=4, embed_dim=256,
        embed_pdrop=0.0, resid_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = WorldModel(
        WorldModelConfig(
            latent_vocab_size=1024, num_actions=ACTIONS, image_channels=3, image_size=64, latents_weight=0.1,
            rewards_weight=1.0, ends_weight=0.1, two_hot_rews=False, transformer_config=transformer,
            frame_cnn_config=convolutions(3, 4, 32),
        )
    )  # fmt: skip
    env = WorldModelEnv(tokenizer, model, "cpu")
    frames = torch.rand(batch, BURN_IN, 3, 64, 64)
    env.reset_from_past(frames, torch.randint(ACTIONS, (batch, BURN_IN - 1)))
    taken = torch.randint(ACTIONS, (batch, 1))
    return lambda: env.step(taken)


def worldsims(world: World, batch: int) -> Callable[[], object]:
    """The same for a world of worldsim."""
    envs = WorldVectorEnv(world, batch)
    envs.reset(seed=0)
    taken = envs.action_space.sample()
    return lambda: envs.step(taken)


def steps_a_second(step: Callable[[], object], batch: int, seconds: float) -> float:
    """Of all environments together."""
    for _ in range(3):
        step()
    count, begun = 0, time.perf_counter()
    while time.perf_counter() < begun + seconds:
        step()
        count += 1
    return batch * count / (time.perf_counter() - begun)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", help="a shipped name or a folder")
    parser.add_argument("source", type=Path, help="a clone of Δ-IRIS's repository")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    chosen = parser.parse_args()
    world = World.from_pretrained(chosen.world, device="cpu")
    print(f"{describe_machine(machine(world))}, {matmul_gflops(world.device, world.dtype):.0f} GFLOP/s")
    for batch in (1, 16):
        steps = {
            "ours": worldsims(world, batch), "ours, compiled": worldsims(world.compiled(batch), batch),
            "theirs": delta_iris(chosen.source, batch), "theirs, bfloat16": delta_iris(chosen.source, batch),
        }  # fmt: skip
        found: dict[str, list[float]] = {name: [] for name in steps}
        for _ in range(chosen.rounds):
            for name, step in steps.items():
                half = torch.autocast("cpu", torch.bfloat16) if "bfloat16" in name else nullcontext()
                with half, torch.no_grad():
                    found[name].append(steps_a_second(step, batch, chosen.seconds))
        for name, values in found.items():
            print(f"{batch:3} worlds, {name}: {np.median(values):.1f} steps/s", end="")
            for ours in (name for name in found if name.startswith("ours")):
                print(f"; {ours}, over it {np.median(np.array(found[ours]) / values):.2f}", end="")
            print()


if __name__ == "__main__":
    main()
