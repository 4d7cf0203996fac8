"""Precursor events: which rows of a recording have one, and that they reach the batches."""

import dataclasses

import numpy as np
import pytest
from recordings import META, STREAMS, rows
from small_training import fixed_tokenizer
from tiny import tiny_episodes

from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import Episodes, StreamSpec
from worldsim.data.events import EventSpec, find_events
from worldsim.data.latents import cache_latents
from worldsim.errors import InvalidInput

LEVELS = [[9, 9, 7, 7], [9, 3, 5], [4, 4]]  # the last episode begins with less than the one before ended with


@pytest.fixture
def store(tmp_path):
    meta = dataclasses.replace(
        META, streams={**STREAMS, "variables": StreamSpec("vector", (2,), "float32")}, variable_names=("AMMO", "LIVES")
    )
    with EpisodeWriter(tmp_path / "played", meta) as writer:
        for levels in LEVELS:
            for row, level in zip(rows(len(levels)), levels, strict=True):
                writer.append({**row, "variables": np.array([level % 9, level], np.float32)})
            writer.end_episode()
    return Episodes.open(tmp_path / "played")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([], [3, 6, 8]),  # the endings
        (["LIVES:falls"], [2, 3, 5, 6, 8]),
        (["LIVES:rises"], [3, 6, 8]),
        (["AMMO:nonzero"], [2, 3, 5, 6, 7, 8]),
        (["AMMO:rises", "LIVES:falls"], [2, 3, 5, 6, 8]),
    ],
    ids=str,
)
def test_an_event_is_an_ending_or_what_a_variable_marks(store, events, expected):
    found = find_events(store, [EventSpec.parse(text) for text in events])
    assert np.flatnonzero(found).tolist() == expected


def test_a_rise_within_an_episode_is_one_and_one_between_episodes_is_not(store):
    assert find_events(store, [EventSpec("AMMO", "rises")])[[2, 4, 5]].tolist() == [True, False, True]


@pytest.mark.parametrize("text", ["LIVES", "LIVES:drops", ":falls", ""])
def test_an_event_that_says_no_variable_or_no_mark_is_refused(text):
    with pytest.raises(InvalidInput, match="give VARIABLE:MARK, with one of falls, rises, nonzero"):
        EventSpec.parse(text)


def test_a_variable_that_was_not_recorded_is_refused(store, tmp_path):
    with pytest.raises(InvalidInput, match="no variable 'SHIELD'; its variables are AMMO, LIVES"):
        find_events(store, [EventSpec("SHIELD", "falls")])
    with pytest.raises(InvalidInput, match="its variables are none"):
        find_events(tiny_episodes(tmp_path / "tiny"), [EventSpec("LIVES", "falls")])


def test_events_come_with_the_latents(tmp_path, float32):
    store = tiny_episodes(tmp_path / "tiny", lengths=(8, 6))
    clips = cache_latents(fixed_tokenizer(), store, tmp_path, "cpu")
    assert (clips.event == store.read("terminated", 0, 14)).all()
    with pytest.raises(InvalidInput, match="no variable 'LIVES'"):
        cache_latents(fixed_tokenizer(), store, tmp_path, "cpu", events=[EventSpec("LIVES", "falls")])
