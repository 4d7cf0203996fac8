import itertools
import math

import numpy as np
import pytest

from worldsim.errors import InvalidInput
from worldsim.spec import ActionSpec
from worldsim.speculation import Speculation
from worldsim.speculation.guessers import FLOOR, History, Policy, likeliest, make_guesser

THREE = ActionSpec(n=3)
BOX = ActionSpec(low=(-1.0, -1.0), high=(1.0, 1.0))


def history(rows=1, spec=THREE, count=4):
    return History(spec, rows, count)


def feed(guesser, actions):
    """Let it see the actions one by one; the share of them that it expected most."""
    right = 0
    for action in actions:
        ranked = guesser.ranked(None)
        right += bool(ranked) and np.array_equal(ranked[0].actions, np.array([action]))
        guesser.saw(np.array([action]))
    return right / len(actions)


def test_at_first_an_action_is_expected_to_go_on():
    guesser = history()
    guesser.saw(np.array([2]))
    ranked = guesser.ranked(None)
    assert ranked[0].actions.tolist() == [2] and ranked[0].probability == pytest.approx(0.8)
    assert sum(candidate.probability for candidate in ranked) == pytest.approx(1)
    assert ranked[0].actions.dtype == np.int64 and ranked[0].actions.shape == (1,)


def test_what_follows_on_an_action_is_learned():
    guesser = history()
    feed(guesser, [0, 1, 2] * 20)
    assert feed(guesser, [0, 1, 2] * 20) > 0.97


def test_keys_that_change_their_ways_are_followed():
    guesser = history()
    feed(guesser, [0, 1] * 200)
    feed(guesser, [0, 2] * 100)
    assert feed(guesser, [0, 2] * 20) > 0.97


def test_random_actions_are_not_foreseen_and_not_believed_to_be():
    rng = np.random.default_rng(0)
    guesser = history()
    assert feed(guesser, rng.integers(3, size=600)) < 0.45
    assert guesser.ranked(None)[0].probability < 0.6


def test_rows_are_joined_best_first():
    rows = [[(b"a", 0.7), (b"b", 0.3)], [(b"x", 0.5), (b"y", 0.4), (b"z", 0.1)], [(b"p", 0.9), (b"q", 0.1)]]
    found = likeliest(rows, 7)
    every = [(tuple(key for key, _ in choice), math.prod(p for _, p in choice)) for choice in itertools.product(*rows)]
    near = [one for one in every if sum(a != b for a, b in zip(one[0], (b"a", b"x", b"p"), strict=True)) < 2]
    near.sort(key=lambda item: -item[1])
    assert [keys for keys, _ in found] == [keys for keys, _ in near] and len(found) == 5
    assert [p for _, p in found] == pytest.approx([p for _, p in near])
    assert likeliest(rows, 2) == found[:2] and likeliest([[], rows[0]], 3) == []


def test_what_is_too_unlikely_is_left_alone():
    assert likeliest([[(b"a", 1 - FLOOR / 2), (b"b", FLOOR / 2)]], 4) == [((b"a",), 1 - FLOOR / 2)]


def test_a_batch_is_guessed_as_a_whole():
    guesser = history(rows=2)
    for _ in range(20):
        guesser.saw(np.array([0, 2]))
    ranked = guesser.ranked(None)
    assert ranked[0].actions.tolist() == [0, 2] and ranked[0].probability > 0.9


def test_continuous_actions_are_recalled_to_the_bit():
    guesser = history(spec=BOX)
    assert guesser.ranked(None) == []
    one, other = np.array([[0.1, -0.3]], np.float32), np.array([[0.25, 1.0]], np.float32)
    for _ in range(10):
        guesser.saw(one)
        guesser.saw(other)
    ranked = guesser.ranked(None)
    assert np.array_equal(ranked[0].actions, one) and ranked[0].actions.dtype == np.float32


def test_memory_is_bounded():
    guesser = history(spec=BOX)
    rng = np.random.default_rng(0)
    for _ in range(3 * guesser.ACTIONS):
        guesser.saw(rng.uniform(size=(1, 2)).astype(np.float32))
    assert len(guesser._followed) <= guesser.ACTIONS + 1 and len(guesser._values) <= guesser.ACTIONS + 1


def test_a_policy_is_asked_about_a_copy_of_the_observation():
    seen = []

    def propose(observation):
        seen.append(observation)
        observation[:] = 0
        return [2, np.int64(0)]

    guesser = Policy(propose, lambda action: np.array([action]))
    observation = np.ones(3)
    ranked = guesser.ranked(observation)
    assert [candidate.actions.tolist() for candidate in ranked] == [[2], [0]]
    assert ranked[0].probability > ranked[1].probability and observation.all()
    assert guesser.ranked(None) == [] and len(seen) == 1
    with pytest.raises(InvalidInput, match="gave a int"):
        Policy(lambda observation: 1, np.array).ranked(observation)


def test_the_settings_choose():
    kinds = [type(make_guesser(Speculation(guess=g), THREE, 1, np.array)) for g in ("history", list)]
    assert kinds == [History, Policy]
    for wrong in ({"guess": "x"}, {"breadth": 0}, {"breadth": 1.5}):
        with pytest.raises(InvalidInput, match="speculation"):
            Speculation(**wrong)
