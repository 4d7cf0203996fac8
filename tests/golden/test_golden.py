"""What the shipped world dreams stays as it is: rollouts are compared with stored ones, within what rounding does.

SENSITIVITY

The changes that are no argument of the public interface were made by hand once; the tests below make the others.
"""

from __future__ import annotations

import numpy as np
import pytest
from rollouts import (
    GIVEN,
    YOUNG,
    cases,
    change,
    comparable,
    excesses,
    load,
    play,
    read_reference,
    with_context_noise,
)

MARGIN = 10  # what a change must exceed its tolerance by


@pytest.fixture(autouse=True, scope="module")
def one_format():
    with comparable():
        yield


@pytest.fixture(scope="module")
def world():
    return load()


@pytest.fixture(scope="module")
def reference():
    return read_reference()[1]


CASES = cases(read_reference()[0])


@pytest.mark.parametrize("name", CASES)
def test_the_shipped_world_dreams_what_it_dreamed(world, reference, name):
    found = excesses(play(world, CASES[name]), reference[name])
    assert max(found.values()) <= 1, found


def test_the_reference_holds_an_ending_and_what_leads_to_none(reference):
    ended = np.concatenate([rollout["ended"].ravel() for rollout in reference.values()])
    chances = np.concatenate([rollout["chance"].ravel() for rollout in reference.values()])
    assert ended.any() and not ended.all() and chances.max() > 0.5 and np.median(chances) < 0.01


def _another_seed(world):
    return play(world, change(CASES[YOUNG], seeds=(0, 1, 2, 3)))


def _another_episode(world):
    return play(world, change(CASES[YOUNG], episodes=(0, 1, 0, 2)))


def _another_action(world):
    actions = CASES[YOUNG].actions.copy()
    actions[-1, 0] = (actions[-1, 0] + 1) % 3  # the very last one, of one world of four
    return play(world, change(CASES[YOUNG], actions=actions))


def _actions_a_step_later(world):
    return play(world, change(CASES[YOUNG], actions=np.roll(CASES[YOUNG].actions, 1, axis=0)))


def _a_step_older(world):
    return play(world, change(CASES[GIVEN], ages=tuple(age + 1 for age in CASES[GIVEN].ages)))


def _more_context_noise(world):
    return play(with_context_noise(world, 0.06), CASES[YOUNG])


def _frames_in_another_order(world):
    rollout = play(world, CASES[YOUNG])
    return rollout | {"frame": rollout["between"], "between": rollout["frame"]}


CHANGES = {
    _another_seed: YOUNG,
    _another_episode: YOUNG,
    _another_action: YOUNG,
    _actions_a_step_later: YOUNG,
    _a_step_older: GIVEN,
    _more_context_noise: YOUNG,
    _frames_in_another_order: YOUNG,
}


@pytest.mark.parametrize("changed", CHANGES, ids=lambda changed: changed.__name__.strip("_"))
def test_a_real_change_is_no_rounding(world, reference, changed):
    found = excesses(changed(world), reference[CHANGES[changed]])
    assert max(found.values()) >= MARGIN, found
