"""Actions told from frames alone, by a world with the head `inverse`."""

import dataclasses
import json

import numpy as np
import point_robot
import pytest
import torch
from lively import lively_dynamics
from small_training import brief, fixed_tokenizer, train

from worldsim.cli.main import main
from worldsim.data.episodes import Episodes
from worldsim.data.importing import import_videos
from worldsim.errors import InvalidInput
from worldsim.io.media import save_video
from worldsim.models.dynamics import CONDITIONS, DynamicsConfig
from worldsim.models.heads import Targets
from worldsim.models.registry import StepInputs
from worldsim.policies.robot.labelling import Labels, label_episodes, label_frames
from worldsim.train import export
from worldsim.train.dynamics_task import modules_of
from worldsim.world import World

CONFIG = DynamicsConfig(
    channels=4, height=2, width=4, patch=(2, 1), actions=0, action_dim=2, between=0, dim=16, heads=2, mlp_ratio=2,
    history_blocks=1, denoiser_blocks=1, context_length=4, cond_dim=8, local=8, conditions=CONDITIONS,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A world with the head, of a few steps of training."""
    path = tmp_path_factory.mktemp("label")
    store = point_robot.recorded(path / "data", steps=60)
    heads = ("reward", "ending", "event", "motion:proprio", "success", "inverse")
    task = point_robot.dynamics_task_of(store, path / "run", heads=heads)
    train(task, brief(2), path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "load_tokenizer", lambda run: fixed_tokenizer())
        export.export_world("point-robot", [store], path / "run", path / "world", starts=4)
    return path


def test_the_head_learns_what_led_from_one_frame_to_the_next():
    model = lively_dynamics(config=dataclasses.replace(CONFIG, output_heads=("reward", "inverse"), foreseen=()))
    head, rng = model.heads.each["inverse"], torch.Generator().manual_seed(0)
    shown = torch.randn(2, 4, 2, 4, generator=rng)  # what each action adds to the frame
    optimiser = torch.optim.Adam(model.heads.parameters(), lr=3e-3)
    for _ in range(150):
        actions, previous = torch.randn(64, 2, generator=rng), torch.randn(64, 4, 2, 4, generator=rng)
        frame = previous + torch.einsum("fa,achw->fchw", actions, shown)
        nothing = torch.zeros(64)
        said = model.heads.said_of_frames(frame, previous, "inverse", StepInputs(actions, nothing, nothing.long()))
        loss = head.loss(said, Targets(nothing, nothing > 0, nothing > 0, nothing + 1, actions=actions))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert 1 - float((head.label(said).detach() - actions).square().mean()) > 0.8


def test_every_episode_is_labelled_from_its_own_frames(folder):
    world, store = World.from_pretrained(folder / "world", device="cpu"), Episodes.open(folder / "data")
    labels = label_episodes(world, store)
    assert [len(one) for one in labels.told] == (store.lengths - 1).tolist()
    alone = label_frames(world, store.read("rgb", 0, 3))
    assert alone.shape == (2, 2) and np.allclose(alone, labels.told[0][:2], atol=1e-2)


def test_the_score_of_labels_is_that_of_regression_or_of_classes():
    true = np.array([[0.0, 1.0], [2.0, 1.0]])
    score = Labels([true], [true]).score()
    assert score["r2"] == 1.0 and score["r2_each"][0] == 1.0 and np.isnan(score["r2_each"][1])
    assert Labels([np.array([1, 2])], [np.array([1, 0])]).score() == {"accuracy": 0.5, "actions": 2}


def test_the_command_measures_a_store_and_writes_a_table_for_videos(folder, tmp_path, capsys):
    world, data = str(folder / "world"), str(folder / "data")
    main(["robot", "label", world, "--data", data, "--json", str(tmp_path / "label.json")])
    assert "r2 " in capsys.readouterr().out and json.loads((tmp_path / "label.json").read_text())["actions"] == sum(
        Episodes.open(data).lengths - 1
    )
    (tmp_path / "videos").mkdir()
    save_video(tmp_path / "videos" / "a.mp4", list(Episodes.open(data).read("rgb", 0, 6)), fps=10)
    table = tmp_path / "actions.csv"
    main(["robot", "label", world, "--videos", str(tmp_path / "videos"), "--out", str(table)])
    assert table.read_text().splitlines()[0] == "file,step,action_0,action_1"
    store = import_videos(tmp_path / "videos", table, tmp_path / "store", height=16, width=32)
    assert store.num_steps == 6


def test_what_cannot_be_labelled_is_refused(folder, tmp_path, capsys):
    store = Episodes.open(folder / "data")
    with pytest.raises(InvalidInput, match=r"no head 'inverse'.*with that one among its heads"):
        label_episodes(World.from_pretrained("doom-take-cover", device="cpu"), store)
    for wrong in ([], ["--videos", str(tmp_path)], ["--videos", str(tmp_path), "--out", str(tmp_path / "a.csv")]):
        with pytest.raises(SystemExit):
            main(["robot", "label", str(folder / "world"), *wrong])
    assert "--data STORE, or --videos FOLDER" in capsys.readouterr().err


def test_modules_follow_the_streams(folder):
    store = Episodes.open(folder / "data")
    task = point_robot.dynamics_task_of(store, folder / "run")
    assert "inverse" not in modules_of(task._clips.stores)["heads"]
