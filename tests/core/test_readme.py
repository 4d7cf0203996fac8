import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
from PIL import Image
from tiny import tiny_episodes, tiny_files

from worldsim.cli import train as train_commands
from worldsim.cli.main import COMMANDS, main
from worldsim.envs.play.keys import COMMANDS as WINDOW_COMMANDS
from worldsim.registration import WORLDS
from worldsim.weights import write_world

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()
FILES = [link or name for link, name in re.findall(r"\]\((docs/[^)]+)\)|`(examples/\w+\.py)`", README)]


def test_every_command_is_there():
    named = set(re.findall(r"`worldsim ([a-z]+)", README))
    assert named == set(COMMANDS)


TRAINING = [line for line in README.splitlines() if line.startswith("worldsim train ")]


@pytest.mark.parametrize("line", TRAINING)
def test_the_commands_that_train_are_understood(line, monkeypatch):
    understood = []
    for name in ("Tokenizer", "Dynamics", "Burst", "Calibrate", "Export", "Unpack"):
        monkeypatch.setattr(getattr(train_commands, f"{name}Command"), "run", lambda self: understood.append(self))
    main(shlex.split(line)[1:])
    (command,) = understood
    assert type(command).__name__.removesuffix("Command").lower() == line.split()[2]


def test_the_key_table_is_the_windows():
    for command in WINDOW_COMMANDS:
        assert f"| {', '.join(command.keys)} | {command.text} |" in README


def test_every_registered_id_is_there():
    assert all(f'"worldsim:{env_id}"' in README for env_id in WORLDS)


def test_continuous_integration_runs_the_test_command():
    (command,) = [line for line in README.splitlines() if line.endswith("&& make test")]
    assert f"test_command='{command}'" in (REPOSITORY / ".ci" / "run").read_text()


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_named_exist(name):
    assert (REPOSITORY / name).exists()


def test_the_pictures_are_made(tmp_path, monkeypatch, capsys):
    write_world(tmp_path / "world", tiny_files())
    tiny_episodes(tmp_path / "store", lengths=(12, 30))
    arguments = ["--start", "6", "--seconds", "0.5", "--ahead", "2", "8", "--out", str(tmp_path / "docs")]
    command = ["readme_pictures.py", str(tmp_path / "store"), "--world", str(tmp_path / "world"), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(REPOSITORY / "examples" / "readme_pictures.py"), run_name="__main__")
    assert "episode 1 of 2" in capsys.readouterr().out
    assert Image.open(tmp_path / "docs" / "tiny.png").width > 2 * 32
    clip = Image.open(tmp_path / "docs" / "tiny.webp")
    assert 2 < clip.n_frames <= 9 * 2  # equal pictures that follow on each other are stored once
