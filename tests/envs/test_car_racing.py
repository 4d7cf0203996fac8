"""CarRacing as a source: episodes that repeat, a stream that says where the car is, drivers of graded skill."""

import gymnasium as gym
import numpy as np
import pytest

from worldsim.cli.record import record
from worldsim.data.episodes import Episodes
from worldsim.envs.sources import make_source
from worldsim.envs.sources.car_racing import Lane, Pursuit, Weave, road_ahead, speed_shown
from worldsim.errors import InvalidInput, MissingDependency

pytestmark = pytest.mark.simulator
FULL_GAS = np.array([0, 1, 0], np.float32)


@pytest.fixture(scope="module")
def source():
    pytest.importorskip("Box2D", reason="CarRacing needs the package box2d")
    made = make_source("car-racing")
    yield made
    made.close()


def drive(source, policy, seed, steps):
    """The rows of an episode that is left after so many steps."""
    policy.reset(np.random.default_rng(seed))
    rows = [source.reset(seed)]
    while len(rows) <= steps and not rows[-1].done:
        rows.append(source.step(policy.act(rows[-1])))
    return rows


def test_an_episode_repeats_whatever_was_played_before(source):
    first = drive(source, Pursuit(source.spec), 3, 20)
    drive(source, Weave(source.spec), 4, 7)
    again = drive(source, Pursuit(source.spec), 3, 20)
    assert [(row.reward, row.terminated) for row in first] == [(row.reward, row.terminated) for row in again]
    assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(first, again, strict=True))
    assert all(np.array_equal(a.extras["car"], b.extras["car"]) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("limit", [1000, 7])  # an episode may end at a tick that else would not be drawn
def test_what_nobody_looks_at_is_not_drawn_and_changes_nothing(limit):
    shown = []
    for between in (False, True):
        made = make_source("car-racing", between=between)
        made._env._max_episode_steps = limit
        shown.append(drive(made, Pursuit(made.spec), 5, 12))
        made.close()
    assert len(shown[0]) == len(shown[1]) == min(13, 1 + -(-limit // 2))
    for row, drawn in zip(*shown, strict=True):
        assert (row.reward, row.done) == (drawn.reward, drawn.done)
        assert np.array_equal(row.rgb, drawn.rgb)


def test_the_stream_tells_how_the_car_moves(source):
    source.reset(0)
    rows = [source.step(FULL_GAS) for _ in range(25)]
    speed, _, _, _, heading, offset = np.stack([row.extras["car"] for row in rows]).T
    assert speed[-1] > speed[5] > 0 and abs(offset[0]) < 5
    turned = [source.step(np.array([1, 0, 0], np.float32)) for _ in range(8)][-1].extras["car"]
    assert turned[2] > 0.1 and turned[3] > 0  # to the right
    assert turned[4] < heading[-1]  # so that what lies ahead moves to the left


def test_drivers_get_further_the_better_they_are(source):
    returns = [
        sum(row.reward for row in drive(source, policy, 1, 150))
        for policy in (Lane(source.spec, 0.0), Lane(source.spec, 1.0))
    ]
    assert returns[0] < returns[1] and returns[1] > 50


def test_the_frame_tells_the_speed_and_where_the_road_goes(source):
    rows = drive(source, Lane(source.spec, 1.0), 0, 200)[40:]  # the camera comes nearer before
    shown = [100 * speed_shown(row.rgb) for row in rows]
    assert np.corrcoef(shown, [row.extras["car"][0] for row in rows])[0, 1] > 0.9
    straight = [row for row in rows if abs(row.extras["car"][4]) < 0.05 and abs(row.extras["car"][5]) < 1]
    assert straight and all(abs(road_ahead(row.rgb)[0]) < 0.3 for row in straight)


def test_recordings_hold_the_frames_inside_a_step_and_the_car(source, tmp_path, monkeypatch):
    assert source.spec.max_episode_steps == 500
    monkeypatch.setattr(gym.spec("CarRacing-v3"), "max_episode_steps", 20)
    record("car-racing", steps=5, out=tmp_path / "a", between=True, policy="pursuit", height=32, width=32)
    store = Episodes.open(tmp_path / "a")
    assert store.meta.source == "car-racing" and store.meta.fps == 25 and store.meta.frame_skip == 2
    assert store.read("car", 0, 3).shape == (3, 6) and store.read("between", 0, 3).shape == (3, 1, 32, 32, 3)
    assert store.meta.max_episode_steps == store.num_steps - 1 == 10


def test_a_missing_package_and_another_game_are_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "Box2D", None)
    monkeypatch.delitem(__import__("sys").modules, "gymnasium.envs.box2d.car_racing", raising=False)
    monkeypatch.delitem(__import__("sys").modules, "gymnasium.envs.box2d", raising=False)
    with pytest.raises(MissingDependency, match="box2d"):
        make_source("car-racing")
    other = make_source("gym:CartPole-v1")
    with pytest.raises(InvalidInput, match="not driven so"):
        Lane(other.spec)
    other.close()
