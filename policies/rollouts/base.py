"""What rollouts are made of: a job that workers open, tasks for them, and the backend that runs it all in this process.

A `Job` says how to get ready (load a world, start a simulator) and can be pickled. What it opens runs one task after
the other and gives an iterable of items for each: rows of an episode, scores of a group of episodes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from worldsim.errors import InvalidInput

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741
T_in = TypeVar("T_in", contravariant=True)
I_out = TypeVar("I_out", covariant=True)

PATIENCE = 300.0  # seconds


class Opened(Protocol[T_in, I_out]):
    """A worker that is ready."""

    def run(self, task: T_in) -> Iterable[I_out]:
        """The items of a task: a pure function of the job and the task, whatever ran before."""
        ...

    def close(self) -> None:
        """Stop simulators."""
        ...


class Job(Protocol[T_in, I_out]):
    """How a worker gets ready; an object that can be pickled, with all that a worker elsewhere does not have."""

    def open(self) -> Opened[T_in, I_out]:
        """Called once in each worker; raises WorldsimError where the job cannot be done."""
        ...


@dataclass(frozen=True)
class Workers:
    """Who runs the tasks. `Workers()` is this process, with all its threads."""

    workers: int | None = (
        None  # processes, or Ray actors; None: this process, or as many actors as the cluster has CPUs
    )
    ray: str | None = None  # address of a Ray cluster; "auto": the running one, "local": start one here
    patience: float = PATIENCE  # seconds without a sign of life after which a worker is replaced

    def __post_init__(self) -> None:
        for name, least in (("workers", 1), ("patience", 1)):
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise InvalidInput(f"--{name} is {value}; give {least} or more")

    @property
    def here(self) -> bool:
        """Whether all runs in this process."""
        return self.ray is None and self.workers in (None, 1)


class Rollouts(Protocol[T, I]):
    """Runs tasks of one job somewhere; a context manager, which closes it."""

    @property
    def replaced(self) -> int:
        """Workers that died or hung and were replaced; their tasks ran again."""
        ...

    def run(self, tasks: Iterable[T], stop: Callable[[], bool] = ...) -> Iterator[Iterable[I]]:
        """The items of each task, in the order of the tasks, which are taken only as they are needed.

        May be left early, and called again. Ends at once when `stop` says so.
        """
        ...

    def close(self) -> None:
        """End the workers; may be called twice."""
        ...

    def __enter__(self) -> Rollouts[T, I]: ...

    def __exit__(self, *exc: object) -> None: ...


def never() -> bool:
    """Do not stop."""
    return False


class InProcess(Generic[T, I]):
    """One task after the other, in this process; items come as they are made."""

    replaced = 0

    def __init__(self, opened: Opened[T, I]) -> None:
        self._opened = opened

    def run(self, tasks: Iterable[T], stop: Callable[[], bool] = never) -> Iterator[Iterable[I]]:
        """See `Rollouts.run`."""
        for task in tasks:
            if stop():
                return
            yield self._opened.run(task)

    def close(self) -> None:
        """Close what was opened."""
        self._opened.close()

    def __enter__(self) -> InProcess[T, I]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def make_rollouts(job: Job[T, I], workers: Workers, opened: Opened[T, I] | None = None) -> Rollouts[T, I]:
    """The backend for these workers. `opened` is the job, if it is open already in this process.

    Raises MissingDependency without Ray where it is asked for, InvalidInput where a cluster cannot be reached.
    """
    if workers.here:
        return InProcess(job.open() if opened is None else opened)
    if opened is not None:
        opened.close()
    from worldsim.policies.rollouts.pool import Crew, Pool

    crew: Crew
    if workers.ray is None:
        from worldsim.policies.rollouts.processes import ProcessCrew

        crew = ProcessCrew(job)
        count = workers.workers
    else:
        from worldsim.policies.rollouts.ray_actors import RayCrew

        crew = RayCrew(job, workers.ray)
        count = workers.workers or crew.cpus
    assert count is not None
    return Pool(crew, count, workers.patience)


@contextlib.contextmanager
def one_thread(workers: Workers) -> Iterator[None]:
    """Compute as workers elsewhere do where a number of them was asked for: with one thread, which fixes the rounding.

    Without one, this process keeps its threads.
    """
    if not workers.here or workers.workers is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
