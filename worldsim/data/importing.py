"""Recordings made elsewhere as episodes: arrays of frames and actions, and video files with a table of actions."""

from __future__ import annotations

import contextlib
import csv
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from worldsim.actions import check_actions
from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import Episodes, EpisodesMeta, usual_streams
from worldsim.errors import InvalidAction, InvalidInput
from worldsim.spec import ActionSpec

EPISODE_COLUMNS = ("episode", "file")
TRUE, FALSE = ("1", "true", "yes"), ("0", "false", "no", "")


@dataclass(frozen=True)
class Recording:
    """One episode: T + 1 frames and the T actions between them."""

    frames: np.ndarray | Sequence[np.ndarray]  # (T + 1, H, W, 3) uint8
    actions: np.ndarray  # (T,) integers or (T, A) floats; action t led from frame t to frame t + 1
    rewards: np.ndarray | None = None  # (T,), that the actions earned; None: 0
    terminated: bool = False  # whether the game ended with the last action, rather than the recording of it


def write_recordings(
    path: Path | str,
    recordings: Sequence[Recording],
    *,
    fps: float,
    actions: ActionSpec | None = None,
    source: str = "import",
) -> Episodes:
    """Write recordings as a new episode store at `path`, and open it.

    `fps` is steps in one second of the game's time, `actions` the action space: by default as many discrete actions
    as there are up to the largest, or the box from the least to the largest value of each dimension. `source` names
    what was recorded; stores that are trained on together need the same. Raises InvalidInput, with nothing written,
    for arrays that do not fit each other.
    """
    if not recordings or not fps > 0:
        raise InvalidInput(f"{len(recordings)} recordings at {fps} steps a second make no store; give both above 0")
    checked = [_check(recording, f"recording {index}") for index, recording in enumerate(recordings)]
    spec = actions or action_space([recording.actions for recording in checked])
    frame = np.asarray(checked[0].frames[0])
    meta = import_meta(source, spec, frame.shape[:2], fps)
    for index, recording in enumerate(checked):
        try:
            check_actions(spec, recording.actions, len(recording.actions))
        except InvalidAction as error:
            raise InvalidInput(f"recording {index} does not fit the action space: {error}") from error
    return write_store(Path(path), meta, checked)


def action_space(actions: Sequence[np.ndarray]) -> ActionSpec:
    """The space that recorded actions, (T,) integers or (T, A) floats each, are taken to be of."""
    shapes = {one.shape[1:] for one in actions}
    if len(shapes) > 1:
        raise InvalidInput(f"recordings have actions of the shapes {sorted(shapes)}; give all of them the same")
    if actions[0].ndim == 1:
        if min(int(one.min()) for one in actions) < 0:
            raise InvalidInput("discrete actions are numbered from 0; give actions of 0 and more, or an ActionSpec")
        return ActionSpec(n=max(int(one.max()) for one in actions) + 1)
    low, high = (np.min([one.min(0) for one in actions], 0), np.max([one.max(0) for one in actions], 0))
    return ActionSpec(low=tuple(map(float, low)), high=tuple(map(float, high)))


def import_meta(source: str, actions: ActionSpec, size: tuple[int, ...], fps: float) -> EpisodesMeta:
    """What a store of recordings made elsewhere says of itself; `size` is (height, width)."""
    height, width = size
    streams = usual_streams(height, width, actions)
    return EpisodesMeta(source, actions, streams, fps=fps, policy="import", creator=f"worldsim {version('worldsim')}")


def write_store(path: Path, meta: EpisodesMeta, recordings: Iterable[Recording]) -> Episodes:
    """Write checked recordings as a new store, an episode each; where one fails nothing is left at `path`."""
    writer, whole = EpisodeWriter(path, meta), False
    try:
        with writer:
            for recording in recordings:
                for row in _rows(recording, meta.actions):
                    writer.append(row)
                writer.end_episode()
        whole = True
    finally:
        if not whole:
            shutil.rmtree(path)
    return Episodes.open(path)


