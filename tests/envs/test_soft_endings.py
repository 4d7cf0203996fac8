import numpy as np
import pytest
from toy import LatentToy, ToyWorld

from worldsim.envs import WorldVectorEnv
from worldsim.envs.held import HeldWorld
from worldsim.envs.soft_endings import SoftEndings
from worldsim.errors import InvalidInput
from worldsim.spec import LatentWorld, StagedWorld


def test_the_chance_of_an_ending_costs_reward_and_nothing_else_changes():
    soft, plain = SoftEndings(LatentToy(end=0.25), 8.0), LatentToy(end=0.25)
    assert isinstance(soft, LatentWorld) and isinstance(soft, StagedWorld) and soft.spec == plain.spec
    state, other = soft.reset([3, 4], start="anywhere"), plain.reset([3, 4], start="anywhere")
    ended = 0
    for actions in np.random.default_rng(0).integers(0, 3, (20, 2)):
        state, step = soft.step(state, actions)
        other, usual = plain.step(other, actions)
        np.testing.assert_allclose(step.reward, usual.reward - 2.0, rtol=1e-6)
        assert not step.terminated.any() and np.array_equal(step.frame, usual.frame)
        assert np.array_equal(soft.latents(state), plain.latents(other))
        ended += int(usual.terminated.sum())
    assert ended > 3 and np.array_equal(soft.render(state), plain.render(other))


def test_the_costs_of_held_steps_add_up():
    held = HeldWorld(SoftEndings(ToyWorld(end=0.25), 8.0), 3)
    free = HeldWorld(SoftEndings(ToyWorld(end=0.25), 0.0), 3)
    actions = np.array([1])
    costly, usual = (world.step(world.reset([0]), actions)[1] for world in (held, free))
    assert usual.reward - costly.reward == pytest.approx(6.0, rel=1e-5)


def test_rows_go_on_until_they_are_cut_off():
    envs = WorldVectorEnv(SoftEndings(ToyWorld(end=0.9), 1.0), 3, max_episode_steps=5)
    envs.reset(seed=0)
    for step in range(5):
        _, _, terminations, truncations, _ = envs.step(np.zeros(3, np.int64))
        assert not terminations.any() and (truncations == (step == 4)).all()


@pytest.mark.parametrize("cost", [-1.0, float("nan"), float("inf")])
def test_a_cost_that_is_none_is_refused(cost):
    with pytest.raises(InvalidInput, match="cost"):
        SoftEndings(ToyWorld(), cost)


def test_a_world_that_does_not_say_how_likely_endings_are_is_refused():
    class Silent(ToyWorld):
        def step(self, state, actions):
            state, step = super().step(state, actions)
            del step.extras["termination_probability"]
            return state, step

    world = SoftEndings(Silent(), 1.0)
    with pytest.raises(InvalidInput, match="how likely"):
        world.step(world.reset([0]), np.zeros(1, np.int64))
