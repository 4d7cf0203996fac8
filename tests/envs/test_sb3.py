import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("stable_baselines3")

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor
from toy import CONTINUOUS, DISCRETE, ToyWorld

from worldsim.envs import WorldEnv
from worldsim.envs.sb3 import WorldVecEnv
from worldsim.errors import InvalidInput


def comparable(infos):
    """Infos without frames, which are compared apart."""
    return [{k: v for k, v in info.items() if k != "terminal_observation"} for info in infos]


def test_the_adapter_does_what_stable_baselines_own_does():
    ours = WorldVecEnv(ToyWorld(end=0.15, limit=6), 3)
    theirs = DummyVecEnv([lambda: WorldEnv(ToyWorld(end=0.15, limit=6))] * 3)
    assert ours.seed(4) == theirs.seed(4)
    assert np.array_equal(ours.reset(), theirs.reset())
    rng = np.random.default_rng(0)
    truncations = 0
    for _ in range(40):
        actions = rng.integers(3, size=3)
        one, other = ours.step(actions), theirs.step(actions)
        for a, b in zip(one[:3], other[:3], strict=True):
            assert np.array_equal(a, b) and a.dtype == b.dtype
        assert comparable(one[3]) == comparable(other[3])
        assert ours.reset_infos == theirs.reset_infos
        for info, reference, done in zip(one[3], other[3], one[2], strict=True):
            assert ("terminal_observation" in info) == done
            assert not done or np.array_equal(info["terminal_observation"], reference["terminal_observation"])
            truncations += info["TimeLimit.truncated"]
    assert truncations > 0
    assert np.array_equal(ours.reset(), theirs.reset())


@pytest.mark.parametrize("actions", [DISCRETE, CONTINUOUS])
def test_ppo_learns_on_frames(actions):
    envs = VecMonitor(WorldVecEnv(ToyWorld(actions, size=64, end=0.1), 4))
    model = PPO("CnnPolicy", envs, n_steps=16, batch_size=32, n_epochs=1, seed=0, device="cpu")
    model.learn(128)
    assert model.num_timesteps == 128 and model.ep_info_buffer
    returns, _ = evaluate_policy(model, envs, n_eval_episodes=4)
    assert np.isfinite(returns)


def test_ppo_learns_without_a_monitor():
    model = PPO("CnnPolicy", WorldVecEnv(ToyWorld(size=64, end=0.1), 2), n_steps=8, batch_size=16, n_epochs=1)
    before = [p.detach().clone() for p in model.policy.parameters()]
    assert model.learn(32).num_timesteps == 32
    assert any((p != old).any() for p, old in zip(model.policy.parameters(), before, strict=True))


def test_options_start_each_row_from_its_own_frames():
    frames = np.stack([np.full((2, 16, 16, 3), value, np.uint8) for value in (10, 200)])
    ours, theirs = WorldVecEnv(ToyWorld(), 2), DummyVecEnv([lambda: WorldEnv(ToyWorld())] * 2)
    for envs in (ours, theirs):
        envs.seed(0)
        envs.set_options([{"frames": one, "actions": [1]} for one in frames])
    assert np.array_equal(ours.reset(), theirs.reset())
    for envs in (ours, theirs):
        envs.seed(2**63 - 1)
        envs.set_options({"of_a_framework": {"any": "thing"}})
    with pytest.warns(UserWarning, match="'of_a_framework' is ignored"):
        assert np.array_equal(ours.reset(), theirs.reset())
    ours.set_options([{"frames": frames[0], "actions": [1]}, {}])
    with pytest.raises(InvalidInput, match="different reset options"):
        ours.reset()


def test_attributes_are_those_of_the_batch():
    envs = WorldVecEnv(ToyWorld(), 3, render_mode="rgb_array")
    assert envs.get_attr("max_episode_steps", indices=[0, 2]) == [None, None]
    assert envs.has_attr("world") and not envs.has_attr("nothing")
    envs.set_attr("max_episode_steps", 2)
    envs.reset()
    assert [envs.step(np.zeros(3, int))[2].any() for _ in range(2)] == [False, True]
    with pytest.raises(InvalidInput, match="shared"):
        envs.set_attr("max_episode_steps", 5, indices=1)
    assert envs.env_is_wrapped(gym.Wrapper) == [False] * 3
    assert envs.env_method("get_action_meanings", indices=0) == [["NOOP", "LEFT", "RIGHT"]]
    assert len(envs.env_method("render", indices=[0, 1])) == 2
    with pytest.raises(AttributeError, match="restore_state"):
        envs.env_method("restore_state")
    assert envs.get_attr("action_space", indices=[2]) == [gym.spaces.Discrete(3)]
    assert [state.seed for state in envs.env_method("save_state", indices=[1, 2])] == [
        state.seed for state in envs.worlds.save_state()[1:]
    ]
    assert envs.render().shape == (32, 32, 3) and envs.metadata["render_fps"] == 18
    envs.close()
    envs.close()


def test_without_stable_baselines_the_adapter_says_how_to_get_it():
    code = "import sys; sys.modules['stable_baselines3'] = None; import worldsim.envs.sb3"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'pip install "worldsim[rl]"' in result.stderr
