"""Jobs for workers in other processes: they count, and hang once where a file says so."""

from __future__ import annotations

import pickle
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from worldsim.errors import InvalidInput
from worldsim.policies.rollouts.pool import Report


@dataclass(frozen=True)
class Counting:
    """Task n gives the numbers n * 10 up to n * 10 + length."""

    trouble: Path | None = None  # folder of files "hang-N": task N hangs once
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
        file = self.trouble / f"hang-{task}"  # type: ignore[operator]
        if file.exists():
            file.unlink()
            time.sleep(1000)

    def close(self) -> None:
        pass


class PickledCrew:
    """Two or more workers in this process that know of each other and the caller what can be pickled, and no more."""

    def __init__(self, job: object) -> None:
        self._job, self._opened, self._said = pickle.dumps(job), {}, deque()

    def start(self, worker: int) -> None:
        self._opened[worker] = pickle.loads(self._job).open()
        self._said.append(Report(worker, "opened"))

    def give(self, worker: int, task: object) -> None:
        for item in self._opened[worker].run(pickle.loads(pickle.dumps(task))):
            self._said.append(Report(worker, "items", [pickle.loads(pickle.dumps(item))]))
        self._said.append(Report(worker, "done"))

    def listen(self, seconds: float) -> list[Report]:
        return [self._said.popleft()] if self._said else []

    def kill(self, worker: int) -> None:
        del self._opened[worker]

    def close(self) -> None:
        self._opened.clear()
