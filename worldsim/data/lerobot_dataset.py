"""Episode stores as LeRobot data sets (format v3.0), and back; frames are PNG in parquet, so that nothing is lost.

LeRobot's frame t holds what was seen and the action that was then taken; a row of ours holds what was seen and the
action that led there. An episode of n actions has n + 1 frames here: the last one repeats the action before it and has
`next.done` set, and when a data set is read the last action of each episode is dropped.

    observation.image, observation.images.<camera>   the frame, other image streams
    observation.state, observation.<stream>          the stream proprio, other vectors
    task_index                                       the token stream task, by its names
    next.reward, next.success, next.done, next.terminated
                                                     what the action earned, and whether the episode ended by it

What neither side can carry is refused or told: intermediate frames, depth and sound have no place in a data set.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import REQUIRED_STREAMS, Episodes, EpisodesMeta
from worldsim.data.importing import _opened, action_space, import_meta
from worldsim.errors import InvalidInput, MissingDependency
from worldsim.io.files import making_folder
from worldsim.spec import ActionSpec, StreamSpec

VERSION = "v3.0"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
IMAGE, STATE, OBSERVATION = "observation.image", "observation.state", "observation."
INDICES = ("timestamp", "frame_index", "episode_index", "index", "task_index")


def _arrow() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingDependency(f'LeRobot data sets need pyarrow ({error}); pip install "worldsim[lerobot]"') from error
    return parquet


# -- writing ----------------------------------------------------------------------------------------------------------


def export_lerobot(store: Episodes, out: Path) -> tuple[str, ...]:
    """Write a store as a new data set at `out`; the names of the streams that it cannot carry.

    Raises InvalidInput for a folder with something in it and for discrete actions, MissingDependency without pyarrow.
    """
    parquet = _arrow()
    import pyarrow as pa

    if store.meta.actions.discrete or not len(store):
        raise InvalidInput(
            f"episode store {str(store.path)!r} has discrete actions or no episodes; LeRobot's data sets are of robots "
            "with continuous ones"
        )
    kept, left = _carried(store.meta)
    tasks = list(store.meta.streams["task"].names) if "task" in kept else [store.meta.source]
    features = _features(store.meta, kept)
    if out.exists() and any(out.iterdir()):
        raise InvalidInput(f"{str(out)!r} is not empty; give another folder")
    with making_folder(out) as fresh:
        rows = []
        path = fresh / DATA.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        schema = _schema(features)
        with parquet.ParquetWriter(path, schema) as writer:
            for number in range(len(store)):
                columns, task = _episode(store, number, kept)
                writer.write_table(pa.table(columns, schema=schema))
                first = int(store.ends[number] - store.lengths[number])
                rows.append(_episode_row(number, tasks[task], first, int(store.ends[number])))
        path = fresh / EPISODES.format(chunk_index=0, file_index=0)
        path.parent.mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist(rows), path)
        parquet.write_table(_task_table(tasks), fresh / "meta" / "tasks.parquet")
        info = _info(store, features, len(tasks))
        (fresh / "meta" / "info.json").write_text(json.dumps(info, indent=4), encoding="utf-8")
    return left


def _carried(meta: EpisodesMeta) -> tuple[list[str], tuple[str, ...]]:
    """The streams besides those that every store has which a data set can carry, and those that it cannot."""
    others = [name for name in meta.streams if name not in REQUIRED_STREAMS]
    kept = [
        name
        for name in others
        if (meta.streams[name].kind == "image" and meta.streams[name].per_step == 1)
        or meta.streams[name].kind == "vector"
        or (name == "task" and meta.streams[name].names)
        or (name == "success" and meta.streams[name].dtype == "bool")
    ]
    return kept, tuple(name for name in others if name not in kept)


def _feature_name(stream: str, spec: StreamSpec) -> str:
    if stream == "success":
        return "next.success"
    if stream == "proprio":
        return STATE
    return f"{OBSERVATION}images.{stream}" if spec.kind == "image" else OBSERVATION + stream


def _features(meta: EpisodesMeta, kept: Sequence[str]) -> dict[str, dict[str, Any]]:
    """`features` of info.json."""
    image = ["height", "width", "channels"]
    features: dict[str, dict[str, Any]] = {
        IMAGE: {"dtype": "image", "shape": list(meta.streams["rgb"].shape), "names": image},
        "action": {"dtype": "float32", "shape": list(meta.actions.shape), "names": None},
    }
    for name in kept:
        spec = meta.streams[name]
        if spec.kind == "image":
            features[_feature_name(name, spec)] = {"dtype": "image", "shape": list(spec.shape), "names": image}
        elif spec.kind == "vector":
            shape = list(spec.shape) or [1]
            features[_feature_name(name, spec)] = {
                "dtype": "float32",
                "shape": shape,
                "names": list(spec.names) or None,
            }
    flags = ["next.done", "next.terminated", *(["next.success"] if "success" in kept else [])]
    features["next.reward"] = {"dtype": "float32", "shape": [1], "names": None}
    features |= {name: {"dtype": "bool", "shape": [1], "names": None} for name in flags}
    kinds = {"timestamp": "float32"}
    return features | {name: {"dtype": kinds.get(name, "int64"), "shape": [1], "names": None} for name in INDICES}


def _schema(features: Mapping[str, Mapping[str, Any]]) -> Any:
    import pyarrow as pa

    plain = {"float32": pa.float32(), "int64": pa.int64(), "bool": pa.bool_()}

    def kind(feature: Mapping[str, Any], name: str) -> Any:
        if feature["dtype"] == "image":
            return pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        one = plain[feature["dtype"]]
        scalar = feature["shape"] == [1] and not name.startswith((OBSERVATION, "action"))
        return one if scalar else pa.list_(one, feature["shape"][0])

    return pa.schema([(name, kind(feature, name)) for name, feature in features.items()])


def _episode(store: Episodes, number: int, kept: Sequence[str]) -> tuple[dict[str, Any], int]:
    """The columns of one episode, and its task's number."""
    values, count = store.episode(number), int(store.lengths[number])
    first = int(store.ends[number]) - count

    def ahead(name: str, last: Any) -> list[Any]:
        """What the row after each one says; the last row has none."""
        return [*values[name][1:].tolist(), last]

    final = values["action"][-1].tolist()
    task = int(values["task"][0]) if "task" in kept else 0
    columns: dict[str, Any] = {
        IMAGE: [_png(frame) for frame in values["rgb"]],
        "action": ahead("action", final),
        "next.reward": ahead("reward", 0.0),
        "next.terminated": ahead("terminated", False),
        "next.done": [*[False] * (count - 1), True],
        "timestamp": (np.arange(count) / store.meta.fps).astype(np.float32),
        "frame_index": np.arange(count), "episode_index": np.full(count, number),
        "index": np.arange(first, first + count), "task_index": np.full(count, task),
    }  # fmt: skip
    for name in kept:
        spec = store.meta.streams[name]
        if name == "success":
            columns["next.success"] = ahead(name, bool(values[name][-1]))
        elif spec.kind == "image":
            columns[_feature_name(name, spec)] = [_png(frame) for frame in values[name]]
        elif spec.kind == "vector":
            columns[_feature_name(name, spec)] = values[name].reshape(count, -1).astype(np.float32).tolist()
    return columns, task


