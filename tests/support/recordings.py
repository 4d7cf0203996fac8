"""Small episode stores for tests."""

import filecmp
from dataclasses import replace
from pathlib import Path

import google_crc32c
import numpy as np

from worldsim.data.episode_stream import CRC, TAG
from worldsim.data.episodes import Episodes, EpisodesMeta, meta_digest, open_store
from worldsim.spec import ActionSpec, StreamSpec


def basic_streams(height, width):
    """What every store of frames of that size has."""
    return {
        "rgb": StreamSpec("image", (height, width, 3), "uint8"),
        "action": StreamSpec("token", (), "int64"),
        "reward": StreamSpec("vector", (), "float32"),
        "terminated": StreamSpec("token", (), "bool"),
        "truncated": StreamSpec("token", (), "bool"),
    }


STREAMS = basic_streams(20, 20)
LENGTHS = [5, 40, 1, 30]  # of the episodes in the fixture `store`
META = EpisodesMeta(
    source="test",
    actions=ActionSpec(n=3, meanings=("NOOP", "LEFT", "RIGHT"), keys=((), ("left",), ("right",))),
    streams=STREAMS,
    fps=17.5,
    frame_skip=2,
    seed=4,
    variable_names=("HEALTH",),
    source_parameters={"scenario": "none", "frame_skip": 2},
)


def rows(count, seed=0):
    """An episode of `count` rows of noise, which no compressor shrinks."""
    rng = np.random.default_rng(seed)
    for t in range(count):
        yield {
            "rgb": rng.integers(0, 256, (20, 20, 3), np.uint8),
            "action": int(rng.integers(3)) if t else 0,
            "reward": np.float32(rng.normal()),
            "terminated": t == count - 1,
            "truncated": False,
        }


def write(writer, lengths, first_seed=0):
    """Write episodes of these lengths; episode i has seed first_seed + i."""
    for i, length in enumerate(lengths):
        for row in rows(length, first_seed + i):
            writer.append(row)
        writer.end_episode()


def everything(path):
    episodes = Episodes.open(path)
    return {"ends": episodes.ends} | {name: episodes.read(name, 0, episodes.num_steps) for name in episodes.streams}


def as_format_1(path):
    """The store as the first format had it: chunks without tags, and an older digest."""
    files = open_store(path, mode="r+")
    for name in (*files.meta.streams, "episode_ends"):
        chunks = files.chunks(name)
        for chunk in (path / name).glob("c.*"):
            body = chunk.read_bytes()[: -TAG.size - CRC.size]
            chunk.write_bytes(body + CRC.pack(google_crc32c.value(body)))
        assert replace(chunks, store=None).read(0, 1).size
    values = files.meta.to_json()
    files.group.update_attributes({"format_version": 1, "meta_sha256": meta_digest(values, 1)})
    return path


def files(folder: Path) -> list[str]:
    """Of a folder and those in it."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def same_store(a: Path, b: Path) -> bool:
    """Whether two stores hold the same files with the same bytes."""
    return files(a) == files(b) and not any(filecmp.cmpfiles(a, b, files(a), shallow=False)[1:])
