import numpy as np
import pytest
from toy import LatentToy, ToyWorld

from worldsim.envs import WorldVectorEnv
from worldsim.envs.held import HeldWorld
from worldsim.errors import InvalidInput
from worldsim.spec import LatentWorld, WorldProtocol


def test_a_held_action_is_several_steps_of_the_world():
    held, plain = HeldWorld(LatentToy(limit=9), 2), LatentToy()
    assert isinstance(held, LatentWorld) and isinstance(held, WorldProtocol)
    assert (held.spec.max_episode_steps, held.spec.frames_per_step, held.spec.steps_per_second) == (5, 4, 8.75)
    state, other = held.reset([3, 4]), plain.reset([3, 4])
    for actions in np.array([[0, 1], [2, 2], [1, 0]]):
        state, step = held.step(state, actions)
        parts = []
        for _ in range(2):
            other, part = plain.step(other, actions)
            parts.append(part)
        np.testing.assert_allclose(step.reward, parts[0].reward + parts[1].reward, rtol=1e-6)
        assert np.array_equal(step.frame, parts[1].frame) and np.array_equal(held.latents(state), plain.latents(other))
        shown = [parts[0].extras["between"][:, 0], parts[0].frame, parts[1].extras["between"][:, 0]]
        assert np.array_equal(step.extras["between"], np.stack(shown, axis=1))


@pytest.mark.parametrize(("decode", "asked"), [("all", ["all"] * 3), ("frame", ["none", "none", "frame"])])
def test_frames_that_nobody_sees_are_not_decoded(decode, asked):
    held = HeldWorld(LatentToy(), 3)
    held.step(held.reset([0]), np.array([0]), decode=decode)
    assert held.world.asked == asked


def test_a_row_earns_nothing_after_its_end():
    class Ending(ToyWorld):
        def step(self, state, actions):
            state, step = super().step(state, actions)
            ended = np.array([state.counters["step"][0] == 2, False])
            return state, type(step)(step.frame, np.ones(2, np.float32), ended, step.extras)

    held = HeldWorld(Ending(), 4)
    _, step = held.step(held.reset([0, 1]), np.array([0, 0]))
    assert step.reward.tolist() == [2.0, 4.0] and step.terminated.tolist() == [True, False]


def test_the_chance_of_an_ending_adds_up_and_broken_numbers_stay_known():
    held = HeldWorld(ToyWorld(end=0.5), 2)
    assert held.step(held.reset([0]), np.array([0]))[1].extras["termination_probability"][0] >= 0.5
    held = HeldWorld(ToyWorld(non_finite_at=1), 2)
    assert held.step(held.reset([0]), np.array([0]))[1].extras["non_finite"].tolist() == [True]


def test_a_held_world_is_served_like_any_other():
    envs = WorldVectorEnv(HeldWorld(LatentToy(limit=5), 2), 2, observation="latents")
    envs.reset(seed=0)
    assert [envs.step([0, 1])[3].all() for _ in range(3)] == [False, False, True]


def test_an_action_is_held_once_at_least():
    with pytest.raises(InvalidInput, match="hold is 0"):
        HeldWorld(ToyWorld(), 0)
