import json
import math
import time

import numpy as np
from toy_game import ToySource, ToyWorld

from worldsim.cli.main import main
from worldsim.envs.play.game import Game
from worldsim.envs.play.keys import ActionKeys
from worldsim.envs.play.panel import Measured, sections
from worldsim.envs.play.real import RealGame
from worldsim.envs.play.session import Session
from worldsim.envs.play.status import Settings
from worldsim.speculation import Speculation

ALL = Speculation(adapt=False)


def _views(speculate, real=False):
    """A game with a saved moment and, if asked for, the real game beside it: all that was to be seen."""
    world = ToyWorld()
    game = Game(world, speculate=speculate)
    game.real = RealGame(ToySource(), world.spec) if real else None
    seen, rng = [game.start(3)], np.random.default_rng(0)
    moment = game.save()
    for step in range(30):
        time.sleep(0.004)
        seen += game.step(np.array([rng.integers(3)]))
        if step == 10:
            seen.append(game.restore(moment))
        if step == 20:
            seen.append(game.start(4))
    stats = game.speculation_stats
    game.close()
    return [frame for view in seen for frame in view], stats


def test_the_player_sees_the_same_with_guesses():
    for real in (False, True):
        (on, stats), (off, none) = _views(ALL, real), _views(None, real)
        assert len(on) == len(off) and all(np.array_equal(a, b) for a, b in zip(on, off, strict=True))
        assert stats.hit_rate > 0.1 and none is None


def test_the_panel_tells_how_often_the_guess_was_right():
    world = ToyWorld()
    session = Session(Game(world, speculate=ALL), ActionKeys(world.spec.actions), Settings())
    session.open()
    assert session.status().hit_rate is None
    for _ in range(3):
        time.sleep(0.02)
        session.do("advance")
        assert session.feed.take(math.inf)
    status = session.status()
    assert 0 <= status.hit_rate <= 1
    rows = dict(sections(world.spec, status, Measured())[0].rows)
    assert rows["guessed in time"] == f"{status.hit_rate:.0%} of steps"
    session.close()
    plain = Session(Game(world), ActionKeys(world.spec.actions), Settings())
    plain.open()
    assert "guessed in time" not in dict(sections(world.spec, plain.status(), Measured())[0].rows)


def test_what_was_played_is_kept(tmp_path):
    world, path = ToyWorld(), tmp_path / "trace.json"
    session = Session(
        Game(world), ActionKeys(world.spec.actions), Settings(seed=5, script=(("left",), ("right",), ()), trace=path)
    )
    session.open()
    for _ in range(2):
        session.do("advance")
    session.do("save")
    session.do("restore")
    session.do("advance")
    session.do("reset")
    session.close()
    kept = json.loads(path.read_text())
    assert kept["pieces"] == [{"seed": 5, "actions": [1, 2]}, {"seed": 5, "actions": [0]}]
    assert (kept["world"], kept["steps_per_second"]) == ("toy-take-cover", 17.5)


def test_a_trace_is_a_json_file(capsys):
    try:
        main(["play", "toy", "--trace", "trace.txt"])
    except SystemExit as stopped:
        assert stopped.code == 2
    assert "trace.txt" in capsys.readouterr().err
