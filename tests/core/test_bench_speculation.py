import json

import numpy as np
import pytest
from tiny import tiny_files

from worldsim.bench.traces import Trace
from worldsim.cli.main import main
from worldsim.io.weights import write_world


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("worlds") / "tiny"
    write_world(path, tiny_files())
    return str(path)


def test_the_command_compares_every_stream_with_and_without(folder, tmp_path, capsys):
    trace = Trace("tiny", 17.5)
    trace.begin(0)
    for action in [0, 0, 1, 1, 2]:
        trace.add(np.int64(action))
    trace.save(tmp_path / "mine.json")
    out = tmp_path / "new" / "bench.json"
    streams = ["--streams", "repeat", "random", str(tmp_path / "mine.json")]
    numbers = ["--steps", "30", "--think", "0", "8"]
    main(["bench", folder, "--speculate", *streams, *numbers, "--json", str(out)])
    report = json.loads(out.read_text())
    assert set(report) == {"world", "decoded", "machine", "runs", "compiled"}
    assert [(run["stream"], run["think_ms"]) for run in report["runs"]] == [
        (stream, think) for stream in ("repeat", "random", "mine") for think in (0, 8)
    ]
    for run in report["runs"]:
        assert run["equal_steps"] == run["steps"] == 30 and 0 <= run["in_time_rate"] <= run["hit_rate"] <= 1
        assert run["on_over_off"] == pytest.approx(run["steps_per_s_on"] / run["steps_per_s_off"])
        guesses = run["guesses"]
        assert sum(guesses["kinds"].values()) == guesses["steps"] > 30
        assert 0 <= guesses["discarded_seconds"] <= guesses["computed_seconds"]
    assert "equal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--streams", "human"], "--streams 'human'"),
        (["--streams", "no/such.json"], "no/such.json"),
        (["--think", "-1"], "--think -1"),
        (["--steps", "1"], "--steps is 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(folder, capsys, options, named):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", folder, "--speculate", *options])
    assert stopped.value.code == 2
    assert named in capsys.readouterr().err
