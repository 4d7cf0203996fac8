"""Actions told from frames alone, by a world with the head `inverse`."""

import json

import numpy as np
import point_robot
import pytest
from small_training import brief, fixed_tokenizer, train

from worldsim.cli.main import main
from worldsim.data.episodes import Episodes
from worldsim.data.importing import import_videos
from worldsim.errors import InvalidInput
from worldsim.io.media import write_video
from worldsim.policies.robot.labelling import Labels, label_episodes, label_frames
from worldsim.train import export
from worldsim.train.dynamics_task import modules_of
from worldsim.world import World


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A world that learned for seconds which way the hand was pushed."""
    path = tmp_path_factory.mktemp("label")
    store = point_robot.recorded(path / "data", steps=400)
    heads = ("reward", "ending", "event", "motion:proprio", "success", "inverse")
    task = point_robot.dynamics_task_of(store, path / "run", heads=heads)
    train(task, brief(60, lr=5e-3), path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "load_tokenizer", lambda run: fixed_tokenizer())
        export.export_world("point-robot", [store], path / "run", path / "world", starts=4)
    return path


def test_it_learns_which_way_the_hand_was_pushed(folder):
    world, store = World.from_pretrained(folder / "world", device="cpu"), Episodes.open(folder / "data")
    labels = label_episodes(world, store)
    assert [len(one) for one in labels.told] == (store.lengths - 1).tolist()
    assert labels.score()["r2"] > 0.25
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
    assert "r2 " in capsys.readouterr().out and json.loads((tmp_path / "label.json").read_text())["r2"] > 0
    (tmp_path / "videos").mkdir()
    write_video(tmp_path / "videos" / "a.mp4", list(Episodes.open(data).read("rgb", 0, 6)), fps=10)
    table = tmp_path / "actions.csv"
    main(["robot", "label", world, "--videos", str(tmp_path / "videos"), "--out", str(table)])
    assert table.read_text().splitlines()[0] == "file,step,action_0,action_1"
    store = import_videos(tmp_path / "videos", table, tmp_path / "store", height=16, width=32)
    assert store.num_steps == 6


def test_what_cannot_be_labelled_is_refused(folder, tmp_path, capsys):
    store = Episodes.open(folder / "data")
    with pytest.raises(InvalidInput, match="no head 'inverse'.*--heads inverse"):
        label_episodes(World.from_pretrained("doom-take-cover", device="cpu"), store)
    for wrong in ([], ["--videos", str(tmp_path)], ["--videos", str(tmp_path), "--out", str(tmp_path / "a.csv")]):
        with pytest.raises(SystemExit):
            main(["robot", "label", str(folder / "world"), *wrong])
    assert "--data STORE, or --videos FOLDER" in capsys.readouterr().err


def test_modules_follow_the_streams(folder):
    store = Episodes.open(folder / "data")
    task = point_robot.dynamics_task_of(store, folder / "run")
    assert "inverse" not in modules_of(task._clips.stores)["heads"]
