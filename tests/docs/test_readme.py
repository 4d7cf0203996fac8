import inspect
import re
import runpy
import sys
from dataclasses import fields

from pages import REPOSITORY, blocks, inline_code
from PIL import Image
from tiny import tiny_episodes, tiny_files

from worldsim.cli.main import COMMANDS
from worldsim.envs import WorldEnv, WorldVectorEnv
from worldsim.envs.play.keys import COMMANDS as WINDOW_COMMANDS
from worldsim.io.weights import write_world
from worldsim.registration import WORLDS
from worldsim.sampling.noise_shaping import NoiseShaping
from worldsim.sampling.sampler import SamplingConfig

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")


def test_every_command_is_there():
    named = set(re.findall(r"`worldsim ([a-z]+)", README))
    assert named == set(COMMANDS)


def test_it_takes_no_longer_than_the_first_hour():
    assert README.count("\n") <= 250


def test_a_machine_without_a_gpu_is_thought_of_before_anything_is_installed():
    commands = [command for block in blocks(REPOSITORY / "README.md", "sh") for command in block.commands()]
    assert commands[0] == "export PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"


def test_options_of_environments_exist():
    for keyword in re.findall(r"^\| `(\w+)=", README, re.MULTILINE):
        for environment in (WorldEnv, WorldVectorEnv):
            assert keyword in inspect.signature(environment).parameters


def test_the_concepts_have_every_field_of_sampling():
    named = {field.name for config in (SamplingConfig, NoiseShaping) for field in fields(config)}
    assert named <= set(inline_code(REPOSITORY / "docs" / "concepts.md"))


def test_the_key_table_is_the_windows():
    for command in WINDOW_COMMANDS:
        assert f"| {', '.join(command.keys)} | {command.text} |" in README


def test_every_registered_id_is_there():
    assert all(f'"worldsim:{env_id}"' in README for env_id in WORLDS)


def test_continuous_integration_runs_the_test_command():
    (command,) = [line for line in README.splitlines() if line.endswith("&& make test")]
    assert f"test_command='{command}'" in (REPOSITORY / ".ci" / "run").read_text()


def test_the_frames_are_made(tmp_path, monkeypatch, capsys):
    write_world(tmp_path / "world", tiny_files())
    tiny_episodes(tmp_path / "store", lengths=(12, 30))
    arguments = ["--start", "6", "--seconds", "0.5", "--ahead", "2", "8", "--out", str(tmp_path / "docs")]
    command = ["readme_figures.py", str(tmp_path / "store"), "--world", str(tmp_path / "world"), *arguments]
    monkeypatch.setattr(sys, "argv", command)
    runpy.run_path(str(REPOSITORY / "docs" / "tools" / "readme_figures.py"), run_name="__main__")
    assert "episode 1 of 2" in capsys.readouterr().out
    assert Image.open(tmp_path / "docs" / "tiny.png").width > 2 * 32
    clip = Image.open(tmp_path / "docs" / "tiny.webp")
    assert 2 < clip.n_frames <= 9 * 2  # equal frames that follow on each other are stored once
