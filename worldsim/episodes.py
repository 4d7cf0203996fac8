"""Episodes on disk, read side: what a simulator showed, as long arrays along time in a zarr v3 group.

Row t holds the picture and the action that LED to it. The first row of an episode is the picture of the
reset, with the null action (the first one, or zeros), reward 0 and terminated False; so all streams have the
same length, and an episode of n actions has n + 1 rows. Streams, T rows in all:

    rgb         (T, H, W, 3)       uint8    the picture after the action
    action      (T,) or (T, A)     int64 (discrete, boxes of integers) or float32 (boxes of floats), as it was played
    reward      (T,)               float32
    terminated  (T,)               bool     the game ended here
    truncated   (T,)               bool     the recording was cut here by a time limit
    between     (T, k-1, H, W, 3)  uint8    pictures between the row before and this one, oldest first
    depth       (T, H, W)          float32  metres or map units
    pose        (T, 4)             float32  x, y, z, yaw in radians
    audio       (T, S, C)          int16    the sound of the step
    variables   (T, V)             float32  named in `EpisodesMeta.variable_names`

and `episode_ends` int64: episode i is rows ends[i-1] to ends[i]. Only rows before the last end exist; arrays
may be longer on disk while a recording runs or after it was killed. `worldsim.episode_writer` describes how
rows get there.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from worldsim.errors import DamagedEpisodes, InvalidInput
from worldsim.spec import ActionSpec

FORMAT_VERSION = 1
REQUIRED_STREAMS = ("rgb", "action", "reward", "terminated", "truncated")
UNCOMMITTED = -1  # fill value of `episode_ends`


@dataclass(frozen=True)
class StreamSpec:
    """Shape and type of one row of a stream."""

    shape: tuple[int, ...]
    dtype: str  # a numpy name: "uint8", "float32", …


@dataclass(frozen=True)
class EpisodesMeta:
    """What was recorded and how; the same for every episode of a store."""

    source: str  # name of the simulator, such as "doom-take-cover"
    actions: ActionSpec
    streams: dict[str, StreamSpec]
    fps: float  # steps in one second of the game's time
    frame_skip: int = 1  # simulator ticks in a step
    policy: str = ""
    seed: int = 0
    max_episode_steps: int | None = None
    pixel_aspect: float = 1.0  # width of a pixel over its height, when shown
    hfov_degrees: float | None = None  # horizontal field of view of the camera
    variable_names: tuple[str, ...] = ()
    source_parameters: dict[str, Any] = field(default_factory=dict)
    creator: str = ""  # version of the program that made the store

    @property
    def height(self) -> int:
        """Height of a picture in pixels."""
        return self.streams["rgb"].shape[0]

    @property
    def width(self) -> int:
        """Width of a picture in pixels."""
        return self.streams["rgb"].shape[1]

    def to_json(self) -> dict[str, Any]:
        """The attributes of the zarr group, as plain JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        for name, usual in (("start", 0), ("box_dtype", "float32")):  # stores older than these fields lack them
            if values["actions"][name] == usual:
                del values["actions"][name]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> EpisodesMeta:
        """Read what `to_json` wrote; raises TypeError, KeyError or ValueError on anything else."""
        values = dict(values)
        spec = dict(values["actions"])
        for name in ("low", "high", "meanings"):
            spec[name] = tuple(spec[name])
        spec["keys"] = tuple(tuple(keys) for keys in spec["keys"])
        values["actions"] = ActionSpec(**spec)
        values["variable_names"] = tuple(values["variable_names"])
        values["streams"] = {
            name: StreamSpec(tuple(stream["shape"]), stream["dtype"]) for name, stream in values["streams"].items()
        }
        return cls(**values)


