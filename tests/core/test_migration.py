"""Worlds and checkpoints of earlier versions open as those of today, and give what they gave."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from small_training import latent_store, narrow_dynamics_task, tokenizer_task
from tiny import tiny_episodes, tiny_files, tiny_world

from worldsim.config import WorldConfig
from worldsim.errors import DamagedWorld
from worldsim.io.folders import CONFIG
from worldsim.io.weights import read_world, write_world
from worldsim.migration import (
    MOVED,
    WORLD_FORMAT,
    migrate_settings,
    migrate_state,
    migrate_weights,
)
from worldsim.models.dynamics import CONDITIONS
from worldsim.sampling.noise_shaping import NoiseShaping
from worldsim.sampling.sampler import SamplingConfig
from worldsim.state.tree_io import load_tree, save_tree
from worldsim.train.checkpoint import load_checkpoint, optimizer_tensors, save_checkpoint
from worldsim.world import World

OLD_SAMPLING = {
    "steps": 1, "temperature": 1.1, "surprise": 0.015, "surprise_growth": 0.01, "surprise_rows": [0, 1], "spared": 8.0,
    "context_noise": 0.04,
}  # fmt: skip
SAMPLING = SamplingConfig(1, 1.1, NoiseShaping(0.015, 0.01, (0, 1), 2.0, 8.0), 0.04)


def as_named_before(tensors):
    """Weights by their names of when conditions and heads were fixed parts of the dynamics."""
    old = {}
    for name, tensor in tensors.items():
        for then, now in MOVED.items():
            name = name.replace(f"dynamics.{now}", f"dynamics.{then}")
        old[name] = tensor
    return old


def with_phase(files):
    """A world that is told the phase of a clock, as those of format 6 are."""
    conditions = (*CONDITIONS, "episode_phase")
    sizes = dataclasses.replace(files.config.dynamics, conditions=conditions, period=5)
    config = dataclasses.replace(files.config, dynamics=sizes, sampling=SAMPLING)
    phase = {"dynamics.conditions.episode_phase.embed.weight": torch.randn(5, sizes.cond_dim)}
    return dataclasses.replace(files, config=config, model=files.model | phase)


def world_of_format_6(folder):
    """A world's folder as it was, with a burst head; the files that it is of today."""
    files = with_phase(tiny_files())
    write_world(folder, dataclasses.replace(files, model=as_named_before(files.model) | {"burst.bias": torch.ones(2)}))
    values = json.loads((folder / CONFIG).read_text("utf-8"))
    for name in ("action_scale", "conditions", "output_heads", "streams", "scales", "period"):
        del values["dynamics"][name]
    values["dynamics"]["cycle"] = 5
    values["sampling"] = OLD_SAMPLING
    (folder / CONFIG).write_text(json.dumps(values | {"burst": 3, "format_version": 6}), "utf-8")
    return files


def test_a_world_of_format_6_opens_as_one_of_today_and_dreams_the_same(tmp_path):
    now = world_of_format_6(tmp_path / "old")
    read = read_world(tmp_path / "old")
    assert read.config == dataclasses.replace(now.config, sha256=read.config.sha256)
    assert read.model.keys() == now.model.keys()
    assert all(torch.equal(read.model[name], tensor) for name, tensor in now.model.items())
    world, same = World.from_pretrained(tmp_path / "old", device="cpu"), World(now, device="cpu")
    world.save_pretrained(tmp_path / "new")
    assert WorldConfig.read(tmp_path / "new" / CONFIG).format_version == WORLD_FORMAT
    state, other = world.reset([3]), same.reset([3])
    for action in (0, 1, 2, 1, 0, 2):
        state, step = world.step(state, np.array([action]))
        other, expected = same.step(other, np.array([action]))
        assert np.array_equal(step.frame, expected.frame)


@pytest.mark.parametrize(("surprise", "shaped"), [(0.015, True), (0.0, False)])
def test_noise_shaping_of_format_6_has_a_place_of_its_own(tmp_path, surprise, shaped):
    world_of_format_6(tmp_path)
    values = json.loads((tmp_path / CONFIG).read_text("utf-8"))
    values["sampling"] = OLD_SAMPLING | {"surprise": surprise}
    (tmp_path / CONFIG).write_text(json.dumps(values), "utf-8")
    wanted = SAMPLING if shaped else dataclasses.replace(SAMPLING, noise_shaping=None)
    assert WorldConfig.read(tmp_path / CONFIG).sampling == wanted


def test_settings_of_sampling_that_are_not_known_are_still_refused(tmp_path):
    world_of_format_6(tmp_path)
    values = json.loads((tmp_path / CONFIG).read_text("utf-8"))
    values["sampling"] = OLD_SAMPLING | {"surprised": 1.0}
    (tmp_path / CONFIG).write_text(json.dumps(values), "utf-8")
    with pytest.raises(DamagedWorld, match=r"unknown fields \['surprised'\]"):
        WorldConfig.read(tmp_path / CONFIG)


