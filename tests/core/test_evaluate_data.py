import dataclasses

import numpy as np
import pytest
from tiny import tiny_episodes, tiny_files

from worldsim.errors import InvalidInput
from worldsim.evaluate.data import choose_spans, open_held_out, read_clips, shown_spans


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_episodes(tmp_path_factory.mktemp("episodes") / "store", lengths=(30, 25, 40))


@pytest.fixture(scope="module")
def config():
    return tiny_files().config


def test_a_store_that_fits_is_opened(store, config):
    assert len(open_held_out(store.path, config)) == 3


def changed(config, **changes):
    """The config with some fields of some of its parts replaced: {"source": {"fps": 10.0}}."""
    return dataclasses.replace(
        config,
        **{part: dataclasses.replace(getattr(config, part), **fields) for part, fields in changes.items()},
    )


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"source": {"name": "doom-take-cover"}}, "source is tiny"),
        ({"source": {"fps": 35.0}}, "steps a second is 17.5"),
        ({"tokenizer": {"width": 64}, "dynamics": {"width": 8}}, "frame size is \\(16, 32\\)"),
        ({"actions": {"n": 4}, "dynamics": {"actions": 4}}, "actions is"),
        ({"dynamics": {"between": 0}}, "frames between rows is 1"),
    ],
)
def test_a_store_that_does_not_fit_is_refused_by_name(store, config, changes, what):
    with pytest.raises(InvalidInput, match=what):
        open_held_out(store.path, changed(config, **changes))


def test_a_folder_without_a_store_is_refused(tmp_path, config):
    with pytest.raises(InvalidInput, match="no episode store"):
        open_held_out(tmp_path / "nothing", config)


def test_rows_at_which_the_game_ended_are_not_shown(store):
    assert [(s.start, s.stop) for s in shown_spans(store)] == [(0, 29), (30, 54), (55, 95)]


def test_spans_lie_in_different_episodes_first(store):
    spans = choose_spans(store, 3, 20, seed=0)
    assert sorted(s.episode for s in spans) == [0, 1, 2]
    for span, whole in ((s, shown_spans(store)[s.episode]) for s in spans):
        assert whole.start <= span.start < span.stop <= whole.stop and len(span) == 20


def test_a_small_store_gives_fewer_spans_instead_of_the_same_again(store):
    assert len(choose_spans(store, 100, 20, seed=0)) < 10


def test_spans_too_long_for_every_episode_are_refused(store):
    with pytest.raises(InvalidInput, match="has 50 rows"):
        choose_spans(store, 3, 50, seed=0)


def test_clips_hold_the_rows_of_their_spans(store):
    spans = choose_spans(store, 2, 10, seed=1)
    clips = read_clips(store, spans)
    assert clips.frames.shape == (2, 10, 16, 32, 3) and clips.actions.shape == (2, 10)
    assert np.array_equal(clips.frames[1], store.read("rgb", spans[1].start, spans[1].stop))
