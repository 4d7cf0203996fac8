"""Modules of which only the shapes are asked: nothing is allocated, and no initial value is computed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def shapes_only() -> Iterator[None]:
    """Modules that are built in here have weights on the meta device.

    Their initial values are left out, since the first number that is computed on the meta device imports much of
    PyTorch's compiler, which would take most of the time in which a world is loaded.
    """
    with torch.device("meta"), _LeftOut():
        yield


class _LeftOut(TorchFunctionMode):
    """`torch.nn.init` gives tensors back as they are."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
