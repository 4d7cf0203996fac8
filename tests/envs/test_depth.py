"""Depth from a simulator to the observations of its world: recorded, cached, learned, read off frames, observed."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from recordings import basic_streams
from small_training import brief, fixed_tokenizer, loss_of, narrow_dynamics_task, train
from tiny import ACTIONS

from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import Episodes, EpisodesMeta
from worldsim.data.latents import cache_latents
from worldsim.envs import WorldEnv
from worldsim.errors import InvalidInput
from worldsim.models.dynamics import DynamicsConfig
from worldsim.models.heads import heads
from worldsim.models.registry import Scale
from worldsim.spec import StreamSpec
from worldsim.train import export
from worldsim.train.dynamics_loss import LossConfig
from worldsim.train.dynamics_task import modules_of
from worldsim.world import World

DEPTH = StreamSpec("depth", (16, 32), "float16", (1.0,), (1000.0,))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A wall that comes nearer: the brighter, the nearer."""
    path = tmp_path_factory.mktemp("depth") / "data"
    meta = EpisodesMeta("walls", ACTIONS, basic_streams(16, 32) | {"depth": DEPTH}, fps=10.0)
    rng = np.random.default_rng(0)
    with EpisodeWriter(path, meta) as writer:
        for _ in range(4):
            for t in range(30):
                far = float(rng.uniform(10, 100))
                depth = np.full((16, 32), far, np.float16)
                depth[:, 16:] *= 2
                rgb = np.repeat((255 * 10 / depth.astype(np.float32))[..., None], 3, axis=2).astype(np.uint8)
                ends = {"terminated": False, "truncated": t == 29}
                writer.append({"rgb": rgb, "action": 0, "reward": np.float32(0), "depth": depth, **ends})
            writer.end_episode()
    return Episodes.open(path)


@pytest.fixture(scope="module")
def latents(store, tmp_path_factory):
    return cache_latents(fixed_tokenizer(), store, tmp_path_factory.mktemp("run"), "cpu", streams=("depth",))


def task_of(latents, monkeypatch, **recipe):
    return narrow_dynamics_task([latents], monkeypatch, **modules_of([latents]), **recipe)


def test_depth_is_mapped_into_memory_and_refused_where_it_is_not_finite(store, latents, tmp_path):
    assert isinstance(latents.streams["depth"].base, np.memmap)
    assert np.array_equal(latents.streams["depth"], store.read("depth", 0, store.num_steps))
    meta = dataclasses.replace(store.meta)
    with EpisodeWriter(tmp_path / "broken", meta) as writer:
        row = {name: values[0] for name, values in store.episode(0).items()}
        writer.append(row | {"depth": np.full((16, 32), np.nan, np.float16), "truncated": True})
        writer.end_episode()
    with pytest.raises(InvalidInput, match=r"'depth'.*not finite"):
        cache_latents(fixed_tokenizer(), Episodes.open(tmp_path / "broken"), tmp_path, "cpu", streams=("depth",))


def test_depth_is_learned(latents, tmp_path, monkeypatch):
    task = task_of(latents, monkeypatch)
    assert "depth" in task.settings.output_heads and len(task.settings.scales["depth"].mean) == 1
    before = loss_of(task, batches=2, metric="depth")
    train(task, brief(60), tmp_path)
    assert loss_of(task, batches=2, metric="depth") < 0.9 * before


def test_single_frames_teach_what_is_read_off_them(latents, monkeypatch):
    task = task_of(latents, monkeypatch, loss=LossConfig(single_frames=8))
    batch = task.batch(0, 0)
    assert batch["alone.latents"].shape == (8, 4, 2, 4) and batch["alone.depth"].shape == (8, 16, 32)
    other = batch | {"alone.depth": batch["alone.depth"] * 3}
    one, two = (task.model(b, 0, torch.Generator().manual_seed(0))[1] for b in (batch, other))
    assert one["depth"] != two["depth"] and one["frame"] == two["frame"]


def test_some_steps_learn_from_single_frames_alone(latents, tmp_path, monkeypatch):
    task = task_of(latents, monkeypatch, loss=LossConfig(single_frames=8, single_steps=0.9))
    alone = [set(task.batch(step, 0)) == {"alone.latents", "alone.depth"} for step in range(20)]
    assert 14 <= sum(alone) < 20
    before = loss_of(task_of(latents, monkeypatch), batches=1, metric="depth")
    train(task, brief(60), tmp_path)
    plain = task_of(latents, monkeypatch)
    plain.model.load_state_dict(task.model.state_dict())
    assert loss_of(plain, batches=1, metric="depth") < before


def test_a_world_shows_depth_of_every_frame(store, latents, tmp_path, monkeypatch):
    train(task_of(latents, monkeypatch), brief(2), tmp_path)
    monkeypatch.setattr(export, "load_tokenizer", lambda run: fixed_tokenizer())
    export.export_world("walls", [store], tmp_path, tmp_path / "world", starts=4)
    world = World.from_pretrained(tmp_path / "world", device="cpu")
    env = WorldEnv(world, observation=["pixels", "depth"], render_mode="rgb_array")
    check_env(env, skip_render_check=True)
    assert isinstance(env.observation_space["depth"], gym.spaces.Box)
    frames = store.frames(("rgb",), 0, 3)
    given = env.reset(seed=0, options={"frames": frames, "actions": [0, 0]})[0]["depth"]  # none given: read off
    read = world.dynamics.heads.read_off(torch.from_numpy(world.encode(frames[2:])).to(world.dtype))["depth"]
    assert given.dtype == np.float16 and given.shape == (16, 32) and given.std() > 0
    assert abs(np.log(given / read[0].numpy())).max() < 0.3  # the trunk reads what changed, too
    stepped = env.step(1)[0]["depth"]
    assert not np.array_equal(stepped, given)


def test_depth_between_planes_is_one_number_a_column():
    config = DynamicsConfig(
        channels=4, height=2, width=4, patch=(2, 1), output_heads=("reward", "depth"), streams={"depth": DEPTH},
        scales={"depth": Scale((4.0,), (1.0,))}, options={"depth": {"planes": [20.0, 80.0, 0.8]}},
    )  # fmt: skip
    head = heads.build(config, ("depth",))["depth"]
    depth = head.sample(torch.full((1, 32), 0.0))["depth"][0]
    wall = np.exp(4.0)
    assert depth.shape == (16, 32) and torch.allclose(depth.max(), torch.tensor(wall).float())
    assert torch.allclose(depth[15], torch.tensor(20 / (7.5 / 12.8)).float())
    assert torch.allclose(depth[0], torch.tensor(wall).float())  # the ceiling is farther


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"options": {"depth": {"plane": [1.0]}}}, "takes planes"),
        ({"options": {"depth": {"planes": [1.0]}}}, "give floor, ceiling"),
        ({"options": {"sound": {}}}, "options has 'sound'"),
        ({"streams": {"depth": StreamSpec("depth", (15, 32), "float32")}}, "as many pixels"),
    ],
)
def test_options_and_sizes_are_checked(change, said):
    kept = {"output_heads": ("reward", "depth"), "streams": {"depth": DEPTH}, "channels": 4, "height": 2, "width": 4}
    with pytest.raises(InvalidInput, match=said):
        heads.build(DynamicsConfig(**{**kept, "patch": (2, 1), **change}), ("depth",))
