"""A step's networks as machine code: `Compiled`, an engine that PyTorch's compiler makes once and the disk keeps.

A step of one world is a thousand small kernels, and most of its time goes to calling them. AOTInductor (Ansel et al.,
2024, "PyTorch 2") makes a library of the history and one of the drawing, in which small kernels are one loop, weights
lie as the processor wants them and nothing passes through Python. That takes half a minute or more for every number of
worlds that are stepped together; the libraries are kept, so it is paid once.

Sums are rounded less often than by `Eager`: the two draw the same world, but not the same bytes. Each for itself is
reproducible to the bit.

On CUDA `torch.compile` fuses the kernels in this process instead, and launches them as CUDA graphs where it can:
nothing is kept on disk. That has not been run on a GPU yet.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import hashlib
import inspect
import logging
import os
import platform
import shutil
import stat
import sys
import tempfile
import threading
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from worldsim.errors import InvalidInput, MissingDependency
from worldsim.io.files import replacing
from worldsim.models import acting as acting_source
from worldsim.models import conditions as conditions_source
from worldsim.models import dynamics as dynamics_source
from worldsim.models import ensemble as ensemble_source
from worldsim.models import heads as heads_source
from worldsim.models import layers as layers_source
from worldsim.models import state_heads as state_heads_source
from worldsim.models.carried import CarriedHeads
from worldsim.models.dynamics import ContextFeatures, Dynamics
from worldsim.models.layers import KVCache
from worldsim.models.registry import Streams
from worldsim.sampling import noise_shaping as noise_shaping_source
from worldsim.sampling import sampler as sampling_source
from worldsim.sampling.sampler import Eager, SamplingConfig, StepNoise

CACHE = "WORLDSIM_CACHE"  # variable of the environment: the folder of what is compiled
WRITTEN = (  # what is compiled
    *(conditions_source, dynamics_source, heads_source, layers_source, state_heads_source, ensemble_source),
    *(acting_source, noise_shaping_source, sampling_source, sys.modules[__name__]),
)
SETTINGS = {
    "freezing": True,  # weights as constants, laid out for the processor
    "cpp.dynamic_threads": True,  # as many as the caller has
    "cpp.min_chunk_size": 4096,  # numbers in a loop from which it is shared by threads: below, waking them takes longer
}
FAR = 0.05  # of its size, or of 1: how far a sound library may be off

log = logging.getLogger("worldsim")

Program = Callable[..., Any]


class History(nn.Module):
    """`context_step` as a function of tensors; keys, values and `written` are changed in place."""

    def __init__(self, eager: Eager) -> None:
        super().__init__()
        self.dynamics, self.eager = eager.dynamics, eager

    def forward(
        self, past: Tensor, actions: Tensor, context: Tensor, keys: list[Tensor], values: list[Tensor],
        time: Tensor, written: Tensor, first: Tensor, *streams: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """The fields of `ContextFeatures`, and the cache's new time; `streams` in the order of the config."""
        cache = KVCache(list(keys), list(values), time, written, first)
        known = dict(zip(self.dynamics.config.streams, streams, strict=True))
        features = self.eager.context_step(past, actions, cache, context, known)
        return *_fields(features), cache.time


class Drawing(nn.Module):
    """`draw` as a function of tensors."""

    def __init__(self, eager: Eager) -> None:
        super().__init__()
        self.dynamics, self.eager = eager.dynamics, eager

    def forward(self, past: Tensor, features: list[Tensor], frame: Tensor, shaping: Tensor) -> Tensor:
        """The latents; `features` are the fields of `ContextFeatures`."""
        return self.eager.draw(past, _features(self.dynamics, features), StepNoise(frame[:, :0], frame, shaping))


@dataclass(frozen=True)
class Programs:
    """The compiled halves of a step of one number of worlds."""

    history: Program
    drawing: Program


