import contextlib
import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recordings import META, files, rows, same_store, write

from worldsim.data.episode_stream import CAPACITY
from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import Episodes
from worldsim.errors import DamagedEpisodes, InvalidInput, InvalidState, WorldsimError


@pytest.fixture
def whole(tmp_path):
    with EpisodeWriter(tmp_path / "whole", META) as writer:
        write(writer, [20, 7, 33])
    return tmp_path / "whole"


def test_a_new_store_is_empty_and_readable(tmp_path):
    with EpisodeWriter(tmp_path / "a" / "b", META):
        assert len(Episodes.open(tmp_path / "a" / "b")) == 0
    assert Episodes.open(tmp_path / "a" / "b").num_steps == 0
    with EpisodeWriter(tmp_path / "a" / "b", META, resume=True) as writer:
        write(writer, [3])
    assert len(Episodes.open(tmp_path / "a" / "b")) == 1


def test_a_reader_sees_whole_episodes_while_one_is_written(tmp_path):
    with EpisodeWriter(tmp_path / "s", META) as writer:
        write(writer, [20])
        for row in rows(30):
            writer.append(row)
        assert writer.pending_steps == 30
        assert Episodes.open(tmp_path / "s").num_steps == 20
    assert Episodes.open(tmp_path / "s").num_steps == 20


def test_a_resumed_store_equals_an_uninterrupted_one(tmp_path, whole):
    path = tmp_path / "parts"
    with EpisodeWriter(path, META) as writer:
        write(writer, [20])
        for row in rows(50, 9):  # an episode that never ends
            writer.append(row)
    with EpisodeWriter(path, META, resume=True) as writer:
        write(writer, [7], first_seed=1)
    with EpisodeWriter(path, META, resume=True) as writer:
        write(writer, [33], first_seed=2)
    assert same_store(path, whole)


def test_a_dropped_episode_leaves_no_trace(tmp_path, whole):
    with EpisodeWriter(tmp_path / "s", META) as writer:
        write(writer, [20])
        for row in rows(50, 9):
            writer.append(row)
        writer.drop_episode()
        write(writer, [7, 33], first_seed=1)
    assert same_store(tmp_path / "s", whole)


