"""What a memory is: the protocol by which a world remembers more than its last steps.

A memory is a part of the dynamics, named in the config, with a state of its own in every world. At a step it is read
after the history and before the new frame is drawn, and written when the frame is there, drawn or given:

    start     tree = write(empty(B), first frame of the context)
    a step    context = read(tree, query);  the frame is drawn;  tree = write(tree, observed)

One from outside the package is an `nn.Module` that is registered before the world is built or loaded:

    @memories.register("first_frame")          # of worldsim.models.memories
    class FirstFrame(nn.Module):
        def __init__(self, config, stream): ...    # the DynamicsConfig; of a name "kind:stream" what follows the colon

This module imports nothing of worldsim: the core knows memories by it alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

Tree = Any  # nested dicts, lists, tuples and dataclasses whose leaves are tensors with the batch first


@dataclass(frozen=True)
class MemorySpec:
    """What a memory gives when it is read; it has to give something."""

    guide: int = 0  # channels of the guide; 0: it gives none
    condition: int = 0  # numbers of the condition; 0: it gives none
    tokens: int = 0  # numbers of each token that the history's tokens attend to; 0: it gives none
    gate: bool = False  # whether the guide is latents of a frame, of which the new frame may take some as they are
    base: bool = False  # whether it is latents of a frame of which, where it is known, the new one is drawn as a change


@dataclass(frozen=True)
class Query:
    """What is known of B steps when their frames are about to be drawn."""

    latents: Tensor  # (B, C, h, w) of the last frame
    actions: Tensor  # (B,) int64 or (B, A) float32, as the simulator takes them
    episode_step: Tensor  # (B,) int64, steps since the beginning of the episode at the last frame
    streams: dict[str, Tensor]  # (B, ...), values of the sensors at the last frame, as recorded
    predicted: dict[str, Tensor]  # at the new frame, those that heads of the history predict: the next pose, say
    tokens: Tensor  # (B, N, D), the history's output: what a memory may search by
    generator: torch.Generator | None = None  # for noise on what is read: in training alone, None in a dream


@dataclass(frozen=True)
class Observed:
    """What B frames show that are to be remembered."""

    latents: Tensor  # (B, C, h, w)
    streams: dict[str, Tensor]  # (B, ...), values of the sensors, given or predicted: pose, depth, as recorded
    actions: Tensor | None  # that led to the frame, as in a `Query`; None at the first frame of a context
    episode_step: Tensor  # (B,) int64, steps since the beginning of the episode


@dataclass(frozen=True)
class Context:
    """What a memory says of the next frames, in the sizes of its `MemorySpec`; None for what it does not give."""

    guide: Tensor | None = None  # (B, guide, h, w), an image in the grid of the latents: what may be seen next
    mask: Tensor | None = None  # (B, 1, h, w) from 0 to 1, how far the guide is to be trusted; None: everywhere
    condition: Tensor | None = None  # (B, condition), numbers that the whole frame depends on
    tokens: Tensor | None = None  # (B, M, tokens), what is recalled of other frames, for attention
    heard: Tensor | None = None  # (B, M) bool, which of the tokens there are; None: all
    gate: Tensor | None = None  # (B, 1, h, w) bool, where the drawn frame takes the guide's latents as they are


@dataclass(frozen=True)
class Codec:
    """Frames to latents and back, by the tokenizer's frozen weights."""

    encode: Callable[[Tensor], Tensor]  # (B, 3, H, W) in [-1, 1] -> (B, C, h, w)
    decode: Callable[[Tensor], Tensor]  # (B, C, h, w) -> (B, 3, H, W), about [-1, 1], not clipped

    def __deepcopy__(self, memo: dict[int, Any]) -> Codec:
        """Copies of a model share the tokenizer, which never changes."""
        return self


@dataclass(frozen=True)
class FromAbove:
    """What one world remembers of where things are, seen from above, in units of the pose: numpy arrays."""

    points: Any  # (N, 2) float32, x and y of remembered surfaces
    views: Any  # (K, 3) float32, x, y and yaw of remembered views, in the order they were seen
    recalled: Any  # (K,) bool, which of them the next frame is made of
    here: Any  # (3,) float32, x, y and yaw of the camera


class Memory(Protocol):
    """One kind of memory. Its trees hold no more at the last step of an episode than at the first.

    Rows of a batch never influence each other, and all that is remembered is in the tree: the module itself has weights
    and nothing else. Weights are parameters; buffers are not exported. In training, gradients flow through what is read
    and written as far as the memory lets them: one that detaches what it writes learns to read alone.
    """

    @property
    def spec(self) -> MemorySpec:
        """What it gives."""
        ...

    def empty(self, batch: int) -> Tree:
        """The state of `batch` worlds that have seen nothing. Shapes and dtypes of its leaves stay as they are here."""
        ...

    def read(self, tree: Tree, query: Query) -> Context:
        """What is remembered that may help to draw the next frames; `tree` stays as it is."""
        ...

    def write(self, tree: Tree, observed: Observed) -> Tree:
        """The state with these frames, in a time that does not grow with the episode.

        `tree` must read as before, so that a step can be undone and a guess be dropped: return new leaves for what
        changes, and the same for the rest. A ring may be written in place where the slot is one that `tree` does not
        read, as a count in it says; a world that goes on from an older state has a copy of its own.
        """
        ...


@runtime_checkable
class PlacesMemory(Protocol):
    """A memory of places that can be drawn from above, for those who play."""

    def from_above(self, tree: Tree, streams: dict[str, Tensor], row: int) -> FromAbove:
        """What one world of the batch remembers; `streams` (B, ...) are those of the present frame."""
        ...


@runtime_checkable
class PixelMemory(Memory, Protocol):
    """A memory that wants pixels, or makes its guide of them: it is given the tokenizer before it is used."""

    def bind(self, codec: Codec) -> None:
        """Keep the codec. It computes in the number format of the latents that it is used with."""
        ...
