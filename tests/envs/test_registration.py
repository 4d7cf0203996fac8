import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit

from worldsim.envs import WorldEnv, WorldVectorEnv
from worldsim.io.folders import shipped_worlds
from worldsim.registration import WORLDS, env_id_of, register_worlds

IDS = sorted(WORLDS)


def test_every_shipped_world_has_an_id_that_follows_from_its_name():
    assert sorted(WORLDS.values()) == shipped_worlds()
    assert WORLDS["worldsim/DoomTakeCover-v0"] == "doom-take-cover"
    assert env_id_of("a") == "worldsim/A-v0" and env_id_of("pick-place-v3") == "worldsim/PickPlace-v3"


@pytest.mark.parametrize("env_id", IDS)
def test_the_files_of_every_shipped_world_make_an_environment(env_id):
    env = gym.make(f"worldsim:{env_id}")
    observation, _ = env.reset(seed=0)
    frames = [observation, *(env.step(env.action_space.sample())[0] for _ in range(3))]
    assert all(env.observation_space.contains(frame) and frame.std() > 5 for frame in frames)


@pytest.mark.parametrize("env_id", IDS)
def test_make_gives_the_world_of_that_name(env_id, by_name):
    env = gym.make(f"worldsim:{env_id}", render_mode="rgb_array")
    assert isinstance(env, WorldEnv) and env.world is by_name
    assert env.spec.id == env_id and env.spec.kwargs["world"] == WORLDS[env_id]
    env.reset(seed=0)
    assert env.render().shape == (64, 64, 3)


@pytest.mark.parametrize("env_id", IDS)
def test_make_vec_gives_one_batch(env_id, by_name):
    envs = gym.make_vec(f"worldsim:{env_id}", num_envs=16)
    assert isinstance(envs, WorldVectorEnv) and envs.num_envs == 16
    assert envs.reset(seed=0)[0].shape == (16, 64, 64, 3)
    envs.step(envs.action_space.sample())
    assert by_name.batches == [16]
    other = gym.make_vec(env_id, num_envs=2, autoreset_mode=AutoresetMode.SAME_STEP, render_mode="rgb_array")
    assert other.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP and other.render_mode == "rgb_array"


@pytest.mark.parametrize(("given", "length"), [({}, 525), ({"max_episode_steps": 50}, 50)])
def test_one_time_limit_applies(given, length, by_name):
    env_id = IDS[0]  # all of them are registered alike, and stand for the same world here
    env = gym.make(env_id, **given)
    assert isinstance(env, TimeLimit) == bool(given)
    for _ in range(2):
        env.reset(seed=0)
        flags = [env.step(0)[3] for _ in range(length)]
        assert flags.index(True) == length - 1
    for mode in (None, "sync"):
        envs = gym.make_vec(env_id, num_envs=2, vectorization_mode=mode, **given)
        envs.reset(seed=0)
        flags = [envs.step(np.zeros(2, int))[3].all() for _ in range(length)]
        assert flags.index(True) == length - 1


@pytest.mark.parametrize("env_id", IDS)
def test_the_spec_tells_the_time_limit_that_applies_and_makes_the_same_again(env_id, by_name):
    for given, limit in (({}, 525), ({"max_episode_steps": 50}, 50)):
        for make, make_again in (
            (lambda **g: gym.make(env_id, **g), gym.make),
            (lambda **g: gym.make_vec(env_id, num_envs=2, **g), gym.make_vec),
        ):
            env = make(**given)
            again = make_again(env.spec)
            assert env.spec.max_episode_steps == again.spec.max_episode_steps == limit
    assert gym.spec(env_id).max_episode_steps is None
    assert gym.make_vec(env_id, max_episode_steps=None).spec.max_episode_steps is None


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("env_id", IDS)
def test_both_checkers_find_nothing(env_id, by_name, dummy_display):
    from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

    check_env(gym.make(env_id, render_mode="rgb_array").unwrapped)
    check_env_for_sb3(gym.make(env_id).unwrapped)


@pytest.mark.filterwarnings("error")
def test_registering_twice_is_no_matter():
    register_worlds()
    before = dict(gym.registry)
    register_worlds()
    assert gym.registry == before


def test_a_saved_state_goes_into_a_fresh_environment(by_name):
    env, other = gym.make(IDS[0]), gym.make(IDS[0])
    env.reset(seed=0)
    env.step(1)
    other.unwrapped.restore_state(env.unwrapped.save_state())
    assert np.array_equal(env.step(0)[0], other.step(0)[0])


def test_importing_worldsim_registers_and_imports_little():
    heavy = ["torch", "pygame", "open3d", "stable_baselines3", "vizdoom", "matplotlib"]
    code = (
        "import sys, worldsim, gymnasium\n"
        f"assert all(i in gymnasium.registry for i in {IDS})\n"
        "assert 'worldsim.envs' not in sys.modules\n"
        "import worldsim.cli.record, worldsim.envs.sources, worldsim.policies.data\n"
        f"print([m for m in {heavy} if m in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "[]", result.stderr


def test_loading_a_world_does_not_import_pytorchs_compiler():
    code = (
        "import sys; from worldsim.io.folders import find_world; from worldsim.io.weights import read_world\n"
        "read_world(find_world('car-racing'))\n"
        "print([m for m in ('torch._dynamo', 'sympy') if m in sys.modules])\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.stdout.strip() == "[]", result.stderr
