"""Jobs for workers in other processes: they count, and die or hang once where a file says so."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worldsim.errors import InvalidInput


@dataclass(frozen=True)
class Counting:
    """Task n gives the numbers n * 10 up to n * 10 + length."""

    trouble: Path | None = None  # folder of files "die-N", "hang-N": what happens once in task N
    length: int = 3
    seconds: float = 0.0  # that a task takes

    def open(self) -> Counting:
        return self

    def run(self, task: int) -> Iterator[tuple[int, int]]:
        time.sleep(self.seconds)
        for i in range(self.length):
            if i == 1 and self.trouble is not None:
                self._trouble(task)
            yield task * 10 + i, 0
        if task < 0:
            raise InvalidInput(f"task {task} is below 0")

    def _trouble(self, task: int) -> None:
        for kind in ("die", "hang"):
            file = self.trouble / f"{kind}-{task}"  # type: ignore[operator]
            if file.exists():
                file.unlink()
                if kind == "die":
                    os._exit(9)
                time.sleep(1000)

    def close(self) -> None:
        pass
