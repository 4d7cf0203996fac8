"""Run by torchrun in `test_distributed`: every process trains and writes down what it ended with."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from small_training import brief, tokenizer_task, train
from torch import Tensor, nn

from worldsim.data.episodes import Episodes
from worldsim.train.loop import Trainer


class Line(nn.Module):
    """Mean squared error of a linear map: the mean over two processes is that over their joined batch."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(6, 3)

    def forward(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator, progress: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.autocast("cpu", enabled=False):
            return (self.map(batch["x"]) - batch["y"]).square().mean(), {}


class LineTask:
    """`shares` processes' batches joined in one, or one process's share of them."""

    kind = "line"
    frames_per_batch = 4

    def __init__(self, shares: int = 1) -> None:
        torch.manual_seed(0)
        self.model = Line()
        self.shares = shares

    def config(self) -> dict[str, Any]:
        return {}

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        parts = []
        for share in range(rank, rank + self.shares):
            random = torch.Generator().manual_seed(10 * step + share)
            parts.append(torch.randn((4, 9), generator=random))
        x, y = torch.cat(parts).split([6, 3], dim=1)
        return {"x": x, "y": y}

    def measure(self, averaged: nn.Module) -> None:
        return None

    def preview(self, averaged: nn.Module) -> None:
        return None


def weights(trainer: Trainer) -> dict[str, Tensor]:
    """Weights and average, as this process holds them."""
    own = {f"model.{name}": p.detach() for name, p in trainer.model.named_parameters()}
    own |= {f"average.{name}": p.detach() for name, p in trainer.average.module.named_parameters()}
    return {name: p.clone(memory_format=torch.contiguous_format) for name, p in own.items()}


def main(data: Path, out: Path) -> None:
    """Train both tasks, the second one also in two parts, and on from what one process began."""
    torch.set_num_threads(1)
    lines = train(LineTask(), brief(8), out / "line")
    store = Episodes.open(data)
    whole = train(tokenizer_task(store), brief(6), out / "whole")
    train(tokenizer_task(store), brief(3), out / "parts")
    dist.barrier()  # the first process saves
    parts = train(tokenizer_task(store), brief(6), out / "parts", resume=True)
    begun = train(tokenizer_task(store), brief(6), out / "begun", resume=True)
    for name, trainer in (("line", lines), ("whole", whole), ("parts", parts), ("begun", begun)):
        save_file(weights(trainer), out / f"{name}-{trainer.rank}.safetensors")
    # Which batch a process met cannot be seen from the weights they agree on.
    first = tokenizer_task(store).batch(0, whole.rank)["frames"]
    save_file({"frames": first}, out / f"batch-{whole.rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
