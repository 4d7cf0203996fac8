import dataclasses
import math
import re
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from toy_game import ToySource, ToyWorld

from worldsim.envs.play.game import Game
from worldsim.envs.play.keys import ActionKeys
from worldsim.envs.play.real import WARM_UP_STEPS, RealGame, open_real
from worldsim.envs.play.session import RESTART_AFTER, Session
from worldsim.envs.play.status import Settings
from worldsim.errors import InvalidInput, MissingDependency


def _open(world, **settings):
    session = Session(Game(world), ActionKeys(world.spec.actions), Settings(**settings))
    session.open()
    return session


def _advance(session, count):
    """Play steps; what each showed last."""
    views = []
    for _ in range(count):
        session.do("advance")
        views.append(session.feed.take(math.inf).view)
    return views


def _clip(path):
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        return frames, container.streams.video[0].average_rate


def test_a_script_plays_its_keys_and_then_hands_over():
    world = ToyWorld()
    session = _open(world, script=(("left",), ("right",), ()))
    session.held.press("left", 0.0)
    _advance(session, 5)
    assert world.actions == [1, 2, 0, 1, 1]


def test_a_restored_moment_goes_on_bit_for_bit():
    session = _open(ToyWorld(), script=(("left",),) * 30)
    _advance(session, 5)
    session.do("save")
    session.held.press("right", 0.0)
    saved = session.status()
    first = _advance(session, 10)
    session.do("restore")
    assert (session.status().steps, session.status().reward) == (saved.steps, saved.reward)
    second = _advance(session, 10)
    for (a,), (b,) in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any((a[0] != b[0]).any() for a, b in pairwise(first))


def test_restore_before_save_says_so():
    session = _open(ToyWorld())
    session.do("restore")
    assert "nothing saved" in session.status().message


def test_an_ended_episode_waits_and_then_the_next_seed_begins():
    session = _open(ToyWorld(ends_at=3), seed=7)
    _advance(session, 3)
    assert session.status().phase == "ended"
    assert session.status().ending == "the episode ended"
    at, job = session.upcoming()
    assert job == "reset"
    session.do("pause")
    assert session.upcoming()[0] == math.inf
    session.do("pause")
    assert session.upcoming()[0] > at
    session.do("reset")
    status = session.status()
    assert (status.seed, status.steps, status.phase) == (8, 0, "playing")
    assert RESTART_AFTER > 0


def test_the_time_limit_of_the_world_ends_the_episode():
    session = _open(ToyWorld(max_episode_steps=2))
    _advance(session, 2)
    assert session.status().ending == "time is up"


def test_changed_keys_let_the_next_step_begin_early():
    session = _open(ToyWorld())
    _advance(session, 1)
    calm, _ = session.upcoming()
    session.held.press("left", 0.0)
    early, job = session.upcoming()
    assert job == "advance"
    assert early == pytest.approx(calm - 1 / 17.5)
    session.do("advance")
    assert session.upcoming()[0] > early  # now the held key is nothing new


def test_speed_changes_in_steps():
    session = _open(ToyWorld())
    session.do("faster")
    assert session.status().speed == 1.5
    for _ in range(20):
        session.do("slower")
    assert session.status().speed == 0.1


def test_a_clip_has_every_frame_at_the_games_rate(tmp_path):
    path = tmp_path / "clip.mp4"
    session = _open(ToyWorld(), record=path)
    shown = _advance(session, 6)
    session.close()
    frames, rate = _clip(path)
    assert len(frames) == 1 + 6 * 2
    assert rate == 35
    assert frames[0].shape == (256, 128 * 5, 3)
    small = frames[-1][2::4, 2::5].astype(float)
    assert np.abs(small - shown[-1][0]).mean() < 6  # the codec is lossy


def test_a_clip_that_cannot_be_written_does_not_end_the_game(tmp_path):
    (tmp_path / "file").write_text("")
    session = _open(ToyWorld(), record=tmp_path / "file" / "clip.mp4")
    assert "cannot write" in session.status().message
    _advance(session, 2)
    session.close()
    assert session.clips.failure


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full to stand for a full disk")
def test_a_full_disk_stops_the_clip_and_says_so(tmp_path):
    path = tmp_path / "clip.mp4"
    path.symlink_to("/dev/full")
    session = _open(ToyWorld(), record=path)
    _advance(session, 5)
    session.close()
    assert "No space left" in session.clips.failure
    assert session.status().steps == 5


