import json

import numpy as np
import pytest
from tiny import ACTIONS, tiny_world

from worldsim.bench.traces import Trace, load_stream
from worldsim.errors import InvalidAction, InvalidInput, WorldsimError
from worldsim.spec import ActionSpec

BOX = ActionSpec(low=(-1.0, 0.0), high=(1.0, 1.0))


def played(path, *pieces):
    trace = Trace("tiny", 17.5)
    for seed, actions in pieces:
        trace.begin(seed)
        for action in actions:
            trace.add(np.asarray(action))
    trace.save(path)
    return path


def test_what_was_played_is_read_again(tmp_path):
    path = played(tmp_path / "new" / "mine.json", (3, [0, 1, 2]), (4, []), (4, [2]))
    trace = Trace.load(path)
    assert trace.pieces == [(3, [0, 1, 2]), (4, [2])] and trace.world == "tiny" and trace.steps_per_second == 17.5
    actions = trace.actions(ACTIONS)
    assert actions.tolist() == [0, 1, 2, 2] and actions.dtype == np.int64
    steering = np.array([[0.1, 0.7], [-1, 0]], np.float32)
    found = Trace.load(played(tmp_path / "s.json", (0, steering))).actions(BOX)
    assert np.array_equal(found, steering) and found.dtype == np.float32


def test_a_trace_that_is_none_or_of_other_actions_is_refused(tmp_path):
    (tmp_path / "bad.json").write_text('{"format": 2}')
    (tmp_path / "text.json").write_text("left left")
    for name in ("bad.json", "text.json", "missing.json"):
        with pytest.raises(InvalidInput, match=name):
            Trace.load(tmp_path / name)
    good = {"format": 1, "world": "tiny", "steps_per_second": 17.5, "pieces": []}
    wrong = [{"pieces": [3]}, {"pieces": 3}, {"pieces": [{"seed": 1e400, "actions": []}]}, {"steps_per_second": "fast"}]
    wrong += [{"pieces": [{"seed": 1, "actions": "left"}]}, {"steps_per_second": float("nan")}]
    for text in ("[]", "null", "[" * 100_000, *(json.dumps(good | change) for change in wrong)):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InvalidInput, match=r"bad\.json"):
            Trace.load(tmp_path / "bad.json")
    (tmp_path / "bad.json").write_text(json.dumps(good | {"pieces": [{"seed": 0, "actions": [1, [2]]}]}))
    with pytest.raises(InvalidAction):
        Trace.load(tmp_path / "bad.json").actions(ACTIONS)
    with pytest.raises(InvalidAction):
        Trace.load(played(tmp_path / "t.json", (0, [7]))).actions(ACTIONS)
    with pytest.raises(WorldsimError, match="cannot write"):
        played(tmp_path / "t.json" / "below.json", (0, [1]))


def test_streams_are_as_long_as_asked_for_and_the_same_again(tmp_path):
    spec = tiny_world().spec
    for name in ("repeat", "random", "held"):
        one, other = load_stream(name, spec, 50), load_stream(name, spec, 50)
        assert one.shape == (50,) and np.array_equal(one, other)
    changes = {name: np.mean(np.diff(load_stream(name, spec, 3000)) != 0) for name in ("repeat", "random", "held")}
    assert changes["repeat"] == 0 and changes["random"] == pytest.approx(2 / 3, abs=0.05) and changes["held"] < 0.15
    path = played(tmp_path / "mine.json", (0, [0, 1, 2]))
    assert load_stream(str(path), spec, 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    with pytest.raises(InvalidInput, match="no actions"):
        load_stream(str(played(tmp_path / "empty.json")), spec, 7)
