"""Half of a step as one CUDA graph: its kernels are launched together, not one by one from Python."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Capture = Callable[[Callable[[], Any]], tuple[Callable[[], None], Any]]  # a function -> how to replay it, its output


def cuda_graph(run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """Record what `run` does on the GPU; replaying it reads and writes the same memory again."""
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):  # libraries choose their kernels, which cannot be recorded
            run()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run()
    return graph.replay, output


class Captured:
    """A function of tensors and of lists of tensors, recorded with memory of its own for what goes in and comes out.

    `changed` are the places of the inputs that the function changes. Inputs later have the shapes of these first ones,
    outputs are fresh tensors. May be called from several threads.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        inputs: Sequence[Any],
        changed: Sequence[int] = (),
        capture: Capture = cuda_graph,
    ) -> None:
        self._inputs = [[a.clone() for a in one] if isinstance(one, list) else one.clone() for one in inputs]
        self._changed = tuple(changed)
        self._lock = threading.Lock()
        self._replay, self._output = capture(lambda: function(*self._inputs))

    def __call__(self, *inputs: Any) -> Any:
        """What the function gives for these."""
        with self._lock:
            for kept, given in zip(self._inputs, inputs, strict=True):
                _copy(given, kept)
            self._replay()
            for place in self._changed:
                _copy(self._inputs[place], inputs[place])
            if isinstance(self._output, Tensor):
                return self._output.clone()
            return tuple(one.clone() for one in self._output)


def _copy(source: Any, target: Any) -> None:
    if isinstance(source, Tensor):
        target.copy_(source)
        return
    for one, other in zip(source, target, strict=True):
        other.copy_(one)
