"""The probes of the shipped world, on a tiny world of the same source."""

import dataclasses

import numpy as np
import pytest
from take_cover import SOURCE, growth
from take_cover import fireballs as balls
from tiny import tiny_episodes, tiny_world

from worldsim.cli.eval import policy_actions
from worldsim.errors import InvalidInput
from worldsim.evaluate.dreams import Dreams
from worldsim.evaluate.effort import QUICK
from worldsim.evaluate.probes import ProbeContext

Fireballs, Growth = balls.Fireballs, growth.Growth


@pytest.fixture(scope="module")
def world():
    return tiny_world(source=SOURCE)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_episodes(tmp_path_factory.mktemp("episodes") / "store", lengths=(70, 66, 80, 64), source=SOURCE)


def context(world, store, draw=None):
    return ProbeContext(world, store, draw, QUICK)


def test_the_ball_of_every_real_frame_is_counted(world, store):
    table = Fireballs().measure(context(world, store)).figures
    assert table["real"]["visible"] == pytest.approx(1.0)
    assert table["real"]["mean_area"] == pytest.approx(9.0)
    assert "detector" not in table  # the store has no recorded boxes


def test_whole_games_are_looked_at_by_age(world, store, monkeypatch):
    monkeypatch.setattr(growth, "AGES", (0, 10, 20, 30))
    rows = Growth().measure(context(world, store)).figures["in_sight"]
    assert [(row["from"], row["to"]) for row in rows] == [(0, 10), (10, 20), (20, 30)]
    assert all(row["real"] == pytest.approx(1.0) for row in rows)  # one ball in every frame
    lengths, looked = store.lengths, range(growth.CONTEXT, 30, growth.LOOK_EVERY)
    expected = [sum(low <= t < low + 10 and t < n - 1 for n in lengths for t in looked) for low in (0, 10, 20)]
    assert [row["real_looks"] for row in rows] == expected


def test_dreams_that_stay_as_they_begin_are_seen_not_to_grow(world, store, monkeypatch):
    monkeypatch.setattr(growth, "AGES", (0, 10, 20, 30))
    fewer = iter([2, 2, 1, 1, 0, 0] * 100)  # of those in sight, with every look
    monkeypatch.setattr(growth, "decode", lambda world, latents: bright(len(latents), next(fewer)))
    step = Dreams.step

    def go_on(dreams, actions):
        return dataclasses.replace(step(dreams, actions), ended=np.zeros(len(actions), bool))

    monkeypatch.setattr(Dreams, "step", go_on)
    draw = policy_actions("persistent", world.config)
    rows = Growth().measure(context(world, store, draw)).figures["in_sight"]
    assert [row["dream"] for row in rows] == [2, 1, 0] and rows[2]["ratio"] == 0


def bright(count, balls):
    frames = np.zeros((count, 16, 32, 3), np.uint8)
    for ball in range(balls):
        frames[:, 4:7, 4 + 10 * ball : 7 + 10 * ball] = 255
    return frames


def test_the_tables_of_the_probes_name_every_figure_and_age(world, store):
    found = Fireballs().measure(context(world, store))
    assert all(name.replace("_", " ") in found.text for name in balls.FIGURES)
    assert set(found.sheets) == {"close-ups", "detector"} and len(found.plots) == 1
    assert "350" in Growth().measure(context(world, store)).text


def test_episodes_too_short_for_a_clip_are_refused_before_anything_is_measured(world, tmp_path):
    short = tiny_episodes(tmp_path / "short", lengths=(20, 30), source=SOURCE)
    with pytest.raises(InvalidInput, match="counting fireballs needs"):
        Fireballs().check(context(world, short))
