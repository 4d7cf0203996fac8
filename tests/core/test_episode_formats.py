"""Stores of earlier formats, and what is said of their streams."""

from dataclasses import replace

import numpy as np
import pytest
from recordings import META, STREAMS, as_format_1, everything, write

from worldsim.data.episode_stream import ChunkFiles
from worldsim.data.episode_writer import EpisodeWriter, upgrade_store
from worldsim.data.episodes import EpisodesMeta, open_store
from worldsim.errors import DamagedEpisodes, InvalidInput
from worldsim.spec import StreamSpec


def test_a_store_of_the_first_format_is_read_and_upgraded(store, tmp_path):
    """The upgraded store is the very one that would be recorded today."""
    expected = {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()}
    old = as_format_1(store)
    values = everything(old)
    assert open_store(old, mode="r").version == 1
    upgrade_store(old)
    assert {path.relative_to(store): path.read_bytes() for path in store.rglob("*") if path.is_file()} == expected
    assert all(np.array_equal(values[name], found) for name, found in everything(old).items())
    upgrade_store(old)  # nothing left to do


def test_recording_goes_on_in_a_store_of_the_first_format(small_store, tmp_path):
    with EpisodeWriter(as_format_1(small_store), META, resume=True) as writer:
        write(writer, [9], first_seed=2)
    with EpisodeWriter(tmp_path / "whole", META) as writer:
        write(writer, [5, 14, 9])
    found, expected = everything(small_store), everything(tmp_path / "whole")
    assert open_store(small_store, mode="r").version == 2
    assert all(np.array_equal(found[name], values) for name, values in expected.items())


def test_an_upgrade_that_is_cut_short_leaves_the_store_whole(store, monkeypatch):
    values = everything(as_format_1(store))
    write_chunk, calls = ChunkFiles.write, []

    def fail_later(chunks, index, rows, count):
        calls.append(index)
        if len(calls) == 4:
            raise OSError(28, "No space left on device")
        return write_chunk(chunks, index, rows, count)

    with monkeypatch.context() as patched, pytest.raises(InvalidInput, match="as whole as before"):
        patched.setattr(ChunkFiles, "write", fail_later)
        upgrade_store(store)
    assert all(np.array_equal(values[name], found) for name, found in everything(store).items())
    upgrade_store(store)
    assert open_store(store, mode="r").version == 2
    assert all(np.array_equal(values[name], found) for name, found in everything(store).items())


def test_a_damaged_store_of_the_first_format_is_not_upgraded(store):
    chunk = as_format_1(store) / "rgb" / "c.2.0.0.0"
    raw = bytearray(chunk.read_bytes())
    raw[len(raw) // 2] ^= 4
    chunk.write_bytes(raw)
    with pytest.raises(DamagedEpisodes, match="rgb"):
        upgrade_store(store)
    assert open_store(store, mode="r").version == 1


def test_streams_are_described_and_stores_that_do_not_describe_them_are_completed(tmp_path):
    joints = StreamSpec("vector", (2,), "float32", low=(-1.0, 0.0), high=(1.0,), names=("hip", "knee"), unit="rad")
    meta = replace(META, streams=STREAMS | {"joints": joints})
    assert EpisodesMeta.from_json(meta.to_json()) == meta
    old = META.to_json()
    for stream in old["streams"].values():
        for name in ("kind", "low", "high", "names", "unit", "per_step"):
            del stream[name]
    assert EpisodesMeta.from_json(old) == META


def test_recording_goes_on_in_a_store_whose_streams_were_less_described(tmp_path, monkeypatch):
    joints = {"joints": StreamSpec("vector", (2,), "float32")}
    meta = replace(META, streams=STREAMS | joints)
    with EpisodeWriter(tmp_path / "store", meta):
        pass
    named = replace(joints["joints"], names=("hip", "knee"))
    EpisodeWriter(tmp_path / "store", replace(meta, streams=STREAMS | {"joints": named}), resume=True).close()
    other = replace(joints["joints"], shape=(3,))
    with pytest.raises(InvalidInput, match=r"streams\.joints\.shape"):
        EpisodeWriter(tmp_path / "store", replace(meta, streams=STREAMS | {"joints": other}), resume=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "smell"}, "kind"),
        ({"dtype": "number"}, "dtype"),
        ({"low": (0.0, 0.0, 0.0)}, "bounds"),
        ({"low": (1.0,), "high": (0.0,)}, "bounds"),
        ({"names": ("one",)}, "names"),
    ],
)
def test_a_stream_that_contradicts_itself_is_refused(changes, said):
    with pytest.raises(InvalidInput, match=said):
        StreamSpec(**{"kind": "vector", "shape": (2,), "dtype": "float32", **changes})
