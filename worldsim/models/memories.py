"""Memories of a model, named in its config, and where what they say enters: `Memories`.

What a memory is, and how one is added from outside the package, is in `worldsim.memory.base`. A guide enters as
features at the latents' resolution and as tokens, as the last frames do, and a condition as one more term of adaLN's.
All of these begin at zero (as in ControlNet; Zhang et al., 2023): memory does not change a model until it has learned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from worldsim.errors import InvalidInput
from worldsim.memory.base import Codec, Context, Memory, MemorySpec, Observed, PixelMemory, Query, Tree
from worldsim.models.layers import patches
from worldsim.models.registry import Registry, Streams
from worldsim.state.tree import map_named

if TYPE_CHECKING:
    from worldsim.models.dynamics import ContextFeatures, DynamicsConfig

memories: Registry[nn.Module] = Registry("memory")
Trees = dict[str, Tree]  # one a memory, by its name


class Entry(nn.Module):
    """Where what one memory says enters the model."""

    def __init__(self, config: DynamicsConfig, name: str, spec: MemorySpec) -> None:
        super().__init__()
        c, cells = config, config.patch[0] * config.patch[1]
        self.name, self.spec, self.patch, self.grid = name, spec, c.patch, (c.height, c.width)
        if spec.guide < 0 or spec.condition < 0 or not spec.guide + spec.condition:
            raise InvalidInput(f"memory {name!r} has {spec}; let it give a guide or a condition")
        if spec.guide:
            self.features = nn.Conv2d(spec.guide + 1, c.local, 3, padding=1)  # of the guide and its mask
            self.local = _zero(nn.Conv2d(c.local, c.local, 3, padding=1))
            self.tokens = _zero(nn.Linear(c.local * cells, c.dim))
        if spec.condition:
            self.condition = _zero(nn.Linear(spec.condition, c.cond_dim))

    def forward(self, seen: ContextFeatures, context: Context) -> ContextFeatures:
        """The history's output of F steps with what the memory says of them, its fields (F, ...)."""
        batch, local, tokens, cond = len(seen.ages), seen.local, seen.tokens, seen.cond
        if self.spec.guide:
            guide = self._checked("guide", context.guide, (batch, self.spec.guide, *self.grid))
            mask = guide.new_ones((batch, 1, *self.grid)) if context.mask is None else context.mask
            mask = self._checked("mask", mask, (batch, 1, *self.grid))
            dtype = self.features.weight.dtype
            both = torch.cat([guide * mask, mask.to(guide.dtype)], dim=1).to(dtype)  # (F, guide + 1, h, w)
            features = nn.functional.silu(self.features(both))  # (F, local, h, w)
            local = local + self.local(features)
            tokens = tokens + self.tokens(patches(features, self.patch))
        if self.spec.condition:
            condition = self._checked("condition", context.condition, (batch, self.spec.condition))
            cond = cond + self.condition(condition.to(self.condition.weight.dtype))
        return dataclasses.replace(seen, local=local, tokens=tokens, cond=cond)

    def _checked(self, what: str, given: Tensor | None, shape: tuple[int, ...]) -> Tensor:
        """What the memory gave, if it is what its spec says."""
        if given is None or tuple(given.shape) != shape:
            found = "none" if given is None else tuple(given.shape)
            raise InvalidInput(f"memory {self.name!r} read a {what} of shape {found}; return {shape}")
        return given


