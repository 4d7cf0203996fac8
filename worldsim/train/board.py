"""TensorBoard's logs on disks that fill up."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from worldsim.errors import InvalidInput, MissingDependency

DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG)


def require_tensorboard() -> Any:
    """TensorBoard's `SummaryWriter`; raises MissingDependency without it."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingDependency(
            'training writes TensorBoard logs and tensorboard is not installed; pip install "worldsim[train]"'
        ) from error
    return SummaryWriter


@contextlib.contextmanager
def logging_to(folder: Path) -> Iterator[None]:
    """Raise InvalidInput where a log below `folder` cannot be written.

    TensorBoard writes in a thread, which would print a traceback of its own besides.
    """
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if not (isinstance(args.exc_value, OSError) and type(args.thread).__module__.startswith("tensorboard")):
            before(args)

    threading.excepthook = hook
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_ERRORS:
            raise
        raise InvalidInput(
            f"the log in {str(folder)!r} cannot be written ({error.strerror}); free space on that disk, then go on "
            "with --resume"
        ) from error
    finally:
        threading.excepthook = before
