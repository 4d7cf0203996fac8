"""Memories of a model, named in its config, and where what they say enters: `Memories`.

What a memory is, and how one is added from outside the package, is in `worldsim.memory.base`. A guide enters as
features at the latents' resolution and as tokens, as the last frames do, and a condition as one more term of adaLN's.
All of these begin at zero (as in ControlNet; Zhang et al., 2023): memory does not change a model until it has learned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
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

# Kinds that come with worldsim are imported where a world names them: the core knows none of them.
memories: Registry[nn.Module] = Registry(
    "memory",
    {
        "keyframes": "worldsim.memory.keyframes",
        "recurrent": "worldsim.memory.recurrent",
        "recall": "worldsim.memory.recall",
        "map3d": "worldsim.memory.map3d",
    },
)
Trees = dict[str, Tree]  # one a memory, by its name
Held = list[tuple[Tensor, Tensor]]  # guides (B, C, h, w) and their gates (B, 1, h, w): latents that a frame keeps


@dataclasses.dataclass(frozen=True)
class Recalled:
    """What all memories say of F steps."""

    features: ContextFeatures  # the history's output with it
    base: Tensor  # (F, C, h, w), what the frame is drawn as a change of: the last frame, or a guide where that is known
    held: Held  # what the frame is to keep as it is


class Entry(nn.Module):
    """Where what one memory says enters the model."""

    def __init__(self, config: DynamicsConfig, name: str, spec: MemorySpec) -> None:
        super().__init__()
        c, cells = config, config.patch[0] * config.patch[1]
        self.name, self.spec, self.patch, self.grid = name, spec, c.patch, (c.height, c.width)
        sizes = (spec.guide, spec.condition, spec.tokens)
        if min(sizes) < 0 or not sum(sizes):
            raise InvalidInput(f"memory {name!r} has {spec}; let it give a guide, tokens or a condition")
        if (spec.gate or spec.base) and spec.guide != c.channels:
            raise InvalidInput(
                f"memory {name!r} has {spec}; a guide with a gate, or as a base, has {c.channels} channels, as latents"
            )
        if spec.guide:
            self.features = nn.Conv2d(spec.guide + 1, c.local, 3, padding=1)  # of the guide and its mask
            self.local = _zero(nn.Conv2d(c.local, c.local, 3, padding=1))
            self.tokens = _zero(nn.Linear(c.local * cells, c.dim))
        if spec.tokens:
            self.heads = c.heads
            self.key_value = nn.Linear(spec.tokens, 2 * c.dim)
            self.query, self.attended = nn.Linear(c.dim, c.dim), _zero(nn.Linear(c.dim, c.dim))
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
        if self.spec.tokens:
            tokens = tokens + self._attend(seen.tokens, context)
        if self.spec.condition:
            condition = self._checked("condition", context.condition, (batch, self.spec.condition))
            cond = cond + self.condition(condition.to(self.condition.weight.dtype))
        return dataclasses.replace(seen, local=local, tokens=tokens, cond=cond)

    def _attend(self, tokens: Tensor, context: Context) -> Tensor:
        """What the history's tokens (F, N, D) read of the recalled ones; nothing where there are none."""
        count = -1 if context.tokens is None else context.tokens.shape[1]
        recalled = self._checked("tokens", context.tokens, (len(tokens), count, self.spec.tokens))
        keys_values = self.key_value(recalled.to(self.key_value.weight.dtype))
        queries = self.query(torch.nn.functional.layer_norm(tokens, tokens.shape[-1:]))
        q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in (queries, *keys_values.chunk(2, -1)))
        logits = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5  # (F, heads, N, M)
        if context.heard is not None:
            logits = logits.masked_fill(~context.heard[:, None, None], -1e4)
            v = v * context.heard[:, None, :, None]
        read = (torch.softmax(logits, dim=-1).to(v.dtype) @ v).transpose(1, 2).flatten(2)
        return self.attended(read)

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

    def recall(self, trees: Trees, seen: ContextFeatures, query: Query) -> Recalled:
        """What all memories say of a step, F = B."""
        held: Held = []
        base = query.latents
        for name, memory in self._named():
            context = memory.read(trees[name], query)
            seen = self.entries[name](seen, context)
            base = _based(base, memory.spec, context)
            if memory.spec.gate and context.gate is not None and context.guide is not None:
                held.append((context.guide, context.gate))
        return Recalled(seen, base, held)

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
        *, known: Mapping[str, Context] | None = None, dropout: float = 0.0,
    ) -> Recalled:  # fmt: skip
        """As `recall`, of every step of whole clips, for training: each is read before the frame after it is written.

        Nothing is held: the denoiser learns to draw it all.

        `seen` is of F = B * T steps, `predicted` (F, ...) what its heads say of the streams. Latents `frames`
        (B, T, C, h, w), `actions` (B, T, ...), `ages` (B, T) and `streams` (B, T, ...) are of the last frames.
        `known` are contexts (F, ...) of memories that were gone through before; a share `dropout` of the clips is
        without any, and, where there are several, another such share with a single one.
        """
        batch, steps = ages.shape
        known = known or {}
        contexts = self._step_through(seen, frames, actions, ages, streams, predicted, generator, known)
        chance = torch.rand(batch, generator=generator, device=generator.device) if dropout else None
        base = frames.flatten(0, 1)
        for index, (name, memory) in enumerate(self._named()):
            context = known[name] if name in known else _joined([context[name] for context in contexts])
            said, based = self.entries[name](seen, context), _based(base, memory.spec, context)
            if chance is not None:
                rows = self._kept(index, chance, dropout).to(seen.tokens.device).repeat_interleave(steps)
                said, based = _mixed(rows, said, seen), torch.where(rows.view(-1, 1, 1, 1), based, base)
            seen, base = said, based
        return Recalled(seen, base, [])

    def _kept(self, index: int, chance: Tensor, dropout: float) -> Tensor:
        """Which clips learn with a memory: not those without any, nor, where there are several, with another alone."""
        count, kept = len(self.entries), chance >= dropout
        if count == 1:
            return kept
        alone = ((chance - dropout) / dropout * count).floor()  # from 0 to count - 1 where one is alone
        return kept & ((chance >= 2 * dropout) | (alone == index))

    def _step_through(
        self, seen: ContextFeatures, frames: Tensor, actions: Tensor, ages: Tensor, streams: Streams,
        predicted: Streams, generator: torch.Generator, known: Mapping[str, Context],
    ) -> list[dict[str, Context]]:  # fmt: skip
        """What each memory that is not `known` says at each step of clips."""
        batch, steps = ages.shape
        active = [(name, memory) for name, memory in self._named() if name not in known]
        if not active:
            return []
        trees = {name: tree for name, tree in self.empty(batch).items() if name not in known}
        contexts = []
        ahead = {name: values.unflatten(0, (batch, steps)) for name, values in predicted.items()}
        tokens = seen.tokens.unflatten(0, (batch, steps))
        for t in range(steps):
            now = {name: values[:, t] for name, values in streams.items()}
            led = actions[:, t - 1] if t else None
            observed = Observed(frames[:, t], now, led, ages[:, t])
            trees = {name: memory.write(trees[name], observed) for name, memory in active}
            said = {name: values[:, t] for name, values in ahead.items()}
            query = Query(frames[:, t], actions[:, t], ages[:, t], now, said, tokens[:, t], generator)
            contexts.append({name: memory.read(trees[name], query) for name, memory in active})
        return contexts

    def without_weights(self) -> list[tuple[str, Memory]]:
        """The memories that learn nothing, by name: what they say of recordings can be computed before training."""
        return [(name, memory) for name, memory in self._named() if not list(self.each[name].parameters())]


