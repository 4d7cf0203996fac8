import sys
import types

import pygame
import pytest
from toy_game import ToyWorld

from worldsim.cli.main import main


@pytest.fixture
def toy(monkeypatch):
    """Every world's name means one toy world."""
    world = ToyWorld(steps_per_second=100)
    source = types.SimpleNamespace(name="gym:NoSuchGame-v0", frame_skip=1, parameters={})
    world.config = types.SimpleNamespace(source=source, audio=None)
    module = types.ModuleType("worldsim.world")
    module.World = types.SimpleNamespace(from_pretrained=lambda name, **_: world)
    monkeypatch.setitem(sys.modules, "worldsim.world", module)
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    return world


def _error(capsys, *words):
    with pytest.raises(SystemExit) as caught:
        main(["play", *words])
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_a_scripted_demo_plays_records_and_ends(toy, tmp_path, capsys):
    clip = tmp_path / "clip.mp4"
    toy.at_step[6] = lambda: pygame.event.post(pygame.event.Event(pygame.QUIT))
    main(["play", "toy", "--script", "left*3 right", "--record", str(clip), "--no-speculate", "--max-seconds", "200"])
    assert toy.actions[:5] == [1, 1, 1, 2, 0]
    assert clip.stat().st_size > 0
    assert f"wrote {clip}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--scale", "0"], "--scale 0"),
        (["--speed", "0"], "--speed 0"),
        (["--speed", "nan"], "--speed nan"),
        (["--seed", "-1"], "--seed -1"),
        (["--max-seconds", "-1"], "--max-seconds -1"),
        (["--record", "clip.avi"], "clip.avi"),
        (["--script", "jump*3"], "jump"),
        (["--real"], "NoSuchGame"),
    ],
)
def test_bad_options_are_one_line(toy, capsys, words, message):
    assert message in _error(capsys, "toy", *words)


def test_a_module_that_a_worlds_files_name_runs_only_where_it_is_trusted(toy, tmp_path, monkeypatch, capsys):
    (tmp_path / "named_game.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    toy.config.source.name = "gym:named_game:Game-v0"
    error = _error(capsys, "toy", "--real")
    assert "Python module 'named_game'" in error and "--trust-source" in error
    assert "named_game" not in sys.modules
    assert "cannot make 'named_game:Game-v0'" in _error(capsys, "toy", "--real", "--trust-source")
    assert sys.modules.pop("named_game")


def test_a_clip_that_failed_is_an_error(toy, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    error = _error(capsys, "toy", "--record", str(tmp_path / "file" / "clip.mp4"), "--max-seconds", "0.2")
    assert "cannot write" in error


def test_without_pygame_the_error_says_how_to_get_it(toy, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pygame", None)
    assert "worldsim[play]" in _error(capsys, "toy")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere there is always a display")
def test_without_a_display_the_error_says_what_to_do(toy, monkeypatch, capsys):
    for name in ("SDL_VIDEODRIVER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    error = _error(capsys, "toy")
    assert "xvfb-run" in error
    assert "worldsim rollout" in error