def test_recording_nothing_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    session = _open(ToyWorld())
    session.do("record")
    session.do("record")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["../../elsewhere", "/tmp/elsewhere", "%Y", "a/b\0"])
def test_a_clip_lies_in_the_working_directory_whatever_the_world_is_called(tmp_path, monkeypatch, name):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    world = ToyWorld()
    world.spec = dataclasses.replace(world.spec, name=name)
    session = _open(world)
    session.do("record")
    _advance(session, 2)
    session.close()
    (clip,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert clip.parent == tmp_path / "here" and re.fullmatch(r"[a-zA-Z-]+-\d{8}-\d{6}\.mp4", clip.name)


# -- beside the real game


def _beside(**source):
    world, sources = ToyWorld(), []

    def make():
        sources.append(ToySource(**source))
        return RealGame(sources[-1], world.spec)

    return world, sources, make


def test_the_same_actions_go_to_both_and_both_start_from_the_same_frame():
    world, sources, make = _beside()
    session = _open(world, open_real=make, real=True, script=(("left",), ("right",)) * 3)
    real, dream = session.feed.take(math.inf).view
    np.testing.assert_array_equal(real, dream)
    views = _advance(session, 6)
    assert world.actions == [1, 2] * 3
    assert sources[0].actions == [0] * WARM_UP_STEPS + [1, 2] * 3
    assert all(len(view) == 2 for view in views)
    session.close()
    assert sources[0].closed


def test_restoring_brings_the_real_game_back_too():
    world, _, make = _beside()
    session = _open(world, open_real=make, real=True)
    session.held.press("left", 0.0)
    _advance(session, 3)
    session.do("save")
    first = _advance(session, 4)
    session.do("restore")
    second = _advance(session, 4)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a[0], b[0])
        np.testing.assert_array_equal(a[1], b[1])


def test_a_moment_saved_without_the_real_game_is_restored_without_it():
    world, sources, make = _beside()
    session = _open(world, open_real=make)
    _advance(session, 2)
    session.do("save")
    session.do("real")
    assert session.status().side_by_side
    session.do("restore")
    assert not session.status().side_by_side
    assert sources[0].closed
    assert "without the real game" in session.status().message
    assert len(session.feed.take(math.inf).view) == 1


def test_the_real_game_may_end_first():
    world, _, make = _beside(ends_at=WARM_UP_STEPS + 2)
    session = _open(world, open_real=make, real=True)
    views = _advance(session, 4)
    assert session.status().real_ended
    np.testing.assert_array_equal(views[2][0], views[3][0])


def test_without_the_simulator_the_game_goes_on_and_says_how_to_get_it():
    def missing():
        raise MissingDependency("the simulator is not installed; get it with `pip install it`")

    session = _open(ToyWorld(), open_real=missing)
    session.do("real")
    assert "pip install it" in session.status().message
    assert not session.status().side_by_side
    with pytest.raises(MissingDependency):
        _open(ToyWorld(), open_real=missing, real=True)


def test_a_world_without_a_real_game_says_so():
    session = _open(ToyWorld())
    session.do("real")
    assert "names no real game" in session.status().message


def test_switching_the_real_game_finishes_the_clip(tmp_path):
    world, _, make = _beside()
    session = _open(world, open_real=make, record=tmp_path / "clip.mp4")
    _advance(session, 2)
    session.do("real")
    _advance(session, 2)
    session.close()
    assert len(_clip(tmp_path / "clip.mp4")[0]) == 1 + 2 * 2


def test_a_source_of_another_size_is_refused():
    source = ToySource()
    with pytest.raises(InvalidInput, match="64x128"):
        RealGame(source, ToyWorld(height=32).spec)
    assert source.closed


@pytest.mark.simulator
def test_vizdoom_plays_beside_the_dream():
    pytest.importorskip("vizdoom")
    world = ToyWorld(name="doom-take-cover")
    session = _open(world, real=True, open_real=lambda: open_real("doom-take-cover", 2, world.spec))
    session.held.press("left", 0.0)
    views = _advance(session, 5)
    assert (views[0][0] != views[4][0]).any()
    session.close()