class Memories(nn.Module):
    """The memories of a model. Their states are trees, one for each name, that are passed in and out."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        self.each = memories.build(config, config.memories)
        self.entries = nn.ModuleDict({name: Entry(config, name, one.spec) for name, one in self._named()})

    def _named(self) -> list[tuple[str, Memory]]:
        return [(name, cast(Memory, module)) for name, module in self.each.items()]

    def bind(self, codec: Codec) -> None:
        """Give the tokenizer to those that want it."""
        for _, memory in self._named():
            if isinstance(memory, PixelMemory):
                memory.bind(codec)

    def empty(self, batch: int) -> Trees:
        """The states of `batch` worlds that have seen nothing, on the weights' device.

        Raises InvalidInput for a state whose leaves are no tensors with the batch first.
        """
        device, trees = next(self.parameters()).device, {}
        for name, memory in self._named():

            def place(path: str, leaf: Any, name: str = name) -> Tensor:
                if not isinstance(leaf, Tensor) or leaf.shape[:1] != (batch,):
                    raise InvalidInput(
                        f"memory {name!r} begins with {path} that is no tensor ({batch}, ...); make it one"
                    )
                return leaf.to(device)

            trees[name] = map_named(place, memory.empty(batch), name=f"/memory/{name}")
        return trees

    def recall(self, trees: Trees, seen: ContextFeatures, query: Query) -> ContextFeatures:
        """The history's output of a step with what all memories say of it; F = B."""
        for name, memory in self._named():
            seen = self.entries[name](seen, memory.read(trees[name], query))
        return seen

    def write(self, trees: Trees, observed: Observed) -> Trees:
        """The states with these frames. Raises InvalidInput where one has other leaves than before: it would grow."""
        written = {name: memory.write(trees[name], observed) for name, memory in self._named()}
        for name, tree in written.items():
            before, after = _layout(trees[name]), _layout(tree)
            if before != after:
                path = next(path for path in sorted(before | after) if before.get(path) != after.get(path))
                found, wanted = after.get(path, "nothing"), before.get(path, "nothing")
                raise InvalidInput(
                    f"memory {name!r} wrote {found} at {path!r}, not {wanted}; keep the shapes and dtypes of empty()"
                )
        return written

    def recall_clip(
        self, seen: ContextFeatures, frames: Tensor, actions: Tensor, ages: Tensor, streams: Streams,
        predicted: Streams, generator: torch.Generator,
    ) -> ContextFeatures:  # fmt: skip
        """As `recall`, of every step of whole clips, for training: each is read before the frame after it is written.

        `seen` is of F = B * T steps, `predicted` (F, ...) what its heads say of the streams. Latents `frames`
        (B, T, C, h, w), `actions` (B, T, ...), `ages` (B, T) and `streams` (B, T, ...) are of the last frames.
        """
        batch, steps = ages.shape
        trees, contexts = self.empty(batch), []
        ahead = {name: values.unflatten(0, (batch, steps)) for name, values in predicted.items()}
        tokens = seen.tokens.unflatten(0, (batch, steps))
        for t in range(steps):
            now = {name: values[:, t] for name, values in streams.items()}
            led = actions[:, t - 1] if t else None
            trees = self.write(trees, Observed(frames[:, t], now, led, ages[:, t]))
            said = {name: values[:, t] for name, values in ahead.items()}
            query = Query(frames[:, t], actions[:, t], ages[:, t], now, said, tokens[:, t], generator)
            contexts.append({name: memory.read(trees[name], query) for name, memory in self._named()})
        for name, entry in self.entries.items():
            seen = entry(seen, _joined([context[name] for context in contexts]))
        return seen


def _zero(layer: nn.Conv2d | nn.Linear) -> Any:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _joined(contexts: list[Context]) -> Context:
    """The contexts of T steps (B, ...) as one of F = B * T."""

    def join(part: Callable[[Context], Tensor | None]) -> Tensor | None:
        parts = [part(one) for one in contexts]
        given = [one for one in parts if one is not None]
        if len(given) not in (0, len(parts)):
            raise InvalidInput("a memory read something at some steps and None at others; return a mask of 0 instead")
        return torch.stack(given, dim=1).flatten(0, 1) if given else None

    return Context(join(lambda c: c.guide), join(lambda c: c.mask), join(lambda c: c.condition))


def _layout(tree: Tree) -> dict[str, str]:
    """Shape and dtype of every leaf, by its path."""
    found: dict[str, str] = {}

    def note(path: str, leaf: Tensor) -> Tensor:
        found[path] = f"{str(leaf.dtype).removeprefix('torch.')} {tuple(leaf.shape)}"
        return leaf

    map_named(note, tree)
    return found