def _check(recording: Recording, name: str) -> Recording:
    """The recording with its actions and rewards as arrays."""
    actions, steps = np.asarray(recording.actions), len(recording.frames) - 1
    rewards = np.zeros(steps) if recording.rewards is None else np.asarray(recording.rewards)
    if steps < 1 or len(actions) != steps or rewards.shape != (steps,):
        raise InvalidInput(
            f"{name} has {steps + 1} frames, {len(actions)} actions and {len(rewards)} rewards; give one action and "
            "one reward less than frames, and at least two frames"
        )
    if actions.dtype.kind not in {1: "iu", 2: "iuf"}.get(actions.ndim, ""):
        raise InvalidInput(f"{name} has actions {actions.dtype} {actions.shape}; give (T,) integers or (T, A) floats")
    if not np.isfinite(actions).all() or not np.isfinite(rewards).all():
        raise InvalidInput(f"{name} has actions or rewards that are not finite; give finite numbers")
    first = np.asarray(recording.frames[0])
    for frame in recording.frames:
        if np.asarray(frame).dtype != np.uint8 or np.shape(frame) != first.shape or first.shape[2:] != (3,):
            found = f"{np.asarray(frame).dtype} {np.shape(frame)}"
            raise InvalidInput(f"{name} has a frame {found}; give uint8 frames (H, W, 3), all of one size")
    return replace(recording, actions=actions, rewards=rewards)


def _rows(recording: Recording, spec: ActionSpec) -> Iterator[dict[str, Any]]:
    """The rows of an episode; the action of a row led to its frame, and none led to the first."""
    none = np.full(spec.shape, spec.start, spec.dtype)
    assert recording.rewards is not None
    for t, frame in enumerate(recording.frames):
        last = t == len(recording.frames) - 1
        yield {
            "rgb": frame,
            "action": recording.actions[t - 1].astype(spec.dtype) if t else none,
            "reward": np.float32(recording.rewards[t - 1] if t else 0),
            "terminated": last and recording.terminated,
            "truncated": last and not recording.terminated,
        }


# -- video files with a table ---------------------------------------------------------------------------------------


def import_videos(
    videos: Path, table: Path, out: Path, *, height: int = 64, width: int = 64, source: str = "import"
) -> Episodes:
    """Write the videos of a folder, and the actions of a CSV table, as a new episode store; each video is an episode.

    The table has a row an action: the video's file name (column `file`, or `episode`, which may lack the ending),
    `step` from 0 (the action between frame `step` and the next), `action` (a whole number) or `action_0`, `action_1`,
    … (numbers), and if they are known `reward` and `terminated`. Frames are area-averaged to (height, width); the
    first video's frame rate is the store's, and the others must have the same. Raises InvalidInput, with nothing
    written, for a table that does not fit the videos.
    """
    if height < 1 or width < 1:
        raise InvalidInput(f"frames of {height} x {width} pixels cannot be made; give at least 1 x 1")
    found = _read_table(table)
    paths = {name: _find_video(videos, name, table) for name in found}
    rates = {}
    for name, path in paths.items():
        with _opened(path) as stream:
            rates[name] = float(stream.average_rate or 0)
    first = next(iter(rates))
    for name, rate in rates.items():
        if not rate > 0 or abs(rate - rates[first]) > 0.01 * rates[first]:
            raise InvalidInput(
                f"video {str(paths[name])!r} has {rate:g} frames a second and {str(paths[first])!r} {rates[first]:g}; "
                "import videos of one rate at a time"
            )

    def read() -> Iterator[Recording]:
        for name, (actions, rewards, terminated) in found.items():
            frames = read_video(paths[name], height, width)
            if len(frames) != len(actions) + 1:
                raise InvalidInput(
                    f"video {str(paths[name])!r} has {len(frames)} frames and {str(table)!r} {len(actions)} actions "
                    "for it; give one action less than frames"
                )
            yield Recording(frames, actions, rewards, terminated)

    spec = action_space([actions for actions, _, _ in found.values()])
    return write_store(out, import_meta(source, spec, (height, width), rates[first]), read())


