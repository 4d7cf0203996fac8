"""Episode stores as Minari datasets and back; what worldsim wrote comes back bit for bit.

Minari (Younis et al., 2024) keeps T + 1 observations and T actions an episode; a store has T + 1 rows, the first of
which no action led to. An observation is the frame, or a dict of all streams where there are others.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import REQUIRED_STREAMS, Episodes, EpisodesMeta
from worldsim.data.importing import Recording, write_recordings
from worldsim.errors import InvalidInput, MissingDependency
from worldsim.spec import ActionSpec

OUTCOMES = ("action", "reward", "terminated", "truncated")  # streams that are no observations
META = "worldsim"  # in a dataset's metadata: what the store says of itself


def require_minari() -> Any:
    """The package; raises MissingDependency without it."""
    try:
        import h5py  # noqa: F401
        import minari
    except ImportError as error:
        raise MissingDependency(f'Minari is not there ({error}); pip install "minari[hdf5]"') from error
    return minari


def export_minari(store: Episodes, dataset_id: str) -> Any:
    """Write a store as the local Minari dataset `dataset_id`, such as "cars/racing-v0"; returns the dataset.

    Images are kept as they are, not as JPEG. Raises InvalidInput for a store without episodes.
    """
    minari = require_minari()
    if not len(store):
        raise InvalidInput(f"episode store {store.path} holds no finished episode; record some first")
    sensors = [name for name in store.streams if name not in OUTCOMES]
    spaces: dict[str, gym.Space[Any]] = {name: _box(store.meta, name) for name in sensors}
    dataset: Any = None
    for index in range(len(store)):
        buffer = _buffer(minari, store.episode(index), sensors, index)
        if dataset is None:
            dataset = minari.create_dataset_from_buffers(
                dataset_id, [buffer], action_space=store.meta.actions.to_space(), data_format="hdf5",
                observation_space=spaces["rgb"] if len(sensors) == 1 else gym.spaces.Dict(spaces),
                algorithm_name=store.meta.policy or None, description=f"{store.meta.source}, recorded by worldsim",
                jpeg_encoding=False,
            )  # fmt: skip
        else:
            dataset.update_dataset_from_buffer([buffer])
    dataset.storage.update_metadata({META: json.dumps(store.meta.to_json())})
    return minari.load_dataset(dataset_id)


def import_minari(dataset: Any, out: Path | str, *, fps: float | None = None) -> Episodes:
    """Write a Minari dataset (`minari.load_dataset`) as a new episode store in `out`, and open it.

    One that worldsim exported comes back as it was. Of any other the frames are the observations, where these are
    images (H, W, 3) uint8 or a dict that has one, and `fps` is to be given: steps in one second of its time. Raises
    InvalidInput, with nothing written, for datasets without such frames or with actions of another kind.
    """
    stored = dataset.storage.metadata.get(META)
    if stored is not None:
        return _restore(dataset, EpisodesMeta.from_json(json.loads(stored)), Path(out))
    if fps is None:
        raise InvalidInput(f"dataset {dataset.id!r} does not say how fast it goes; give fps, steps in one second")
    camera = _camera(dataset)
    recordings = [
        Recording(
            np.asarray(episode.observations if camera is None else episode.observations[camera]),
            np.asarray(episode.actions), np.asarray(episode.rewards), bool(episode.terminations[-1]),
        )
        for episode in dataset.iterate_episodes()
    ]  # fmt: skip
    actions = _actions(dataset)
    return write_recordings(out, recordings, fps=fps, actions=actions, source=f"minari:{dataset.id}")


def _box(meta: EpisodesMeta, name: str) -> gym.spaces.Box:
    """The space of a stream; a token is a box too, as Minari keeps its type then."""
    spec = meta.streams[name]
    low, high = spec.bounds()
    return gym.spaces.Box(low, high, spec.shape, np.dtype(spec.dtype).type)


def _buffer(minari: Any, rows: dict[str, np.ndarray], sensors: list[str], index: int) -> Any:
    seen = {name: rows[name] for name in sensors}
    return minari.data_collector.EpisodeBuffer(
        id=index, observations=seen["rgb"] if len(sensors) == 1 else seen, actions=rows["action"][1:],
        rewards=rows["reward"][1:], terminations=rows["terminated"][1:], truncations=rows["truncated"][1:],
    )  # fmt: skip


def _restore(dataset: Any, meta: EpisodesMeta, out: Path) -> Episodes:
    writer, whole = EpisodeWriter(out, meta), False
    try:
        with writer:
            for episode in dataset.iterate_episodes():
                for row in _rows(episode, meta):
                    writer.append(row)
                writer.end_episode()
        whole = True
    finally:
        if not whole:
            shutil.rmtree(out)
    return Episodes.open(out)


def _rows(episode: Any, meta: EpisodesMeta) -> Iterator[dict[str, Any]]:
    seen = episode.observations if isinstance(episode.observations, dict) else {"rgb": episode.observations}
    acted = {
        "action": episode.actions, "reward": episode.rewards, "terminated": episode.terminations,
        "truncated": episode.truncations,
    }  # fmt: skip
    first: dict[str, Any] = {name: 0 for name in REQUIRED_STREAMS if name != "rgb"}
    first["action"] = np.full(meta.actions.shape, meta.actions.start)
    for t in range(len(seen["rgb"])):
        outcome = {name: values[t - 1] for name, values in acted.items()} if t else first
        row = {**{name: values[t] for name, values in seen.items()}, **outcome}
        yield {name: np.asarray(value).astype(meta.streams[name].dtype) for name, value in row.items()}


def _camera(dataset: Any) -> str | None:
    """Which entry of an observation is the frame; None: the observation itself."""
    space = dataset.observation_space
    found = {None: space} if isinstance(space, gym.spaces.Box) else dict(getattr(space, "spaces", {}))
    for name, one in found.items():
        if isinstance(one, gym.spaces.Box) and one.dtype == np.uint8 and len(one.shape) == 3 and one.shape[2] == 3:
            return name
    raise InvalidInput(f"dataset {dataset.id!r} observes {space}; give one with images (H, W, 3) uint8")


def _actions(dataset: Any) -> ActionSpec:
    space = dataset.action_space
    if isinstance(space, gym.spaces.Discrete):
        return ActionSpec(n=int(space.n), start=int(space.start))
    if isinstance(space, gym.spaces.Box) and len(space.shape) == 1:
        low, high = (tuple(map(float, bound)) for bound in (space.low, space.high))
        return ActionSpec(low=low, high=high)
    raise InvalidInput(
        f"dataset {dataset.id!r} has actions {space}; give one with discrete actions or a box of numbers"
    )