@pytest.mark.parametrize("version", [5, WORLD_FORMAT + 1, None, "6"])
def test_a_world_of_a_format_that_is_not_known_is_refused(tmp_path, version):
    world_of_format_6(tmp_path / "old")
    values = json.loads((tmp_path / "old" / CONFIG).read_text("utf-8"))
    (tmp_path / "old" / CONFIG).write_text(json.dumps(values | {"format_version": version}), "utf-8")
    with pytest.raises(DamagedWorld, match="format version"):
        read_world(tmp_path / "old")


def test_a_checkpoint_with_the_names_of_before_is_trained_on(tmp_path, monkeypatch):
    clips = latent_store(tiny_episodes(tmp_path / "data"), tmp_path / "cache")
    task = narrow_dynamics_task([clips], monkeypatch, period=5)
    optimizer = torch.optim.AdamW(task.model.parameters())
    sum(p.square().sum() for p in task.model.parameters()).backward()
    optimizer.step()
    tensors = {f"model.{n}": t.clone() for n, t in task.model.state_dict().items()}
    tensors |= {f"average.{n}": p.detach().clone() for n, p in task.model.named_parameters()}
    tensors |= optimizer_tensors(optimizer)
    # The optimizer's state is numbered in the order of the parameters, which has stayed.
    order = [n.removeprefix("dynamics.") for n, _ in task.model.named_parameters()][:6]
    kinds = ("action", "noise_level", "noise_level", "episode_time", "episode_phase")
    assert order[0] == "position" and all(f".{kind}." in name for kind, name in zip(kinds, order[1:], strict=True))
    config = task.config()
    sizes = {name: value for name, value in config["model"].items() if name not in ("conditions", "period")}
    config["model"] = sizes | {"cycle": 5}
    del config["loss"], config["clips"], config["change_scale"]  # which were constants
    path = tmp_path / "dynamics.safetensors"
    save_checkpoint(path, as_named_before(tensors), {"kind": "dynamics", "step": 7, "config": config})
    read, meta = load_checkpoint(path)
    wanted = task.config()
    wanted["change_scale"] = 6.25  # with which the thresholds are the absolute ones of then
    wanted["loss"]["own_frames_after"] = 0.05
    wanted["loss"]["own_frames_error"] = pytest.approx(3 / (6.25 * task.settings.channels) ** 0.5, rel=1e-5)
    later = ("single_frames", "single_steps", "memory_dropout", "unseen", "blur", "hidden", "guide_errors", "drift")
    joint = ("action_known", "frame_known", "any_outcome", "soon", "action_weight")
    for new in (
        "frame_noise",
        "drawn_frames",
        *later,
        *joint,
    ):  # of heads that read the frame, which came after, and memories
        del wanted["loss"][new]
    del wanted["clips"]["unseen"]
    assert meta["config"] == wanted and read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor), name


def test_a_tokenizer_that_was_trained_with_constants_says_them(tmp_path):
    task = tokenizer_task(tiny_episodes(tmp_path / "data"))
    config = {name: value for name, value in task.config().items() if name != "loss"}
    assert migrate_settings("tokenizer", config) == task.config()
    assert migrate_settings("tokenizer", config | {"loss": {"rate": 0.1}})["loss"] == {"rate": 0.1}


def test_ranks_of_a_decoder_that_is_gone_are_forgotten(tmp_path):
    write_world(tmp_path / "world", tiny_files())
    path = tmp_path / "world" / CONFIG
    values = json.loads(path.read_text())
    values["tokenizer"]["decoder_ranks"] = [14, 20, 14]
    path.write_text(json.dumps(values))
    assert read_world(tmp_path / "world").config.tokenizer == tiny_files().config.tokenizer
    model = {"decoder": "residual", "decoder_ranks": [14, 20, 14]}
    assert migrate_settings("tokenizer", {"model": model})["model"] == {"decoder": "residual"}


def test_what_was_unpacked_from_a_world_says_no_constants(tmp_path):
    config = {"model": {"dim": 8}, "reward_scale": 1.0}
    assert migrate_settings("dynamics", config) == config


def test_tensors_of_today_stay_as_they_are():
    tensors = {"model.dynamics.heads.last.bias": torch.ones(2), "optimizer.5.step": torch.tensor(1.0)}
    assert migrate_weights(tensors) == tensors


def test_a_state_saved_before_its_keys_had_a_place_goes_on_to_the_bit(tmp_path):
    world = tiny_world()
    state, _ = world.step(world.reset(seed=[3, 4], episode=[1, 0]), np.array([1, 2]))
    old = {"past": state.past, "cache": state.cache, **vars(state.keys)}
    save_tree(tmp_path / "old", old, {"step": 1})
    loaded = load_tree(tmp_path / "old", world.reset(seed=[0, 0]))
    one, other = (world.step(s, np.array([0, 1]))[1] for s in (loaded, state))
    assert np.array_equal(one.frame, other.frame) and np.array_equal(one.reward, other.reward)


def test_a_state_of_another_world_keeps_its_names():
    leaves = {"/seed": torch.ones(1), "/time": torch.ones(1)}
    assert migrate_state(leaves) == leaves
