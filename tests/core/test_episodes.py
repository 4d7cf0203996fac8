import json
from dataclasses import replace

import numpy as np
import pytest
import zarr
from recordings import LENGTHS, META, STREAMS, rows

from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import Episodes, EpisodesMeta
from worldsim.errors import InvalidInput
from worldsim.spec import ActionSpec, StreamSpec


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