def meta_digest(values: dict[str, Any]) -> str:
    """SHA-256 of the metadata, so that an altered attribute is noticed."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def chunk_path(array: zarr.Array, path: Path, index: int) -> Path:
    """The file of the `index`-th chunk along time; a chunk spans all other axes."""
    return path / ".".join(["c", str(index)] + ["0"] * (array.ndim - 1))


def read_ends(group: zarr.Group, path: Path) -> np.ndarray:
    """Committed ends of episodes, (N,) int64; raises DamagedEpisodes where they cannot be."""
    array = _array(group, path, "episode_ends")
    require_chunks(array, path, "episode_ends", 0, array.shape[0])
    ends = _slice(array, path, "episode_ends", 0, array.shape[0])
    committed = int((ends != UNCOMMITTED).sum())
    if (ends[committed:] != UNCOMMITTED).any() or (np.diff(ends[:committed], prepend=0) <= 0).any():
        raise damaged(path, "episode_ends", 0, array.shape[0], "the ends of episodes do not increase")
    return ends[:committed]


def require_chunks(array: zarr.Array, path: Path, stream: str, start: int, stop: int) -> None:
    """Raise DamagedEpisodes if a chunk that holds any of rows [start, stop) is not on disk."""
    rows = array.chunks[0]
    for index in range(start // rows, -(-stop // rows)):
        if not chunk_path(array, path / stream, index).is_file():
            raise damaged(path, stream, index * rows, min((index + 1) * rows, stop), "a chunk is missing")


def damaged(path: Path, stream: str, start: int, stop: int, reason: str) -> DamagedEpisodes:
    """The error for damage found in rows [start, stop) of a stream."""
    return DamagedEpisodes(
        f"episode store {str(path)!r}, stream {stream!r}, rows {start} to {stop}: {reason}; "
        "restore the store from a copy or record it again"
    )


class Episodes:
    """A store of recorded episodes, opened for reading; what is recorded afterwards does not show."""

    def __init__(self, path: Path, group: zarr.Group, meta: EpisodesMeta, ends: np.ndarray) -> None:
        self.path = path
        self.meta = meta
        self.ends = ends
        self._arrays = {name: _array(group, path, name) for name in meta.streams}

    @classmethod
    def open(cls, path: Path | str) -> Episodes:
        """Open a store and check it: metadata, stream shapes, and that no chunk is missing.

        Raises InvalidInput if there is no store at `path`, DamagedEpisodes if it is not whole.
        """
        path = Path(path)
        group, meta = open_group(path, mode="r")
        episodes = cls(path, group, meta, read_ends(group, path))
        for name, array in episodes._arrays.items():
            _check_array(array, path, name, meta.streams[name], episodes.num_steps)
            _check_chunk_count(array, path, name, episodes.num_steps)
        return episodes

    @property
    def num_steps(self) -> int:
        """Rows in all episodes together, the rows of the resets included."""
        return int(self.ends[-1]) if len(self.ends) else 0

    @property
    def lengths(self) -> np.ndarray:
        """Rows in each episode, (N,) int64."""
        return np.diff(self.ends, prepend=0)

    @property
    def streams(self) -> tuple[str, ...]:
        """Names of the recorded streams."""
        return tuple(self.meta.streams)

    def __len__(self) -> int:
        return len(self.ends)

    def read(self, stream: str, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) of one stream as a fresh array; raises DamagedEpisodes if a checksum fails."""
        if stream not in self._arrays:
            raise InvalidInput(f"no stream {stream!r} in {str(self.path)!r}; it has {', '.join(self.streams)}")
        if not 0 <= start <= stop <= self.num_steps:
            raise InvalidInput(f"rows {start} to {stop} are outside 0 to {self.num_steps} of {str(self.path)!r}")
        require_chunks(self._arrays[stream], self.path, stream, start, stop)
        return _slice(self._arrays[stream], self.path, stream, start, stop)

    def check_numbers(self) -> None:
        """Raise InvalidInput if a reward or an action is not finite, or an action is outside of the recorded space.

        Reads these two streams, which are small. The first row of an episode comes of no action.
        """
        if not self.num_steps:
            return
        spec = self.meta.actions
        rewards, actions = (self.read(name, 0, self.num_steps) for name in ("reward", "action"))
        bounds = (spec.start, spec.start + spec.n - 1) if spec.discrete else (spec.low, spec.high)
        low, high = (np.array(bound, spec.dtype) for bound in bounds)
        first = np.isin(np.arange(len(actions)), self.ends - self.lengths)
        inside = ((actions >= low) & (actions <= high)).reshape(len(actions), -1).all(1)
        finite = np.isfinite(actions).reshape(len(actions), -1).all(1)
        for name, values, good in (
            ("reward", rewards, np.isfinite(rewards)),
            ("action", actions, finite & (inside | first)),
        ):
            if not good.all():
                row = int(np.flatnonzero(~good)[0])
                raise InvalidInput(
                    f"episode store {str(self.path)!r} has {name} {values[row].tolist()} in row {row}, and "
                    f"{int((~good).sum())} such rows in all; record it again from a source without such {name}s"
                )

    def episode(self, index: int) -> dict[str, np.ndarray]:
        """All streams of one episode."""
        if not 0 <= index < len(self):
            raise InvalidInput(f"no episode {index} in {str(self.path)!r}; it holds {len(self)}, counted from 0")
        start = int(self.ends[index - 1]) if index else 0
        return {name: self.read(name, start, int(self.ends[index])) for name in self.streams}


