"""What `docs/interfaces.md` promises, against the real packages; each test is skipped where its package is missing."""

import sys

import counter_env
import gymnasium as gym
import numpy as np
import pytest
import torch
from recordings import same_store
from tiny import tiny_episodes, tiny_world
from torch import nn

from worldsim.bench.steps import Endless
from worldsim.cli.record import record
from worldsim.data.episodes import Episodes
from worldsim.envs.vector_env import WorldVectorEnv
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import InvalidInput


@pytest.fixture(scope="module")
def world():
    """One whose episodes do not end by chance."""
    return Endless(tiny_world())


# -- Gymnasium ------------------------------------------------------------------------------------------------------


def test_gymnasium_records_videos(world, tmp_path):
    pytest.importorskip("moviepy", reason="gymnasium's RecordVideo needs moviepy; pip install moviepy")
    env = gym.wrappers.RecordVideo(WorldEnv(world, render_mode="rgb_array"), str(tmp_path), disable_logger=True)
    env.reset(seed=0)
    for _ in range(5):
        env.step(0)
    env.close()
    assert [path.suffix for path in tmp_path.iterdir()] == [".mp4"]


def test_gymnasiums_play_plays(world, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    pytest.importorskip("pygame", reason='play needs pygame; pip install "worldsim[play]"')
    import pygame
    from gymnasium.utils.play import play

    taken = []
    events = [[], [pygame.event.Event(pygame.KEYDOWN, key=pygame.K_RIGHT)], [], [pygame.event.Event(pygame.QUIT)]]
    monkeypatch.setattr(pygame.event, "get", lambda: events.pop(0))
    play(WorldEnv(world, render_mode="rgb_array"), fps=1000, callback=lambda *step: taken.append(step[2]), noop=0)
    assert taken[:3] == [0, 2, 2]


def test_a_loop_as_cleanrls_learns(world):
    envs = gym.wrappers.vector.RecordEpisodeStatistics(
        WorldVectorEnv(world, 2, observation="latents", max_episode_steps=6)
    )
    size = int(np.prod(envs.single_observation_space.shape))
    critic, actor = nn.Linear(size, 1), nn.Linear(size, int(envs.single_action_space.n))
    before = actor.weight.detach().clone()
    optimizer = torch.optim.Adam([*critic.parameters(), *actor.parameters()], lr=1e-3)
    seen, _ = envs.reset(seed=1)
    rows, returns = [], []
    for _ in range(16):
        chosen = torch.distributions.Categorical(logits=actor(torch.as_tensor(seen)))
        action = chosen.sample()
        value = critic(torch.as_tensor(seen)).squeeze(-1)
        seen, reward, _, _, infos = envs.step(action.numpy())
        rows.append((chosen.log_prob(action), value, torch.as_tensor(reward)))
        if "episode" in infos:
            returns += infos["episode"]["r"][infos["_episode"]].tolist()
    log_prob, value, reward = (torch.stack([row[i] for row in rows]) for i in range(3))
    loss = (-log_prob * (reward - value.detach()) + (reward - value).square()).mean()
    loss.backward()
    optimizer.step()
    assert len(returns) >= 4 and (actor.weight != before).any()


# -- TorchRL --------------------------------------------------------------------------------------------------------


def test_torchrl_steps_a_world(world):
    pytest.importorskip("torchrl", reason="TorchRL is not installed; pip install torchrl")
    from torchrl.envs.libs.gym import GymWrapper

    env = GymWrapper(WorldEnv(world, render_mode="rgb_array", max_episode_steps=6), device="cpu")
    rollout = env.rollout(20)
    assert rollout["pixels"].shape == (6, 16, 32, 3) and rollout["pixels"].dtype == torch.uint8
    assert rollout["next", "reward"].shape == (6, 1) and rollout["next", "done"][-1]
    again = WorldEnv(world, max_episode_steps=6)
    assert rollout["action"].shape[-1] == again.action_space.n  # one-hot, as TorchRL has them


# -- RLlib ---------------------------------------------------------------------------------------------------------


def test_rllibs_runner_steps_a_world(world):
    pytest.importorskip("ray.rllib", reason='RLlib is not installed; pip install "ray[rllib]"', exc_type=ImportError)
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
    from ray.tune.registry import register_env

    register_env("tiny-world", lambda config: WorldEnv(world, observation="latents", max_episode_steps=6))
    config = PPOConfig().environment("tiny-world").env_runners(num_env_runners=0, num_envs_per_env_runner=1)
    runner = SingleAgentEnvRunner(config=config)
    episodes = runner.sample(num_episodes=2, random_actions=True)
    assert [len(episode) for episode in episodes] == [6, 6] and episodes[0].is_truncated
    assert episodes[0].get_observations(0).shape == WorldEnv(world, observation="latents").observation_space.shape
    runner.stop()


def test_tianshous_collector_steps_a_world_and_an_algorithm_learns_from_it(world):
    pytest.importorskip("tianshou", reason="Tianshou is not installed; pip install tianshou", exc_type=ImportError)
    from tianshou.algorithm import Reinforce
    from tianshou.algorithm.modelfree.reinforce import ProbabilisticActorPolicy
    from tianshou.algorithm.optim import AdamOptimizerFactory
    from tianshou.data import Collector, VectorReplayBuffer
    from tianshou.env import DummyVectorEnv
    from tianshou.utils.net.common import Net
    from tianshou.utils.net.discrete import DiscreteActor
    from tianshou.utils.torch_utils import policy_within_training_step

    envs = [WorldEnv(world, observation="latents", max_episode_steps=6) for _ in range(2)]
    actions = envs[0].action_space
    net = Net(state_shape=envs[0].observation_space.shape, hidden_sizes=[16])
    actor = DiscreteActor(preprocess_net=net, action_shape=actions.n, softmax_output=False)
    policy = ProbabilisticActorPolicy(
        actor=actor, dist_fn=lambda logits: torch.distributions.Categorical(logits=logits),
        action_space=actions, action_scaling=False, action_bound_method=None,
    )  # fmt: skip
    algorithm = Reinforce(policy=policy, optim=AdamOptimizerFactory(lr=1e-3))
    collector = Collector(algorithm, DummyVectorEnv([lambda e=e: e for e in envs]), VectorReplayBuffer(100, 2))
    collector.reset()
    assert list(collector.collect(n_episode=4).lens) == [6, 6, 6, 6]
    before = [weight.detach().clone() for weight in actor.parameters()]
    with policy_within_training_step(policy):
        algorithm.update(buffer=collector.buffer, batch_size=8, repeat=1)
    assert any(not torch.equal(*pair) for pair in zip(before, actor.parameters(), strict=True))


# -- Minari ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def minari(tmp_path, monkeypatch):
    found = pytest.importorskip("minari", reason='Minari is not installed; pip install "minari[hdf5]"')
    pytest.importorskip("h5py", reason='Minari needs h5py for images; pip install "minari[hdf5]"')
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return found


def test_a_store_goes_to_minari_and_back_bit_for_bit(minari, tmp_path):
    from worldsim.data.minari_datasets import export_minari, import_minari

    stores = [tiny_episodes(tmp_path / "tiny", lengths=(6, 3)), tiny_episodes(tmp_path / "plain", between=0)]
    record(f"gym:{counter_env.CONTINUOUS}", steps=20, out=tmp_path / "box")
    for index, store in enumerate([*stores, Episodes.open(tmp_path / "box")]):
        dataset = export_minari(store, f"worldsim/test-v{index}")
        assert dataset.total_episodes == len(store) and dataset.total_steps == store.num_steps - len(store)
        back = import_minari(dataset, tmp_path / f"back-{index}")
        assert same_store(store.path, back.path)


def test_datasets_of_others_are_imported_where_they_have_frames(minari, tmp_path):
    from worldsim.data.minari_datasets import export_minari, import_minari

    store = tiny_episodes(tmp_path / "tiny", lengths=(6, 3))
    dataset = export_minari(store, "worldsim/other-v0")
    with pytest.raises(InvalidInput, match="give fps"):
        import_minari(_Foreign(dataset), tmp_path / "back")
    back = import_minari(_Foreign(dataset), tmp_path / "back", fps=10)
    assert (back.read("rgb", 0, 9) == store.read("rgb", 0, 9)).all() and back.meta.fps == 10
    assert (back.read("action", 0, 9) == store.read("action", 0, 9)).all() and back.meta.actions.n == 3


class _Foreign:
    """A dataset that does not say that worldsim wrote it."""

    def __init__(self, dataset):
        self._dataset = dataset
        self.storage = type("Storage", (), {"metadata": {}})

    def __getattr__(self, name):
        return getattr(self._dataset, name)


# -- Ray and Rerun --------------------------------------------------------------------------------------------------


def test_rerun_logs_a_rollout(world, tmp_path):
    rr = pytest.importorskip("rerun", reason="Rerun is not installed; pip install rerun-sdk")
    log = rr.RecordingStream("worldsim-test")
    log.save(str(tmp_path / "rollout.rrd"))
    env = WorldEnv(world)
    env.reset(seed=0)
    for step in range(3):
        frame, reward, *_ = env.step(1)
        log.set_time("step", sequence=step)
        log.log("frame", rr.Image(frame))
        log.log("reward", rr.Scalars(reward))
    log.flush()
    assert (tmp_path / "rollout.rrd").stat().st_size > 1000


def test_without_minari_it_is_said_how_to_get_it(monkeypatch):
    from worldsim.data.minari_datasets import require_minari
    from worldsim.errors import MissingDependency

    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(MissingDependency, match=r"minari\[hdf5\]"):
        require_minari()