def keep(latents: Tensor, held: Held) -> Tensor:
    """Drawn latents (B, C, h, w) with those that memories are sure of; of several memories the first one counts.

    The gate is fixed, not learned: one that was learned overwrote what the guide knew.
    """
    for guide, gate in reversed(held):
        latents = torch.where(gate, guide.to(latents.dtype), latents)
    return latents


def _based(base: Tensor, spec: MemorySpec, context: Context) -> Tensor:
    """What a frame is drawn as a change of (F, C, h, w), now that a memory has said what it knows of it."""
    if not spec.base or context.guide is None:
        return base
    known = 1.0 if context.mask is None else context.mask.to(base.dtype)
    return base + known * (context.guide.to(base.dtype) - base)


def _mixed(rows: Tensor, one: ContextFeatures, other: ContextFeatures) -> ContextFeatures:
    """The history's output with what one says of some rows (F,) bool, and the other of the rest."""
    parts = {n: (getattr(one, n), getattr(other, n)) for n in ("tokens", "local", "cond")}
    mixed: dict[str, Any] = {
        n: torch.where(rows.view(-1, *[1] * (a.ndim - 1)), a, b.to(a.dtype)) for n, (a, b) in parts.items()
    }
    return dataclasses.replace(one, **mixed)


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

    return Context(
        join(lambda c: c.guide), join(lambda c: c.mask), join(lambda c: c.condition), join(lambda c: c.tokens),
        join(lambda c: c.heard), join(lambda c: c.gate),
    )  # fmt: skip


def _layout(tree: Tree) -> dict[str, str]:
    """Shape and dtype of every leaf, by its path."""
    found: dict[str, str] = {}

    def note(path: str, leaf: Tensor) -> Tensor:
        found[path] = f"{str(leaf.dtype).removeprefix('torch.')} {tuple(leaf.shape)}"
        return leaf

    map_named(note, tree)
    return found
