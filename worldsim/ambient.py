"""What the caller has set in PyTorch must not reach a world: `isolated` functions compute as if nothing were set."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def isolated(function: F) -> F:
    """Run a function, or each part of a generator, in inference mode and without the caller's torch settings.

    These are automatic casts, the default dtype and the default device. A world's numbers would otherwise depend on
    them, or not come about at all. They are as before whenever the caller's code runs.
    """
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def parts(*args: Any, **kwargs: Any) -> Any:
            generator = function(*args, **kwargs)
            while True:
                with torch.inference_mode(), nothing_set():
                    try:
                        item = next(generator)
                    except StopIteration as done:
                        return done.value
                yield item

        return parts  # type: ignore[return-value]

    @functools.wraps(function)
    def whole(*args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(), nothing_set():
            return function(*args, **kwargs)

    return whole  # type: ignore[return-value]


@contextlib.contextmanager
def nothing_set() -> Iterator[None]:
    """As if the caller had set no automatic casts, default dtype or default device."""
    with contextlib.ExitStack() as undo:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                undo.enter_context(torch.autocast(kind, enabled=False))
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            torch.set_default_dtype(torch.float32)
            undo.callback(torch.set_default_dtype, dtype)
        if torch.get_default_device().type != "cpu":
            undo.enter_context(torch.device("cpu"))
        yield


@contextlib.contextmanager
def new_weights() -> Iterator[None]:
    """Make modules whose weights are about to be loaded: the random ones they begin with leave no trace."""
    with nothing_set(), torch.random.fork_rng(devices=[]):
        yield