def _episode_row(number: int, task: str, first: int, end: int) -> dict[str, Any]:
    places = {f"{part}/{what}": 0 for part in ("data", "meta/episodes") for what in ("chunk_index", "file_index")}
    return {
        "episode_index": number, "tasks": [task], "length": end - first,
        "dataset_from_index": first, "dataset_to_index": end, **places,
    }  # fmt: skip


def _task_table(tasks: Sequence[str]) -> Any:
    """Numbers of tasks under an index of their names, as pandas writes it and LeRobot reads it."""
    import pyarrow as pa

    index = "__index_level_0__"
    columns = [
        {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": numpy, "metadata": None}
        for name, field, kind, numpy in (
            ("task_index", "task_index", "int64", "int64"),
            (None, index, "unicode", "object"),
        )
    ]
    about = {"index_columns": [index], "column_indexes": [], "columns": columns, "pandas_version": "2.2.0"}
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), index: pa.array(list(tasks), pa.string())})
    return table.replace_schema_metadata({"pandas": json.dumps(about)})


def _info(store: Episodes, features: Mapping[str, Any], tasks: int) -> dict[str, Any]:
    return {
        "codebase_version": VERSION, "robot_type": store.meta.source, "fps": round(store.meta.fps),
        "total_episodes": len(store), "total_frames": store.num_steps, "total_tasks": tasks,
        "chunks_size": 1000, "data_files_size_in_mb": 100, "video_files_size_in_mb": 200,
        "splits": {"train": f"0:{len(store)}"}, "data_path": DATA, "video_path": None, "features": features,
        "worldsim": {"actions": {"low": store.meta.actions.low, "high": store.meta.actions.high}},
    }  # fmt: skip


