"""A world's config: everything but the weights, as one JSON file that is read strictly."""

from __future__ import annotations

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldsim.errors import DamagedWorld, InvalidInput, check_bounds
from worldsim.io.files import is_name, read_json
from worldsim.migration import WORLD_FORMAT, migrate_config
from worldsim.models.audio import AudioConfig
from worldsim.models.dynamics import DynamicsConfig
from worldsim.models.endings import EndingConfig
from worldsim.models.tokenizer import TokenizerConfig
from worldsim.sampling.sampler import SamplingConfig
from worldsim.spec import ActionSpec

CONFIG_BYTES = 2**20  # the largest config.json that is read


def check_world_name(name: str) -> None:
    """Raise InvalidInput for a name that a world cannot have: names become parts of paths."""
    if not is_name(name):
        raise InvalidInput(
            f"world name {name!r} cannot be used; give 1 to 64 letters, digits and . _ -, the first of them no dot"
        )


@dataclass(frozen=True)
class SourceConfig:
    """The simulator a world was recorded from; `worldsim record` with these settings makes matching episodes."""

    name: str  # as `worldsim record` takes it
    fps: float  # steps in one second of the game's time
    frame_skip: int  # simulator ticks in a step
    pixel_aspect: float = 1.0
    max_episode_steps: int | None = None
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_bounds(
            "source", self, fps=(0.01, 10_000), frame_skip=(1, 10_000), pixel_aspect=(0.05, 20),
            max_episode_steps=(1, 10**9),
        )  # fmt: skip


@dataclass(frozen=True)
class WorldConfig:
    """Name, source, actions and the sizes of the networks."""

    name: str
    source: SourceConfig
    actions: ActionSpec
    tokenizer: TokenizerConfig
    dynamics: DynamicsConfig
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    endings: EndingConfig = field(default_factory=EndingConfig)
    reward_scale: float = 1.0
    audio: AudioConfig | None = None  # of the head that makes its sound; None: it has none
    sha256: dict[str, str] = field(default_factory=dict)  # of the weight files
    format_version: int = WORLD_FORMAT

    def __post_init__(self) -> None:
        t, d, a = self.tokenizer, self.dynamics, self.actions
        check_world_name(self.name)
        check_bounds("world", self, reward_scale=(1e-12, 1e12))
        if not all(low <= high for low, high in zip(a.low, a.high, strict=False)):
            raise InvalidInput(f"actions have bounds from {a.low} to {a.high}; give numbers, none above its other one")
        per_second = None if self.audio is None else self.audio.codec.samples * self.source.fps
        if per_second is not None and abs(per_second - self.audio.codec.rate) > 1e-3 * per_second:
            raise InvalidInput(
                f"the sound of world {self.name!r} has {self.audio.codec.rate:g} samples a second, its steps have "
                f"{per_second:g}; give the rate that was recorded"
            )
        rows = self.sampling.noise_shaping.rows if self.sampling.noise_shaping else None
        if rows is not None and rows[1] > d.height:
            raise InvalidInput(f"noise shaping of world {self.name!r} has rows {rows}; give some of {d.height}")
        for name, made, taken in (
            (
                "latents (channels, height, width)",
                (t.channels, t.latent_height, t.latent_width),
                (d.channels, d.height, d.width),
            ),
            ("actions (discrete, dimensions)", (a.n, len(a.low)), (d.actions, d.action_dim)),
            ("the first discrete action", a.start, d.action_start),
            ("bounds of an action (low, high)", len(a.low), len(a.high)),
        ):
            if made != taken:
                raise InvalidInput(
                    f"the parts of world {self.name!r} do not fit each other: {name} are {made} and {taken}"
                )

    def to_json(self) -> str:
        """The text of `config.json`; of a world without sound as it was before there was any."""
        values = dataclasses.asdict(self)
        if self.audio is None:
            del values["audio"]
        return json.dumps(values, indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> WorldConfig:
        """Read `config.json`; raises DamagedWorld if a field is missing, unknown, of the wrong type or version."""
        try:
            values = read_json(path, CONFIG_BYTES)
        except (OSError, ValueError) as error:
            raise DamagedWorld(f"world config {path} cannot be read ({error}); restore the world's folder") from error
        values = migrate_config(values) if isinstance(values, dict) else {}
        version = values.get("format_version")
        if version != WORLD_FORMAT:
            raise DamagedWorld(
                f"world config {path} has format version {version}, this worldsim reads 6 to {WORLD_FORMAT}; "
                "use the worldsim version that wrote it, or export the world again"
            )
        try:
            return build(cls, values, str(path))
        except InvalidInput as error:
            raise DamagedWorld(
                f"{error}; restore the world's config.json, or use the worldsim version that wrote it"
            ) from error


def build(kind: Any, value: Any, where: str) -> Any:
    """`value` from JSON as the annotated type `kind`; raises InvalidInput where it cannot be, naming the place."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list) or (args[-1] is not Ellipsis and len(value) != len(args)):
            raise InvalidInput(f"{where}: expected a list for {kind}, found {value!r}")
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(build(a, v, where) for a, v in zip(inner, value, strict=True))
    if origin in (types.UnionType, typing.Union):
        return None if value is None else build(next(a for a in args if a is not type(None)), value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise InvalidInput(f"{where}: expected an object, found {value!r}")
        return {name: build(args[1], one, f"{where}: {name}") for name, one in value.items()}
    if origin is typing.Literal:
        if value not in args:
            raise InvalidInput(f"{where}: expected one of {args}, found {value!r}")
        return value
    plain = origin or kind
    allowed: Any = (int, float) if plain is float else plain
    if plain is not Any and (not isinstance(value, allowed) or (isinstance(value, bool) and plain is not bool)):
        raise InvalidInput(f"{where}: expected {plain.__name__}, found {value!r}")
    try:
        return float(value) if plain is float else value
    except OverflowError as error:
        raise InvalidInput(f"{where}: the number is too large for a float") from error


def _nearest(unknown: Sequence[str], known: Iterable[str]) -> str:
    """What may have been meant."""
    found = {name: difflib.get_close_matches(name, known, 1) for name in unknown}
    meant = [f"{name!r} is nearest to {near[0]!r}" for name, near in found.items() if near]
    return f"; {', '.join(meant)}" if meant else ""


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: expected an object, found {value!r}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    required = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING}
    missing = sorted(required - set(value))
    if unknown or missing:
        raise InvalidInput(f"{where}: unknown fields {unknown}, missing fields {missing}{_nearest(unknown, hints)}")
    fields = {name: build(hints[name], v, f"{where}: {name}") for name, v in value.items()}
    try:
        return kind(**fields)
    except InvalidInput as error:
        raise InvalidInput(f"{where}: {error}") from error
