"""What is guessed and when: decided from durations that the tests make up, never from a clock."""

import numpy as np
import pytest

from worldsim.speculation import Speculation
from worldsim.speculation.choosing import next_job
from worldsim.speculation.economy import FEW, Economy, Referee, Trust
from worldsim.speculation.guesses import Candidate, Guess

STAGES = (0.004, 0.003, 0.003)  # of a step, in seconds


def economy(*idle, repeat=8):
    """One that has seen a caller idle for these times, over and over."""
    made = Economy()
    made.computed(STAGES)
    for _ in range(repeat):
        for seconds in idle:
            made.idled(seconds)
    return made


def root(*probabilities, state=None):
    """A root whose next action is 0, 1, 2, … with these probabilities."""
    return Guess(state, candidates=[Candidate(np.array([a]), p) for a, p in enumerate(probabilities)])


def chosen(node, money, settings=None, trust=None, elapsed=0.0):
    """The actions that lead to what is computed next, and those that led to the node; None if nothing is."""
    settings = settings or Speculation()
    job = next_job(node, settings, money, trust or Trust(settings.breadth), elapsed)
    if job is None:
        return None
    path = tuple(int(actions[0]) for actions in job.path)
    return (path, None if job.candidate is None else int(job.candidate.actions[0]))


def compute(node, *actions):
    """Put guesses in place, one behind the other."""
    for action in actions:
        child = Guess(None, depth=1)
        node.children[np.array([action]).tobytes()] = child
        node = child
    return node


def test_nothing_is_begun_before_something_is_known():
    assert not Economy().idle_enough()
    made = Economy()
    for _ in range(FEW):
        made.idled(1.0)
    assert not made.idle_enough()
    made.computed(STAGES)
    assert made.idle_enough()


def test_a_caller_that_never_idles_is_left_alone():
    assert not economy(2e-5).idle_enough()
    assert economy(2e-5, 0.02).idle_enough()
    assert not economy(*[2e-5] * 63, 0.02, repeat=1).idle_enough()


def test_candidates_are_asked_for_first():
    assert chosen(Guess(None), economy(0.05)) == ((), None)


def test_with_time_for_all_the_likeliest_comes_first_and_the_others_follow():
    node, money = root(0.2, 0.7, 0.1), economy(0.1)
    order = []
    for step in range(3):
        order.append(chosen(node, money, elapsed=0.01 * step)[1])
        compute(node, order[-1]).candidates = []
    assert order == [1, 0, 2]
    assert chosen(node, money, elapsed=0.03) is None


def test_what_is_too_unlikely_is_not_computed():
    node = root(0.97, 0.02, 0.01)
    compute(node, 0).candidates = []
    assert chosen(node, economy(0.1), Speculation(floor=0.03)) is None
    assert chosen(node, economy(0.1), Speculation(floor=0.02)) == ((), 1)
    assert chosen(node, economy(0.1), Speculation(floor=0.02, breadth=1)) is None


def test_a_guess_that_would_be_in_the_way_is_not_begun():
    node = root(0.05, 0.01)
    assert chosen(node, economy(0.1)) == ((), 0)
    assert chosen(node, economy(0.002)) is None  # asked in the midst of it, nearly always for something else
    assert chosen(root(0.95), economy(0.002)) == ((), 0)


def test_steps_further_ahead_are_worth_something_only_to_a_caller_who_sometimes_does_not_idle():
    node = root(0.9)
    child = compute(node, 0)
    assert chosen(node, economy(0.05)) is None
    assert chosen(node, economy(0.05, 1e-4)) == ((0,), None)
    child.candidates = root(0.9).candidates
    assert chosen(node, economy(0.05, 1e-4)) == ((0,), 0)
    assert chosen(node, economy(0.05, 1e-4), Speculation(depth=1)) is None


def test_memory_is_limited():
    node = root(0.5, 0.3, 0.2)
    compute(node, 0).candidates = []
    assert chosen(node, economy(0.1), Speculation(states=1)) is None


def test_without_adaptation_everything_is_computed():
    node = root(0.6, 0.4)
    settings = Speculation(adapt=False, depth=1, floor=0.0)
    assert chosen(node, Economy(), settings) == ((), 0)
    compute(node, 0)
    assert chosen(node, Economy(), settings) == ((), 1)
    compute(node, 1)
    assert chosen(node, Economy(), settings) is None


def test_a_guesser_that_is_always_wrong_loses_its_credit_and_wins_it_back():
    node, trust = root(0.9), Trust(4)
    for _ in range(60):
        trust.note([0.9], None)
    assert trust.chance(0, 0.9) < 0.06
    assert chosen(node, economy(0.1), Speculation(floor=0.1), trust) is None
    for _ in range(60):
        trust.note([0.9], 0)
    assert trust.chance(0, 0.9) > 0.7


def test_a_rank_that_comes_true_more_often_than_said_gains_credit():
    trust = Trust(2)
    for _ in range(100):
        trust.note([0.8, 0.2], 1)
    assert trust.chance(1, 0.2) > trust.chance(0, 0.8)
    assert trust.chance(1, 0.9) == 1.0


def referee(quiet, busy, cycles, jitter=0.0):
    """What it allows over so many cycles, which take `busy` seconds with guesses and `quiet` without."""
    judge, rng = Referee(), np.random.default_rng(0)
    allowed = []
    for _ in range(cycles):
        allowed.append(judge.allows())
        seconds = busy if allowed[-1] else quiet
        judge.note(seconds * (1 + jitter * rng.standard_normal()), allowed[-1])
    return allowed


def test_guesses_that_slow_the_caller_down_are_stopped_and_hardly_cost_anything():
    allowed = referee(0.02, 0.025, 4000)
    assert sum(allowed) < 150 and any(allowed[200:])


@pytest.mark.parametrize(("quiet", "busy", "jitter"), [(0.02, 0.02, 0.3), (0.03, 0.02, 0.1), (0.02, 0.0203, 0.01)])
def test_guesses_that_do_no_harm_go_on(quiet, busy, jitter):
    allowed = referee(quiet, busy, 2000, jitter)
    assert np.mean(allowed) > 0.97