def _png(frame: np.ndarray) -> dict[str, Any]:
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


# -- reading ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _DataSet:
    """A data set on disk."""

    path: Path
    info: dict[str, Any]
    camera: str  # the feature that becomes the frame

    @property
    def features(self) -> dict[str, Any]:
        """`features` of info.json."""
        found: dict[str, Any] = self.info["features"]
        return found


def import_lerobot(
    path: Path, out: Path, *, camera: str | None = None, height: int | None = None, width: int | None = None
) -> Episodes:
    """Write a LeRobot data set as a new episode store, its frames from one `camera` (a feature).

    Frames are area-averaged to (height, width), by default they keep their size. Vectors that are observed become
    streams, `observation.state` as "proprio"; tasks become the token "task". Actions lie within the least and the
    greatest that the data set has, where it does not come from `export_lerobot`. Raises InvalidInput, with nothing
    written, for another version and for a data set without a camera or continuous actions.
    """
    data = _open(path, camera)
    if out.exists() and any(out.iterdir()):
        raise InvalidInput(f"{str(out)!r} is not empty; give another folder")
    size = (height or data.features[data.camera]["shape"][0], width or data.features[data.camera]["shape"][1])
    spec_actions = data.info.get("worldsim", {}).get("actions")
    tables = list(_tables(data))
    tasks = _tasks(data)
    streams = _streams(data, tasks)
    if spec_actions is not None:
        actions = ActionSpec(low=tuple(spec_actions["low"]), high=tuple(spec_actions["high"]))
    else:
        actions = action_space([_array(table, "action", np.float32)[:-1] for table in tables])
    meta = import_meta(str(data.info.get("robot_type") or "lerobot"), actions, size, float(data.info["fps"]))
    meta = EpisodesMeta(**{**vars(meta), "streams": meta.streams | {name: spec for name, (spec, _) in streams.items()}})
    with making_folder(out) as fresh, EpisodeWriter(fresh, meta) as writer:
        for table in tables:
            for row in _rows(data, table, meta, streams, size):
                writer.append(row)
            writer.end_episode()
    return Episodes.open(out)


def _open(path: Path, camera: str | None) -> _DataSet:
    _arrow()
    try:
        info = json.loads((path / "meta" / "info.json").read_text(encoding="utf-8"))
        features, version = dict(info["features"]), info["codebase_version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{str(path)!r} is no LeRobot data set ({error}); give a folder with meta/info.json"
        ) from error
    if version != VERSION:
        raise InvalidInput(
            f"LeRobot data set {str(path)!r} is of version {version}; convert it to {VERSION} with LeRobot's own script"
        )
    cameras = [name for name, feature in features.items() if feature["dtype"] in ("image", "video")]
    chosen = camera or (cameras[0] if len(cameras) == 1 else IMAGE if IMAGE in cameras else None)
    if chosen not in cameras:
        raise InvalidInput(
            f"LeRobot data set {str(path)!r} has the cameras {', '.join(cameras) or 'none'}; choose one of them"
        )
    action = features.get("action", {})
    if not str(action.get("dtype")).startswith("float") or len(action.get("shape", ())) != 1:
        raise InvalidInput(f"LeRobot data set {str(path)!r} has the action {action}; it needs one vector of floats")
    return _DataSet(path, info, str(chosen))


def _tables(data: _DataSet) -> Iterator[Any]:
    """The rows of each episode, without frames that are in videos."""
    parquet = _arrow()
    import pyarrow as pa
    import pyarrow.compute as pc

    files = sorted((data.path / "data").rglob("*.parquet"))
    if not files:
        raise InvalidInput(f"LeRobot data set {str(data.path)!r} has no files in data/; restore it from a copy")
    whole = pa.concat_tables([parquet.read_table(file) for file in files], promote_options="default")
    for number in sorted(set(whole["episode_index"].to_pylist())):
        table = whole.filter(pc.equal(whole["episode_index"], number)).sort_by("frame_index")
        if table.num_rows > 1:
            yield table


def _tasks(data: _DataSet) -> list[str]:
    """The names of the tasks, by their numbers."""
    path = data.path / "meta" / "tasks.parquet"
    if not path.exists():
        return []
    rows = _arrow().read_table(path).to_pylist()
    named = {int(row["task_index"]): str(row.get("task") or row.get("__index_level_0__") or "") for row in rows}
    return [named.get(number, f"task {number}") for number in range(max(named, default=-1) + 1)]