def open_group(path: Path, *, mode: Literal["r", "r+"]) -> tuple[zarr.Group, EpisodesMeta]:
    """The zarr group and its metadata, checked against format version and digest."""
    if not (path / "zarr.json").is_file():
        raise InvalidInput(f"no episode store at {str(path)!r}; make one with `worldsim record SOURCE --out {path}`")
    try:
        group = zarr.open_group(str(path), mode=mode, zarr_format=3)
        attributes: dict[str, Any] = dict(group.attrs)
        version, values, digest = attributes["format_version"], attributes["meta"], attributes["meta_sha256"]
    except Exception as error:  # zarr raises many types on a malformed zarr.json
        raise DamagedEpisodes(
            f"the metadata of episode store {str(path)!r} cannot be read ({error}); restore its zarr.json"
        ) from error
    if version != FORMAT_VERSION:
        raise DamagedEpisodes(
            f"episode store {str(path)!r} has format version {version}, "
            f"this worldsim reads {FORMAT_VERSION}; record it again or use the version that wrote it"
        )
    if meta_digest(values) != digest:
        raise DamagedEpisodes(f"the metadata of episode store {str(path)!r} was altered; restore its zarr.json")
    try:
        return group, EpisodesMeta.from_json(values)
    except (TypeError, KeyError, ValueError) as error:
        raise DamagedEpisodes(
            f"the metadata of episode store {str(path)!r} is not what this worldsim knows ({error}); "
            "use the version that wrote it"
        ) from error


def _array(group: zarr.Group, path: Path, stream: str) -> zarr.Array:
    try:
        return group[stream]  # type: ignore[return-value]
    except Exception as error:  # a missing or malformed zarr.json: KeyError, JSON and zarr errors
        raise DamagedEpisodes(
            f"stream {stream!r} of episode store {str(path)!r} cannot be opened ({error}); "
            "restore the store from a copy or record it again"
        ) from error


def _check_array(array: zarr.Array, path: Path, name: str, spec: StreamSpec, num_steps: int) -> None:
    if tuple(array.shape[1:]) != spec.shape or str(array.dtype) != spec.dtype or array.chunks[1:] != spec.shape:
        raise damaged(path, name, 0, num_steps, f"it holds {array.dtype} {array.shape}, not what the metadata says")
    if array.shape[0] < num_steps:
        raise damaged(path, name, array.shape[0], num_steps, "the stream ends before the last episode does")


def _check_chunk_count(array: zarr.Array, path: Path, name: str, num_steps: int) -> None:
    """One directory listing a stream, so that opening a long recording stays quick."""
    present = set(os.listdir(path / name))
    for index in range(-(-num_steps // array.chunks[0])):
        if chunk_path(array, path / name, index).name not in present:
            require_chunks(array, path, name, index * array.chunks[0], num_steps)


def _slice(array: zarr.Array, path: Path, stream: str, start: int, stop: int) -> np.ndarray:
    try:
        return np.asarray(array[start:stop])
    except Exception as error:  # the codecs raise ValueError, RuntimeError or OSError on altered bytes
        raise damaged(
            path, stream, start, stop, f"a chunk fails its checksum or cannot be decoded ({error})"
        ) from error
