"""What environments show of a world: frames or latents, and no more decoded than is shown."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from toy import LatentToy, ToyWorld

from worldsim.envs import WorldEnv, WorldVectorEnv
from worldsim.errors import InvalidInput

LIMIT = np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, "frame"),
        ({"between": True}, "all"),
        ({"observation": "latents"}, "none"),
        ({"observation": "latents", "between": True}, "all"),
    ],
)
def test_only_what_is_shown_is_decoded(options, asked):
    for make in (WorldEnv, WorldVectorEnv):
        env = make(LatentToy(), **options)
        env.reset(seed=0)
        resets = env.world.renders
        info = env.step(env.action_space.sample())[4]
        assert env.world.asked == [asked] and ("between" in info) == (asked == "all")
        assert resets == ("observation" not in options)


def test_a_window_shows_the_frames_between(dummy_display):
    env = WorldEnv(LatentToy(), render_mode="human", observation="latents")
    env.reset(seed=0)
    env.step(0)
    assert env.world.asked == ["all"]
    env.close()


def test_latents_are_observed_and_frames_still_drawn():
    env = WorldEnv(LatentToy(), observation="latents", render_mode="rgb_array")
    envs = WorldVectorEnv(LatentToy(), 3, observation="latents", render_mode="rgb_array", autoreset_mode="SameStep")
    assert env.observation_space == envs.single_observation_space
    assert env.observation_space == gym.spaces.Box(-LIMIT, LIMIT, (32,), np.float32)
    one, many = env.reset(seed=1)[0], envs.reset(seed=0)[0]
    for _ in range(5):
        assert env.observation_space.contains(one) and envs.observation_space.contains(many)
        assert np.array_equal(one, many[1])
        assert np.array_equal(one.reshape(env.world.spec.latent_shape), env.world.latents(env._now.state)[0])
        assert np.array_equal(env.render(), envs.render()[1]) and env.render().shape == (16, 16, 3)
        one, many = env.step(1)[0], envs.step([0, 1, 2])[0]
    fork = env.fork(1)[0]
    assert np.array_equal(fork.step(0)[0], env.step(0)[0])


@pytest.mark.filterwarnings("error")
def test_the_checkers_find_nothing_in_latents(dummy_display):
    sb3 = pytest.importorskip("stable_baselines3.common.env_checker")

    for check in (check_env, sb3.check_env):
        check(gym.make("worldsim/DoomTakeCover-v0", world=LatentToy(size=64), observation="latents").unwrapped)
    space = WorldEnv(LatentToy(), observation="latents").observation_space
    assert space.is_bounded() and np.isfinite(space.sample()).all()


def test_the_last_latents_of_an_episode_are_in_its_infos():
    envs = WorldVectorEnv(LatentToy(limit=2), 2, observation="latents", autoreset_mode="SameStep")
    envs.reset(seed=0)
    envs.step([0, 0])
    observations, _, _, truncations, infos = envs.step([0, 0])
    assert truncations.all() and infos["final_obs"][0].shape == (32,)
    assert not np.array_equal(infos["final_obs"][0], observations[0])


def test_restored_latents_go_on():
    envs = WorldVectorEnv(LatentToy(), 2, observation="latents")
    envs.reset(seed=0)
    states = envs.save_state()
    first = envs.step([1, 2])[0]
    envs.restore_state(states)
    assert np.array_equal(envs.step([1, 2])[0], first)


def test_worlds_without_latents_starts_or_temperature_say_so():
    for wrong, message in (
        ({"observation": "latents"}, "'toy' offers no latents"),
        ({"observation": "sound"}, "'pixels', 'latents'"),
        ({"start": "anywhere"}, "offers no start 'anywhere'; it offers 'beginning'"),
        ({"temperature": 1.2}, "no temperature"),
    ):
        for make in (WorldEnv, WorldVectorEnv):
            with pytest.raises(InvalidInput, match=message):
                make(ToyWorld(), **wrong)
    with pytest.raises(InvalidInput, match="'beginning', 'anywhere'"):
        WorldEnv(LatentToy(), start="end")


def test_episodes_begin_where_they_are_told_to():
    env, envs = WorldEnv(LatentToy(), start="anywhere"), WorldVectorEnv(LatentToy(limit=1), 2, start="anywhere")
    env.reset(seed=0)
    envs.reset(seed=0)
    envs.step([0, 0])
    envs.step([0, 0])  # which resets both
    assert env.world.begun == ["anywhere"] and envs.world.begun == ["anywhere"] * 4


def test_the_temperature_is_the_worlds():
    world = LatentToy()
    env = gym.make("worldsim/DoomTakeCover-v0", world=world, temperature=1.3).unwrapped
    assert env.world.sampling.temperature == 1.3 and world.sampling.temperature == 1.0
    envs = gym.make_vec("worldsim/DoomTakeCover-v0", num_envs=2, world=world, temperature=1.3)
    assert envs.world.sampling.temperature == 1.3


def test_stable_baselines_gets_latents():
    pytest.importorskip("stable_baselines3")
    from worldsim.envs.sb3 import WorldVecEnv

    envs = WorldVecEnv(LatentToy(limit=2), 2, observation="latents", start="anywhere", temperature=1.1)
    assert envs.observation_space.shape == (32,) and envs.reset().dtype == np.float32
    envs.step(np.zeros(2, int))
    infos = envs.step(np.zeros(2, int))[3]
    assert infos[0]["terminal_observation"].shape == (32,) and set(envs.worlds.world.begun) == {"anywhere"}
