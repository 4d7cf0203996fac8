"""`worldsim make`: stages are done once, resumed where they were cut off, and redone where their inputs changed."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import making
import numpy as np
import pytest

from worldsim.data.episodes import Episodes
from worldsim.io.locks import hold
from worldsim.world import World

SUPPORT = Path(__file__).parents[1] / "support"
STAGES = ["record-0", "hold-out-0", "tokenizer", "dynamics", "export", "calibrate", "evaluate", "card"]


def make(folder, capsys, **changed):
    """Make the tiny recipe with lines changed; returns the stages that were not skipped, and what was printed."""
    text = making.RECIPE
    for old, new in changed.items():
        assert old in text
        text = text.replace(old, new)
    recipe = folder / "ball.toml"
    if not recipe.exists() or recipe.read_text() != text:
        recipe.write_text(text)
    making.making(folder / "ball.toml", folder / "out")
    said = capsys.readouterr().out
    lines = [line for line in said.splitlines() if line.startswith("[")]
    return [line.split()[1].rstrip(":") for line in lines if not line.endswith("done before")], said


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A making whose process was killed at every moment, one after the other, and the state after each kill."""
    folder = tmp_path_factory.mktemp("killed")
    (folder / "ball.toml").write_text(making.RECIPE)
    seen = folder / "seen"
    command = [sys.executable, str(SUPPORT / "making.py"), str(folder / "ball.toml"), str(folder / "out"), str(seen)]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert run.returncode == 0, run.stderr[-2000:]
    kept = [(moment, seen / moment) for moment in making.MOMENTS]
    return folder, [(moment, state(at), steps_of(at), (at / "said").read_text()) for moment, at in kept]


def state(folder):
    return json.loads((folder / "state.json").read_text())


def steps_of(folder):
    """The step that each training has saved."""
    found = {}
    for kind in ("tokenizer", "dynamics"):
        path = folder / f"{kind}.json"
        found[kind] = json.loads(path.read_text())["calls"] if path.exists() else []
    return found


def test_what_was_finished_before_a_kill_stays_and_is_not_done_again(killed, capsys):
    folder, seen = killed
    done = {moment: [name for name, stage in known.items() if stage["done"]] for moment, known, *_ in seen}
    assert done["recording"] == [] and done["holding-out"] == STAGES[:1] and done["recorded"] == STAGES[:2]
    for moment in STAGES[2:]:
        assert done[moment] == STAGES[: STAGES.index(moment)]
    stages, _ = make(folder, capsys)
    assert stages == ["card"]
    World.from_pretrained(folder / "out" / "world")
    assert make(folder, capsys)[0] == []


def test_a_recording_that_was_killed_goes_on_and_records_nothing_twice(killed, tmp_path):
    folder, seen = killed
    assert "record-0: going on" in seen[1][3] and "hold-out-0: going on" in seen[2][3]
    for name, seed, steps in (("record-0", 0, 400), ("hold-out-0", 9, 240)):
        store = Episodes.open(folder / "out" / "data" / name)
        whole = record_at_once(tmp_path / name, seed, steps)
        assert np.array_equal(store.ends, whole.ends)
        assert np.array_equal(store.read("action", 0, store.num_steps), whole.read("action", 0, whole.num_steps))


def record_at_once(path, seed, steps):
    from worldsim.cli.record import record_episodes

    source = "gym:worldsim-tests/Ball-v0"
    record_episodes(source, {"height": 16, "width": 32}, steps=steps, out=path, seed=seed, policy="persistent")
    return Episodes.open(path)


@pytest.mark.parametrize(("kind", "hours"), [("tokenizer", 0.5), ("dynamics", 0.7)])
def test_a_training_that_was_killed_goes_on_for_the_rest_of_its_time(killed, kind, hours):
    folder, seen = killed
    (first,) = next(steps[kind] for moment, _, steps, _ in seen if moment == kind)
    assert 0 < first["reached_step"] < making.STEPS and first["seconds"] > 0  # saved on the way, with its time
    said = seen[list(making.MOMENTS).index(kind) + 1][3]
    assert f"{kind}: going on" in said
    assert f"{hours - first['seconds'] / 3600:.6f} h left" in said
    begun, then = steps_of(folder / "out" / "run")[kind]
    assert begun == first and then["reached_step"] == making.STEPS


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    (folder / "ball.toml").write_text(making.RECIPE)
    making.making(folder / "ball.toml", folder / "out")
    return folder


