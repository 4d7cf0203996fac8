import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice, pairwise

import av
import numpy as np
import pytest
from PIL import Image
from tiny import ACTIONS, tiny_files

from worldsim.cli import info as doctor
from worldsim.cli.main import COMMANDS, main
from worldsim.cli.rollout import choose_actions, idle_action
from worldsim.envs import sources
from worldsim.envs.sources.registry import Package, SourceEntry
from worldsim.errors import InvalidInput
from worldsim.io.weights import write_world
from worldsim.spec import ActionSpec

BOX = ActionSpec(low=(-1.0, 0.5), high=(1.0, 2.0))


@pytest.fixture
def world(tmp_path):
    """The folder of a tiny world that truncates episodes at ten steps."""
    files = tiny_files(max_episode_steps=10)
    write_world(tmp_path / "tiny-world", files)
    return tmp_path / "tiny-world"


def fails(capsys, *args):
    """The one line on stderr with which a command fails."""
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    assert stopped.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("worldsim")]
    assert len(lines) == 1
    return lines[0]


def run_rollout(world, out, *args):
    main(["rollout", str(world), "--out", str(out), *map(str, args)])


# -- main ------------------------------------------------------------


def test_without_a_command_the_commands_are_listed(capsys):
    main([])
    listed = capsys.readouterr().out
    assert all(f"  {name}" in listed for name in COMMANDS)


def test_an_unknown_command_names_the_known_ones(capsys):
    assert "unknown command 'dream'; the commands are make, record" in fails(capsys, "dream")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_a_command_in_order_and_shows_in_its_exit_code(number, code, monkeypatch, capsys):
    left = []

    def wait() -> None:
        try:
            os.kill(os.getpid(), number)
            time.sleep(60)
        finally:
            left.append(True)  # what was begun, such as a game's process, is ended

    monkeypatch.setattr("worldsim.cli.info.wait", wait, raising=False)
    monkeypatch.setitem(COMMANDS, "wait", ("worldsim.cli.info", "wait", ""))
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as stopped:
        main(["wait"])
    assert stopped.value.code == code and left == [True]
    assert capsys.readouterr().err == "worldsim wait: interrupted\n"
    assert signal.getsignal(number) == before


