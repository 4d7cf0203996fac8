"""Conditions and heads: made by name, absent when not named, and added from outside the package."""

import dataclasses

import pytest
import torch
from lively import SIZES, lively_dynamics
from small_training import brief, fixed_tokenizer, latent_store, narrow, train
from tiny import tiny_episodes
from torch import nn

from worldsim.data.latents import cache_latents
from worldsim.errors import InvalidInput
from worldsim.models.conditions import Condition, conditions
from worldsim.models.dynamics import CONDITIONS, HEADS
from worldsim.models.heads import Head, heads
from worldsim.models.registry import Normalise, Scale, StepInputs
from worldsim.spec import StreamSpec
from worldsim.train import dynamics_task, export
from worldsim.train.dynamics_task import DynamicsTask
from worldsim.world import World


@conditions.register("parity")
class Parity(Condition):
    """Whether the number of the step is odd."""

    def __init__(self, config, stream):
        super().__init__()
        self.embed = nn.Embedding(2, config.cond_dim)

    def forward(self, inputs):
        return self.embed(inputs.ages % 2)


@heads.register("twice")
class Twice(Head):
    """Twice the reward."""

    outputs = 2

    def forward(self, features):
        return features.read.sum(1)

    def loss(self, out, targets):
        return (targets.counted * (out - 2 * targets.reward).square()).mean()


def dynamics_with(**changes):
    return lively_dynamics(config=dataclasses.replace(SIZES, **changes))


def inputs_of(count=2, **streams):
    return StepInputs(torch.zeros(count, dtype=torch.int64), torch.zeros(count), torch.arange(count), streams)


def test_a_condition_and_a_head_from_outside_are_trained_exported_and_stepped(tmp_path, monkeypatch):
    store = tiny_episodes(tmp_path / "data")
    monkeypatch.setattr(dynamics_task, "DynamicsConfig", narrow)
    added = {"conditions": (*CONDITIONS, "parity"), "heads": (*HEADS, "twice")}
    clips = [latent_store(store, tmp_path)]
    task = DynamicsTask(clips, fixed_tokenizer(), batch=2, clip=4, patch=(2, 1), **added)
    before = task.model.dynamics.conditions["parity"].embed.weight.detach().clone()
    train(task, brief(3), tmp_path)
    assert not torch.equal(task.model.dynamics.conditions["parity"].embed.weight, before)
    assert task.model(task.batch(0, 0), 0, torch.Generator().manual_seed(0))[1]["twice"] > 0
    monkeypatch.setattr(export, "load_tokenizer", lambda run: fixed_tokenizer())
    export.export_world("parity", [store], tmp_path, tmp_path / "world", starts=4)
    world = World.from_pretrained(tmp_path / "world", device="cpu")
    assert world.config.dynamics.conditions[-1] == "parity" and "twice" in world.dynamics.heads.each
    _, step = world.step(world.reset([0]), world.config.actions.lowest(1))
    assert step.frame.shape == (1, 16, 32, 3) and not step.extras["non_finite"][0]


def test_what_is_not_named_is_absent():
    model = dynamics_with(conditions=("action",), output_heads=("ending",))
    names = model.state_dict().keys()
    assert not any("episode_time" in name or "noise_level" in name for name in names)
    assert model.heads.last.weight.shape[0] == 1
    latents = torch.zeros(1, 3, 4, 2, 4)
    features = model.forward(
        latents, latents, torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, 3), torch.zeros(1, 3)
    )
    assert features.heads.keys() == {"ending"} and (features.reward == 0).all()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"conditions": ("action", "wind")}, "wind"),
        ({"output_heads": ("reward", "reward")}, "twice"),
        ({"output_heads": ()}, "none"),
        ({"action_scale": Scale((0.0,), (1.0,))}, "action_scale"),
    ],
)
def test_modules_that_there_are_not_are_refused(changes, said):
    with pytest.raises(InvalidInput, match=said):
        dataclasses.replace(SIZES, **changes)


@pytest.mark.parametrize("name", ["reward", "float", "a.b"])
def test_a_name_is_given_once_and_can_be_one_of_a_module(name):
    with pytest.raises(InvalidInput, match="another name"):
        heads.register(name)(Twice)


def test_a_module_reads_a_stream_that_the_config_describes():
    with pytest.raises(InvalidInput, match="describes no stream"):
        dynamics_with(conditions=(*CONDITIONS, "proprio:pose"))
    pose = {"pose": StreamSpec("vector", (2,), "float32", low=(0.0, -1.0), high=(1.0, 1.0))}
    model = dynamics_with(conditions=(*CONDITIONS, "proprio:pose"), output_heads=(*HEADS, "proprio:pose"), streams=pose)
    at, other, far = (inputs_of(pose=torch.full((2, 2), value)) for value in (0.0, 0.5, 99.0))
    condition = model.conditions["proprio:pose"]
    assert not torch.equal(condition(at), condition(other))
    with pytest.raises(InvalidInput, match="lacks"):
        condition(inputs_of())
    sampled = model.heads.sample(model.heads(torch.zeros(2, SIZES.tokens, SIZES.dim), far))
    assert sampled.keys() == {"pose"} and (sampled["pose"] == 1).all()  # within the bounds


def test_a_task_is_one_of_those_that_have_names():
    task = {"task": StreamSpec("token", (), "int64", names=("open", "close"))}
    condition = dynamics_with(conditions=(*CONDITIONS, "task"), streams=task).conditions["task"]
    first, second = (condition(inputs_of(task=torch.full((2,), value))) for value in (0, 1))
    assert first.shape == (2, SIZES.cond_dim) and not torch.equal(first, second)
    with pytest.raises(InvalidInput, match="names"):
        dynamics_with(conditions=("task",), streams={"task": StreamSpec("token", (), "int64")})


def test_numbers_are_normalised_and_back_in_float32_whatever_the_weights_are():
    scale = Normalise(Scale((100_000.0, 0.0), (1.0, 0.5))).to(torch.bfloat16)
    values = torch.tensor([[100_001.0, 1.0]])
    assert torch.equal(scale(values), torch.tensor([[1.0, 2.0]])) and torch.equal(scale.undo(scale(values)), values)
    assert scale.state_dict() == {}
    same = Normalise(Scale())
    assert same(values) is values
    with pytest.raises(InvalidInput, match="above 0"):
        Scale((0.0,), (0.0,))


def test_streams_that_cannot_be_learned_are_refused(tmp_path):
    store = tiny_episodes(tmp_path / "data")
    for name in ("pose", "rgb", "reward"):
        with pytest.raises(InvalidInput, match=f"no vector or token or depth '{name}'"):
            cache_latents(fixed_tokenizer(), store, tmp_path, "cpu", streams=(name,))
