import math
import runpy
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from toy_game import ACTIONS, ToyWorld

from worldsim.bench.traces import Trace

SCRIPT = Path(__file__).parents[2] / "docs" / "tools" / "play_like_a_person.py"
CALM = np.zeros((64, 128, 3), np.uint8)


def _fireball(left):
    frame = CALM.copy()
    frame[20:40, left : left + 8] = (250, 170, 60)
    return frame


def _presses(person, seconds):
    """(key or None, when it was pressed, how long it was held) in a time that nobody waits for."""
    now, runs = 0.0, [(None, 0.0, 0.0)]
    for wait, side in person.moves():
        now += wait
        key, since, _ = runs[-1]
        runs[-1] = (key, since, now - since)
        if side != key:
            runs.append((side, now, 0.0))
        if now > seconds:
            return runs


@pytest.fixture(scope="module")
def script():
    return types.SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="example"))


def test_keys_are_held_as_long_as_a_hand_needs_and_let_go(script):
    rng = np.random.default_rng(0)
    sights = [CALM, CALM, CALM, _fireball(50), _fireball(70)]
    runs = _presses(script.Person(0, lambda: sights[rng.integers(len(sights))]), 120)
    holds = np.array([held for key, _, held in runs[:-1] if key])
    assert len(holds) > 40
    assert holds.min() >= script.SHORTEST - 1e-9
    assert 0.15 < np.median(holds) < 1
    assert {key for key, *_ in runs} == {None, "LEFT", "RIGHT"}


@pytest.mark.parametrize(("left", "away"), [(68, "LEFT"), (48, "RIGHT")])
def test_a_fireball_is_fled_from_after_a_reaction_time(script, left, away):
    first = [_presses(script.Person(seed, lambda: _fireball(left)), 0.6)[1] for seed in range(60)]
    times = np.array([at for _, at, _ in first])
    assert times.min() >= script.FASTEST
    assert 0.2 < np.median(times) < 0.32
    right = np.mean([key == away for key, *_ in first])
    assert 0.85 < right < 1  # now and then the wrong key is pressed


def test_a_trace_of_the_window_is_written(monkeypatch, tmp_path, capsys):
    world = ToyWorld()
    monkeypatch.setattr("worldsim.World", types.SimpleNamespace(from_pretrained=lambda name: world))
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    path = tmp_path / "scripted-1.json"
    monkeypatch.setattr(sys, "argv", ["", "--seconds", "3", "--seed", "1", "--out", str(path)])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    trace = Trace.load(path)
    assert [seed for seed, _ in trace.pieces] == [1]
    played = trace.actions(ACTIONS)
    assert 0 < len(played) <= math.ceil(3.5 * world.spec.steps_per_second)
    assert set(played.tolist()) & {1, 2}
    assert f"wrote {path}, scripted play: {len(played)} steps" in capsys.readouterr().out


def test_a_name_that_hides_the_script_is_refused(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["", "--out", "mine.json"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert "scripted-NAME.json" in capsys.readouterr().err
