"""Workers elsewhere, whose tasks come back in order; those that die or hang are replaced, their tasks run again.

A `Crew` is how workers are reached. The pool says who does what: it keeps the order, holds back what is too far ahead,
and gives the tasks of lost workers to others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from worldsim.errors import WorldsimError
from worldsim.policies.rollouts.base import never

AHEAD = 2  # tasks a worker that are begun or wait to be taken: more would only fill the memory
MOST_TRIES = 3  # workers that a task may cost
MOST_STARTS = 10  # workers in a row that are lost before any is ready
OPENING = 300.0  # seconds that a worker may take at least to get ready: it loads PyTorch, and worlds
POLL = 0.5  # seconds between looks at the clock
BATCH_SECONDS, BATCH_ITEMS = 1.0, 2000  # of a task, after which what is there is sent: it is a sign of life, too


@dataclass(frozen=True)
class Report:
    """What a worker said, or what became of it."""

    worker: int
    kind: Literal["opened", "items", "done", "failed", "lost"]
    value: Any = None  # items, or the exception of a job that failed


class Crew(Protocol):
    """Workers by number."""

    def start(self, worker: int) -> None:
        """Begin to make a worker of this number; it reports "opened" when it is ready."""
        ...

    def give(self, worker: int, task: Any) -> None:
        """Let it run a task; it reports "items", as often as it likes, and "done"."""
        ...

    def kill(self, worker: int) -> None:
        """End a worker at once; it reports nothing any more."""
        ...

    def listen(self, seconds: float) -> list[Report]:
        """What there is to tell, after that time at the latest."""
        ...

    def close(self) -> None:
        """End all."""
        ...


@dataclass
class Errand:
    """A task on its way."""

    task: Any
    items: list[Any] = field(default_factory=list)
    lost: int = 0  # workers
    done: bool = False


class Pool:
    """Rollouts with a crew; see `worldsim.policies.rollouts.base.Rollouts`."""

    def __init__(self, crew: Crew, workers: int, patience: float) -> None:
        self.replaced = 0
        self._crew, self._patience = crew, patience
        self._heard: dict[int, float] = {}  # by worker: when it last gave a sign of life
        self._opening: set[int] = set()
        self._idle: set[int] = set()
        self._busy: dict[int, Errand] = {}
        self._never_opened = 0  # workers lost before they were ready, since one was
        self._next_worker = 0
        try:
            for _ in range(workers):
                self._start()
        except BaseException:
            crew.close()
            raise
        self._workers = workers

    def run(self, tasks: Iterable[Any], stop: Callable[[], bool] = never) -> Iterator[list[Any]]:
        """See `Rollouts.run`."""
        source = iter(tasks)
        order: list[Errand] = []  # begun and not taken yet, in order
        again: list[Errand] = []  # whose worker was lost
        exhausted = False
        while not stop():
            while self._idle and not (exhausted and not again):
                if not again:
                    if len(order) >= AHEAD * self._workers:
                        break
                    try:
                        order.append(Errand(next(source)))
                    except StopIteration:
                        exhausted = True
                        break
                    again.append(order[-1])
                self._give(again.pop(0))
            if order and order[0].done:
                yield order.pop(0).items
                continue
            if exhausted and not order:
                return
            again += self._listen()

    def _start(self) -> None:
        worker, self._next_worker = self._next_worker, self._next_worker + 1
        self._crew.start(worker)
        self._opening.add(worker)
        self._heard[worker] = time.monotonic()

    def _give(self, errand: Errand) -> None:
        worker = min(self._idle)
        self._idle.remove(worker)
        errand.items = []
        self._busy[worker] = errand
        self._heard[worker] = time.monotonic()
        self._crew.give(worker, errand.task)

    def _listen(self) -> list[Errand]:
        """Take what workers report; returns what has to run again."""
        lost = [errand for report in self._crew.listen(POLL) for errand in self._take(report)]
        now = time.monotonic()
        for worker in [*self._opening, *self._busy]:
            patience = max(OPENING, self._patience) if worker in self._opening else self._patience
            if now - self._heard[worker] > patience:
                self._crew.kill(worker)
                lost += self._replace(worker, f"gave no sign of life for {patience:g} s")
        return lost

    def _take(self, report: Report) -> list[Errand]:
        worker = report.worker
        if worker not in self._heard:
            return []
        self._heard[worker] = time.monotonic()
        if report.kind == "failed":
            raise report.value
        if report.kind == "lost":
            return self._replace(worker, "died")
        if report.kind == "items":
            self._busy[worker].items += report.value
            return []
        if report.kind == "opened":
            self._opening.remove(worker)
            self._never_opened = 0
        else:
            self._busy.pop(worker).done = True
        self._idle.add(worker)
        return []

    def _replace(self, worker: int, how: str) -> list[Errand]:
        """Start another worker in place of a lost one; returns what that was doing."""
        del self._heard[worker]
        self._idle.discard(worker)
        errand = self._busy.pop(worker, None)
        if worker in self._opening:
            self._opening.remove(worker)
            self._never_opened += 1
        if errand is not None:
            errand.lost += 1
        if errand is not None and errand.lost >= MOST_TRIES:
            raise WorldsimError(
                f"task {errand.task!r} was lost {MOST_TRIES} times, as a worker {how} each time; run it with one "
                "worker to see why, or with fewer of them if the memory was too small"
            )
        if self._never_opened >= MOST_STARTS:
            raise WorldsimError(
                f"{MOST_STARTS} workers were lost before one was ready, the last one as it {how}; run this with one "
                "worker to see why, or with fewer of them if the memory was too small"
            )
        self.replaced += 1
        self._start()
        return [errand] if errand is not None else []

    def close(self) -> None:
        """See `Rollouts.close`."""
        self._heard.clear()
        self._crew.close()

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def in_batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Items together, as many as come in a second."""
    batch: list[Any] = []
    begun = time.monotonic()
    for item in items:
        batch.append(item)
        if time.monotonic() - begun > BATCH_SECONDS or len(batch) >= BATCH_ITEMS:
            yield batch
            batch, begun = [], time.monotonic()
    if batch:
        yield batch