def _streams(data: _DataSet, tasks: Sequence[str]) -> dict[str, tuple[StreamSpec, str]]:
    """Streams of the store, by name, and the features that they come from."""
    found: dict[str, tuple[StreamSpec, str]] = {}
    for feature, said in data.features.items():
        floats = str(said["dtype"]).startswith("float") and len(said["shape"]) == 1
        if feature.startswith(OBSERVATION) and floats:
            name = "proprio" if feature == STATE else feature.removeprefix(OBSERVATION).replace(".", "_")
            names = said.get("names")
            names = tuple(map(str, names)) if isinstance(names, list) and len(names) == said["shape"][0] else ()
            found[name] = StreamSpec("vector", tuple(said["shape"]), "float32", names=names), feature
    if tasks:
        found["task"] = StreamSpec("token", (), "int64", names=tuple(tasks)), "task_index"
    if "next.success" in data.features:
        found["success"] = StreamSpec("token", (), "bool", names=("not yet", "done")), "next.success"
    return found


def _rows(
    data: _DataSet,
    table: Any,
    meta: EpisodesMeta,
    streams: Mapping[str, tuple[StreamSpec, str]],
    size: tuple[int, int],
) -> Iterator[dict[str, Any]]:
    """The rows of an episode; what a frame says of its action belongs to the row after it."""
    frames, count = _frames(data, table, size), table.num_rows

    def led(name: str, dtype: Any, first: Any) -> np.ndarray:
        if name not in table.column_names:
            return np.full((count, *np.shape(first)), first, dtype)
        values = _array(table, name, dtype).reshape(count, *np.shape(first))
        return np.concatenate([np.asarray(first, dtype)[None], values[:-1]])

    actions = led("action", np.float32, np.zeros(meta.actions.shape, np.float32))
    rewards, ended = led("next.reward", np.float32, np.float32(0)), led("next.terminated", bool, np.bool_(False))
    others = {
        name: led(feature, bool, np.bool_(False)) if name == "success" else _array(table, feature, spec.dtype)
        for name, (spec, feature) in streams.items()
    }
    for t in range(count):
        last = t == count - 1
        yield {
            "rgb": frames[t], "action": actions[t], "reward": rewards[t], "terminated": bool(ended[t]),
            "truncated": last and not ended[t], **{name: values[t] for name, values in others.items()},
        }  # fmt: skip


def _array(table: Any, name: str, dtype: Any) -> np.ndarray:
    return np.asarray(table[name].to_pylist(), dtype)


def _frames(data: _DataSet, table: Any, size: tuple[int, int]) -> list[np.ndarray]:
    """(H, W, 3) uint8 each."""
    if data.features[data.camera]["dtype"] == "video":
        return _video_frames(data, table, size)
    frames = []
    for value in table[data.camera].to_pylist():
        file = io.BytesIO(value["bytes"]) if value.get("bytes") else data.path / value["path"]
        with Image.open(file) as image:
            frames.append(_shrunk(image.convert("RGB"), size))
    return frames


def _video_frames(data: _DataSet, table: Any, size: tuple[int, int]) -> list[np.ndarray]:
    """Those of an episode, from the place in a video file that the episode's row names."""
    number, key = table["episode_index"][0].as_py(), f"videos/{data.camera}"
    files = sorted((data.path / "meta" / "episodes").rglob("*.parquet"))
    rows = [row for file in files for row in _arrow().read_table(file).to_pylist() if row["episode_index"] == number]
    if not rows or f"{key}/file_index" not in rows[0]:
        raise InvalidInput(f"LeRobot data set {str(data.path)!r} does not say where the video of episode {number} is")
    place = {what: rows[0][f"{key}/{what}"] for what in ("chunk_index", "file_index")}
    path = data.path / str(data.info["video_path"]).format(video_key=data.camera, **place)
    first = round(float(rows[0][f"{key}/from_timestamp"]) * float(data.info["fps"]))
    frames: list[np.ndarray] = []
    with _opened(path) as stream:
        for index, frame in enumerate(stream.container.decode(stream)):
            if first <= index < first + table.num_rows:
                frames.append(_shrunk(frame.to_image(), size))
            if index >= first + table.num_rows:
                break
    if len(frames) != table.num_rows:
        raise InvalidInput(f"video {str(path)!r} ends before episode {number} does; restore it from a copy")
    return frames


def _shrunk(image: Image.Image, size: tuple[int, int]) -> np.ndarray:
    same = (image.height, image.width) == size
    return np.asarray(image if same else image.resize(size[::-1], Image.Resampling.BOX))
