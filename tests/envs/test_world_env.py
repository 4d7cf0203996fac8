import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import RecordEpisodeStatistics, TimeLimit
from rolls import play, snapshot
from toy import CONTINUOUS, DISCRETE, ToyWorld

from worldsim.envs import WorldEnv
from worldsim.errors import InvalidInput, InvalidState


def test_the_spaces_and_the_clock_are_the_worlds():
    env = WorldEnv(ToyWorld(size=24))
    assert env.observation_space == gym.spaces.Box(0, 255, (24, 24, 3), np.uint8)
    assert env.action_space == gym.spaces.Discrete(3)
    assert env.metadata["render_fps"] == 18 and isinstance(env.metadata["render_fps"], int)
    assert env.get_action_meanings() == ["NOOP", "LEFT", "RIGHT"]
    assert WorldEnv(ToyWorld(CONTINUOUS)).action_space == gym.spaces.Box(-1, 1, (2,), np.float32)


def test_the_same_seed_gives_the_same_episodes():
    runs = []
    for _ in range(2):
        env = WorldEnv(ToyWorld())
        runs.append([env.reset(seed=5)[0], *(s[0] for s in play(env, [0, 1, 2])), env.reset()[0], env.reset()[0]])
    assert all(np.array_equal(a, b) for a, b in zip(*runs, strict=True))
    assert not np.array_equal(runs[0][-1], runs[0][-2])


def test_resets_without_a_seed_count_episodes_of_the_last_seed():
    world = ToyWorld()
    env = WorldEnv(world)
    for seed in (7, None, None, 7, None):
        env.reset(seed=seed)
    assert world.resets == [(7, 0), (7, 1), (7, 2), (7, 0), (7, 1)]


def test_a_never_seeded_environment_draws_its_seed_from_its_own_generator():
    world = ToyWorld()
    for _ in range(2):
        env = WorldEnv(world)
        env.np_random = np.random.default_rng(3)
        env.reset()
        env.reset()
    (first, _), (again, episode) = world.resets[:2]
    assert first == again and episode == 1
    assert world.resets[2:] == world.resets[:2]
    assert WorldEnv(world).reset()[1]["seed"] != WorldEnv(world).reset()[1]["seed"]


def test_info_tells_step_episode_seed_and_what_the_world_adds():
    env = WorldEnv(ToyWorld(end=0.25, between=1))
    assert env.reset(seed=3)[1] == {"step": 0, "episode_index": 0, "seed": 3, "non_finite": False}
    env.reset()
    info = env.step(0)[4]
    between = info.pop("between")
    assert between.shape == (1, 16, 16, 3)
    assert info == {
        "step": 1, "episode_index": 1, "seed": 3, "non_finite": False, "termination_probability": 0.25
    }  # fmt: skip
    assert type(info["termination_probability"]) is float


def test_observations_are_fresh_and_writing_into_them_changes_nothing():
    env = WorldEnv(ToyWorld(), render_mode="rgb_array")
    first, _ = env.reset(seed=0)
    second = env.step(0)[0]
    frame = env.render()
    assert np.array_equal(frame, second)
    assert not np.shares_memory(first, second)
    second[:] = 0
    frame[:] = 0
    assert env.render().any()


def test_nothing_but_reset_works_before_the_first_reset():
    env = WorldEnv(ToyWorld(), render_mode="rgb_array")
    for call in (lambda: env.step(0), env.render, env.save_state, lambda: env.fork(2)):
        with pytest.raises(InvalidState, match="reset"):
            call()


def test_an_ended_episode_takes_no_more_steps():
    env = WorldEnv(ToyWorld(end=1.0))
    env.reset(seed=0)
    assert env.step(0)[2:4] == (True, False)
    before = snapshot(env)
    with pytest.raises(InvalidState, match="ended at step 1"):
        env.step(0)
    assert snapshot(env) == before
    env.reset()
    env.step(0)


@pytest.mark.parametrize(("given", "length"), [("world", 4), (2, 2), (np.int64(3), 3)])
def test_episodes_are_truncated_at_the_time_limit(given, length):
    env = WorldEnv(ToyWorld(limit=4), max_episode_steps=given)
    for _ in range(2):
        env.reset(seed=0)
        flags = [step[2:4] for step in play(env, [0] * length)]
        assert flags == [(False, False)] * (length - 1) + [(False, True)]


def test_no_time_limit_means_none():
    env = WorldEnv(ToyWorld(limit=4), max_episode_steps=None)
    env.reset(seed=0)
    assert not any(step[3] for step in play(env, [0] * 10))


@pytest.mark.parametrize("steps", [0, -1, True, 2.0, "ten"])
def test_a_senseless_time_limit_is_refused(steps):
    with pytest.raises(InvalidInput, match="max_episode_steps"):
        WorldEnv(ToyWorld(), max_episode_steps=steps)


def test_gymnasiums_own_time_limit_can_only_shorten():
    env = TimeLimit(WorldEnv(ToyWorld(limit=4)), 3)
    env.reset(seed=0)
    assert [step[3] for step in play(env, [0] * 3)] == [False, False, True]


def test_numbers_that_are_not_finite_truncate_the_episode():
    env = WorldEnv(ToyWorld(end=1.0, non_finite_at=1))
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(0)
    assert (reward, terminated, truncated, info["non_finite"]) == (0.0, False, True, True)
    with pytest.raises(InvalidState):
        env.step(0)


def test_rendering_needs_a_known_mode():
    with pytest.raises(InvalidInput, match="render_mode='rgb'"):
        WorldEnv(ToyWorld(), render_mode="rgb")
    env = WorldEnv(ToyWorld())
    env.reset(seed=0)
    with pytest.warns(UserWarning, match="render"):
        assert env.render() is None


def test_statistics_wrappers_find_their_key_free():
    env = RecordEpisodeStatistics(WorldEnv(ToyWorld(end=1.0)))
    env.reset(seed=0)
    assert env.step(0)[4]["episode"]["l"] == 1


@pytest.mark.parametrize("break_it", ["frame", "reward", "missing"])
def test_a_world_that_breaks_the_protocol_is_named(break_it):
    class Broken(ToyWorld):
        def step(self, state, actions):
            state, result = super().step(state, actions)
            values = {"frame": result.frame.astype(float)} if break_it == "frame" else {"reward": result.reward[0]}
            return state, type(result)(**(vars(result) | values))

    if break_it == "missing":
        with pytest.raises(InvalidInput, match="no world"):
            WorldEnv(object())
        return
    env = WorldEnv(Broken())
    env.reset(seed=0)
    with pytest.raises(InvalidInput, match=break_it):
        env.step(0)


def test_a_device_is_for_named_worlds_only():
    with pytest.raises(InvalidInput, match="device"):
        WorldEnv(ToyWorld(), device="cpu")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("actions", [DISCRETE, CONTINUOUS])
def test_gymnasiums_checker_finds_nothing(actions, dummy_display):
    env = gym.make("worldsim/DoomTakeCover-v0", world=ToyWorld(actions, size=64, end=0.1), render_mode="rgb_array")
    check_env(env.unwrapped)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("actions", [DISCRETE, CONTINUOUS])
def test_stable_baselines_checker_finds_nothing(actions):
    from stable_baselines3.common.env_checker import check_env as check_env_for_sb3

    world = ToyWorld(actions, size=64, end=0.1)
    check_env_for_sb3(WorldEnv(world, render_mode="rgb_array"), skip_render_check=False)
