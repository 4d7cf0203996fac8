import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import counter_env
import gymnasium as gym
import numpy as np
import pytest

from worldsim.envs.sources import Source, make_source
from worldsim.errors import InvalidAction, InvalidInput, InvalidState, MissingDependency, WorldsimError

TAKE_COVER, MY_WAY_HOME = "doom-take-cover", "doom-my-way-home"


@pytest.fixture
def made():
    """`make_source` whose sources are closed after the test."""
    sources = []

    def make(name, **options):
        sources.append(make_source(name, **options))
        return sources[-1]

    yield make
    for source in sources:
        source.close()


def play(source, seed, actions):
    """Rows of an episode, the reset's first, up to its end or that of the actions."""
    rows = [source.reset(seed)]
    for action in actions:
        rows.append(source.step(action))
        if rows[-1].done:
            break
    return rows


def same(rows, others):
    return len(rows) == len(others) and all(
        np.array_equal(a.rgb, b.rgb)
        and (a.reward, a.terminated, a.truncated) == (b.reward, b.terminated, b.truncated)
        and all(np.array_equal(a.extras[k], b.extras[k], equal_nan=True) for k in a.extras)
        for a, b in zip(rows, others, strict=True)
    )


def test_unknown_sources_and_options_are_named():
    with pytest.raises(InvalidInput, match=r"'doom-e1m1'.*car-racing, doom-take-cover, doom-my-way-home, gym:ID"):
        make_source("doom-e1m1")
    with pytest.raises(InvalidInput, match="does not take height"):
        make_source(TAKE_COVER, height=64)
    with pytest.raises(InvalidInput, match="does not take depth"):
        make_source("gym:CartPole-v1", depth=True)
    with pytest.raises(InvalidInput, match="gymnasium cannot make 'NoSuchGame-v0'"):
        make_source("gym:NoSuchGame-v0")


def test_a_gym_source_shows_the_rendered_frame_at_the_wanted_size(made):
    source = made(f"gym:{counter_env.DISCRETE}", height=6, width=12)
    assert isinstance(source, Source)
    assert (source.spec.height, source.spec.width, source.spec.fps) == (6, 12, 12.0)
    assert source.spec.max_episode_steps == 8 and (source.spec.actions.n, source.spec.actions.start) == (3, 1)
    rows = play(source, 0, [3, 3])
    assert rows[0].rgb.shape == (6, 12, 3) and rows[0].rgb.dtype == np.uint8
    assert [row.rgb[0, 0, 0] for row in rows] == [0, 3, 6]
    assert [row.reward for row in rows] == [0.0, 3.0, 6.0]
    assert np.array_equal(source.render(), rows[-1].rgb)


def test_frames_are_the_observation_where_that_is_an_image(made):
    seen, rendered = made(f"gym:{counter_env.IMAGES}", height=24, width=24), made(f"gym:{counter_env.DISCRETE}")
    assert seen.spec.parameters["frames"] == "observation" and "frames" not in rendered.spec.parameters
    row = seen.reset(0)
    as_rendered = made(f"gym:{counter_env.IMAGES}", height=24, width=24, frames="render")
    assert np.array_equal(row.rgb, 255 - as_rendered.reset(0).rgb) and np.array_equal(seen.render(), row.rgb)
    assert "frames" not in as_rendered.spec.parameters  # as in stores of before
    with pytest.raises(InvalidInput, match="no uint8 images"):
        make_source(f"gym:{counter_env.DISCRETE}", frames="observation")
    with pytest.raises(InvalidInput, match="frames is 'screen'"):
        make_source(f"gym:{counter_env.IMAGES}", frames="screen")


