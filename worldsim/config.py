"""A world's config: everything but the weights, as one JSON file that is read strictly."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldsim.endings import EndingConfig
from worldsim.errors import DamagedWorld, InvalidInput
from worldsim.models.burst import check_burst
from worldsim.models.dynamics import DynamicsConfig
from worldsim.models.tokenizer import TokenizerConfig
from worldsim.sampling import SamplingConfig
from worldsim.spec import ActionSpec

FORMAT_VERSION = 6


@dataclass(frozen=True)
class SourceConfig:
    """The simulator a world was recorded from; `worldsim record` with these settings makes matching episodes."""

    name: str  # as `worldsim record` takes it
    fps: float  # steps in one second of the game's time
    frame_skip: int  # simulator ticks in a step
    pixel_aspect: float = 1.0
    max_episode_steps: int | None = None
    parameters: dict[str, Any] = field(default_factory=dict)


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
    burst: int = 0  # steps of one action that the world can also draw as a burst; 0: it has not learned to
    sha256: dict[str, str] = field(default_factory=dict)  # of the weight files
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        t, d, a = self.tokenizer, self.dynamics, self.actions
        if self.burst:
            check_burst(d, self.burst)
        rows = self.sampling.surprise_rows
        if rows is not None and rows[1] > d.height:
            raise InvalidInput(f"surprise_rows of world {self.name!r} are {rows}; its latents have {d.height} rows")
        for name, made, taken in (
            (
                "latents (channels, height, width)",
                (t.channels, t.latent_height, t.latent_width),
                (d.channels, d.height, d.width),
            ),
            ("actions (discrete, dimensions)", (a.n, len(a.low)), (d.actions, d.action_dim)),
            ("bounds of an action (low, high)", len(a.low), len(a.high)),
        ):
            if made != taken:
                raise InvalidInput(
                    f"the parts of world {self.name!r} do not fit each other: {name} are {made} and {taken}"
                )

    def to_json(self) -> str:
        """The text of `config.json`."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def read(cls, path: Path) -> WorldConfig:
        """Read `config.json`; raises DamagedWorld if a field is missing, unknown, of the wrong type or version."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError, UnicodeDecodeError) as error:
            raise DamagedWorld(f"world config {path} cannot be read ({error}); restore the world's folder") from error
        if not isinstance(values, dict) or values.get("format_version") != FORMAT_VERSION:
            version = values.get("format_version") if isinstance(values, dict) else None
            raise DamagedWorld(
                f"world config {path} has format version {version}, this worldsim reads {FORMAT_VERSION}; "
                "use the worldsim version that wrote it, or export the world again"
            )
        return _build(cls, values, str(path))


def _build(kind: Any, value: Any, where: str) -> Any:
    """`value` from JSON as the annotated type `kind`."""
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, where)
    if origin is tuple:
        if not isinstance(value, list) or (args[-1] is not Ellipsis and len(value) != len(args)):
            raise DamagedWorld(f"{where}: expected a list for {kind}, found {value!r}; restore the world's config.json")
        inner = [args[0]] * len(value) if args[-1] is Ellipsis else args
        return tuple(_build(a, v, where) for a, v in zip(inner, value, strict=True))
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _build(next(a for a in args if a is not type(None)), value, where)
    plain = origin or kind
    allowed: Any = (int, float) if plain is float else plain
    if plain is not Any and (not isinstance(value, allowed) or (isinstance(value, bool) and plain is not bool)):
        raise DamagedWorld(f"{where}: expected {plain.__name__}, found {value!r}; restore the world's config.json")
    return value


def _build_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise DamagedWorld(f"{where}: expected an object, found {value!r}; restore the world's config.json")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    required = {f.name for f in dataclasses.fields(kind) if f.default is f.default_factory is dataclasses.MISSING}
    missing = sorted(required - set(value))
    if unknown or missing:
        raise DamagedWorld(
            f"{where}: unknown fields {unknown}, missing fields {missing}; restore the world's config.json or use the "
            "worldsim version that wrote it"
        )
    fields = {name: _build(hints[name], v, f"{where}: {name}") for name, v in value.items()}
    try:
        return kind(**fields)
    except InvalidInput as error:
        raise DamagedWorld(f"{where}: {error}; restore the world's config.json") from error
