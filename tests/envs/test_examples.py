import runpy
import sys
from pathlib import Path

import pytest
from places import make_world, world_of

from worldsim.data.episodes import Episodes

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(monkeypatch, name, *args):
    monkeypatch.setattr(sys, "argv", [name, *map(str, args)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_an_own_model_becomes_an_environment(monkeypatch, capsys):
    run(monkeypatch, "own_model.py")
    assert "(8, 64, 64, 3)" in capsys.readouterr().out


def test_forks_of_a_world_are_drawn(monkeypatch, capsys, by_name, tmp_path):
    run(monkeypatch, "fork_a_world.py", "--steps", 10, "--out", tmp_path / "futures.png")
    assert "always RIGHT: 10 steps" in capsys.readouterr().out
    assert (tmp_path / "futures.png").stat().st_size > 1000


def test_ppo_trains_inside_a_world(monkeypatch, capsys, by_name):
    pytest.importorskip("stable_baselines3")
    run(monkeypatch, "ppo_quick.py", "--steps", 100, "--num-envs", 2, "--max-episode-steps", 20)
    assert "after 128 steps" in capsys.readouterr().out


def test_own_recordings_become_a_store(monkeypatch, capsys, tmp_path):
    run(monkeypatch, "own_recordings.py", tmp_path / "mine")
    assert "wrote 8 episodes, 488 rows" in capsys.readouterr().out
    assert Episodes.open(tmp_path / "mine").meta.actions.n == 2


def test_a_place_is_remembered(monkeypatch, capsys, tmp_path):
    world, out = tmp_path / "without-endings", tmp_path / "returned.png"
    world_of(make_world(tmp_path)[2]).save_pretrained(world)
    run(monkeypatch, "remember_a_place.py", world, "--steps", 3, "--turns", "LEFT", "RIGHT", "--out", out)
    assert "dB PSNR" in capsys.readouterr().out and out.stat().st_size > 1000
