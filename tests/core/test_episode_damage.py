"""Whatever is damaged in an episode store is found, and nothing wrong is read."""

import json
from dataclasses import replace

import numpy as np
import pytest
import zarr
from recordings import LENGTHS, META, STREAMS, as_format_1, everything, rows, write

from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import Episodes, meta_digest, open_store
from worldsim.errors import DamagedEpisodes, InvalidInput


def test_a_flipped_bit_is_found_when_its_rows_are_read(store):
    chunk = store / "rgb" / "c.2.0.0.0"
    raw = bytearray(chunk.read_bytes())
    raw[len(raw) // 2] ^= 4
    chunk.write_bytes(raw)
    episodes = Episodes.open(store)
    episodes.read("rgb", 0, 32)
    with pytest.raises(DamagedEpisodes, match=r"'rgb', rows 30 to 40.*checksum.*restore"):
        episodes.read("rgb", 30, 40)


@pytest.mark.parametrize("stream", list(STREAMS))
def test_a_flipped_bit_in_any_stream_is_found(store, stream):
    for chunk in (store / stream).glob("c.0*"):
        raw = bytearray(chunk.read_bytes())
        raw[-5] ^= 1
        chunk.write_bytes(raw)
    with pytest.raises(DamagedEpisodes, match=stream):
        Episodes.open(store).episode(0)


def test_a_missing_chunk_is_found_on_opening(store):
    (store / "rgb" / "c.1.0.0.0").unlink()
    with pytest.raises(DamagedEpisodes, match=r"'rgb', rows 16 to 32: a chunk is missing"):
        Episodes.open(store)


def test_a_chunk_that_goes_missing_later_is_not_read_as_black(store):
    episodes = Episodes.open(store)
    (store / "rgb" / "c.1.0.0.0").unlink()
    with pytest.raises(DamagedEpisodes, match="missing"):
        episodes.read("rgb", 10, 20)


def test_black_frames_are_no_missing_chunks(tmp_path):
    with EpisodeWriter(tmp_path / "s", META) as writer:
        for row in rows(40):
            writer.append(row | {"rgb": np.zeros((20, 20, 3), np.uint8), "reward": np.float32(0)})
        writer.end_episode()
    assert not Episodes.open(tmp_path / "s").read("rgb", 0, 40).any()


def test_a_truncated_chunk_is_found(store):
    chunk = store / "reward" / "c.0"
    chunk.write_bytes(chunk.read_bytes()[:10])
    with pytest.raises(DamagedEpisodes, match="reward"):
        Episodes.open(store).read("reward", 0, 3)


def test_altered_metadata_is_found(store):
    text = (store / "zarr.json").read_text()
    (store / "zarr.json").write_text(text.replace("17.5", "13.5"))
    with pytest.raises(DamagedEpisodes, match="altered"):
        Episodes.open(store)
    (store / "zarr.json").write_text(text[:-20])
    with pytest.raises(DamagedEpisodes, match="cannot be read"):
        Episodes.open(store)


def test_another_format_version_is_named(store):
    text = (store / "zarr.json").read_text()
    (store / "zarr.json").write_text(text.replace('"format_version": 2', '"format_version": 9'))
    with pytest.raises(DamagedEpisodes, match="version 9, this worldsim reads 1 and 2"):
        Episodes.open(store)


@pytest.mark.parametrize("stream", ["rgb", "episode_ends"])
def test_a_stream_without_its_metadata_or_folder_is_found(store, stream):
    (store / stream / "zarr.json").unlink()
    with pytest.raises(DamagedEpisodes, match=stream):
        Episodes.open(store)


def test_a_stream_shorter_than_the_episodes_is_found(store):
    zarr.open_group(str(store), mode="r+")["reward"].resize((50,))
    with pytest.raises(DamagedEpisodes, match=r"'reward', rows 50 to 76: the stream ends before"):
        Episodes.open(store)


def test_damaged_ends_are_found(store):
    ends = open_store(store, mode="r").chunks("episode_ends")
    values = ends.read(0, 0).copy()
    values[1] = 3
    ends.write(0, values, ends.rows)
    with pytest.raises(DamagedEpisodes, match="do not increase"):
        Episodes.open(store)
    (store / "episode_ends" / "c.0").unlink()
    with pytest.raises(DamagedEpisodes, match="missing"):
        Episodes.open(store)


# -- damage anywhere


def assert_refused_or_the_same(path, expected):
    """What is read is what was recorded, bit for bit, or nothing is."""
    try:
        found = everything(path)
    except (DamagedEpisodes, InvalidInput):
        return
    assert found.keys() == expected.keys()
    for name, values in found.items():
        assert values.dtype == expected[name].dtype and np.array_equal(values, expected[name]), name


def flip_bits(path, step):
    """Flip one bit at a time, every `step`-th bit of the file; yields while it is flipped."""
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), step):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        yield
    path.write_bytes(data)


