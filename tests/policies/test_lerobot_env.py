"""A robot's world under LeRobot's evaluation: its rollout loop, its names, its options."""

import gymnasium as gym
import numpy as np
import point_robot
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from worldsim.errors import InvalidInput
from worldsim.policies.robot.lerobot_env import RobotEnv
from worldsim.world import World


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World.from_pretrained(point_robot.trained_world(tmp_path_factory.mktemp("robot"), steps=2), device="cpu")


class Policy:
    """With the interface of LeRobot's policies."""

    def reset(self):
        self.seen = []

    def select_action(self, batch):
        self.seen.append(batch)
        return torch.full((len(batch["task"]), 2), 3.0)  # beyond the bounds, as denormalised actions may be


def rollout(env, policy, seeds):
    """What `lerobot.scripts.lerobot_eval.rollout` does with an environment (releases 0.4 to 0.6), in its words."""
    policy.reset()
    observation, _ = env.reset(seed=seeds, options={"lerobot_new_rollout": True})
    done, step, successes = np.zeros(env.num_envs, bool), 0, []
    limit = env.call("_max_episode_steps")[0]
    while not done.all() and step < limit:
        batch = {
            "observation.image": torch.from_numpy(observation["pixels"]).permute(0, 3, 1, 2).float() / 255,
            "observation.state": torch.from_numpy(observation["agent_pos"]).float(),
            "observation.environment_state": torch.from_numpy(observation["environment_state"]).float(),
            "task": list(env.call("task_description")),
        }
        action = policy.select_action(batch).numpy()
        observation, _, terminated, truncated, info = env.step(action)
        if "final_info" in info:
            successes.append(np.asarray(info["final_info"]["is_success"]).tolist())
        else:
            successes.append([False] * env.num_envs)
        done = terminated | truncated | done
        step += 1
    return np.array(successes), step, env.unwrapped.metadata["render_fps"]


def test_the_rollout_of_lerobot_runs_over_our_environments(world):
    env = SyncVectorEnv(
        [lambda: RobotEnv(world, task="right") for _ in range(3)], autoreset_mode=AutoresetMode.SAME_STEP
    )
    policy = Policy()
    successes, steps, fps = rollout(env, policy, [1, 2, 3])
    assert successes.shape == (steps, 3) and steps <= 12 and fps == 10
    assert policy.seen[0]["task"] == ["right"] * 3 and policy.seen[0]["observation.image"].shape == (3, 3, 16, 32)
    assert policy.seen[0]["observation.state"].shape == (3, 2)


def test_it_is_an_environment_like_any_other(world):
    check_env(RobotEnv(world), skip_render_check=True)


def test_a_seed_begins_the_same_episode_of_the_task(world):
    one, two = RobotEnv(world, task="left"), RobotEnv(world, task="left")
    first, again = one.reset(seed=5)[0], two.reset(seed=5)[0]
    assert np.array_equal(first["environment_state"], again["environment_state"]) and first["environment_state"][0] < 0
    assert not np.array_equal(one.reset()[0]["environment_state"], first["environment_state"])


def test_a_task_that_the_world_does_not_know_is_refused(world):
    with pytest.raises(InvalidInput, match="knows no task 'up'; it knows left, right"):
        RobotEnv(world, task="up")
    with pytest.raises(InvalidInput, match="no stream 'success'"):
        RobotEnv("doom-take-cover")


def test_success_ends_the_episode(world, monkeypatch):
    env = RobotEnv(world, task="left")
    env.reset(seed=0)
    step = env.env.step
    monkeypatch.setattr(env.env, "step", lambda action: (*step(action)[:4], {"success": np.True_}))
    *_, terminated, _, info = env.step(np.zeros(2, np.float32))
    assert terminated and info["is_success"] is True and isinstance(env, gym.Env)