@pytest.mark.parametrize("skip", [2, 3])
def test_a_gym_step_may_hold_its_action_and_show_the_frames_inside(made, skip):
    fine, coarse = (
        made(f"gym:{counter_env.DISCRETE}"),
        made(f"gym:{counter_env.DISCRETE}", frame_skip=skip, between=True),
    )
    assert coarse.spec.fps == fine.spec.fps / skip and coarse.spec.max_episode_steps == -(-8 // skip)
    rows, held = [fine.reset(2)], [coarse.reset(2)]
    while not rows[-1].done:
        rows.append(fine.step(2))
    while not held[-1].done:
        held.append(coarse.step(2))
    total = sum(row.reward for row in rows)
    assert sum(row.reward for row in held) == total and held[-1].terminated == rows[-1].terminated
    ticks = [frame for row in held[1:] for frame in (*row.extras["between"], row.rgb)]
    assert all(np.array_equal(a, b.rgb) for a, b in zip(ticks, rows[1:], strict=False))
    assert np.array_equal(ticks[-1], rows[-1].rgb)


def test_a_gym_source_repeats_an_episode_and_knows_how_it_ends(made):
    source = made(f"gym:{counter_env.DISCRETE}")
    ends = []
    for seed in range(6):
        rows = play(source, seed, [1] * 20)
        assert same(rows, play(source, seed, [1] * 20))
        assert rows[-1].terminated != rows[-1].truncated or len(rows) == 9
        ends.append((rows[-1].terminated, rows[-1].truncated))
        with pytest.raises(InvalidState, match="reset"):
            source.step(1)
    assert (True, False) in ends and (False, True) in ends


def test_a_gym_source_takes_boxes_of_floats(made):
    source = made(f"gym:{counter_env.CONTINUOUS}")
    assert source.spec.actions.low == (-1.0, 0.0) and source.spec.actions.high == (1.0, 2.0)
    assert play(source, 0, [np.array([0.5, 2.0])])[-1].reward == 2.5
    with pytest.raises(InvalidAction, match="outside"):
        source.step(np.array([0.5, 2.5]))
    with pytest.raises(InvalidAction, match="outside"):
        source.step(np.array([np.nan, 0]))


def test_a_gym_source_takes_boxes_of_integers_as_they_are(made):
    source = made(f"gym:{counter_env.INTEGERS}")
    space = source.spec.actions.to_space()
    assert space == gym.spaces.Box(np.array([0, 2], np.int64), np.array([3, 9], np.int64), dtype=np.int64)
    assert play(source, 0, [np.array([1, 9])])[-1].reward == 10
    with pytest.raises(InvalidAction, match="give integers"):
        source.step(np.array([1.7, 9.0]))
    drawn = source.spec.actions.draw(np.random.default_rng(0), 500)
    assert drawn.dtype == np.int64 and [*drawn.min(0), *drawn.max(0)] == [0, 2, 3, 9]


def test_an_environment_object_is_a_source_that_its_owner_closes():
    env = gym.make(counter_env.DISCRETE, render_mode="rgb_array")
    source, named = make_source(env, height=6, width=6), make_source(f"gym:{counter_env.DISCRETE}", height=6, width=6)
    assert source.spec == named.spec
    assert same(play(source, 3, [1, 2, 3]), play(named, 3, [1, 2, 3]))
    source.close()
    env.reset(seed=0)
    other = gym.make(counter_env.DISCRETE, render_mode="rgb_array", continuous=True)
    assert make_source(other).spec.parameters["env_kwargs"] == {"continuous": True}
    assert make_source(counter_env.CounterEnv("rgb_array")).spec.name == "env:counter_env.CounterEnv"


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (lambda: gym.make(counter_env.DISCRETE), "render mode None"),
        (lambda: 3, "a int is no source"),
    ],
)
def test_an_object_that_is_no_source_is_refused(env, message):
    with pytest.raises(InvalidInput, match=message):
        make_source(env())


def test_keyword_arguments_reach_the_environment(made):
    source = made(f"gym:{counter_env.DISCRETE}", env_kwargs={"continuous": True})
    assert source.spec.actions.low == (-1.0, 0.0)
    assert source.spec.parameters["env_kwargs"] == {"continuous": True}
    with pytest.raises(InvalidInput, match="cannot be made with env kwargs"):
        make_source(f"gym:{counter_env.DISCRETE}", env_kwargs={"level": 3})


class Named(counter_env.CounterEnv):
    """Names its three actions."""

    def get_action_meanings(self):
        return ["NOOP", "LEFT", "RIGHT"]


class Fewer(gym.ActionWrapper):
    """Offers two of the actions."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = gym.spaces.Discrete(2)

    def action(self, action):
        return (1, 3)[action]


class Swapped(gym.ActionWrapper):
    """The same space, with the actions in another order."""

    def action(self, action):
        return 4 - action


class Renamed(Swapped):
    """As `Swapped`, and knows the names."""

    def get_action_meanings(self):
        return ["RIGHT", "LEFT", "NOOP"]


@pytest.mark.parametrize(
    ("wrap", "meanings"),
    [
        (lambda env: env, ("NOOP", "LEFT", "RIGHT")),
        (lambda env: gym.wrappers.TimeLimit(env, 9), ("NOOP", "LEFT", "RIGHT")),
        (Fewer, ()),
        (Swapped, ()),
        (Renamed, ("RIGHT", "LEFT", "NOOP")),
        (lambda env: gym.wrappers.TimeLimit(Renamed(env), 9), ("RIGHT", "LEFT", "NOOP")),
    ],
)
def test_actions_have_names_only_where_these_are_of_the_actions_that_are_taken(wrap, meanings):
    actions = make_source(wrap(Named("rgb_array"))).spec.actions
    assert actions.meanings == meanings
    assert bool(actions.keys) == bool(meanings)


@pytest.mark.parametrize("action", [4, 0, 0.5, "left", None, np.array([1])])
def test_a_discrete_action_that_is_none_is_refused(made, action):
    source = made(f"gym:{counter_env.DISCRETE}")
    source.reset(0)
    with pytest.raises(InvalidAction, match="1 to 3"):
        source.step(action)


def test_stepping_or_showing_before_a_reset_is_refused(made):
    source = made(f"gym:{counter_env.DISCRETE}")
    with pytest.raises(InvalidState, match="reset"):
        source.step(1)
    with pytest.raises(InvalidState, match="reset"):
        source.render()


def test_a_simulator_that_is_not_installed_is_named(monkeypatch):
    for module, name, fix in (
        ("vizdoom", TAKE_COVER, r"worldsim\[doom\]"),
        ("ale_py", "gym:ALE/Pong-v5", "ale-py"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingDependency, match=fix):
            make_source(name)


@pytest.mark.simulator
def test_an_atari_game_is_a_source(made):
    source = made("gym:ALE/Pong-v5", height=80, width=64)
    assert source.spec.fps == 15.0  # 60 frames a second, 4 a step
    assert source.spec.actions.meanings[:4] == ("NOOP", "FIRE", "RIGHT", "LEFT")
    assert source.spec.actions.keys[4] == ("right", "space")
    actions = np.random.default_rng(0).integers(6, size=60).tolist()
    rows = play(source, 3, actions)
    assert rows[-1].rgb.shape == (80, 64, 3) and not np.array_equal(rows[20].rgb, rows[60].rgb)
    assert same(rows, play(source, 3, actions))


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
