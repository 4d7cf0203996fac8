"""Streams that are encoded before they are learned: by what their kind names, episode by episode, once."""

import numpy as np
import pytest
from tiny import tiny_episodes

from worldsim.data.stream_cache import read_streams
from worldsim.errors import InvalidInput


class Loudness:
    """The loudness of each channel, and how much of the episode is over: encoders are given whole episodes."""

    digest = "loudness"

    def __init__(self):
        self.calls = []

    def row_shape(self, shape):
        return (shape[1] + 1,)

    def encode(self, rows):
        self.calls.append(len(rows))
        loud = np.abs(rows.astype(np.float32)).mean(1)
        return np.concatenate([loud, np.arange(len(rows))[:, None]], axis=1)


@pytest.fixture
def store(tmp_path):
    return tiny_episodes(tmp_path / "data", lengths=(12, 7), audio=40)


def test_a_stream_is_encoded_by_what_its_kind_names_episode_by_episode_and_once(store, tmp_path):
    encoder = Loudness()
    values = read_streams(store, ("audio",), run=tmp_path, encoders={"audio": encoder})["audio"]
    assert values.shape == (19, 3) and encoder.calls == [12, 7]
    assert values[:, 2].tolist() == [*range(12), *range(7)]
    recorded = store.read("audio", 0, 19).astype(np.float32)
    np.testing.assert_allclose(values[:, :2], np.abs(recorded).mean(1), rtol=1e-5)
    again = read_streams(store, ("audio",), run=tmp_path, encoders={"audio": encoder})["audio"]
    assert encoder.calls == [12, 7] and np.array_equal(values, again)
    other = Loudness()
    other.digest = "other"  # other weights encode anew
    read_streams(store, ("audio",), run=tmp_path, encoders={"audio": other})
    assert other.calls == [12, 7]


def test_sound_is_mirrored_with_the_frames(store, tmp_path):
    plain, mirrored = (
        read_streams(store, ("audio",), run=tmp_path, encoders={"audio": Loudness()}, augmentation=name)["audio"]
        for name in (None, "mirror")
    )
    assert np.array_equal(plain[:, :2], mirrored[:, 1::-1]) and not np.array_equal(plain, mirrored)


def test_a_stream_that_nothing_encodes_is_refused(store, tmp_path):
    with pytest.raises(InvalidInput, match="no vector or token or depth 'audio'; it has none"):
        read_streams(store, ("audio",), run=tmp_path)
    with pytest.raises(InvalidInput, match="no vector or token or depth or image 'audio'"):
        read_streams(store, ("audio",), run=tmp_path, encoders={"image": Loudness()})
