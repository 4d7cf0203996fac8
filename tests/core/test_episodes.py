import json
from dataclasses import replace

import google_crc32c
import numpy as np
import pytest
import zarr
from recordings import META, STREAMS, rows, write

from worldsim.data.episode_stream import CRC, TAG, ChunkFiles
from worldsim.data.episode_writer import EpisodeWriter, upgrade_store
from worldsim.data.episodes import Episodes, EpisodesMeta, meta_digest, open_store
from worldsim.errors import DamagedEpisodes, InvalidInput
from worldsim.spec import ActionSpec, StreamSpec

LENGTHS = [5, 40, 1, 30]


@pytest.fixture
def store(tmp_path):
    with EpisodeWriter(tmp_path / "store", META) as writer:
        write(writer, LENGTHS)
    return tmp_path / "store"


def test_what_was_written_is_read_back(store):
    episodes = Episodes.open(store)
    assert len(episodes) == 4 and episodes.num_steps == 76
    assert episodes.ends.tolist() == [5, 45, 46, 76] and episodes.lengths.tolist() == LENGTHS
    assert episodes.streams == tuple(STREAMS) and episodes.meta == META
    for i, length in enumerate(LENGTHS):
        episode, expected = episodes.episode(i), list(rows(length, i))
        for name, values in episode.items():
            assert values.dtype == STREAMS[name].dtype
            assert np.array_equal(values, np.stack([row[name] for row in expected])), name


def test_rows_are_read_across_episodes_and_chunks(store):
    episodes = Episodes.open(store)
    whole = np.concatenate([episodes.episode(i)["rgb"] for i in range(4)])
    for start, stop in [(0, 76), (3, 50), (15, 17), (16, 32), (75, 76), (20, 20)]:
        assert np.array_equal(episodes.read("rgb", start, stop), whole[start:stop])


def test_metadata_of_continuous_actions_survives_json():
    meta = replace(META, actions=ActionSpec(low=(-1.0, 0.0), high=(1.0, 2.5)), hfov_degrees=90.0)
    assert EpisodesMeta.from_json(json.loads(json.dumps(meta.to_json()))) == meta
    assert (meta.height, meta.width) == (20, 20)


def test_metadata_of_actions_that_begin_elsewhere_or_are_integers_survives_json():
    for actions in (ActionSpec(n=3, start=-1), ActionSpec(low=(0.0,), high=(10.0,), box_dtype="int64")):
        meta = replace(META, actions=actions)
        assert EpisodesMeta.from_json(json.loads(json.dumps(meta.to_json()))) == meta


def test_a_store_of_usual_actions_says_of_them_what_older_ones_do():
    assert set(META.to_json()["actions"]) == {"n", "low", "high", "meanings", "keys"}
    assert EpisodesMeta.from_json(META.to_json()).actions == META.actions


def test_optional_streams_of_any_shape_are_kept(tmp_path):
    streams = STREAMS | {
        "pose": StreamSpec("vector", (4,), "float32"),
        "between": StreamSpec("image", (1, 20, 20, 3), "uint8"),
    }
    with EpisodeWriter(tmp_path / "s", replace(META, streams=streams)) as writer:
        for t, row in enumerate(rows(3)):
            between = np.full((1, 20, 20, 3), t, np.uint8)
            writer.append(row | {"pose": np.arange(4, dtype=np.float32) * t, "between": between})
        writer.end_episode()
    episode = Episodes.open(tmp_path / "s").episode(0)
    assert episode["pose"][2].tolist() == [0, 2, 4, 6]
    assert episode["between"].shape == (3, 1, 20, 20, 3) and (episode["between"][2] == 2).all()


def test_other_zarr_readers_see_plain_arrays(store):
    group = zarr.open_group(str(store), mode="r")
    assert group["rgb"].shape == (76, 20, 20, 3) and group["rgb"].chunks[0] == 16
    assert group["episode_ends"][:].tolist() == [5, 45, 46, 76]


@pytest.mark.parametrize("wrong", [("depth", 0, 1), ("rgb", -1, 3), ("rgb", 70, 77), ("rgb", 5, 4)])
def test_a_read_outside_the_store_is_refused(store, wrong):
    with pytest.raises(InvalidInput, match="store"):
        Episodes.open(store).read(*wrong)


def test_a_missing_store_or_episode_is_named(store, tmp_path):
    with pytest.raises(InvalidInput, match="worldsim record"):
        Episodes.open(tmp_path / "nothing")
    with pytest.raises(InvalidInput, match="no episode 4"):
        Episodes.open(store).episode(4)


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


def everything(path):
    episodes = Episodes.open(path)
    return {"ends": episodes.ends} | {name: episodes.read(name, 0, episodes.num_steps) for name in episodes.streams}


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


@pytest.fixture
def small_store(tmp_path):
    """Two chunks of frames, one of every other stream."""
    with EpisodeWriter(tmp_path / "small", META) as writer:
        write(writer, [5, 14])
    return tmp_path / "small"


@pytest.fixture(params=[1, 2], ids="format {}".format)
def store_of_any_format(request, small_store):
    return as_format_1(small_store) if request.param == 1 else small_store


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


# -- the first format


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
