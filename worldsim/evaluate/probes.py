"""Probes: measurements that only one world has, kept in that world's folder.

A world's folder may hold `probes.py`, or a package `probes/`, whose `PROBES` lists them. That is code. Worlds that ship
bring it with the package; another's runs only where the caller trusts it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from worldsim.config import WorldConfig
from worldsim.data.episodes import Episodes
from worldsim.errors import DamagedWorld, InvalidInput
from worldsim.evaluate.effort import Effort
from worldsim.evaluate.endings import DrawActions
from worldsim.io.files import is_name
from worldsim.io.folders import CONFIG, SHIPPED, shipped_worlds
from worldsim.world import World

FILES = ("probes.py", "probes/__init__.py")
Count = Callable[[np.ndarray], np.ndarray]  # frames (N, H, W, 3) uint8 -> how many things are in sight, (N,) int64


@dataclass(frozen=True)
class ProbeContext:
    """What a probe measures: a world, beside real episodes that it was not trained on."""

    world: World
    episodes: Episodes
    draw_actions: DrawActions | None  # of the policy that recorded the episodes; None: it looks at frames, so replay
    effort: Effort  # its `quick` asks for very little


@dataclass(frozen=True)
class ProbeResult:
    """What a probe found."""

    figures: dict[str, Any]  # for the JSON report, under the probe's name
    text: str = ""  # for the printed report; `worldsim.io.text.table` makes tables
    sheets: Mapping[str, Sequence[np.ndarray]] = field(default_factory=dict)  # rows of frames (N, H, W, 3), by name
    plots: Sequence[Callable[[Any], None]] = ()  # each draws one panel, into matplotlib's axes


class Probe(ABC):
    """One measurement of a world."""

    name: ClassVar[str]  # of its section in the report

    def check(self, context: ProbeContext) -> None:
        """Raise InvalidInput where the episodes hold too little; asked before anything is measured."""
        return None

    @abstractmethod
    def measure(self, context: ProbeContext) -> ProbeResult:
        """Measure; takes minutes with the default effort, seconds with a quick one."""


class CountingProbe(Probe):
    """A probe that also tells agents' evaluation how many things are in sight."""

    @abstractmethod
    def count(self, frames: np.ndarray) -> np.ndarray:
        """Things in each of the frames (N, H, W, 3) uint8: (N,) int64."""


@dataclass(frozen=True)
class FoundProbes:
    """The probes of a world, and the file of those that were left out for want of trust."""

    probes: tuple[Probe, ...] = ()
    untrusted: Path | None = None


def find_probes(folder: Path, config: WorldConfig, *, trust: bool = False) -> FoundProbes:
    """The probes in a world's folder; those of a folder that does not ship run their code only with `trust`.

    A world without probes that run has those of the world that ships of the same source: a copy that was trained
    further is measured as the original is.
    """
    common = _common_probes(config)
    own = _probe_file(folder)
    if own is not None and (trust or folder.resolve().parent == SHIPPED.resolve()):
        return FoundProbes(common + _load(own))
    return FoundProbes(common + probes_of_source(config.source.name), untrusted=own)


def _common_probes(config: WorldConfig) -> tuple[Probe, ...]:
    """Probes of every world that can do something: of sound."""
    if config.audio is None:
        return ()
    from worldsim.evaluate.sound import SoundProbe  # which is a probe itself

    return (SoundProbe(),)


def probes_of_source(source: str) -> tuple[Probe, ...]:
    """The probes of the first world that ships and was made of this source."""
    for name in shipped_worlds():
        path = _probe_file(SHIPPED / name)
        if path is not None and WorldConfig.read(SHIPPED / name / CONFIG).source.name == source:
            return _load(path)
    return ()


def count_in_sight(source: str) -> Count | None:
    """What the probes of a source's shipped world count in a frame, if they count anything."""
    return next((probe.count for probe in probes_of_source(source) if isinstance(probe, CountingProbe)), None)


def _probe_file(folder: Path) -> Path | None:
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def _load(path: Path) -> tuple[Probe, ...]:
    found = getattr(_import(path), "PROBES", None)
    probes = tuple(found) if isinstance(found, Sequence) else ()
    if not probes or not all(isinstance(probe, Probe) for probe in probes):
        raise DamagedWorld(f"{path} has no PROBES that lists instances of worldsim.evaluate.probes.Probe; add them")
    names = [probe.name for probe in probes]
    if len(set(names)) < len(names) or not all(map(is_name, names)):
        raise InvalidInput(f"the probes of {path} are named {names}; give each a name of its own: letters, digits, _ -")
    return probes


def _import(path: Path) -> ModuleType:
    """Import a file once, under a name of its own; a package's modules can import each other."""
    name = f"worldsim_probes_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    package = [str(path.parent)] if path.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, path, submodule_search_locations=package)
    assert spec is not None and spec.loader is not None  # it ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
