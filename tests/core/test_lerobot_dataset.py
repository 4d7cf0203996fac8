"""Episode stores as LeRobot data sets and back, with nothing lost that both can say."""

import json
import shutil

import numpy as np
import point_robot
import pytest
from tiny import tiny_episodes

from worldsim.cli.main import main
from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput

pytest.importorskip("pyarrow", reason='LeRobot data sets need pyarrow: pip install "worldsim[lerobot]"')
from worldsim.data.lerobot_dataset import export_lerobot, import_lerobot


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return point_robot.recorded(tmp_path_factory.mktemp("point") / "data", steps=60)


@pytest.fixture(scope="module")
def dataset(store, tmp_path_factory):
    path = tmp_path_factory.mktemp("lerobot") / "set"
    assert export_lerobot(store, path) == ()
    return path


def test_a_store_comes_back_row_by_row(store, dataset, tmp_path):
    back = import_lerobot(dataset, tmp_path / "back")
    assert back.ends.tolist() == store.ends.tolist() and set(back.streams) == set(store.streams)
    assert (back.meta.actions.low, back.meta.actions.high) == (store.meta.actions.low, store.meta.actions.high)
    assert back.meta.streams["task"].names == store.meta.streams["task"].names and back.meta.fps == store.meta.fps
    for index in range(len(store)):
        one, other = store.episode(index), back.episode(index)
        assert all(np.array_equal(one[name], other[name]) for name in store.streams if name != "success")
        assert np.array_equal(one["success"][1:], other["success"][1:])  # at the reset there is none to note


def test_the_layout_is_that_of_version_3(store, dataset):
    import pyarrow.parquet as pq

    info = json.loads((dataset / "meta" / "info.json").read_text())
    assert info["codebase_version"] == "v3.0" and info["total_episodes"] == len(store)
    assert info["features"]["observation.image"] == {
        "dtype": "image", "shape": [16, 32, 3], "names": ["height", "width", "channels"]
    }  # fmt: skip
    table = pq.read_table(dataset / "data" / "chunk-000" / "file-000.parquet")
    assert set(table.column_names) == set(info["features"]) and table.num_rows == store.num_steps
    assert table["action"][0].as_py() == store.read("action", 1, 2)[0].tolist()  # the one taken at the first frame
    episodes = pq.read_table(dataset / "meta" / "episodes" / "chunk-000" / "file-000.parquet").to_pylist()
    assert [row["dataset_to_index"] for row in episodes] == store.ends.tolist()


def test_frames_may_be_made_smaller(dataset, store, tmp_path):
    back = import_lerobot(dataset, tmp_path / "back", height=8, width=16)
    frames = store.read("rgb", 0, 3).reshape(3, 8, 2, 16, 2, 3).mean((2, 4))
    assert np.abs(back.read("rgb", 0, 3) - frames).max() <= 1


def test_what_has_no_place_in_a_data_set_is_refused_or_told(tmp_path, store, dataset):
    with pytest.raises(InvalidInput, match="discrete"):
        export_lerobot(tiny_episodes(tmp_path / "tiny"), tmp_path / "out")
    with pytest.raises(InvalidInput, match="not empty"):
        export_lerobot(store, dataset)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"codebase_version": "v2.1"}, "v2.1; convert"),
        ({"features": {"action": {"dtype": "float32", "shape": [2]}}}, "the cameras none"),
        ({"features": {"observation.image": {"dtype": "image", "shape": [16, 32, 3]}}}, "one vector of floats"),
    ],
)
def test_a_data_set_whose_features_do_not_fit_is_refused(dataset, tmp_path, change, said):
    shutil.copytree(dataset, tmp_path / "set")
    info = json.loads((tmp_path / "set" / "meta" / "info.json").read_text()) | change
    (tmp_path / "set" / "meta" / "info.json").write_text(json.dumps(info))
    with pytest.raises(InvalidInput, match=said):
        import_lerobot(tmp_path / "set", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_commands_go_both_ways(store, tmp_path, capsys):
    main(["robot", "export", str(store.path), "--out", str(tmp_path / "set")])
    main(["robot", "import", str(tmp_path / "set"), "--out", str(tmp_path / "back")])
    assert "streams goal, proprio, success, task" in capsys.readouterr().out
    assert Episodes.open(tmp_path / "back").num_steps == store.num_steps
    with pytest.raises(SystemExit):
        main(["robot", "import", str(tmp_path), "--out", str(tmp_path / "more")])
    assert "no LeRobot data set" in capsys.readouterr().err
