"""ViZDoom as a source: its scenarios, streams and its engine."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from sources import play, same

from worldsim.envs.sources import make_source
from worldsim.errors import InvalidInput, InvalidState, MissingDependency, WorldsimError

TAKE_COVER, MY_WAY_HOME = "doom-take-cover", "doom-my-way-home"


@pytest.mark.simulator
def test_take_cover_is_what_its_spec_says(made):
    source = made(TAKE_COVER)
    assert (source.spec.height, source.spec.width) == (64, 128)
    assert (source.spec.fps, source.spec.frame_skip, source.spec.max_episode_steps) == (17.5, 2, 1050)
    assert source.spec.actions.meanings == ("NOOP", "LEFT", "RIGHT")
    assert source.spec.actions.keys == ((), ("left",), ("right",))
    rows = play(source, 0, [0] * 1050)
    assert rows[-1].terminated and not rows[-1].truncated
    assert all(row.reward == 2 for row in rows[1:-1]) and rows[-1].reward in (1, 2)
    assert rows[0].extras["variables"][0] == 100  # health
    assert np.array_equal(rows[-1].rgb, rows[-2].rgb)  # there is no frame of the end
    with pytest.raises(InvalidState, match="reset"):
        source.step(0)


@pytest.mark.simulator
def test_left_and_right_move_the_player_to_opposite_sides(made):
    source = made(TAKE_COVER)
    start, left = (r.extras["variables"][1] for r in (play(source, 1, [1] * 10)[i] for i in (0, -1)))
    right = play(source, 1, [2] * 10)[-1].extras["variables"][1]
    assert right < start < left


@pytest.mark.simulator
def test_doom_repeats_an_episode_whatever_was_played_before(made):
    actions = np.random.default_rng(0).integers(3, size=120).tolist()
    source, other = made(TAKE_COVER), made(TAKE_COVER)
    first = play(source, 7, actions)
    play(source, 8, [1] * 50)
    assert same(first, play(source, 7, actions))
    assert same(first, play(other, 7, actions))
    assert not same(first, play(other, 8, actions))


@pytest.mark.simulator
def test_between_frames_are_those_of_a_finer_clock(made):
    fine, coarse = made(TAKE_COVER, frame_skip=1), made(TAKE_COVER, between=True)
    tics = play(fine, 2, [a for a in [0, 1, 2, 1] * 8 for _ in range(2)])
    steps = play(coarse, 2, [0, 1, 2, 1] * 8)
    assert np.array_equal(steps[0].extras["between"][0], steps[0].rgb)
    for t, row in enumerate(steps[1:], start=1):
        assert row.extras["between"].shape == (1, 64, 128, 3)
        assert np.array_equal(row.extras["between"][0], tics[2 * t - 1].rgb)
        assert np.array_equal(row.rgb, tics[2 * t].rgb)


@pytest.mark.simulator
def test_optional_streams_do_not_change_the_game(made):
    actions = np.random.default_rng(1).integers(8, size=40).tolist()
    plain = play(made(MY_WAY_HOME), 3, actions)
    full = play(made(MY_WAY_HOME, depth=True, pose=True, labels=True, between=True), 3, actions)
    assert all(np.array_equal(a.rgb, b.rgb) and a.reward == b.reward for a, b in zip(plain, full, strict=True))


@pytest.mark.simulator
def test_extras_have_the_shapes_and_types_of_the_spec(made):
    source = made(MY_WAY_HOME, depth=True, pose=True, sound=True, labels=True, between=True)
    for row in play(source, 3, [1, 2, 3, 4, 5, 6, 7, 0]):
        assert row.extras.keys() == source.spec.extras.keys()
        for name, spec in source.spec.extras.items():
            assert row.extras[name].shape == spec.shape and row.extras[name].dtype == spec.dtype, name
        assert row.rgb.shape == (96, 128, 3)


@pytest.mark.simulator
def test_pose_and_depth_agree_when_walking_to_a_wall(made):
    source = made(MY_WAY_HOME, depth=True, pose=True)
    rows = play(source, 4, [1] * 14)  # down a corridor
    (x0, y0, _, yaw), (x1, y1, _, _) = rows[2].extras["pose"], rows[-1].extras["pose"]
    walked = np.hypot(x1 - x0, y1 - y0)
    nearer = rows[2].extras["depth"][48, 64] - rows[-1].extras["depth"][48, 64]
    assert walked > 100 and abs(walked - nearer) < 8  # a level of the depth buffer is 7 units
    assert np.cos(np.arctan2(y1 - y0, x1 - x0) - yaw) > 0.99


@pytest.mark.simulator
def test_turning_left_raises_the_yaw(made):
    yaw = [row.extras["pose"][3] for row in play(made(MY_WAY_HOME, pose=True), 3, [2] * 10)]
    assert 0 < (yaw[-1] - yaw[0]) % (2 * np.pi) < np.pi


@pytest.mark.simulator
def test_my_way_home_is_cut_by_its_time_limit(made):
    source = made(MY_WAY_HOME, frame_skip=30)
    rows = play(source, 0, [0] * 100)
    assert len(rows) == 71 and rows[-1].truncated and not rows[-1].terminated


@pytest.mark.simulator
def test_fireball_boxes_lie_on_bright_blobs(made):
    source = made(TAKE_COVER, labels=True)
    inside, outside = [], []
    for row in play(source, 0, [0] * 400):
        boxes = row.extras["fireball_boxes"]
        boxes = boxes[~np.isnan(boxes[:, 0])]
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 128).all() and (boxes[:, 3] <= 64).all()
        for x0, y0, x1, y1 in boxes:
            if x1 - x0 > 4 and y1 - y0 > 4:
                inside.append(row.rgb[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1, 0].mean())
                outside.append(row.rgb[..., 0].mean())
    assert len(inside) > 10 and np.mean(inside) > np.mean(outside) + 50


@pytest.mark.simulator
def test_sound_is_heard(made):
    source = made(TAKE_COVER, sound=True)
    heard = [np.abs(row.extras["audio"].astype(int)).mean() for row in play(source, 0, [0] * 60)]
    assert max(heard) > 100


@pytest.mark.simulator
def test_a_shot_is_heard_in_the_step_of_its_key(made):
    source = made("doom-defend-the-center", sound=True)
    rows = play(source, 0, [0] * 20 + [3] * 3)  # 3 shoots
    heard = [np.abs(row.extras["audio"].astype(int)).mean() for row in rows]
    ammunition = [row.extras["variables"][1] for row in rows]
    shot = int(np.argmax(np.diff(ammunition) < 0)) + 1
    assert shot > 20 and heard[shot] > 2 * max(heard[15:20]) + 100


@pytest.mark.simulator
def test_sound_without_its_system_library_is_refused(monkeypatch):
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(MissingDependency, match="apt-get install libopenal1"):
        make_source(TAKE_COVER, sound=True)


@pytest.mark.simulator
def test_doom_leaves_nothing_in_the_working_directory(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    source = made(TAKE_COVER)
    source.reset(0)
    source.close()
    assert not list(tmp_path.iterdir())


@pytest.mark.simulator
def test_impossible_doom_options_are_refused():
    with pytest.raises(InvalidInput, match="frame_skip is 0"):
        make_source(TAKE_COVER, frame_skip=0)
    with pytest.raises(InvalidInput, match="at least 2 with between"):
        make_source(TAKE_COVER, frame_skip=1, between=True)


@pytest.mark.simulator
def test_an_engine_that_dies_gives_an_error_of_ours(made):
    source = made(TAKE_COVER)
    source.reset(0)
    children = subprocess.run(
        ["ps", "--ppid", str(os.getpid()), "-o", "pid=,args="], capture_output=True, text=True, check=True
    ).stdout
    engine = next(line for line in children.splitlines() if "vizdoom/vizdoom" in line)
    os.kill(int(engine.split()[0]), signal.SIGKILL)
    with pytest.raises(WorldsimError, match="make the source again"):
        for _ in range(5):
            source.step(0)


@pytest.mark.simulator
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the engine is left behind by a SIGKILL")
def test_the_engine_ends_with_a_process_that_is_killed():
    program = f"from worldsim.envs.sources import make_source; s = make_source({TAKE_COVER!r}); print(1, flush=True); "
    process = subprocess.Popen(
        [sys.executable, "-c", program + "input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline()
    tasks = Path(f"/proc/{process.pid}/task").iterdir()
    engines = [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    assert engines
    process.kill()
    process.wait()
    limit = time.monotonic() + 30
    while any(alive(pid) for pid in engines) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in engines)


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
