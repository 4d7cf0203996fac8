import numpy as np
import pytest
from tiny import tiny_episodes, tiny_world

from worldsim.evaluate.dreams import Dreams, encode
from worldsim.evaluate.effort import QUICK
from worldsim.evaluate.ending_head import _calibration, _count, measure_ending_head
from worldsim.evaluate.endings import Lives, _ratios, _same_age_ratio, measure_hazard


@pytest.fixture(scope="module")
def world():
    return tiny_world()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_episodes(tmp_path_factory.mktemp("episodes") / "store", lengths=(12, 20, 31))


def lives(steps, ended):
    return Lives(np.array(steps), np.array(ended))


def test_hazard_counts_endings_over_steps_at_risk():
    assert lives([10, 20, 30], [True, True, False]).hazard == pytest.approx(2 / 60)


def test_survival_knows_of_lives_that_were_not_watched_to_the_end():
    steps, alive = lives([1, 2, 2, 3], [True, False, True, True]).survival()
    assert steps.tolist() == [0, 1, 2, 3]
    assert alive == pytest.approx([1, 3 / 4, 3 / 4 * 2 / 3, 0])


def draw_lives(rng, count, *, watched=10**9):
    """Lives whose hazard grows with age, each watched for `watched` steps at most."""
    age = np.ceil(100 * rng.weibull(2.0, count)).astype(np.int64)
    watched = np.broadcast_to(watched, count)
    return Lives(np.minimum(age, watched), age <= watched)


def test_the_ratio_at_the_same_age_is_fair_to_dreams_that_are_watched_for_less_long():
    rng = np.random.default_rng(0)
    real = draw_lives(rng, 4000)
    dreamed = draw_lives(rng, 4000, watched=real.steps)
    assert dreamed.hazard / real.hazard < 0.85
    assert _same_age_ratio(real, dreamed) == pytest.approx(1.0, abs=0.1)


def test_equal_dangers_give_a_ratio_of_one_within_its_interval():
    rng = np.random.default_rng(1)
    ratios = _ratios(draw_lives(rng, 300), draw_lives(rng, 300))
    assert ratios["ratio_ci"][0] < 1 < ratios["ratio_ci"][1]
    assert ratios["ratio"] == pytest.approx(1, abs=0.2)


def test_replayed_dreams_last_no_longer_than_their_actions(world, store):
    result = measure_hazard(world, store, None, QUICK)
    assert result.table["actions"] == "replayed" and result.table["policy"] == "random"
    assert sorted(result.real.steps.tolist()) == [9, 17, 28]
    assert result.real.ended.tolist() == [True, True, False]
    assert len(result.dreamed.steps) == QUICK.ending_dreams and result.dreamed.steps.max() <= 28
    assert result.table["dream"]["endings"] == result.dreamed.ended.sum()


def test_fresh_actions_let_dreams_live_up_to_the_time_limit(world, store):
    asked = []

    def draw(rows, steps, seed):
        asked.append(steps)
        return np.zeros((rows, steps), np.int64)

    result = measure_hazard(world, store, draw, QUICK)
    assert set(asked) == {38}  # 40 steps have 41 rows, 3 of which are the context
    assert (result.dreamed.ended | (result.dreamed.steps == 38)).all()


def test_the_head_is_asked_about_every_step_of_every_episode(world, store):
    figures = measure_ending_head(world, store, QUICK)
    assert figures["steps"] == 11 + 19 + 30 and figures["endings"] == 2
    assert sum(row["steps"] for row in figures["reliability"]) == figures["steps"]


def test_a_batch_of_episodes_is_asked_as_each_alone(world, store):
    frames, actions = store.read("rgb", 0, 12), store.read("action", 0, 12)
    dreams = Dreams(world, encode(world, frames[None, :1]), actions[None, :0], np.zeros(1), [0])
    steps = [dreams.observe(encode(world, frames[None, t]), actions[None, t]) for t in range(1, 12)]
    said = [float(step.extras["termination_probability"][0]) for step in steps]
    from worldsim.evaluate.ending_head import outcomes_of_recorded

    assert outcomes_of_recorded(world, store).probability[0] == pytest.approx(said, abs=0.02)


def test_alarms_are_counted_at_the_step_and_near_it():
    ended = np.zeros(10, bool)
    ended[9] = True
    probability = np.zeros(10)
    probability[[1, 7]] = 0.9
    # alarms, hits, near hits, endings, found, nearly found
    assert _count(probability, ended) == (2, 0, 1, 1, 0, 1)
    probability[9] = 0.6
    assert _count(probability, ended) == (3, 1, 2, 1, 1, 1)


def test_calibration_error_is_the_mean_gap_between_said_and_seen():
    error, rows = _calibration(np.array([0.6, 0.6, 0.95, 0.95]), np.array([True, False, True, True]))
    assert error == pytest.approx(0.5 * 0.1 + 0.5 * 0.05)
    assert [row["steps"] for row in rows] == [2, 2]