class Compiled:
    """The engine of `World.compiled`. Compiles at the first step of each number of worlds, then and later from disk.

    Libraries lie in `WORLDSIM_CACHE`, by default `~/.cache/worldsim`, about 13 MB for every number of worlds. Raises
    MissingDependency where there is no C++ compiler, InvalidInput if the folder cannot be written, or if others than
    this user and root could have put a library there: loading one runs its code.
    """

    def __init__(self, dynamics: Dynamics, sampling: SamplingConfig, carried: CarriedHeads | None = None) -> None:
        self.eager = Eager(dynamics, sampling, carried or {})
        self._made: dict[tuple[int, int], Programs] = {}
        self._lock = threading.Lock()
        self._name = _fingerprint(dynamics, sampling)

    @property
    def dynamics(self) -> Dynamics:
        """The weights."""
        return self.eager.dynamics

    @property
    def carried(self) -> CarriedHeads:
        """Heads that come after the frame; they are small, and not compiled."""
        return self.eager.carried

    def with_heads(self, carried: CarriedHeads) -> Compiled:
        """The same, with these heads after the frame: what is compiled stays the same."""
        other = Compiled(self.eager.dynamics, self.eager.sampling, carried)
        other._made, other._lock = self._made, self._lock
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        """Libraries do not travel to other processes, which load them themselves."""
        return type(self), (self.eager.dynamics, self.eager.sampling, self.eager.carried)

    def context_step(
        self, past: Tensor, actions: Tensor, cache: KVCache, context: Tensor, streams: Streams
    ) -> ContextFeatures:
        """As `worldsim.sampling.sampler.context_step`."""
        # A library takes for granted how its inputs lie in memory.
        cache.keys[:], cache.values[:] = ([a.contiguous() for a in many] for many in (cache.keys, cache.values))
        cache.written, cache.first = cache.written.contiguous(), cache.first.contiguous()
        inputs = (
            *(a.contiguous() for a in (past, actions, context)),
            cache.keys, cache.values, cache.time.contiguous(), cache.written, cache.first,
            *(streams[name].contiguous() for name in self.eager.dynamics.config.streams),
        )  # fmt: skip
        *features, cache.time = self._programs(inputs).history(*inputs)
        return _features(self.eager.dynamics, features)

    def draw(self, past: Tensor, features: ContextFeatures, noise: StepNoise) -> Tensor:
        """As `worldsim.sampling.sampler.draw`."""
        program = self._made[_kind(past)].drawing  # made by `context_step`, whose output this begins with
        return program(*_to_draw(past, features, noise))

    def with_sampling(self, sampling: SamplingConfig) -> Compiled:
        """One that draws otherwise; compiles anew."""
        return Compiled(self.eager.dynamics, sampling, self.eager.carried)

    def _programs(self, inputs: tuple[Any, ...]) -> Programs:
        kind = _kind(inputs[0])
        with self._lock:  # a step ahead of time and one on demand may want it at once
            if kind not in self._made:
                self._made[kind] = self._load(inputs)
            return self._made[kind]

    def _load(self, inputs: tuple[Any, ...]) -> Programs:
        if inputs[0].is_cuda:
            return Programs(_fused(History(self.eager)), _fused(Drawing(self.eager)))
        batch, threads = _kind(inputs[0])
        folder = cache_folder()
        stem = f"{self._name}-{batch}-worlds-{threads}-threads"
        paths = {name: folder / f"{stem}-{name}.pt2" for name in ("history", "drawing")}
        loaded = _load_whole(folder, paths)
        if loaded is None:
            log.warning("compiling a step of %d world(s), half a minute or more; it is kept in %s", batch, folder)
            _compile(self.eager, inputs, paths)
            loaded = _load_whole(folder, paths)
        if loaded is None:
            raise InvalidInput(
                f"what was compiled in {str(folder)!r} cannot be loaded; set {CACHE} to another folder, or leave the "
                "world uncompiled"
            )
        return loaded