def read_video(path: Path, height: int, width: int) -> np.ndarray:
    """All frames of a video, area-averaged, (T, height, width, 3) uint8; raises InvalidInput if it cannot be read."""
    with _opened(path) as stream:
        decoded = stream.container.decode(stream)
        return np.stack([_shrink(frame.to_ndarray(format="rgb24"), height, width) for frame in decoded])


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The video stream of a file, whose errors name it."""
    import av

    try:
        with av.open(str(path)) as container:
            yield container.streams.video[0]
    except (OSError, ValueError, IndexError) as error:  # PyAV's errors are of the first two kinds
        raise InvalidInput(f"video {str(path)!r} cannot be read ({error}); give a file that FFmpeg reads") from error


def _shrink(frame: np.ndarray, height: int, width: int) -> np.ndarray:
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BOX))


def _find_video(folder: Path, name: str, table: Path) -> Path:
    """The file of that name, or the one file of that name with any ending."""
    if not folder.is_dir():
        raise InvalidInput(f"{str(folder)!r} is no folder; give the one that holds the videos")
    found = [path for path in sorted(folder.iterdir()) if name in (path.name, path.stem) and path.is_file()]
    if len(found) != 1:
        kind = "no video" if not found else f"{len(found)} videos"
        raise InvalidInput(
            f"{str(folder)!r} holds {kind} {name!r} of table {str(table)!r}; name one file for each episode"
        )
    return found[0]


def _read_table(path: Path) -> dict[str, tuple[np.ndarray, np.ndarray, bool]]:
    """Actions, rewards and whether the game ended, by the name of the video, in the table's order of videos."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns, rows = list(reader.fieldnames or ()), list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidInput(f"table {str(path)!r} cannot be read ({error}); give a CSV file in UTF-8") from error
    episode, names = _columns(path, columns)
    if not rows:
        raise InvalidInput(f"table {str(path)!r} has no rows; give one for each action")
    groups: dict[str, list[tuple[int, Mapping[str, str]]]] = {}
    for line, row in enumerate(rows, start=2):
        groups.setdefault(row[episode] or "", []).append((line, row))
    return {name: _read_episode(path, name, group, names) for name, group in groups.items()}


def _columns(path: Path, columns: Sequence[str]) -> tuple[str, list[str]]:
    """The column that names the video, and those of the action."""
    episode = next((name for name in EPISODE_COLUMNS if name in columns), None)
    count = sum(name.startswith("action_") for name in columns)
    actions = ["action"] if "action" in columns else [f"action_{i}" for i in range(count)]
    missing = [] if episode else ["file"]
    missing += [name for name in ("step", *(actions or ["action"])) if name not in columns]
    if missing or episode is None:
        raise InvalidInput(
            f"table {str(path)!r} lacks the column {', '.join(missing)}; it needs file (or episode), step, and action "
            "(or action_0, action_1, …)"
        )
    return episode, actions


def _read_episode(
    path: Path, name: str, group: list[tuple[int, Mapping[str, str]]], names: list[str]
) -> tuple[np.ndarray, np.ndarray, bool]:
    group = sorted(group, key=lambda item: _number(path, item, "step", int))
    steps = [_number(path, item, "step", int) for item in group]
    if steps != list(range(len(steps))):
        wrong = next(i for i, step in enumerate(steps) if step != i)
        raise InvalidInput(
            f"table {str(path)!r} has steps of {name!r} that are not 0, 1, 2, … (step {wrong} is missing or stands "
            "twice); give one row for each action"
        )
    if names == ["action"]:
        actions = np.array([_number(path, item, "action", int) for item in group], np.int64)
    else:
        actions = np.array([[_number(path, item, column, float) for column in names] for item in group], np.float32)
    rewards = np.array([_number(path, item, "reward", float) if item[1].get("reward") else 0.0 for item in group])
    ended = [(item[1].get("terminated") or "").strip().lower() for item in group]
    for (line, _), text in zip(group, ended, strict=True):
        if text not in TRUE + FALSE:
            raise InvalidInput(f"table {str(path)!r}, line {line}: terminated is {text!r}; give 0 or 1")
    if any(text in TRUE for text in ended[:-1]):
        raise InvalidInput(f"table {str(path)!r} ends {name!r} before its last step; give each game a video of its own")
    return actions, rewards, ended[-1] in TRUE


def _number(path: Path, item: tuple[int, Mapping[str, str]], column: str, kind: type[Any]) -> Any:
    line, row = item
    try:
        return kind(row[column])
    except (TypeError, ValueError) as error:
        wanted = "a whole number" if kind is int else "a number"
        raise InvalidInput(f"table {str(path)!r}, line {line}: {column} is {row[column]!r}; give {wanted}") from error
