import os
import signal
import subprocess
import sys
import time

import counter_env
import gymnasium as gym
import numpy as np
import pytest
from recordings import same_store

from worldsim.cli.main import main
from worldsim.cli.record import record
from worldsim.data.episodes import Episodes
from worldsim.envs.sources import make_source
from worldsim.errors import InvalidInput

COUNTER = f"gym:{counter_env.DISCRETE}"


def test_a_recording_stops_at_the_end_of_an_episode(tmp_path):
    record(COUNTER, steps=50, out=tmp_path / "s", height=16, width=8)
    episodes = Episodes.open(tmp_path / "s")
    assert 50 <= episodes.num_steps < 50 + 9
    done = episodes.read("terminated", 0, episodes.num_steps) | episodes.read("truncated", 0, episodes.num_steps)
    assert (np.flatnonzero(done) + 1).tolist() == episodes.ends.tolist()
    assert (episodes.meta.height, episodes.meta.width, episodes.meta.fps) == (16, 8, 12.0)
    assert episodes.meta.source == COUNTER and episodes.meta.source_parameters["env_id"] == counter_env.DISCRETE


def test_the_action_of_a_row_is_the_one_that_led_to_its_frame(tmp_path):
    record(COUNTER, steps=60, out=tmp_path / "s")
    episodes = Episodes.open(tmp_path / "s")
    for i in range(len(episodes)):
        episode = episodes.episode(i)
        assert episode["action"][0] == 1 and episode["reward"][0] == 0 and not episode["terminated"][0]
        totals = episode["rgb"][:, 0, 0, 0].astype(int)
        assert np.array_equal(np.diff(totals), episode["action"][1:])  # actions of the environment start at 1


def test_continuous_actions_are_recorded(tmp_path):
    record(f"gym:{counter_env.CONTINUOUS}", steps=30, out=tmp_path / "s", policy="random")
    episode = Episodes.open(tmp_path / "s").episode(0)
    assert episode["action"].dtype == np.float32 and episode["action"].shape[1:] == (2,)
    assert not episode["action"][0].any() and (np.abs(episode["action"]).max(0) <= [1, 2]).all()


def test_boxes_of_integers_are_recorded_as_they_were_played(tmp_path):
    record(f"gym:{counter_env.INTEGERS}", steps=30, out=tmp_path / "s")
    episode = Episodes.open(tmp_path / "s").episode(0)
    assert episode["action"].dtype == np.int64
    totals = episode["rgb"][:, 0, 0, 0].astype(int)
    assert np.array_equal(np.diff(totals), episode["action"][1:].sum(1))


