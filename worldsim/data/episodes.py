"""Episodes on disk, read side: what a simulator showed, as long arrays along time in a zarr v3 group.

TimeStep t holds the frame and the action that LED to it. The first row of an episode is the frame of the
reset, with the null action (the first one, or zeros), reward 0 and terminated False; so all streams have the
same length, and an episode of n actions has n + 1 rows. Streams, T rows in all:

    rgb         (T, H, W, 3)       uint8    the frame after the action
    action      (T,) or (T, A)     int64 (discrete, boxes of integers) or float32 (boxes of floats), as it was played
    reward      (T,)               float32
    terminated  (T,)               bool     the game ended here
    truncated   (T,)               bool     the recording was cut here by a time limit
    between     (T, k-1, H, W, 3)  uint8    frames between the row before and this one, oldest first
    depth       (T, H, W)          float32  metres or map units
    pose        (T, 4)             float32  x, y, z, yaw in radians
    audio       (T, S, C)          int16    the sound of the step
    variables   (T, V)             float32  named in `EpisodesMeta.variable_names`
    …           what else the simulator's sensors give, each described by its `worldsim.spec.StreamSpec`

and `episode_ends` int64: episode i is rows ends[i-1] to ends[i]. Only rows before the last end exist; arrays
may be longer on disk while a recording runs or after it was killed. `worldsim.data.episode_writer` describes how
rows get there, `worldsim.data.episode_stream` the chunk files, each of which says where it belongs (format 2). Stores
of format 1, whose chunks do not, can still be read; recording goes on in one once it is upgraded.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr

from worldsim.data.episode_stream import ChunkFiles, chunk_rows, damaged, is_ours
from worldsim.errors import DamagedEpisodes, InvalidInput
from worldsim.io.files import is_name, read_json
from worldsim.migration import migrate_stream
from worldsim.spec import ActionSpec, StreamSpec

FORMAT_VERSION = 2
READABLE_VERSIONS = (1, 2)
REQUIRED_STREAMS = ("rgb", "action", "reward", "terminated", "truncated")
ENDS = "episode_ends"
ENDS_SPEC = StreamSpec("token", (), "int64")
ENDS_CHUNK = 65_536  # episodes in a chunk of `episode_ends`; a second one is hardly ever needed
UNCOMMITTED = -1  # fill value of `episode_ends`


@dataclass(frozen=True)
class EpisodesMeta:
    """What was recorded and how; the same for every episode of a store."""

    source: str  # name of the simulator, as `worldsim record` takes it
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
    augmentations: dict[str, Any] | None = None  # that the source declares (`worldsim.data.augment`); None: not said
    creator: str = ""  # version of the program that made the store

    @property
    def height(self) -> int:
        """Height of a frame in pixels."""
        return self.streams["rgb"].shape[0]

    @property
    def width(self) -> int:
        """Width of a frame in pixels."""
        return self.streams["rgb"].shape[1]

    def to_json(self) -> dict[str, Any]:
        """The attributes of the zarr group, as plain JSON values."""
        values: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(self)))
        for name, usual in (("start", 0), ("box_dtype", "float32")):  # stores older than these fields lack them
            if values["actions"][name] == usual:
                del values["actions"][name]
        if self.augmentations is None:
            del values["augmentations"]
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
        values["streams"] = {name: _stream_of(name, one) for name, one in values["streams"].items()}
        return cls(**values)


def usual_streams(height: int, width: int, actions: ActionSpec) -> dict[str, StreamSpec]:
    """What every store holds: frames, actions, rewards and how episodes end."""
    return {
        "rgb": StreamSpec("image", (height, width, 3), "uint8"),
        "action": actions.to_stream(),
        "reward": StreamSpec("vector", (), "float32"),
        "terminated": StreamSpec("token", (), "bool"),
        "truncated": StreamSpec("token", (), "bool"),
    }


def _stream_of(name: str, values: dict[str, Any]) -> StreamSpec:
    """A stream as JSON has it; older stores say less of it."""
    fields: dict[str, Any] = {
        key: tuple(one) if isinstance(one, list) else one for key, one in migrate_stream(name, values).items()
    }
    return StreamSpec(**fields)


def meta_digest(values: dict[str, Any], version: int = FORMAT_VERSION) -> str:
    """SHA-256 of the metadata, so that an altered attribute is noticed."""
    covered = values if version == 1 else {"format_version": version, "meta": values}
    return hashlib.sha256(json.dumps(covered, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class StoreFiles:
    """A store's zarr group, opened and checked, and where its rows lie."""

    path: Path
    group: zarr.Group
    meta: EpisodesMeta
    version: int  # of the format
    digest: str  # of the metadata

    def chunks(self, stream: str) -> ChunkFiles:
        """The chunk files of a stream, or of `episode_ends`."""
        spec, rows, _ = self._layout(stream)
        return ChunkFiles(self.path / stream, spec, rows, None if self.version == 1 else self.digest)

    def array(self, stream: str) -> zarr.Array:
        """The zarr array of a stream; raises DamagedEpisodes unless its metadata is what worldsim writes."""
        try:
            found = self.group[stream]
            if not isinstance(found, zarr.Array) or not is_ours(found, *self._layout(stream)):
                raise ValueError("its zarr.json is not what worldsim writes for this stream")
        except Exception as error:  # a missing or malformed zarr.json: KeyError, JSON and zarr errors
            raise DamagedEpisodes(
                f"stream {stream!r} of episode store {str(self.path)!r} cannot be opened ({error}); "
                "restore the store from a copy or record it again"
            ) from error
        return found

    def ends(self) -> np.ndarray:
        """Committed ends of episodes, (N,) int64; raises DamagedEpisodes where they cannot be."""
        chunks = self.chunks(ENDS)
        ends = np.concatenate([chunks.read(index, chunks.rows) for index in self.ends_chunks()])
        length = self.array(ENDS).shape[0]  # read last: a writer lengthens the array before it commits
        committed = int((ends != UNCOMMITTED).sum())
        if (ends[committed:] != UNCOMMITTED).any() or (np.diff(ends[:committed], prepend=0) <= 0).any():
            raise damaged(self.path, ENDS, 0, len(ends), "the ends of episodes do not increase")
        if length < committed:
            raise damaged(self.path, ENDS, length, committed, "the array ends before the last episode does")
        return ends[:committed]

    def ends_chunks(self) -> range:
        """The chunks of `episode_ends`: all there are, as the array's length alone could hide some of them."""
        last = max((int(name.split(".")[1]) for name in self._present(ENDS)), default=0)
        return range(max(last + 1, -(-self.array(ENDS).shape[0] // self.chunks(ENDS).rows)))

    def check_stream(self, stream: str, num_steps: int) -> None:
        """Raise DamagedEpisodes for other metadata, an array that is too short, or a chunk that is not there."""
        length, chunks = self.array(stream).shape[0], self.chunks(stream)
        if length < num_steps:
            raise damaged(self.path, stream, length, num_steps, "the stream ends before the last episode does")
        present = self._present(stream)  # one listing, so that opening a long recording stays quick
        for first in range(0, num_steps, chunks.rows):
            if chunks.path(first // chunks.rows).name not in present:
                raise damaged(self.path, stream, first, min(first + chunks.rows, num_steps), "a chunk is missing")

    def _layout(self, stream: str) -> tuple[StreamSpec, int, int]:
        """Spec, rows in a chunk and fill value of an array."""
        if stream == ENDS:
            return ENDS_SPEC, ENDS_CHUNK, UNCOMMITTED
        spec = self.meta.streams[stream]
        return spec, chunk_rows(spec), 0

    def _present(self, stream: str) -> set[str]:
        """Names of the chunk files of a stream."""
        suffix = ".0" * len(self._layout(stream)[0].shape)
        names = (path.name for path in (self.path / stream).iterdir())
        return {name for name in names if re.fullmatch(rf"c\.\d{{1,9}}{re.escape(suffix)}", name)}


class Episodes:
    """A store of recorded episodes, opened for reading; what is recorded afterwards does not show."""

    def __init__(self, files: StoreFiles) -> None:
        self.path = files.path
        self.meta = files.meta
        self.ends = files.ends()
        self._files = files

    @classmethod
    def open(cls, path: Path | str) -> Episodes:
        """Open a store and check it: metadata of the store and of its arrays, and that no chunk is missing.

        Raises InvalidInput if there is no store at `path`, DamagedEpisodes if it is not whole.
        """
        episodes = cls(open_store(Path(path), mode="r"))
        for name in episodes.streams:
            episodes._files.check_stream(name, episodes.num_steps)
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
        """Rows [start, stop) of one stream as a fresh array.

        Raises DamagedEpisodes if a chunk fails its checksum, or belongs to another place or store.
        """
        if stream not in self.meta.streams:
            raise InvalidInput(f"no stream {stream!r} in {str(self.path)!r}; it has {', '.join(self.streams)}")
        if not 0 <= start <= stop <= self.num_steps:
            raise InvalidInput(f"rows {start} to {stop} are outside 0 to {self.num_steps} of {str(self.path)!r}")
        spec, chunks = self.meta.streams[stream], self._files.chunks(stream)
        rows = np.empty((stop - start, *spec.shape), spec.dtype)
        size = chunks.rows
        for index in range(start // size, -(-stop // size)):
            first = index * size
            chunk = chunks.read(index, min(size, self.num_steps - first), asked=(start, stop))
            low, high = max(start, first), min(stop, first + size)
            rows[low - start : high - start] = chunk[low - first : high - first]
        return rows

    def frames(self, cameras: Sequence[str], start: int, stop: int) -> np.ndarray:
        """Rows of image streams of one size, one camera above the other: (rows, cameras * H, W, 3) uint8."""
        parts = [self.read(name, start, stop) for name in cameras]
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)

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


def open_store(path: Path, *, mode: Literal["r", "r+"]) -> StoreFiles:
    """The zarr group and its metadata, checked against format version and digest."""
    if not (path / "zarr.json").is_file():
        raise InvalidInput(f"no episode store at {str(path)!r}; make one with `worldsim record SOURCE --out {path}`")
    try:
        attributes: dict[str, Any] = read_json(path / "zarr.json")["attributes"]
        group = zarr.open_group(str(path), mode=mode, zarr_format=3)
        version, values, digest = attributes["format_version"], attributes["meta"], attributes["meta_sha256"]
    except Exception as error:  # zarr raises many types on a malformed zarr.json
        raise DamagedEpisodes(
            f"the metadata of episode store {str(path)!r} cannot be read ({error}); restore its zarr.json"
        ) from error
    if version not in READABLE_VERSIONS:
        raise DamagedEpisodes(
            f"episode store {str(path)!r} has format version {version}, this worldsim reads "
            f"{' and '.join(map(str, READABLE_VERSIONS))}; record it again or use the version that wrote it"
        )
    if meta_digest(values, version) != digest:
        raise DamagedEpisodes(f"the metadata of episode store {str(path)!r} was altered; restore its zarr.json")
    try:
        meta = EpisodesMeta.from_json(values)
        missing = [name for name in REQUIRED_STREAMS if name not in meta.streams]
        strange = [name for name in meta.streams if not is_name(name) or name == ENDS]
        if missing or strange:
            raise ValueError(f"missing streams {missing}, impossible streams {strange}")
    except (TypeError, KeyError, ValueError, AttributeError, InvalidInput) as error:
        raise DamagedEpisodes(
            f"the metadata of episode store {str(path)!r} is not what this worldsim knows ({error}); "
            "use the version that wrote it"
        ) from error
    return StoreFiles(path, group, meta, version, digest)