def test_a_worldsim_error_is_one_line_without_a_traceback():
    command = [sys.executable, "-m", "worldsim.cli.main", "worlds", "no-such-world"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "no world 'no-such-world'" in done.stderr


# -- rollout ------------------------------------------------------------


def test_rollout_writes_every_frame_at_the_games_pace(world, tmp_path, capsys):
    out, report = tmp_path / "new" / "clip.mp4", tmp_path / "rollout.json"
    run_rollout(world, out, "--steps", 25, "--scale", 2, "--json", report)
    numbers = json.loads(report.read_text())
    ends = numbers["terminated"] + numbers["truncated"]
    assert ends > 0
    assert numbers["steps"] == 25
    assert numbers["files"]["frames"] == 25 * 2 + 1 + ends  # two a step, one a reset
    assert numbers["frames_per_s"] == pytest.approx(2 * numbers["steps_per_s"], rel=1e-3)
    assert numbers["times_real_time"] == pytest.approx(numbers["steps_per_s"] / 17.5, rel=1e-2)
    with av.open(str(out)) as container:
        stream = container.streams.video[0]
        assert (stream.width, stream.height, float(stream.average_rate)) == (64, 32, 35.0)
        assert sum(1 for _ in container.decode(stream)) == numbers["files"]["frames"]
    assert Image.open(out.with_suffix(".png")).width == 4 * (64 + 2)
    printed = capsys.readouterr().out
    assert "steps/s" in printed and "times real time" in printed and str(out) in printed


def test_rollout_shows_pixels_in_their_shape(tmp_path):
    files = tiny_files()
    object.__setattr__(files.config.source, "pixel_aspect", 4 / 3)
    write_world(tmp_path / "wide", files)
    run_rollout(tmp_path / "wide", tmp_path / "clip.mp4", "--steps", 2)
    with av.open(str(tmp_path / "clip.mp4")) as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (32 * 4, 16 * 3)


def test_rollout_repeats_itself_under_one_seed(world, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_rollout(world, tmp_path / f"{name}.mp4", "--steps", 6, "--seed", seed)
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_rollout_of_one_step_works(world, tmp_path):
    run_rollout(world, tmp_path / "clip.mp4", "--steps", 1)
    assert (tmp_path / "clip.png").exists()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--out", "clip.avi"], "does not end in .mp4"),
        (["--steps", "0"], "--steps is 0; give at least 1"),
        (["--scale", "0"], "--scale 0 is not from 1 to 64"),
        (["--seed", "-1"], "seed -1 is no integer"),
        (["--device", "abacus"], "device 'abacus' is unknown"),
        (["--json", "no/../file/report.json"], "report.json"),
    ],
)
def test_rollout_refuses(world, tmp_path, capsys, monkeypatch, args, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    assert words in fails(capsys, "rollout", world, *args)
    assert not list(tmp_path.glob("*clip*"))


def test_rollout_names_a_path_that_cannot_be_written(world, tmp_path, capsys):
    (tmp_path / "file").write_text("not a folder")
    line = fails(capsys, "rollout", world, "--out", tmp_path / "file" / "clip.mp4")
    assert "cannot write" in line and "clip.mp4" in line and "give a path that can be written" in line


def test_rollout_of_an_unknown_world_leaves_an_older_clip_alone(tmp_path, capsys):
    (tmp_path / "clip.mp4").write_bytes(b"older")
    line = fails(capsys, "rollout", "no-such-world", "--out", tmp_path / "clip.mp4")
    assert "no world 'no-such-world'" in line
    assert (tmp_path / "clip.mp4").read_bytes() == b"older"


def test_an_interrupted_rollout_leaves_an_older_clip_alone(world, tmp_path, monkeypatch):
    def interrupt(env, action):
        raise KeyboardInterrupt

    monkeypatch.setattr("worldsim.envs.world_env.WorldEnv.step", interrupt)
    (tmp_path / "clip.mp4").write_bytes(b"older")
    with pytest.raises(SystemExit) as stopped:
        run_rollout(world, tmp_path / "clip.mp4")
    assert stopped.value.code == 130
    assert (tmp_path / "clip.mp4").read_bytes() == b"older"
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["clip.mp4"]


def test_the_persistent_policy_holds_its_actions():
    actions = list(islice(choose_actions(ACTIONS, "persistent", 0), 3000))
    changes = sum(a != b for a, b in pairwise(actions))
    assert 100 < changes < 400
    assert set(Counter(actions)) == {0, 1, 2}


def test_the_random_policy_does_not():
    actions = list(islice(choose_actions(ACTIONS, "random", 0), 300))
    assert sum(a != b for a, b in pairwise(actions)) > 100


def test_idle_actions_do_nothing():
    assert set(islice(choose_actions(ACTIONS, "noop", 0), 5)) == {0}
    assert idle_action(ActionSpec(n=2, meanings=("UP", "NOOP"))) == 1
    np.testing.assert_array_equal(idle_action(BOX), np.array([0.0, 0.5], np.float32))


def test_continuous_actions_lie_in_their_box():
    for action in islice(choose_actions(BOX, "persistent", 0), 50):
        assert BOX.to_space().contains(action)


def test_rollout_on_a_full_disk_is_one_line_and_leaves_nothing(world, tmp_path, capsys, full_disk):
    out = tmp_path / "out"
    for size, file in ((2000, "clip.mp4"), (0, "clip.mp4")):
        with full_disk(size):
            line = fails(capsys, "rollout", world, "--out", out / "clip.mp4", "--steps", 60)
        assert "cannot write" in line and file in line
        assert list(out.iterdir()) == []


def test_rollout_keeps_an_older_clip_where_the_sheet_does_not_fit(world, tmp_path, capsys, monkeypatch):
    for name in ("clip.mp4", "clip.png"):
        (tmp_path / name).write_bytes(b"older")

    def full(*_):
        raise InvalidInput("cannot write the sheet")

    monkeypatch.setattr("worldsim.cli.rollout.save_image", full)
    assert "the sheet" in fails(capsys, "rollout", world, "--out", tmp_path / "clip.mp4", "--steps", 3)
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["clip.mp4", "clip.png"]
    assert (tmp_path / "clip.mp4").read_bytes() == b"older"


# -- worlds ------------------------------------------------------------


@pytest.fixture
def shipped(world, monkeypatch):
    """Ship the tiny world, and nothing else."""
    (world / "README.md").write_text("# tiny\n\n![frame](tiny.png)\n\nA room with a ball.\nMore.\n")
    monkeypatch.setattr("worldsim.io.folders.SHIPPED", world.parent)
    return world


def test_worlds_lists_what_ships(shipped, tmp_path, capsys):
    main(["worlds", "--json", str(tmp_path / "worlds.json")])
    printed = capsys.readouterr().out
    for words in ("tiny", "MB", "32x16", "35 a second", "NOOP, LEFT, RIGHT", "A room with a ball."):
        assert words in printed
    (listed,) = json.loads((tmp_path / "worlds.json").read_text())["worlds"]
    assert (listed["height"], listed["width"], listed["actions"]) == (16, 32, ["NOOP", "LEFT", "RIGHT"])


def test_worlds_prints_a_card(shipped, capsys):
    main(["worlds", str(shipped)])
    assert capsys.readouterr().out.endswith("A room with a ball.\nMore.\n")


def test_worlds_says_when_none_ships(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("worldsim.io.folders.SHIPPED", tmp_path)
    main(["worlds"])
    assert "no world ships" in capsys.readouterr().out


def test_worlds_names_a_damaged_config(shipped, capsys):
    (shipped / "config.json").write_text("{")
    assert "config.json cannot be read" in fails(capsys, "worlds")


def test_what_a_file_says_does_not_reach_the_terminal_as_commands(shipped, capsys):
    (shipped / "README.md").write_text("# tiny\n\n\x1b]0;title\x07A room\x9b2J.\n\tMore.\n", encoding="utf-8")
    for args in ([], [str(shipped)]):
        main(["worlds", *args])
        printed = capsys.readouterr().out
        assert "\\x1b]0;title\\x07A room\\x9b2J." in printed
        assert not {"\x1b", "\x07", "\x9b"} & set(printed)
    assert printed.endswith("\n\tMore.\n")
    (shipped / "config.json").write_text(json.dumps({"format_version": "\x1b[2J\nworldsim: all is well"}))
    assert r"\x1b[2J\nworldsim: all is well" in fails(capsys, "worlds")


def run_elsewhere(*words, **environment):
    """Run a Python command on a machine with another locale."""
    unicode_off = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1"}
    command = [sys.executable, *map(str, words)]
    return subprocess.run(command, capture_output=True, env={**os.environ, **unicode_off, **environment}, check=False)


def test_a_locale_that_is_not_utf_8_changes_nothing_but_characters_that_it_lacks(world):
    (world / "README.md").write_text("# tiny\n\nA room… with “ä” ball…\n", encoding="utf-8")
    done = run_elsewhere("-m", "worldsim.cli.main", "worlds", world)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode("latin-1").endswith("A room\\u2026 with \\u201cä\\u201d ball\\u2026\n")
    done = run_elsewhere("-m", "worldsim.cli.main", "worlds", "…")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


def test_no_file_of_text_is_opened_without_an_encoding(world, tmp_path):
    """What the linter cannot see: files that others open for us."""
    code = """
import sys
from pathlib import Path
from worldsim.cli.main import main
from worldsim.envs import WorldEnv
from worldsim.bench.traces import Trace
env = WorldEnv(sys.argv[1])
env.reset(seed=0)
env.step(0)
env.world.save_pretrained("copy")
trace = Trace("tiny", 1.0)
trace.begin(0)
trace.save(Path("trace.json"))
Trace.load(Path("trace.json"))
main(["worlds", "copy", "--json", "world.json"])
main(["info"])
"""
    words = ("-X", "warn_default_encoding", "-W", "error::EncodingWarning", "-c", code, world)
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr


# -- info ------------------------------------------------------------


def test_info_reports_versions_and_optional_parts(tmp_path, capsys):
    main(["info", "--json", str(tmp_path / "info.json")])
    printed, report = capsys.readouterr().out, json.loads((tmp_path / "info.json").read_text())
    assert report["required"]["torch"] and report["required"]["torch"] in printed
    assert report["cores"] >= 1
    assert {part["state"] for part in report["optional"]} <= {"ok", "missing", "broken"}
    for part in report["optional"]:
        assert part["name"] in printed
        assert part["state"] == "ok" or part["fix"] in printed


def test_info_names_what_registered_simulators_need_once(monkeypatch):
    package = Package("arcade", "pip install arcade", "arcade")
    monkeypatch.setattr(sources, "SOURCES", {n: SourceEntry("m:C", package) for n in "ab"} | {"c": SourceEntry("m:C")})
    assert doctor.simulators() == [doctor.Part("arcade", "recording a and b", "pip install arcade", "arcade")]


def test_info_says_how_to_get_a_missing_part():
    part = doctor.Part("no-such-distribution", "nothing", "pip install it")
    finding = doctor.examine(part)
    assert (finding.state, finding.fix) == ("missing", "pip install it")


def test_info_survives_a_part_that_does_not_load(tmp_path, monkeypatch):
    (tmp_path / "broken_part.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')"
    )
    (tmp_path / "crashing_part.py").write_text("import os; os.abort()")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    broken = doctor.examine(doctor.Part("torch", "a name that is installed", "", "broken_part"))
    assert broken.state == "broken"
    assert "libGL.so.1" in broken.detail
    assert broken.fix == "sudo apt-get install libgl1"
    crashing = doctor.examine(doctor.Part("torch", "a name that is installed", "", "crashing_part"))
    assert crashing.state == "broken"
    assert crashing.fix == "pip install --force-reinstall --no-deps torch"


def test_info_warns_of_pygame_beside_pygame_ce(monkeypatch):
    monkeypatch.setattr(doctor, "version", {"pygame": "2.6.1", "pygame-ce": "2.5.8"}.get)
    (warning,) = doctor.conflicts()
    assert "beside pygame-ce" in warning and "pip uninstall -y pygame pygame-ce" in warning
    monkeypatch.setattr(doctor, "version", {"pygame-ce": "2.5.8"}.get)
    assert doctor.conflicts() == []


def test_info_finds_no_display_without_one(monkeypatch):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER", "SDL_VIDEO_DRIVER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(doctor, "version", lambda distribution: None)  # also where pygame is missing
    finding = doctor.examine_display()
    assert finding.state == "missing" and "xvfb-run" in finding.fix


def test_a_reader_that_has_seen_enough_ends_a_command_without_a_traceback():
    command = f"{sys.executable} -m worldsim.cli.main info | head -n 1"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120)
    assert found.stdout.startswith("worldsim ") and "Traceback" not in found.stderr
