"""Data policies that look at frames play dreams as they play the real game."""

import numpy as np
import pytest
import torch
from tiny import tiny_world

from worldsim.envs.sources.base import SourceSpec
from worldsim.envs.sources.registry import POLICIES, register_policy
from worldsim.errors import InvalidInput
from worldsim.policies.data import make_policy
from worldsim.policies.drivers import driver
from worldsim.spec import ActionSpec

SPEC = SourceSpec("toy", 8, 8, ActionSpec(n=3), 10.0)


class Bright:
    """Acts by the brightness of the frame, and counts its episodes."""

    needs = frozenset()

    def __init__(self, spec, threshold=100.0):
        self.threshold, self.episodes = threshold, 0

    def reset(self, rng):
        self.episodes += 1

    def act(self, row):
        return int(row.rgb.mean() > self.threshold) + (self.episodes > 1)


@pytest.fixture(autouse=True)
def bright():
    register_policy("bright", Bright)
    yield
    del POLICIES["bright"]


def test_a_policy_takes_a_number_after_a_colon():
    assert make_policy("bright", SPEC).threshold == 100 and make_policy("bright:7.5", SPEC).threshold == 7.5
    with pytest.raises(InvalidInput, match="'bright:much' is no bright with a number"):
        make_policy("bright:much", SPEC)
    with pytest.raises(InvalidInput, match="'random:2' is no random with a number"):
        make_policy("random:2", SPEC)


def test_every_row_is_played_by_its_frame_and_begins_anew_with_its_episode():
    player = driver(tiny_world(), "bright:50")
    frames = np.zeros((2, 8, 8, 3), np.uint8)
    frames[1] = 200
    assert player.predict(frames, None, np.array([True, True]))[0].tolist() == [0, 1]
    assert player.predict(frames, None, np.array([False, False]))[0].tolist() == [0, 1]
    assert player.predict(frames, None, np.array([True, False]))[0].tolist() == [1, 1]


def test_chance_comes_from_torch_as_that_of_agents_does():
    frames = np.zeros((4, 8, 8, 3), np.uint8)
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        drawn.append(driver(tiny_world(), "random").predict(frames, None, np.ones(4, bool))[0].tolist())
    assert drawn[0] == drawn[1]


def test_what_a_dream_lacks_is_named():
    with pytest.raises(InvalidInput, match="looks at depth, which a dream lacks"):
        driver(tiny_world(), "wander")
