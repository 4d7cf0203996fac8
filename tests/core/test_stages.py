import numpy as np
import pytest
import torch
from tiny import tiny_world

from worldsim.errors import InvalidAction
from worldsim.rollout import finish, stages_of
from worldsim.spec import StagedWorld
from worldsim.state.tree import clone


@pytest.fixture(scope="module")
def world():
    return tiny_world()


def equal(one, other):
    return np.array_equal(one.frame, other.frame) and np.array_equal(one.reward, other.reward)


def test_a_step_names_its_stages_and_gives_what_step_gives(world):
    assert isinstance(world, StagedWorld)
    state, actions = world.reset(seed=[0, 1]), np.array([1, 2])
    copy = clone(state)
    assert list(world.stages(clone(state), actions)) == ["history", "drawing", "heads", "decoding"]
    (one, step), (other, same) = finish(world.stages(state, actions)), world.step(copy, actions)
    assert equal(step, same) and torch.equal(one.past, other.past)


def test_a_step_that_is_left_has_no_effect_on_copies_and_on_the_mode_of_the_caller(world):
    state = world.reset(seed=[0])
    copy = clone(state)
    stages = world.stages(copy, np.array([1]))
    assert next(stages) == "history" and not torch.is_inference_mode_enabled()
    assert next(stages) == "drawing" and not torch.is_inference_mode_enabled()
    stages.close()
    fresh = world.reset(seed=[0])
    assert equal(world.step(state, np.array([2]))[1], world.step(fresh, np.array([2]))[1])


def test_a_wrong_action_is_refused_before_the_first_stage(world):
    with pytest.raises(InvalidAction):
        next(world.stages(world.reset(seed=[0]), np.array([7])))


def test_a_world_without_stages_has_a_single_one():
    class Plain:
        def step(self, state, actions):
            return state + 1, actions

    assert list(stages_of(Plain(), 1, 5)) == []
    assert finish(stages_of(Plain(), 1, 5)) == (2, 5)