@pytest.fixture(params=[1, 2], ids="format {}".format)
def store_of_any_format(request, small_store):
    return as_format_1(small_store) if request.param == 1 else small_store


@pytest.mark.parametrize("array", ["", "rgb", "episode_ends"])
def test_a_flipped_bit_in_any_metadata_is_refused_or_changes_nothing(store_of_any_format, array):
    expected = everything(store_of_any_format)
    for _ in flip_bits(store_of_any_format / array / "zarr.json", 37):
        assert_refused_or_the_same(store_of_any_format, expected)


def test_a_flipped_bit_in_any_chunk_is_refused(store_of_any_format):
    for chunk in sorted(store_of_any_format.rglob("c.*")):
        for _ in flip_bits(chunk, max(1, 8 * chunk.stat().st_size // 20) | 1):
            with pytest.raises(DamagedEpisodes):
                everything(store_of_any_format)


def test_chunks_that_change_places_are_refused(tmp_path, store):
    """Between chunks of a stream, between streams, and between stores recorded in another way."""
    with EpisodeWriter(tmp_path / "other", replace(META, seed=5)) as writer:
        write(writer, LENGTHS)
    swaps = [("rgb/c.0.0.0.0", "rgb/c.1.0.0.0"), ("terminated/c.0", "truncated/c.0"), ("reward/c.0", "action/c.0")]
    swaps += [(name, tmp_path / "other" / name) for name in ("rgb/c.2.0.0.0", "reward/c.0", "episode_ends/c.0")]
    for one, other in swaps:
        before, strange = (store / one).read_bytes(), (store / other).read_bytes()
        (store / one).write_bytes(strange)
        with pytest.raises(DamagedEpisodes, match=r"another place or store.*restore"):
            everything(store)
        (store / one).write_bytes(before)
    everything(store)


def test_an_older_copy_of_a_chunk_is_refused(tmp_path):
    with EpisodeWriter(tmp_path / "s", META) as writer:
        write(writer, [5])
        older = (tmp_path / "s" / "rgb" / "c.0.0.0.0").read_bytes()
        write(writer, [6])
    (tmp_path / "s" / "rgb" / "c.0.0.0.0").write_bytes(older)
    with pytest.raises(DamagedEpisodes, match="older than the last episode"):
        Episodes.open(tmp_path / "s").read("rgb", 0, 3)


@pytest.mark.parametrize(
    ("old", "new"),
    [('"separator":"."', '"separator":"/"'), ('"endian":"little"', '"endian":"big"'), ('"level":3', '"level":1')],
)
def test_array_metadata_that_worldsim_does_not_write_is_refused(store_of_any_format, old, new):
    path = store_of_any_format / "reward" / "zarr.json"
    text = json.dumps(json.loads(path.read_text()), separators=(",", ":"))
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DamagedEpisodes, match=r"'reward'.*not what worldsim writes"):
        Episodes.open(store_of_any_format)


CRAFTED = {
    "a list": lambda meta: [],
    "streams in a list": lambda meta: meta | {"streams": []},
    "no rewards": lambda meta: meta | {"streams": {n: s for n, s in meta["streams"].items() if n != "reward"}},
    "a path for a name": lambda meta: meta | {"streams": meta["streams"] | {"../x": meta["streams"]["rgb"]}},
    "the ends for a stream": lambda meta: (
        meta | {"streams": meta["streams"] | {"episode_ends": {"shape": [], "dtype": "int64"}}}
    ),
    "words for a shape": lambda meta: (
        meta | {"streams": meta["streams"] | {"reward": {"shape": ["x"], "dtype": "float32"}}}
    ),
    "no such dtype": lambda meta: meta | {"streams": meta["streams"] | {"reward": {"shape": [], "dtype": "float99"}}},
    "a nest": lambda meta: meta | {"source_parameters": json.loads('{"a":' * 80 + "1" + "}" * 80)},
}


@pytest.mark.parametrize("change", CRAFTED.values(), ids=CRAFTED)
def test_malformed_metadata_with_a_right_checksum_is_refused(store, change):
    values = json.loads((store / "zarr.json").read_text())
    meta = change(values["attributes"]["meta"])
    values["attributes"] |= {"meta": meta, "meta_sha256": meta_digest(meta)}
    (store / "zarr.json").write_text(json.dumps(values))
    with pytest.raises(DamagedEpisodes, match="store"):
        Episodes.open(store)


def test_a_hidden_episode_is_found(store):
    """The length of `episode_ends` must not say that there are fewer than were committed."""
    path = store / "episode_ends" / "zarr.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps(values | {"shape": [3]}))
    with pytest.raises(DamagedEpisodes, match="array ends before the last episode"):
        Episodes.open(store)
