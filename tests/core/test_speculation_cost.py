"""What is guessed and when: decided from durations that the tests make up, never from a clock."""

import numpy as np
import pytest

from worldsim.speculation.cost import FEW, CostModel, SlowdownGuard
from worldsim.speculation.guessers import Candidate

STAGES = (0.004, 0.003, 0.003)  # of a step, in seconds


def cost_model(*idle, repeat=8):
    """One that has seen a caller idle for these times, over and over."""
    made = CostModel()
    made.computed(STAGES)
    for _ in range(repeat):
        for seconds in idle:
            made.idled(seconds)
    return made


def candidates(*probabilities):
    """The next action is 0, 1, 2, … with these probabilities."""
    return [Candidate(np.array([action]), p) for action, p in enumerate(probabilities)]


def chosen(model, ranked, *there, adapt=True):
    """The action that is computed next, where some are there already; None if none is."""
    found = model.best(ranked, {np.array([action]).tobytes() for action in there}, adapt)
    return None if found is None else int(found.actions[0])


def test_nothing_is_begun_before_something_is_known():
    assert not CostModel().idle_enough()
    made = CostModel()
    for _ in range(FEW):
        made.idled(1.0)
    assert not made.idle_enough()
    made.computed(STAGES)
    assert made.idle_enough()


def test_a_caller_that_never_idles_is_left_alone():
    assert not cost_model(2e-5).idle_enough()
    assert cost_model(2e-5, 0.02).idle_enough()
    assert not cost_model(*[2e-5] * 63, 0.02, repeat=1).idle_enough()


def test_the_likeliest_comes_first_and_the_others_follow():
    model, ranked = cost_model(0.1), candidates(0.7, 0.2, 0.1)
    assert [chosen(model, ranked, *range(n)) for n in range(4)] == [0, 1, 2, None]
    assert chosen(model, ranked, 0, 2) == 1


def test_a_guess_that_is_more_likely_in_the_way_than_of_use_is_not_begun():
    model = cost_model(0.1)
    assert chosen(model, candidates(0.1)) is None  # wrong nine times in ten, and then it costs half a stage
    assert chosen(model, candidates(0.3)) == 0
    assert chosen(model, candidates(0.95, 0.02), 0) == 1  # little is left that it could be in the way of


def test_without_adaptation_everything_is_computed():
    model, ranked = CostModel(), candidates(0.01, 0.001)
    assert [chosen(model, ranked, *range(n), adapt=False) for n in range(3)] == [0, 1, None]


def test_a_guesser_that_is_always_wrong_loses_its_credit_and_wins_it_back():
    model, ranked = cost_model(0.1), candidates(0.9)
    right, wrong = (np.array([action]).tobytes() for action in (0, 1))
    for _ in range(60):
        model.calibrator.note(ranked, wrong)
    assert model.calibrator.chance(ranked[0]) < 0.06
    assert chosen(model, ranked) is None
    for _ in range(60):
        model.calibrator.note(ranked, right)
    assert model.calibrator.chance(ranked[0]) > 0.7


def test_a_guesser_that_is_right_more_often_than_it_says_gains_credit():
    model, ranked = cost_model(0.1), candidates(0.5)
    for _ in range(100):
        model.calibrator.note(ranked, ranked[0].key)
    assert model.calibrator.chance(ranked[0]) > 0.9
    assert model.calibrator.chance(candidates(0.9)[0]) == 1.0


def guarded(without, guessing, cycles, jitter=0.0):
    """What the guard allows over so many cycles, which take `guessing` seconds with guesses and others without."""
    guard, rng = SlowdownGuard(), np.random.default_rng(0)
    allowed = []
    for _ in range(cycles):
        allowed.append(guard.allows())
        seconds = guessing if allowed[-1] else without
        guard.note(seconds * (1 + jitter * rng.standard_normal()), allowed[-1])
    return allowed


def test_guesses_that_slow_the_caller_down_are_stopped_and_hardly_cost_anything():
    allowed = guarded(0.02, 0.025, 4000)
    assert sum(allowed) < 150 and any(allowed[200:])


@pytest.mark.parametrize(
    ("without", "guessing", "jitter"), [(0.02, 0.02, 0.3), (0.03, 0.02, 0.1), (0.02, 0.0203, 0.01)]
)
def test_guesses_that_do_not_slow_the_caller_down_go_on(without, guessing, jitter):
    allowed = guarded(without, guessing, 2000, jitter)
    assert np.mean(allowed) > 0.97


def test_a_machine_that_gets_slower_by_itself_does_not_stop_guesses():
    guard, allowed = SlowdownGuard(), []
    for cycle in range(2000):
        allowed.append(guard.allows())
        guard.note(0.02 if cycle < 300 else 0.03, allowed[-1])
    assert np.mean(allowed) > 0.95