@pytest.mark.parametrize("rows_before", [3, 40])
def test_a_killed_writer_loses_at_most_the_current_episode(tmp_path, whole, rows_before):
    path = tmp_path / "killed"
    program = (
        "import os, sys; from recordings import META, rows, write\n"
        "from worldsim.data.episode_writer import EpisodeWriter\n"
        f"writer = EpisodeWriter({str(path)!r}, META); write(writer, [20, 7])\n"
        f"for row in rows({rows_before}, 9): writer.append(row)\n"
        "os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[1] / "support", check=False)
    assert done.returncode == 9
    assert Episodes.open(path).lengths.tolist() == [20, 7]
    (path / "rgb" / "c.1.0.0.0.partial").write_bytes(b"half a chunk")
    with EpisodeWriter(path, META, resume=True) as writer:
        write(writer, [33], first_seed=2)
    assert same_store(path, whole)


@contextlib.contextmanager
def largest_file(size):
    """Let no file grow over `size` bytes, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 2000, 10_000])
def test_a_full_disk_leaves_the_earlier_episodes(tmp_path, whole, size):
    path = tmp_path / "full"
    writer = EpisodeWriter(path, META)
    write(writer, [20, 7])
    with largest_file(size), pytest.raises(WorldsimError, match="2 earlier episodes are whole: free space"):
        write(writer, [33], first_seed=2)
    with pytest.raises(InvalidState, match="closed"):
        writer.append(next(rows(1)))
    assert Episodes.open(path).lengths.tolist() == [20, 7]
    assert Episodes.open(path).episode(1)["rgb"].shape == (7, 20, 20, 3)
    with EpisodeWriter(path, META, resume=True) as writer:
        write(writer, [33], first_seed=2)
    assert same_store(path, whole)


def test_arrays_grow_past_their_first_capacity(tmp_path):
    streams = {name: spec for name, spec in META.streams.items()}
    small = replace(META, streams=streams | {"rgb": replace(streams["rgb"], shape=(2, 2, 3))})
    row = next(rows(1)) | {"rgb": np.ones((2, 2, 3), np.uint8)}
    with EpisodeWriter(tmp_path / "s", small) as writer:
        for _ in range(CAPACITY + 10):
            writer.append(row)
        writer.end_episode()
    assert Episodes.open(tmp_path / "s").read("rgb", CAPACITY - 5, CAPACITY + 10).all()


def test_a_second_chunk_of_ends_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr("worldsim.data.episodes.ENDS_CHUNK", 4)
    with EpisodeWriter(tmp_path / "s", META) as writer:
        write(writer, [1] * 9)
    with EpisodeWriter(tmp_path / "s", META, resume=True) as writer:
        write(writer, [2] * 4)
    assert Episodes.open(tmp_path / "s").lengths.tolist() == [1] * 9 + [2] * 4


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path, whole):
    before = files(whole)
    with pytest.raises(InvalidInput, match="not empty"):
        EpisodeWriter(whole, META)
    assert files(whole) == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(InvalidInput, match="no episode store"):
        EpisodeWriter(tmp_path / "other", META, resume=True)
    assert files(tmp_path / "other") == ["thesis.txt"]


def test_recording_does_not_go_on_from_a_damaged_chunk(whole):
    """The chunk that the next episode shares with the last one would get a checksum over the damage."""
    chunk = whole / "rgb" / "c.3.0.0.0"  # rows 48 to 60
    other = (whole / "rgb" / "c.2.0.0.0").read_bytes()
    flipped = bytearray(chunk.read_bytes())
    flipped[100] ^= 1
    for data in (other, bytes(flipped)):
        chunk.write_bytes(data)
        with pytest.raises(DamagedEpisodes, match=r"'rgb', rows 48 to 60: a chunk"):
            EpisodeWriter(whole, META, resume=True)
        assert chunk.read_bytes() == data


def test_two_writers_cannot_share_a_store(tmp_path):
    with EpisodeWriter(tmp_path / "s", META) as writer:
        with pytest.raises(InvalidInput, match="being recorded"):
            EpisodeWriter(tmp_path / "s", META, resume=True)
        write(writer, [3])
    EpisodeWriter(tmp_path / "s", META, resume=True).close()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"seed": 5}, "seed is 4, now it would be 5"),
        ({"fps": 35.0}, "fps is 17.5"),
        ({"source_parameters": {"scenario": "none", "frame_skip": 4}}, "source_parameters.frame_skip is 2"),
        ({"variable_names": ("ARMOR",)}, "variable_names"),
    ],
)
def test_resuming_with_other_metadata_names_the_field(whole, change, field):
    with pytest.raises(InvalidInput, match=field):
        EpisodeWriter(whole, replace(META, **change), resume=True)
    EpisodeWriter(whole, replace(META, creator="a later version"), resume=True).close()


@pytest.mark.parametrize(
    "change",
    [
        {"rgb": np.zeros((20, 21, 3), np.uint8)},
        {"rgb": np.zeros((20, 20, 3), np.float32)},
        {"action": 0.5},
        {"depth": np.zeros((20, 20), np.float32)},
    ],
)
def test_a_row_that_does_not_fit_is_refused_and_changes_nothing(tmp_path, change):
    with EpisodeWriter(tmp_path / "s", META) as writer:
        with pytest.raises(InvalidInput, match=next(iter(change))):
            writer.append(next(rows(1)) | change)
        assert writer.pending_steps == 0


def test_a_row_without_a_stream_and_an_empty_episode_are_refused(tmp_path):
    with EpisodeWriter(tmp_path / "s", META) as writer:
        with pytest.raises(InvalidInput, match="lacks stream 'reward'"):
            writer.append({k: v for k, v in next(rows(1)).items() if k != "reward"})
        with pytest.raises(InvalidState, match="at least one row"):
            writer.end_episode()


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="cannot make"):
        EpisodeWriter(tmp_path / "file" / "store", META)
    incomplete = {name: spec for name, spec in META.streams.items() if name != "reward"}
    with pytest.raises(InvalidInput, match="lack reward"):
        EpisodeWriter(tmp_path / "s", replace(META, streams=incomplete))


def test_of_two_writers_that_begin_at_once_one_wins_and_the_other_says_so(tmp_path, monkeypatch):
    first: list[EpisodeWriter] = []
    replace_folder = os.replace

    def overtaken(source, target):
        if not first:
            first.append(EpisodeWriter.__new__(EpisodeWriter))
            first[0].__init__(tmp_path / "s", META)
        replace_folder(source, target)

    monkeypatch.setattr("os.replace", overtaken)
    with pytest.raises(InvalidInput, match=r"'.*s' is being recorded to already"):
        EpisodeWriter(tmp_path / "s", META)
    with first[0] as writer:
        write(writer, [4])
    assert len(Episodes.open(tmp_path / "s")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


@pytest.mark.parametrize(("stream", "value"), [("reward", np.nan), ("reward", 1e39)])
def test_numbers_that_nothing_learns_from_are_refused(stream, value, tmp_path):
    with EpisodeWriter(tmp_path / "s", META) as writer:
        row = next(rows(2))
        with pytest.raises(InvalidInput, match=re.escape(f"stream {stream!r} of the row is {value}")):
            writer.append({**row, stream: value})
        writer.append(row)  # the writer is as it was
        writer.end_episode()
    assert Episodes.open(tmp_path / "s").num_steps == 1


def test_a_store_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path, full_disk):
    with full_disk(50), pytest.raises(InvalidInput, match="cannot make"):
        EpisodeWriter(tmp_path / "store", META)
    assert list(tmp_path.iterdir()) == []
