import warnings

import numpy as np
import pytest
import torch
from rolls import assert_same, play, snapshot
from toy import CONTINUOUS, DISCRETE, ToyWorld

from worldsim.envs import WorldEnv, WorldVectorEnv
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


class Opaque:
    """Raises an error of its own for all that it is asked."""

    def __array__(self, dtype=None, copy=None):
        raise LookupError("nothing in here")

    __repr__ = __array__


HIDDEN = np.ma.array([0.5, 0.5], mask=[True, False])


@pytest.mark.parametrize(
    ("spec", "action"),
    [(DISCRETE, np.ma.array(1, mask=True)), (DISCRETE, np.ma.masked), (CONTINUOUS, HIDDEN), (DISCRETE, Opaque()),
     (CONTINUOUS, Opaque()), (CONTINUOUS, [Opaque(), 0.0]), (DISCRETE, object())],
)  # fmt: skip
def test_what_hides_its_numbers_is_refused_and_changes_nothing(spec, action):
    env, envs = WorldEnv(ToyWorld(spec)), WorldVectorEnv(ToyWorld(spec), 1)
    env.reset(seed=0)
    envs.reset(seed=0)
    before = snapshot(env)
    for step in (lambda: env.step(action), lambda: envs.step([action]), lambda: envs.step(action)):
        with pytest.raises(InvalidAction):
            step()
    assert snapshot(env) == before and env.world.batches == envs.world.batches == []


def test_a_masked_array_that_hides_nothing_is_an_array():
    env, plain = WorldEnv(ToyWorld(CONTINUOUS)), WorldEnv(ToyWorld(CONTINUOUS))
    for one in (env, plain):
        one.reset(seed=0)
    assert_same([env.step(np.ma.array([0.5, 0.5]))], [plain.step([0.5, 0.5])])


@pytest.mark.parametrize(
    ("action", "taken"), [([1.0001, -3], [1, -1]), ([np.inf, 0.25], [1, 0.25]), ([1e60, -np.inf], [1, -1])]
)
def test_actions_out_of_bounds_are_clipped_where_that_is_asked_for(action, taken):
    env, plain = WorldEnv(ToyWorld(CONTINUOUS), clip_actions=True), WorldEnv(ToyWorld(CONTINUOUS))
    envs = WorldVectorEnv(ToyWorld(CONTINUOUS), 2, clip_actions=True)
    for one in (env, plain, envs):
        one.reset(seed=0)
    fork = env.fork(1)[0]
    result = plain.step(taken)
    assert_same([env.step(action), fork.step(action)], [result] * 2)
    assert np.array_equal(envs.step([action, action])[0][0], result[0])
    for wrong in ([np.nan, 0], [0.0], [1j, 0]):
        with pytest.raises(InvalidAction):
            env.step(wrong)
        with pytest.raises(InvalidAction):
            envs.step([wrong, wrong])


def test_clipping_leaves_discrete_actions_alone():
    env = WorldEnv(ToyWorld(), clip_actions=True)
    env.reset(seed=0)
    with pytest.raises(InvalidAction):
        env.step(3)


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
