"""The process around a world: `isolated` functions compute as if the caller had set nothing in PyTorch.

And in processes that were forked from one that had computed, where PyTorch's threads hang, `refuse_if_forked` says so.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

from worldsim.errors import InvalidState

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


_computed = False  # whether this process has computed with several threads, and so made a pool of them
_inherited = False  # whether it was forked from one that had; the pool's threads do not come along, and are waited for


def refuse_if_forked() -> None:
    """Raise InvalidState where computing would wait for ever for threads that stayed in the parent process.

    To be called before a world computes. A process that computes with a single thread is sound.
    """
    global _computed
    if torch.get_num_threads() == 1:
        return
    if _inherited:
        raise InvalidState(
            "this process was forked from one that had computed with several threads, without which PyTorch hangs "
            'here; start processes otherwise (context="forkserver" or "spawn", for gym.make_vec in vector_kwargs), or '
            "step all worlds in one process (WorldVectorEnv)"
        )
    _computed = True


def _note_fork() -> None:
    global _inherited
    _inherited = _inherited or _computed


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
