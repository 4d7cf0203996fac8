"""Recordings made elsewhere become episode stores: arrays, and video files with a table of actions."""

import numpy as np
import pytest

from worldsim.cli.main import main
from worldsim.data.episodes import Episodes
from worldsim.data.importing import Recording, import_videos, write_recordings
from worldsim.errors import InvalidInput
from worldsim.io.media import save_video
from worldsim.spec import ActionSpec

LEVELS = (20, 60, 100, 140, 180)  # of the frames, far enough apart to survive H.264


def save_levels(path, levels=LEVELS, fps=10):
    save_video(path, np.stack([np.full((32, 48, 3), level, np.uint8) for level in levels]), fps)


def table_of(folder, text):
    path = folder / "actions.csv"
    path.write_text(text)
    return path


@pytest.fixture
def videos(tmp_path):
    """Two videos of five frames, 10 a second."""
    folder = tmp_path / "videos"
    for name in ("one", "two"):
        save_levels(folder / f"{name}.mp4")
    return folder


def lines(names=("one.mp4", "two.mp4"), actions=(2, 0, 1, 1)):
    rows = [f"{name},{step},{action}" for name in names for step, action in enumerate(actions)]
    return "\n".join(["file,step,action", *rows])


def test_arrays_become_a_store_in_which_an_action_led_to_its_frame(tmp_path):
    frames = np.stack([np.full((8, 8, 3), level, np.uint8) for level in LEVELS])
    recording = Recording(frames, np.array([2, 0, 1, 1]), rewards=np.array([1.0, 2, 3, 4]), terminated=True)
    store = write_recordings(tmp_path / "s", [recording, recording], fps=15, source="mine")
    assert (store.meta.actions, store.meta.fps, store.meta.source) == (ActionSpec(n=3), 15, "mine")
    episode = store.episode(1)
    assert np.array_equal(episode["rgb"], frames) and episode["action"].tolist() == [0, 2, 0, 1, 1]
    assert episode["reward"].tolist() == [0, 1, 2, 3, 4]
    assert episode["terminated"].tolist() == [False] * 4 + [True] and not episode["truncated"].any()


def test_arrays_of_numbers_are_taken_for_a_box_of_what_was_seen(tmp_path):
    actions = np.array([[0.5, -1.0], [2.0, 0.0]])
    store = write_recordings(tmp_path / "s", [Recording(np.zeros((3, 8, 8, 3), np.uint8), actions)], fps=15)
    assert (store.meta.actions.low, store.meta.actions.high) == ((0.5, -1.0), (2.0, 0.0))
    assert store.read("action", 1, 3).tolist() == actions.tolist() and store.read("truncated", 2, 3)[0]


def test_actions_outside_of_the_given_space_are_refused(tmp_path):
    recording = Recording(np.zeros((3, 8, 8, 3), np.uint8), np.array([1, 3]))
    with pytest.raises(InvalidInput, match="recording 0 does not fit the action space: action of row 1 is 3; pass"):
        write_recordings(tmp_path / "s", [recording], fps=15, actions=ActionSpec(n=3))
    assert not list(tmp_path.iterdir())


def test_recordings_of_different_actions_are_refused(tmp_path):
    frames = np.zeros((3, 8, 8, 3), np.uint8)
    recordings = [Recording(frames, np.zeros((2, 2))), Recording(frames, np.array([0, 1]))]
    with pytest.raises(InvalidInput, match="actions of the shapes"):
        write_recordings(tmp_path / "s", recordings, fps=15)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": np.zeros(5, int)}, "recording 0 has 5 frames, 5 actions"),
        ({"actions": np.zeros(4)}, r"actions float64 \(4,\)"),
        ({"actions": -np.ones(4, int)}, "numbered from 0"),
        ({"rewards": np.full(4, np.nan)}, "not finite"),
        ({"frames": np.zeros((5, 8, 8, 3))}, r"a frame float64 \(8, 8, 3\)"),
        ({"frames": np.zeros((5, 3, 8, 8), np.uint8)}, r"a frame uint8 \(3, 8, 8\)"),
    ],
)
def test_arrays_that_make_no_recording_are_refused_before_anything_is_written(changes, message, tmp_path):
    given = {"frames": np.zeros((5, 8, 8, 3), np.uint8), "actions": np.zeros(4, int), **changes}
    with pytest.raises(InvalidInput, match=message):
        write_recordings(tmp_path / "s", [Recording(**given)], fps=15)
    assert not list(tmp_path.iterdir())


def test_the_command_imports_videos_and_their_actions(videos, tmp_path, capsys):
    table = table_of(tmp_path, lines())
    size = ("--height", "16", "--width", "24")
    main(["import", str(videos), "--actions", str(table), "--out", str(tmp_path / "s"), *size])
    assert "imported 2 episodes, 10 steps at 10 a second" in capsys.readouterr().out
    store = Episodes.open(tmp_path / "s")
    episode = store.episode(0)
    assert episode["rgb"].shape == (5, 16, 24, 3) and np.abs(episode["rgb"][:, 8, 8, 0] - np.array(LEVELS)).max() < 8
    assert episode["action"].tolist() == [0, 2, 0, 1, 1] and store.meta.actions.n == 3 and store.meta.fps == 10


def test_a_table_may_name_episodes_and_have_several_numbers_rewards_and_endings(videos, tmp_path):
    table = table_of(
        tmp_path,
        "episode,step,action_0,action_1,reward,terminated\n"
        + "".join(f"two,{t},{t / 2},-1,{t},{int(t == 3)}\n" for t in (3, 1, 2, 0)),
    )
    episode = import_videos(videos, table, tmp_path / "s").episode(0)
    assert episode["action"].tolist() == [[0, 0], [0, -1], [0.5, -1], [1, -1], [1.5, -1]]
    assert episode["reward"].tolist() == [0, 0, 1, 2, 3] and episode["terminated"].tolist() == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,action\none,1", "lacks the column step"),
        ("file,step\none,0", "lacks the column action"),
        ("step,action\n0,0", "lacks the column file"),
        ("file,step,action_0,action_2\none,0,1,1", "lacks the column action_1"),
        ("file,step,action", "has no rows"),
        (lines(["three.mp4"]), "holds no video 'three.mp4'"),
        (lines(actions=(1, 1, 1)), "has 5 frames and .* 3 actions"),
        (lines(actions=(0, 1.5, 0, 0)), r"line 3: action is '1.5'; give a whole number"),
        ("file,step,action\none,0,1\none,2,1", "step 1 is missing"),
        ("file,step,action,terminated\none,0,1,1\none,1,1,0", "ends 'one' before its last step"),
        ("file,step,action,terminated\none,0,1,perhaps", "terminated is 'perhaps'"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_by_name_and_nothing_is_left(text, message, videos, tmp_path):
    with pytest.raises(InvalidInput, match=message):
        import_videos(videos, table_of(tmp_path, text), tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_file_that_is_no_video_and_another_rate_are_refused_by_name(videos, tmp_path):
    table = table_of(tmp_path, lines())
    save_levels(videos / "two.mp4", fps=25)
    with pytest.raises(InvalidInput, match=r"two\.mp4' has 25 frames a second"):
        import_videos(videos, table, tmp_path / "s")
    (videos / "two.mp4").write_text("no video")
    with pytest.raises(InvalidInput, match=r"two\.mp4' cannot be read"):
        import_videos(videos, table, tmp_path / "s")
    assert not (tmp_path / "s").exists()