def test_a_module_beside_the_user_is_found(tmp_path):
    (tmp_path / "mygame.py").write_text(
        "import gymnasium as gym\nfrom gymnasium.envs.classic_control import CartPoleEnv\n"
        "gym.register('MyGame-v0', entry_point=CartPoleEnv, max_episode_steps=5)\n"
    )
    (tmp_path / "tqdm.py").write_text("raise RuntimeError('this was not asked for')")
    # -P: the current folder is not there by itself, as in the installed command.
    command = [sys.executable, "-P", "-m", "worldsim.cli.main", "record", "gym:mygame:MyGame-v0", "--steps", "5"]
    done = subprocess.run([*command, "--out", "s"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "recorded 1 episodes" in done.stdout, done.stderr
    assert Episodes.open(tmp_path / "s").meta.source == "gym:mygame:MyGame-v0"


def test_an_environment_that_was_made_elsewhere_is_recorded(tmp_path):
    record(gym.make(counter_env.DISCRETE, render_mode="rgb_array"), steps=20, out=tmp_path / "a")
    record(COUNTER, steps=20, out=tmp_path / "b")
    assert same_store(tmp_path / "a", tmp_path / "b")


def test_keyword_arguments_are_given_to_the_environment_and_kept(tmp_path):
    given = '{"continuous": true}'
    record(COUNTER, steps=10, out=tmp_path / "s", env_kwargs=given)
    meta = Episodes.open(tmp_path / "s").meta
    assert meta.actions.low == (-1.0, 0.0) and meta.source_parameters["env_kwargs"] == {"continuous": True}
    again = make_source(meta.source, env_kwargs=meta.source_parameters["env_kwargs"])
    assert again.spec.actions == meta.actions
    with pytest.raises(InvalidInput, match="cannot resume"):
        record(COUNTER, steps=30, out=tmp_path / "s", resume=True)
    for text, message in (("{", "is no JSON"), ("[1]", "is no JSON object"), ('{"level": 1}', "cannot be made with")):
        with pytest.raises(InvalidInput, match=message):
            record(COUNTER, steps=10, out=tmp_path / "t", env_kwargs=text)
    assert not (tmp_path / "t").exists()


FRAME = np.zeros((24, 24, 3), np.uint8)


@pytest.mark.parametrize(
    ("frame", "shown"),
    [
        (FRAME.astype(float), r"float64 \(24, 24, 3\)"),
        (FRAME.astype(int), r"int64 \(24, 24, 3\)"),
        (FRAME.transpose(2, 0, 1), r"uint8 \(3, 24, 24\)"),
        (None, "None"),
        ([FRAME], "a list"),
    ],
)
@pytest.mark.filterwarnings("ignore")  # gymnasium's, of the same
def test_frames_of_another_kind_are_refused_and_nothing_is_left(frame, shown, tmp_path):
    env = gym.make(counter_env.DISCRETE, render_mode="rgb_array", frame=(frame,))
    with pytest.raises(InvalidInput, match=f"Counter-v0 renders {shown} instead of a frame; let"):
        record(env, steps=10, out=tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("reward", [float("nan"), float("inf"), 1e39, "one", np.zeros(2)])
@pytest.mark.filterwarnings("ignore")
def test_rewards_of_another_kind_are_refused_and_earlier_episodes_kept(reward, tmp_path):
    env = gym.make(counter_env.DISCRETE, render_mode="rgb_array")
    record(env, steps=10, out=tmp_path / "s")
    kept = Episodes.open(tmp_path / "s").num_steps
    env.unwrapped.reward = reward
    with pytest.raises(InvalidInput, match=r"Counter-v0 gave reward .* at step 2 of an episode; let"):
        record(env, steps=100, out=tmp_path / "s", resume=True)
    assert Episodes.open(tmp_path / "s").num_steps == kept
    env.unwrapped.reward = None
    record(env, steps=40, out=tmp_path / "s", resume=True)
    record(COUNTER, steps=40, out=tmp_path / "whole")
    assert same_store(tmp_path / "s", tmp_path / "whole")


@pytest.mark.filterwarnings("ignore")
def test_a_reward_in_an_array_is_taken_as_its_number(tmp_path):
    env = gym.make(counter_env.DISCRETE, render_mode="rgb_array", reward=np.array([1.5]))
    record(env, steps=10, out=tmp_path / "s")
    assert Episodes.open(tmp_path / "s").episode(0)["reward"][2] == 1.5


def test_episodes_follow_from_the_seed(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        record(COUNTER, steps=60, out=tmp_path / name, seed=seed)
    assert same_store(tmp_path / "a", tmp_path / "b")
    assert not same_store(tmp_path / "a", tmp_path / "c")


def test_a_resumed_recording_equals_an_uninterrupted_one(tmp_path):
    record(COUNTER, steps=90, out=tmp_path / "whole")
    for steps in (20, 50, 90):
        record(COUNTER, steps=steps, out=tmp_path / "parts", resume=True)
    assert same_store(tmp_path / "whole", tmp_path / "parts")


def test_a_recording_that_is_long_enough_is_left_alone(tmp_path, capsys):
    record(COUNTER, steps=30, out=tmp_path / "s")
    before = Episodes.open(tmp_path / "s").num_steps
    record(COUNTER, steps=10, out=tmp_path / "s", resume=True)
    assert Episodes.open(tmp_path / "s").num_steps == before


def test_bad_options_are_refused_before_anything_is_written(tmp_path):
    for wrong, message in (
        ({"steps": 0}, "--steps is 0"),
        ({"seed": -1}, "--seed is -1"),
        ({"policy": "clever"}, "unknown policy 'clever'"),
        ({"policy": "sweep"}, "needs the actions"),
        ({"policy": "wander"}, "depth"),
        ({"depth": True}, "does not take depth"),
        ({"between": True}, "at least 2 with frames between"),
        ({"height": 0}, "0 x 64 pixels"),
        ({"frame_skip": 0}, "frame_skip is 0"),
    ):
        with pytest.raises(InvalidInput, match=message):
            record(COUNTER, **({"steps": 10, "out": tmp_path / "s"} | wrong))
    assert not list(tmp_path.iterdir())


def test_the_command_reports_an_error_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["record", "doom-e1m1", "--steps", "10", "--out", str(tmp_path / "s")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("worldsim record: unknown source 'doom-e1m1'")


def run_until_rows(folder, command, rows):
    """Start a recording and return its process once that many rows are committed."""
    process = subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.PIPE)
    limit = time.monotonic() + 120
    while time.monotonic() < limit and process.poll() is None:
        time.sleep(0.2)
        if (folder / "zarr.json").exists() and Episodes.open(folder).num_steps >= rows:
            return process
    raise AssertionError(f"the recording got nowhere: {process.poll()}")


@pytest.mark.simulator
def test_ctrl_c_keeps_whole_episodes_and_a_kill_does_too(tmp_path):
    command = [sys.executable, "-m", "worldsim.cli.main", "record", "doom-take-cover", "--policy", "random"]
    options = ["--out", str(tmp_path / "s"), "--steps", "1000000"]
    process = run_until_rows(tmp_path / "s", command + options, 100)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the engine is in the same group
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and b"interrupted: kept" in out
    kept = Episodes.open(tmp_path / "s").num_steps
    process = run_until_rows(tmp_path / "s", [*command, *options, "--resume"], kept + 100)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    killed = Episodes.open(tmp_path / "s")
    steps = killed.num_steps + 1
    record("doom-take-cover", policy="random", steps=steps, out=tmp_path / "s", resume=True)
    record("doom-take-cover", policy="random", steps=steps, out=tmp_path / "whole")
    assert same_store(tmp_path / "s", tmp_path / "whole")


@pytest.mark.simulator
def test_a_doom_recording_shows_its_coverage(tmp_path, capsys):
    record("doom-take-cover", steps=300, out=tmp_path / "s", policy="sweep", between=True)
    out = capsys.readouterr().out
    assert "of 24 cells visited" in out and (tmp_path / "s" / "coverage.png").stat().st_size > 5000
    episodes = Episodes.open(tmp_path / "s")
    assert episodes.meta.fps == 17.5 and episodes.meta.variable_names == ("HEALTH", "POSITION_Y")
    assert {"between", "variables"} <= set(episodes.streams)


@pytest.mark.simulator
def test_what_only_the_policy_looks_at_is_not_stored(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    record("doom-my-way-home", steps=10, out=tmp_path / "s", policy="wander", frame_skip=20, pose=True)
    episodes = Episodes.open(tmp_path / "s")
    assert "pose" in episodes.streams and "depth" not in episodes.streams
    assert 'pip install "worldsim[train]"' in capsys.readouterr().out