def test_a_making_ends_with_a_world_a_card_and_a_report_with_frames(made):
    world = made / "out" / "world"
    assert {"README.md", "recipe.toml", "config.json", "model.safetensors"} <= {path.name for path in world.iterdir()}
    card = (world / "README.md").read_text()
    assert "gym:worldsim-tests/Ball-v0" in card and "It can" in card and "GFLOP/s" in card
    page = (made / "out" / "report" / "report.md").read_text()
    for picture in ("horizons.png", "drift.png", "plots.png"):
        assert f"]({picture})" in page and (made / "out" / "report" / picture).stat().st_size > 0
    verdicts = state(made / "out")["evaluate"]["facts"]["verdict"]
    assert all(sentence in page and sentence in card for sentence in verdicts)


def test_changed_measurements_measure_anew_and_nothing_else(made, capsys):
    assert make(made, capsys, **{"clips = 4": "clips = 3"})[0] == ["evaluate", "card"]
    make(made, capsys)


def test_a_changed_card_is_written_anew_and_nothing_else(made, capsys):
    stages, _ = make(made, capsys, **{"[evaluate]": '[card]\ntitle = "A ball"\n\n[evaluate]'})
    assert stages == ["card"]
    assert (made / "out" / "world" / "README.md").read_text().startswith("# A ball")
    make(made, capsys)


def test_more_hours_train_on_what_was_trained(made, capsys):
    stages, said = make(made, capsys, **{"hours = 0.7": "hours = 0.9"})
    assert stages == STAGES[3:] and "dynamics: going on" in said and not (made / "out" / "old").exists()
    assert len(steps_of(made / "out" / "run")["dynamics"]) == 2
    assert re.search(r"^0\.8[89]\d+ h left", said, re.MULTILINE)
    assert make(made, capsys, **{"hours = 0.7": "hours = 0.9"})[0] == []


def test_changed_dynamics_keep_recordings_and_tokenizer_and_set_the_old_ones_aside(made, capsys):
    old = (made / "out" / "run" / "dynamics.safetensors").read_bytes()
    stages, said = make(made, capsys, **{"clip = 8": "clip = 6"})
    assert stages == STAGES[3:] and "dynamics changed" in said
    (kept,) = (made / "out" / "old").rglob("dynamics.safetensors")
    assert kept.read_bytes() == old and kept.with_suffix(".json").exists()
    assert World.from_pretrained(made / "out" / "world").config.dynamics.context_length == 5


def test_other_held_out_episodes_train_nothing_anew(made, capsys):
    text = {"clip = 8": "clip = 6", "seed = 9": "seed = 10"}
    stages, _ = make(made, capsys, **text)
    assert stages == ["hold-out-0", "calibrate", "evaluate", "card"]


def test_a_trial_is_scaled_and_says_what_the_whole_would_take(tmp_path, capsys):
    (tmp_path / "ball.toml").write_text(making.RECIPE.replace("steps = 400", "steps = 4000"))
    making.making(tmp_path / "ball.toml", tmp_path / "out", "--scale", "0.1")
    assert 400 <= Episodes.open(tmp_path / "out" / "data" / "record-0").num_steps < 400 + 41
    said = capsys.readouterr().out
    assert "at the full budget: about" in said and "h of training" in said


def test_a_state_that_is_no_json_is_one_sentence(tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "state.json").write_text("{")
    with pytest.raises(SystemExit):
        make(tmp_path, capsys)
    assert "state.json cannot be read" in capsys.readouterr().err


def test_a_folder_that_another_process_makes_a_world_in_is_refused(tmp_path, capsys):
    with hold(tmp_path / "out" / ".lock", "unused"), pytest.raises(SystemExit):
        make(tmp_path, capsys)
    assert "is being made by another process" in capsys.readouterr().err
    assert not (tmp_path / "out" / "data").exists()


def test_a_full_disk_is_one_sentence_and_the_making_goes_on_when_there_is_space(tmp_path, capsys, full_disk):
    (tmp_path / "ball.toml").write_text(making.RECIPE)
    done = []
    for size in (200, 30_000, 300_000):
        with full_disk(size), pytest.raises(SystemExit):
            make(tmp_path, capsys)
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("worldsim make: ")]
        assert "cannot" in line and ("free space" in line or "give a folder" in line)
        done.append(finished(tmp_path / "out"))
    assert done[0] == [] and done[1] == done[2] == STAGES[:2]
    stages, _ = make(tmp_path, capsys)
    assert [*done[2], *stages] == STAGES


def finished(out):
    """The stages that are done, in their order."""
    path = out / "state.json"
    found = json.loads(path.read_text()) if path.exists() else {}
    return [stage for stage in STAGES if found.get(stage, {}).get("done")]