def _fused(half: nn.Module) -> Program:
    """Half of a step on CUDA: kernels fused at the first call, and launched together where none changes an input."""
    fused = torch.compile(half, mode="reduce-overhead", fullgraph=True, dynamic=False)

    def run(*inputs: Any) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return tree_map(torch.clone, fused(*inputs))  # the next call of a graph writes where this one did

    return run


def _load_whole(folder: Path, paths: dict[str, Path]) -> Programs | None:
    """The libraries of a folder; None where one is missing or damaged."""
    with _explained(folder):
        for path in (folder, *paths.values()):
            _require_private(path)
    if not all(_whole(path) for path in paths.values()):
        return None
    try:
        return Programs(*(torch._inductor.aoti_load_package(str(path)) for path in paths.values()))
    except RuntimeError as error:
        log.warning("compiled steps in %s cannot be loaded (%s)", folder, str(error).strip().splitlines()[0])
        return None


def _require_private(path: Path) -> None:
    """Raise InvalidInput for a folder or a library that others could have changed: its code would run here."""
    if not hasattr(os, "getuid") or not path.exists():
        return
    found = path.stat()
    if found.st_uid not in (os.getuid(), 0):
        raise InvalidInput(
            f"{str(path)!r} belongs to another user, whose code compiled steps would run; set {CACHE} to a folder of "
            "your own"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise InvalidInput(
            f"{str(path)!r} can be written by other users, whose code compiled steps would run; take that from them "
            f"(chmod go-w {path}), or set {CACHE} to a folder of your own"
        )


def _whole(path: Path) -> bool:
    """Whether there is a library whose checksums are right: loading a damaged one may end the process."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.testzip() is None
    except Exception:  # zipfile and the decompressors raise many types, for every way of being damaged another
        return False


def cache_folder() -> Path:
    """Where compiled steps are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get(CACHE) or Path(home) / "worldsim")


def _kind(past: Tensor) -> tuple[int, int]:
    """What there is a library for: the number of worlds, and of threads, among which loops are split."""
    return past.shape[0], torch.get_num_threads()


def _fields(features: ContextFeatures) -> tuple[Tensor, ...]:
    """All that a step is drawn from, the actions among it where there are action tokens."""
    actions = () if features.actions is None else (features.actions,)
    return features.tokens, features.local, features.cond, features.ages, *actions, *features.heads.values()


def _features(dynamics: Dynamics, fields: Sequence[Tensor]) -> ContextFeatures:
    """The history's output of its `_fields`."""
    tokens, local, cond, ages, *said = fields
    actions = said.pop(0) if dynamics.acting is not None else None
    heads = dict(zip(dynamics.heads.of["history"], said, strict=True))
    return ContextFeatures(tokens, local, cond, ages, heads, actions)


def _to_draw(past: Tensor, features: ContextFeatures, noise: StepNoise) -> tuple[Any, ...]:
    """The inputs of `Drawing`."""
    return (
        past.contiguous(), [a.contiguous() for a in _fields(features)],
        noise.frame.contiguous(), noise.shaping.contiguous(),
    )  # fmt: skip


def _fingerprint(dynamics: Dynamics, sampling: SamplingConfig) -> str:
    """Names all that a library depends on, but for numbers of worlds and threads: weights, code, PyTorch, machine."""
    weight = dynamics.position
    said = [repr(dynamics.config), repr(sampling), torch.__version__, str(weight.dtype), _processor()]
    found = hashlib.sha256("\n".join([*said, *(inspect.getsource(module) for module in WRITTEN)]).encode())
    for name, tensor in dynamics.state_dict().items():
        found.update(name.encode())
        found.update(tensor.float().cpu().numpy().tobytes())
    return found.hexdigest()[:20]


