"""Conditions, heads, memories and decoders by name: `Registry`, and what these have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from worldsim.errors import InvalidInput

if TYPE_CHECKING:
    from worldsim.models.dynamics import DynamicsConfig

M = TypeVar("M", bound=nn.Module)
T = TypeVar("T")
Streams = dict[str, Tensor]  # values of recorded streams at the last frame of F frames, (F, ...), as recorded


@dataclass(frozen=True)
class Scale:
    """Statistics of recorded numbers, by which a model normalises them; of no entries: they are taken as they are."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not all(std > 0 for std in self.std):
            raise InvalidInput(f"a scale has means {self.mean} and deviations {self.std}; give as many, all above 0")


@dataclass(frozen=True)
class StepInputs:
    """What is known of F steps before they are computed."""

    actions: Tensor  # (F,) int64 or (F, A) float32, as the simulator takes them
    level: Tensor  # (F,), noise level of the last frames
    ages: Tensor  # (F,) int64, steps since the beginning of the episode at the last frame
    streams: Streams = field(default_factory=dict)

    def stream(self, name: str) -> Tensor:
        """The values of a stream; raises InvalidInput where they were not given."""
        if name not in self.streams:
            raise InvalidInput(f"this model reads the stream {name!r}, which the step lacks; give its values")
        return self.streams[name]


class Normalise(nn.Module):
    """Numbers (..., A) in units of their deviation from their mean, and back, always in float32."""

    def __init__(self, scale: Scale) -> None:
        super().__init__()
        self.mean, self.std = torch.tensor(scale.mean), torch.tensor(scale.std)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Normalise:
        """Go to another device, but never to a coarser number format: means may be large against deviations."""
        self.mean, self.std = (a.to(fn(a).device) for a in (self.mean, self.std))
        return self

    def forward(self, values: Tensor) -> Tensor:
        """As recorded -> normalised."""
        return (values.float() - self.mean) / self.std if len(self.mean) else values

    def undo(self, values: Tensor) -> Tensor:
        """Normalised -> as recorded."""
        return values.float() * self.std + self.mean if len(self.mean) else values.float()


def options_of(config: DynamicsConfig, kind: str, stream: str, options: type[T]) -> T:
    """What the config's `options` say of the module "kind:stream", as the dataclass that lists what it takes.

    Raises InvalidInput for an option that the module does not take, or a value that the dataclass refuses.
    """
    name = kind if stream == kind else f"{kind}:{stream}"
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in config.options.get(name, {}).items()}
    try:
        return options(**given)
    except TypeError as error:
        known = ", ".join(getattr(options, "__dataclass_fields__", {}))
        raise InvalidInput(f"options of {name!r} are {given}, and it takes {known} ({error})") from error


class Registry(Generic[M]):
    """Modules by name. A name "kind:stream" builds the module `kind` for a stream; "kind" alone one for "kind".

    `elsewhere` says which module registers a kind when it is imported, for kinds that few worlds need.
    """

    def __init__(self, what: str, elsewhere: Mapping[str, str] | None = None) -> None:
        self._what, self._elsewhere = what, dict(elsewhere or {})
        self._kinds: dict[str, Callable[[Any, str], M]] = {}

    def register(self, kind: str) -> Callable[[type[M]], type[M]]:
        """A decorator for a class that is built with (config, stream); one in a module of your own is as good."""

        def add(made: type[M]) -> type[M]:
            taken = kind in self._kinds and self._kinds[kind] is not made
            if taken or hasattr(nn.ModuleDict, kind) or not kind.replace("_", "").isalnum():
                raise InvalidInput(f"a {self._what} cannot be called {kind!r}, or one is already; give another name")
            self._kinds[kind] = made
            return made

        return add

    def check(self, names: Sequence[str]) -> None:
        """Raise InvalidInput for a name that nothing is registered under, or that stands twice."""
        for name in names:
            kind = name.partition(":")[0]
            if kind not in self._kinds and kind in self._elsewhere:
                import_module(self._elsewhere[kind])
            if kind not in self._kinds or names.count(name) > 1 or "." in name:
                raise InvalidInput(
                    f"{self._what} {name!r} is unknown or stands twice; there are "
                    f"{', '.join(sorted({*self._kinds, *self._elsewhere}))}; "
                    "import the module that registers another before the world is loaded"
                )

    def kind(self, name: str) -> Callable[[Any, str], M]:
        """The class that is registered for a name; raises InvalidInput where there is none."""
        self.check([name])
        return self._kinds[name.partition(":")[0]]

    def build(self, config: DynamicsConfig, names: Sequence[str]) -> nn.ModuleDict:
        """The modules of these names."""
        self.check(names)
        return nn.ModuleDict({name: self._build(config, *name.partition(":")) for name in names})

    def _build(self, config: Any, kind: str, _: str, stream: str) -> M:
        return self._kinds[kind](config, stream or kind)
