import warnings

import numpy as np
import pytest
import torch
from rolls import assert_same, play, snapshot
from toy import CONTINUOUS, ToyWorld

from worldsim.envs import WorldEnv
from worldsim.errors import InvalidAction
from worldsim.spec import ActionSpec


@pytest.mark.parametrize("action", [1, np.int8(1), np.uint64(1), np.array(1), torch.tensor(1)])
def test_integers_of_any_kind_are_discrete_actions(action):
    env, other = WorldEnv(ToyWorld()), WorldEnv(ToyWorld())
    env.reset(seed=0)
    other.reset(seed=0)
    assert_same(play(env, [action]), play(other, [1]))


@pytest.mark.parametrize(
    "action",
    [True, np.True_, 1.0, np.float32(1), float("nan"), -1, 3, 10**30, np.uint64(2**63), [1], np.array([1]),
     [], None, "1", [[1], [1, 2]], {"a": 1}],
)  # fmt: skip
def test_a_wrong_discrete_action_is_refused_and_changes_nothing(action):
    env = WorldEnv(ToyWorld())
    env.reset(seed=0)
    before = snapshot(env)
    with pytest.raises(InvalidAction):
        env.step(action)
    assert snapshot(env) == before and env.world.batches == []


@pytest.mark.parametrize("action", [[0.5, -1], np.array([1.0, 0.0]), np.zeros(2, np.float16), np.array([1, 0])])
def test_numbers_within_bounds_are_continuous_actions(action):
    env = WorldEnv(ToyWorld(CONTINUOUS))
    env.reset(seed=0)
    assert env.step(action)[4]["step"] == 1


@pytest.mark.parametrize(
    "action",
    [[np.nan, 0], [np.inf, 0], [1e60, 0], [1.01, 0], [0, -2], [0.0], 0.0, [[0, 0]], [0, 0, 0], [],
     np.array([True, False]), [1j, 0], None, "left"],
)  # fmt: skip
def test_a_wrong_continuous_action_is_refused_and_changes_nothing(action):
    env = WorldEnv(ToyWorld(CONTINUOUS))
    env.reset(seed=0)
    before = snapshot(env)
    with pytest.raises(InvalidAction), warnings.catch_warnings():
        warnings.simplefilter("error")
        env.step(action)
    assert snapshot(env) == before and env.world.batches == []


def test_unbounded_actions_still_have_to_be_finite():
    env = WorldEnv(ToyWorld(ActionSpec(low=(-np.inf,), high=(np.inf,))))
    env.reset(seed=0)
    env.step([1e6])
    with pytest.raises(InvalidAction, match="finite"):
        env.step([1e60])


def test_the_message_names_the_action_and_the_fix():
    env = WorldEnv(ToyWorld())
    env.reset(seed=0)
    with pytest.raises(InvalidAction, match="action is 3; pass an integer from 0 to 2 \\(NOOP, LEFT, RIGHT\\)"):
        env.step(3)