def _processor() -> str:
    """The instructions that code is made for: a home folder may be shared by machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine() + torch.backends.cpu.get_cpu_capability()
    return next((line for line in lines if line.startswith("flags")), platform.machine())


def _compile(eager: Eager, inputs: tuple[Any, ...], paths: dict[str, Path]) -> None:
    """Write the libraries of a step with inputs like these, which stay as they are."""
    with torch.inference_mode(False), torch.no_grad(), _quietly(), _in_workshop():
        taken = _copied(inputs)
        _write(History(eager), taken, paths["history"])
        _write(Drawing(eager), _first_to_draw(eager, taken), paths["drawing"])


def _first_to_draw(eager: Eager, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Inputs of `Drawing` that follow from inputs of `History`, which stay as they are, with some noise."""
    *features, _ = History(eager)(*_copied(inputs))
    past, c = inputs[0].clone(), eager.dynamics.config
    random = {"generator": torch.Generator(past.device).manual_seed(0), "device": past.device}
    frame = torch.randn((len(past), c.drawn_channels, c.height, c.width), **random).to(past.dtype)
    shaping = torch.rand((len(past), 1, c.height, c.width), **random)
    return _to_draw(past, _features(eager.dynamics, features), StepNoise(frame, frame, shaping))


def _write(half: nn.Module, inputs: tuple[Any, ...], path: Path) -> None:
    """Compile one half of a step, see that it computes what it should, and put it at `path`, all or nothing."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    with _explained(path.parent):
        get_cpp_compiler()  # at once, not after the tracing
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _require_private(path.parent)
        with replacing(path) as part:
            exported = torch.export.export(half, _copied(inputs))
            torch._inductor.aoti_compile_and_package(exported, package_path=str(part), inductor_configs=SETTINGS)
            part.chmod(0o600)
            _check(half, torch._inductor.aoti_load_package(str(part)), inputs)


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Say what can be done where the compiler or the disk fails."""
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        yield
    except OSError as error:
        raise InvalidInput(
            f"cannot keep compiled steps in {str(folder)!r} ({error.strerror or error}); set {CACHE} to a folder that "
            "can be written"
        ) from error
    except RuntimeError as error:  # the compiler's own, and those of a library that cannot be loaded
        if isinstance(getattr(error, "inner_exception", error), InvalidCxxCompiler):
            raise MissingDependency(
                "compiling a world needs a C++ compiler, and none is found; install one (apt-get install g++) or name "
                "it in CXX, or leave the world uncompiled"
            ) from error
        raise InvalidInput(
            f"the compiler of torch {torch.__version__} cannot compile this world here "
            f"({str(error).strip().splitlines()[0]}); leave the world uncompiled"
        ) from error


def _check(half: nn.Module, program: Program, inputs: tuple[Any, ...]) -> None:
    """Raise InvalidInput if a library and the kernels that it stands for do not agree, in what they give and change."""
    results = []
    for compute in (half, program):
        given = _copied(inputs)
        results.append(tree_leaves((compute(*given), given)))
    for wanted, found in zip(*results, strict=True):
        off = (wanted.double() - found.double()).square().mean().sqrt()
        allowed = FAR * (1 + wanted.double().square().mean().sqrt()) if wanted.is_floating_point() else 0.0
        if not off <= allowed:
            raise InvalidInput(
                f"the compiler of torch {torch.__version__} makes a step here that is off by {off:.2g}, where "
                f"{allowed:.2g} would be rounding; leave the world uncompiled"
            )


def _copied(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple([a.clone() for a in one] if isinstance(one, list) else one.clone() for one in inputs)


@contextlib.contextmanager
def _in_workshop() -> Iterator[None]:
    """Compile in a folder that only this process knows; PyTorch's own is where any user may put one before."""
    name = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(name)
    os.environ[name] = _workshop()
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@functools.cache
def _workshop() -> str:
    """A folder for what the compiler leaves; it stays until the process ends, since PyTorch remembers what is there."""
    folder = tempfile.mkdtemp(prefix="worldsim-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what the compiler has to say to those who write it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
