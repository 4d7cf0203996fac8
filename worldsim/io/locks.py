"""Locks on folders, so that two processes never write the same files."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from worldsim.errors import InvalidInput


def hold(path: Path, busy: str) -> FileLock:
    """Hold the lock file `path` until the returned lock is released, or the process ends.

    Raises InvalidInput, with the sentence `busy`, where another process holds it.
    """
    lock = FileLock(path, blocking=False, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise InvalidInput(busy) from error
    return lock
