"""LeRobot itself, where it is installed: its rollout over our environments, its policy here, its reader of our data."""

import numpy as np
import point_robot
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv

pytest.importorskip("lerobot", reason="LeRobot wants an older PyTorch: it is tested in an environment of its own")
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.scripts.lerobot_eval import rollout

from worldsim.data.episodes import Episodes
from worldsim.data.lerobot_dataset import export_lerobot
from worldsim.policies.robot.evaluation import EvaluateConfig, evaluate_policies
from worldsim.policies.robot.lerobot_env import RobotEnv
from worldsim.world import World


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("robot")
    point_robot.trained_world(path, steps=2)
    return path


@pytest.fixture(scope="module")
def world(folder):
    return World.from_pretrained(folder / "world", device="cpu")


def act():
    """ACT with random weights, as small as it can be."""
    torch.manual_seed(0)
    seen = {
        "observation.image": PolicyFeature(FeatureType.VISUAL, (3, 16, 32)),
        "observation.state": PolicyFeature(FeatureType.STATE, (2,)),
    }
    sizes = {
        "dim_model": 32,
        "n_heads": 2,
        "dim_feedforward": 32,
        "latent_dim": 8,
        "chunk_size": 4,
        "n_action_steps": 4,
    }
    layers = dict.fromkeys(("n_encoder_layers", "n_decoder_layers", "n_vae_encoder_layers"), 1)
    done = {"action": PolicyFeature(FeatureType.ACTION, (2,))}
    config = ACTConfig(
        input_features=seen, output_features=done, device="cpu", pretrained_backbone_weights=None, **sizes, **layers
    )
    return ACTPolicy(config).eval()


def test_a_policy_of_lerobot_plays_in_our_evaluation(world):
    report = evaluate_policies(world, {"act": act}, EvaluateConfig(episodes=2, tasks=("left",), steps=3))
    assert report.verdicts[0].dream.success.shape == (2,)


def test_the_rollout_of_lerobot_plays_over_our_environments(world):
    env = SyncVectorEnv([lambda: RobotEnv(world, task="left")] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    steps = ("env_preprocessor", "env_postprocessor", "preprocessor", "postprocessor")
    played = rollout(env=env, policy=act(), seeds=[1, 2], **dict.fromkeys(steps, lambda batch: batch))
    assert played["action"].shape[0] == 2 and played["success"].dtype == torch.bool


def test_a_data_set_of_ours_is_read_by_lerobot(folder):
    store = Episodes.open(folder / "data")
    export_lerobot(store, folder / "set")
    read = LeRobotDataset("local/point", root=folder / "set")
    assert (len(read), read.num_episodes) == (store.num_steps, len(store)) and read[0]["task"] in ("left", "right")
    frame = (read[5]["observation.image"].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    assert np.array_equal(frame, store.read("rgb", 5, 6)[0])
    assert np.allclose(read[5]["action"], store.read("action", 6, 7)[0])
