"""Environments that are pickled or copied: both go on alike, whatever one of them does."""

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
from rolls import assert_same, play, roll
from toy import LatentToy, ToyWorld

from worldsim.envs import WorldEnv, WorldVectorEnv
from worldsim.speculation import Speculation

COPIES = [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))]
ALL = Speculation(breadth=1, adapt=False)


@pytest.mark.parametrize("speculate", [None, ALL])
@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_goes_on_bit_for_bit(copied, speculate):
    env = WorldEnv(ToyWorld(limit=30), render_mode="rgb_array", speculate=speculate)
    never_reset = copied(env)
    env.reset(seed=3)
    play(env, [1, 2, 0])
    other, frame, actions = copied(env), env.render(), [0, 0, 1, 2] * 6
    results = play(env, actions), env.reset()
    assert np.array_equal(other.render(), frame)
    assert_same(play(other, actions), results[0])
    assert_same([other.reset()], [results[1]])
    never_reset.reset(seed=3)
    assert_same(play(never_reset, [1, 2, 0, *actions])[3:], results[0])
    assert other.spec == env.spec and other.action_space == env.action_space
    if speculate:
        assert other.ahead is not env.ahead and other.speculation_stats.steps == len(actions)
    for one in (env, other, never_reset):
        one.close()


@pytest.mark.parametrize("copied", COPIES)
def test_a_copy_of_an_environment_never_seeded_draws_the_same_seeds(copied):
    env = WorldEnv(ToyWorld())
    env.np_random = np.random.default_rng(5)
    other = copied(env)
    assert_same([env.reset()], [other.reset()])


@pytest.mark.parametrize("speculate", [None, ALL])
@pytest.mark.parametrize("copied", COPIES)
def test_a_copied_batch_goes_on_bit_for_bit(copied, speculate):
    envs = WorldVectorEnv(LatentToy(end=0.1), 3, observation="latents", speculate=speculate)
    envs.reset(seed=3)
    actions = np.random.default_rng(0).integers(3, size=(20, 3))
    roll(envs, actions[:5])
    other = copied(envs)
    assert_same(roll(envs, actions), roll(other, actions))
    for one in (envs, other):
        one.close()


@pytest.mark.parametrize("copied", COPIES)
def test_a_copied_batch_of_stable_baselines_goes_on_bit_for_bit(copied):
    pytest.importorskip("stable_baselines3")
    from worldsim.envs.sb3 import WorldVecEnv

    envs = WorldVecEnv(ToyWorld(end=0.1), 3)
    envs.reset()
    actions = np.random.default_rng(0).integers(3, size=(20, 3))
    for taken in actions[:3]:
        envs.step(taken)
    other = copied(envs)
    assert_same([envs.step(taken) for taken in actions], [other.step(taken) for taken in actions])


def test_a_copy_made_by_gymnasium_keeps_its_wrappers(by_name):
    env = gym.make("worldsim/DoomTakeCover-v0", max_episode_steps=3)
    env.reset(seed=0)
    env.step(0)
    other = copy.deepcopy(env)
    assert_same(play(env, [0, 1]), play(other, [0, 1]))


@pytest.mark.parametrize("copied", COPIES)
def test_a_window_is_not_copied_but_opens_again(copied, dummy_display):
    import pygame

    env = WorldEnv(ToyWorld(), render_mode="human")
    env.reset(seed=0)
    other = copied(env)
    env.close()
    observation = other.step(0)[0]
    shown = pygame.surfarray.array3d(pygame.display.get_surface())
    assert np.array_equal(shown[::32, ::32].swapaxes(0, 1), observation)
    other.close()
