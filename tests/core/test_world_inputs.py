"""What a world cannot use is refused with a reason, and the state stays as it was."""

import numpy as np
import pytest
from lively import lively_world
from test_world import same

from worldsim.errors import InvalidAction, InvalidInput
from worldsim.state.tree import clone

FRAMES = np.zeros((2, 3, 16, 32, 3), np.uint8)
ACTIONS = np.zeros((2, 2), np.int64)


@pytest.fixture(scope="module")
def world():
    return lively_world()


@pytest.fixture(scope="module")
def steered():
    return lively_world(steering=True)


def refused_and_unchanged(world, actions, good):
    """A step with `actions` is refused and leaves the state as it was, so that one with `good` can be taken."""
    state = world.reset(seed=[0, 1])
    before = clone(state)
    with pytest.raises(InvalidAction):
        world.step(state, actions)
    assert same(state, before)
    world.step(state, good)


@pytest.mark.parametrize(
    "actions",
    [
        np.array([0, 3]),
        np.array([-1, 0]),
        np.array([0]),
        np.array([0, 1, 2]),
        np.array([[0, 1]]),
        np.array(1),
        1,
        np.array([0.0, 1.0]),
        np.array([0, np.nan]),
        np.array([True, False]),
        np.array(["0", "1"]),
        [0, None],
        None,
        [[0], [0, 1]],
        np.array([2**40, 0]),
        [],
    ],
    ids=repr,
)
def test_an_invalid_discrete_action_changes_nothing(world, actions):
    refused_and_unchanged(world, actions, np.array([0, 2], np.int8))


@pytest.mark.parametrize(
    "actions",
    [
        np.array([[0, 0], [np.nan, 0]]),
        np.array([[0, 0], [np.inf, 0]]),
        np.array([[0, 0], [1.001, 0]]),
        np.array([[0, -0.001], [0, 0]]),
        np.zeros(2),
        np.zeros((1, 2)),
        np.zeros((2, 3)),
        np.zeros((2, 2), bool),
        np.zeros((2, 2), complex),
        "go",
        [["a", "b"], ["c", "d"]],
        [[0.0, 0.0], [0.0]],
        [[None, 0], [0, 0]],
        None,
    ],
    ids=repr,
)
def test_an_invalid_continuous_action_changes_nothing(steered, actions):
    refused_and_unchanged(steered, actions, np.array([[-1, 0], [1, 2]]))


@pytest.mark.parametrize(
    "frames",
    [
        FRAMES.astype(np.float32),
        FRAMES.astype(np.int64),
        FRAMES[:1],
        FRAMES[0],
        FRAMES[:, :0],
        FRAMES[:, :, :8],
        FRAMES[..., :1],
        FRAMES.transpose(0, 1, 4, 2, 3),
        np.zeros((3, 3, 16, 32, 3), np.uint8),
        "frames",
        [[1], [2, 3]],
    ],
    ids=lambda frames: f"{getattr(frames, 'dtype', frames)}{getattr(frames, 'shape', '')}",
)
def test_frames_of_another_type_shape_or_number_are_refused(world, frames):
    with pytest.raises(InvalidInput, match="frames"):
        world.reset(seed=[0, 1], frames=frames, actions=ACTIONS)


@pytest.mark.parametrize(
    "actions",
    [None, ACTIONS[:, :1], ACTIONS[:1], np.zeros((2, 3), np.int64), ACTIONS[..., None], [[0, 0], [0]]],
    ids=repr,
)
def test_actions_that_do_not_lie_between_the_frames_are_refused(world, actions):
    with pytest.raises(InvalidInput, match="actions"):
        world.reset(seed=[0, 1], frames=FRAMES, actions=actions)


@pytest.mark.parametrize("actions", [ACTIONS + 3, ACTIONS - 1, ACTIONS + 0.5, ACTIONS.astype(bool)], ids=repr)
def test_actions_that_the_world_does_not_have_are_refused(world, actions):
    with pytest.raises(InvalidAction):
        world.reset(seed=[0, 1], frames=FRAMES, actions=actions)


def test_continuous_actions_between_frames_are_held_to_their_bounds(steered):
    with pytest.raises(InvalidAction, match="finite"):
        steered.reset(seed=[0, 1], frames=FRAMES, actions=np.full((2, 2, 2), np.nan))
    with pytest.raises(InvalidInput, match=r"actions.*\(2, 2, 2\)"):
        steered.reset(seed=[0, 1], frames=FRAMES, actions=np.zeros((2, 2)))


def test_one_frame_needs_no_actions(world):
    state = world.reset(seed=[0, 1], frames=FRAMES[:, :1])
    assert state.keys.time.tolist() == [0, 0]
    assert same(state, world.reset(seed=[0, 1], frames=FRAMES[:, :1], actions=ACTIONS[:, :0]))


@pytest.mark.parametrize("given", [{"actions": ACTIONS}, {"age": [0, 0]}], ids=str)
def test_what_belongs_to_frames_is_refused_without_them(world, given):
    with pytest.raises(InvalidInput, match="without frames"):
        world.reset(seed=[0, 1], **given)


@pytest.mark.parametrize("age", [[0], [0, 1, 2], [0, -1], [0, 1.5]], ids=str)
def test_ages_that_no_frames_can_have_are_refused(world, age):
    with pytest.raises(InvalidInput, match="age"):
        world.reset(seed=[0, 1], frames=FRAMES, actions=ACTIONS, age=age)


@pytest.mark.parametrize(
    "given",
    [
        {"seed": []},
        {"seed": [0, 1], "episode": [0]},
        {"seed": [0.5]},
        {"seed": ["0"]},
        {"seed": [0], "episode": [2**63]},
        {"seed": -(2**63) - 1},
        {"seed": None},
        {"seed": 1.0},
        {"seed": True},
        {"seed": [0], "episode": [None]},
    ],
    ids=repr,
)
def test_seeds_that_are_no_numbers_or_too_few_are_refused(world, given):
    with pytest.raises(InvalidInput, match="seed"):
        world.reset(**given)


@pytest.mark.parametrize("seed", [np.int64(7), [7], (7,), np.array([7]), [np.uint8(7)]], ids=repr)
def test_a_seed_may_come_as_any_integer(world, seed):
    assert same(world.reset(seed=seed), world.reset(seed=7))


def test_seeds_of_more_than_63_bits_are_worlds_of_their_own(world):
    seeds = [0, 2**63, 2**64, 2**64 + 1]
    state = world.reset(seed=seeds)
    assert len(set(state.keys.seed.tolist())) == len(seeds)
    assert same(world.reset(seed=state.keys.seed.tolist()), state)


def test_the_largest_and_the_smallest_seed_work(world):
    state = world.reset(seed=[2**63 - 1, -(2**63)])
    state, step = world.step(state, np.array([0, 1]))
    assert state.keys.seed.tolist() == [2**63 - 1, -(2**63)] and not step.extras["non_finite"].any()
