"""Workers as processes of this machine, each with one thread."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any

from worldsim.errors import InvalidInput, WorldsimError
from worldsim.policies.rollouts.pool import Report, in_batches

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class ProcessCrew:
    """Processes that are spawned, not forked: threads of PyTorch do not survive a fork."""

    def __init__(self, job: Any) -> None:
        try:
            self._job = pickle.dumps(job)
        except Exception as error:  # what an object raises is up to it
            raise InvalidInput(
                f"this work cannot be given to other processes ({error}); leave out --workers"
            ) from error
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[int, tuple[Any, Connection]] = {}

    def start(self, worker: int) -> None:
        """See `Crew.start`."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(theirs, self._job), daemon=True)
        with _one_thread_each():
            process.start()
        theirs.close()  # else its end would not be noticed
        self._processes[worker] = process, ours

    def give(self, worker: int, task: Any) -> None:
        """See `Crew.give`."""
        with contextlib.suppress(OSError):  # one that has died: `listen` tells
            self._processes[worker][1].send(task)

    def kill(self, worker: int) -> None:
        """See `Crew.kill`."""
        process, pipe = self._processes.pop(worker)
        process.kill()
        process.join()
        pipe.close()

    def listen(self, seconds: float) -> list[Report]:
        """See `Crew.listen`."""
        workers = {id(pipe): worker for worker, (_, pipe) in self._processes.items()}
        reports = []
        for pipe in wait([pipe for _, pipe in self._processes.values()], seconds):
            worker = workers[id(pipe)]
            assert isinstance(pipe, Connection)
            try:
                reports.append(Report(worker, *pipe.recv()))
            except (EOFError, OSError, pickle.UnpicklingError):
                self.kill(worker)
                reports.append(Report(worker, "lost"))
        return reports

    def close(self) -> None:
        """See `Crew.close`."""
        for worker in list(self._processes):
            self.kill(worker)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes that are started meanwhile compute with one thread."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def work(pipe: Connection, pickled: bytes) -> None:
    """The life of a worker: open the job, run tasks until the pipe closes."""
    for name in ("SIGINT", "SIGHUP"):  # of the terminal: the first process decides what becomes of us
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    try:
        try:
            opened = pickle.loads(pickled).open()  # noqa: S301 (our own)
            pipe.send(("opened", None))
            while True:
                for items in in_batches(opened.run(pipe.recv())):
                    pipe.send(("items", items))
                pipe.send(("done", None))
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:  # the first process raises it
            pipe.send(("failed", portable(error)))
    except (BrokenPipeError, ConnectionResetError):
        return


def portable(error: Exception) -> Exception:
    """An exception that another process can read."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)
    except Exception:
        return WorldsimError(f"a worker failed: {type(error).__name__}: {error}")
    return error
