"""A world's config: everything but the weights, as one JSON file that is read strictly."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from worldsim.errors import DamagedWorld, InvalidInput, check_bounds
from worldsim.io.files import is_name, read_json
from worldsim.migration import WORLD_FORMAT, migrate_config
from worldsim.models.audio import AudioConfig
from worldsim.models.dynamics import DynamicsConfig
from worldsim.models.endings import EndingConfig
from worldsim.models.rewards import RewardConfig
from worldsim.models.tokenizer import TokenizerConfig
from worldsim.sampling.sampler import SamplingConfig
from worldsim.spec import ActionSpec

CONFIG_BYTES = 2**20  # the largest config.json that is read
UNKNOWN, MISSING = "unexpected_keyword_argument", "missing"  # kinds of error, as pydantic names them


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
    rewards: RewardConfig = field(default_factory=RewardConfig)
    audio: AudioConfig | None = None  # of the head that makes its sound; None: it has none
    sha256: dict[str, str] = field(default_factory=dict)  # of the weight files
    format_version: int = WORLD_FORMAT

    def __post_init__(self) -> None:
        t, d, a = self.tokenizer, self.dynamics, self.actions
        check_world_name(self.name)
        check_bounds("world", self, reward_scale=(1e-12, 1e12))
        if not all(low <= high for low, high in zip(a.low, a.high, strict=False)):
            raise InvalidInput(f"actions have bounds from {a.low} to {a.high}; give numbers, none above its other one")
        if self.audio is not None:
            rate, per_second = self.audio.codec.rate, self.audio.codec.samples * self.source.fps
            if abs(per_second - rate) > 1e-3 * per_second:
                raise InvalidInput(
                    f"the sound of world {self.name!r} has {rate:g} samples a second, its steps have {per_second:g}; "
                    "give the rate that was recorded"
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
    """`value` from JSON or TOML as the annotated type `kind`; raises InvalidInput where it cannot be, naming the place.

    Nothing is converted but whole numbers to floats and lists to tuples, and no unknown field passes.
    """
    try:
        return _adapter(kind).validate_json(json.dumps([value], default=str))[0]
    except ValidationError as error:
        raise InvalidInput(f"{where}: {_sentence(kind, error.errors(include_url=False))}") from None


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    # In a tuple: for a dataclass by itself pydantic takes no config from outside.
    return TypeAdapter(tuple[kind], config=ConfigDict(strict=True, extra="forbid"))


def _sentence(kind: Any, errors: list[ErrorDetails]) -> str:
    """What is wrong first, and with it all fields of that place that are unknown or missing."""
    errors = [{**error, "loc": error["loc"][1:]} for error in errors]  # without the tuple's 0
    first, place = errors[0], errors[0]["loc"]
    named: dict[str, list[str]] = {UNKNOWN: [], MISSING: []}
    for error in errors:
        if error["type"] in named and error["loc"][:-1] == place[:-1]:
            named[error["type"]].append(str(error["loc"][-1]))
    if first["type"] in named:
        place = place[:-1]
        near = {name: difflib.get_close_matches(name, _fields(kind, place), 1) for name in named[UNKNOWN]}
        meant = ", ".join(f"{name!r} is nearest to {found[0]!r}" for name, found in near.items() if found)
        said = f"unknown fields {named[UNKNOWN]}, missing fields {named[MISSING]}" + (f"; {meant}" if meant else "")
    elif first["type"] == "value_error":  # raised by a dataclass itself
        said = str(first["ctx"]["error"])
    else:
        said = f"{first['msg'][:1].lower()}{first['msg'][1:]}, found {first['input']!r}"
    return ": ".join([*(str(part) for part in place if isinstance(part, str)), said])


def _fields(kind: Any, place: tuple[int | str, ...]) -> list[str]:
    """The fields of the dataclass at a place of another one."""
    for part in place:
        if dataclasses.is_dataclass(kind) and isinstance(part, str):
            kind = typing.get_type_hints(kind)[part]
        elif typing.get_origin(kind) in (dict, tuple):
            kind = typing.get_args(kind)[-1 if typing.get_origin(kind) is dict else 0]
        if isinstance(kind, types.UnionType):
            kind = typing.get_args(kind)[0]
    return list(typing.get_type_hints(kind)) if dataclasses.is_dataclass(kind) else []
