"""Workers as actors of a Ray cluster, each on one of its CPUs; the job goes through the object store once."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from worldsim.errors import InvalidInput, MissingDependency
from worldsim.policies.rollouts.pool import Report, in_batches
from worldsim.policies.rollouts.processes import portable

SECONDS = 10.0  # that a cluster may take to answer


def require_ray() -> Any:
    """The package; raises MissingDependency without it."""
    try:
        import ray
    except ImportError as error:
        raise MissingDependency('--ray needs Ray, which is not installed; pip install "worldsim[ray]"') from error
    return ray


def _require_answer(address: str) -> None:
    """Raise InvalidInput for a host that does not answer, where Ray would try for many minutes."""
    host, _, port = address.rpartition("/")[2].rpartition(":")
    if not host:
        return  # "auto", "local"
    try:
        socket.create_connection((host, int(port)), timeout=SECONDS).close()
    except (OSError, ValueError) as error:
        raise InvalidInput(
            f"no Ray cluster answers at {address!r} ({error}); start one with `ray start --head`, or give --ray local"
        ) from error


class Worker:
    """The actor; exceptions of the job are reported, so that those that Ray raises are of a worker that is lost."""

    def __init__(self, job: Any) -> None:
        self._job = job

    def open(self) -> tuple[str, Any]:
        """Get ready."""
        try:
            self._opened = self._job.open()
        except Exception as error:
            return "failed", portable(error)
        return "opened", None

    def run(self, task: Any) -> Iterator[tuple[str, Any]]:
        """Run a task; batches of items as they come."""
        try:
            for items in in_batches(self._opened.run(task)):
                yield "items", items
        except Exception as error:
            yield "failed", portable(error)


class RayCrew:
    """Actors of the cluster at `address`; "auto" is the one that runs here, "local" starts one."""

    def __init__(self, job: Any, address: str) -> None:
        self._ray = ray = require_ray()
        if not ray.is_initialized():
            _require_answer(address)
            try:
                ray.init(None if address == "local" else address, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                raise InvalidInput(
                    f"no Ray cluster answers at {address!r} ({' '.join(str(error).split())}); start one with `ray "
                    "start --head`, or give --ray local"
                ) from error
        self._job = ray.put(job)
        self._actor = ray.remote(num_cpus=1, max_restarts=0)(Worker)
        self._actors: dict[int, Any] = {}
        self._waited: dict[Any, int] = {}  # by what is waited for, a ref or a generator of refs: the worker

    @property
    def cpus(self) -> int:
        """CPUs of the cluster."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def start(self, worker: int) -> None:
        """See `Crew.start`."""
        self._actors[worker] = self._actor.remote(self._job)
        self._waited[self._actors[worker].open.remote()] = worker

    def give(self, worker: int, task: Any) -> None:
        """See `Crew.give`."""
        self._waited[self._actors[worker].run.options(num_returns="streaming").remote(task)] = worker

    def kill(self, worker: int) -> None:
        """See `Crew.kill`."""
        actor = self._actors.pop(worker)
        self._waited = {what: who for what, who in self._waited.items() if who != worker}
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(actor)

    def listen(self, seconds: float) -> list[Report]:
        """See `Crew.listen`."""
        if not self._waited:
            return []
        waited = list(self._waited)
        ready, _ = self._ray.wait(waited, num_returns=1, timeout=seconds)
        if ready:  # and what else is
            ready, _ = self._ray.wait(waited, num_returns=len(waited), timeout=0)
        return [self._report(what, self._waited[what]) for what in ready]

    def _report(self, what: Any, worker: int) -> Report:
        try:
            if isinstance(what, self._ray.ObjectRef):
                del self._waited[what]
                return Report(worker, *self._ray.get(what))
            try:
                return Report(worker, *self._ray.get(next(what)))
            except StopIteration:
                del self._waited[what]
                return Report(worker, "done")
        except self._ray.exceptions.RayError:
            self.kill(worker)
            return Report(worker, "lost")

    def close(self) -> None:
        """See `Crew.close`."""
        for worker in list(self._actors):
            self.kill(worker)
