import dataclasses
import json
import re
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
from ball_env import CONTINUOUS
from rollout_jobs import PickledCrew
from tiny import tiny_episodes, tiny_world

from worldsim.cli.eval import EvalOptions, policy_actions
from worldsim.cli.main import main
from worldsim.cli.record import record
from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput
from worldsim.evaluate.actions import measure_actions
from worldsim.evaluate.data import choose_spans, read_clips
from worldsim.evaluate.drift import measure_drift
from worldsim.evaluate.effort import QUICK
from worldsim.evaluate.horizons import HorizonResult, compare, measure_horizons
from worldsim.evaluate.tokenizer import measure_tokenizer
from worldsim.policies.rollouts import Workers

LENGTHS = (70, 66, 80, 64)


@pytest.fixture(scope="module")
def world():
    return tiny_world(source="doom-take-cover")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_episodes(tmp_path_factory.mktemp("episodes") / "store", lengths=LENGTHS, source="doom-take-cover")


@pytest.fixture(scope="module")
def horizons(world, store):
    return measure_horizons(world, store, QUICK)


@pytest.fixture(scope="module")
def report(world, store, tmp_path_factory):
    """The JSON of one quick run of the whole command, and the folder it wrote to."""
    folder = tmp_path_factory.mktemp("eval")
    world.save_pretrained(folder / "world")
    main(
        [
            *("eval", str(folder / "world"), "--data", str(store.path), "--random-data", str(store.path)),
            *("--quick", "--json", str(folder / "figures.json"), "--out", str(folder / "out")),
        ]
    )
    return json.loads((folder / "figures.json").read_text()), folder / "out"


def test_workers_measure_the_same(report, store, tmp_path, monkeypatch):
    monkeypatch.setattr("worldsim.policies.rollouts.processes.ProcessCrew", PickledCrew)
    figures, out = report
    options = ["--data", store.path, "--random-data", store.path, "--quick", "--json", tmp_path / "figures.json"]
    main([str(option) for option in ["eval", out.parent / "world", *options, "--workers", 2, "--out", tmp_path]])
    again = json.loads((tmp_path / "figures.json").read_text())
    assert list(again.pop("seconds")) == list(figures["seconds"])
    assert again == {name: values for name, values in figures.items() if name != "seconds"}
    sheets = [path.name for path in out.glob("*.png")]
    assert sheets and all((tmp_path / name).read_bytes() == (out / name).read_bytes() for name in sheets)


def test_returns_to_places_are_measured_in_one_process():
    with pytest.raises(InvalidInput, match="leave out --workers"):
        EvalOptions("world", Path("data"), revisit=True, workers=Workers(2))


def test_the_report_has_every_section(report):
    figures, _ = report
    sections = {"tokenizer_psnr", "tokenizer", "horizons", "drift", "endings", "probes", "actions", "rewards"}
    assert sections <= set(figures)
    assert isinstance(figures["tokenizer_psnr"], float)
    assert list(figures["horizons"]) == ["1", "8", "16", "32", "48"]
    for steps, row in figures["horizons"].items():
        wanted = {"psnr", "ssim", "copy_psnr", "shuffled_psnr", "tokenizer_psnr", "psnr_ci", "above_copy_ci"}
        assert wanted <= set(row)
        assert row["seconds"] == pytest.approx(int(steps) / 17.5)
        assert row["above_copy"] == pytest.approx(row["psnr"] - row["copy_psnr"])
    assert set(figures["probes"]) == {"fireballs", "growth"}  # of the world that ships of the same source
    assert figures["endings"]["actions"] == "fresh"
    assert {"precision", "recall", "calibration_error"} <= set(figures["endings"]["teacher_forced"])


def test_the_median_gain_is_that_of_the_clip_in_the_middle():
    real = np.zeros((3, 16, 16, 3), np.uint8)
    dreamed = real + np.array([10, 10, 250], np.uint8)[:, None, None, None]  # one clip is lost
    copied = real + np.uint8(100)
    figures = compare(real, dreamed, copied, copied, real)
    assert figures["median_above_copy"] == pytest.approx(20.0)
    assert figures["above_copy"] < 0


def test_the_folder_gets_sheets_and_plots(report):
    _, out = report
    names = {path.name for path in out.iterdir()}
    assert names - {"fireballs-close-ups.png"} == {
        "report.json",
        "horizons.png",
        "drift.png",
        "plots.png",
        "fireballs-detector.png",
    }
    assert all(path.stat().st_size > 0 for path in out.iterdir())


def test_the_tokenizer_is_measured_on_frames_between_rows_too(world, store):
    figures = measure_tokenizer(world, store, QUICK)
    assert figures["frames"] == QUICK.tokenizer_runs * QUICK.tokenizer_rows * 2
    assert 0 < figures["moving_share"] < 0.1  # the ball moves, the room does not
    assert figures["psnr_ci"][0] <= figures["psnr"] <= figures["psnr_ci"][1]


def test_copying_the_last_frame_is_measured_against_the_true_frame(horizons):
    result = horizons
    clips = result.clips
    error = (clips.frames[:, 8].astype(float) - clips.frames[:, 7]) / 255
    assert result.table["1"]["copy_psnr"] == pytest.approx(-10 * np.log10(np.square(error).mean()), abs=0.01)
    assert result.dreamed.shape == (4, 48, 16, 32, 3)
    assert len(result.curves["dream"]) == 48


def test_figures_do_not_change_from_run_to_run(world, store, horizons):
    assert measure_horizons(world, store, QUICK).table == horizons.table


def test_drift_is_cut_into_windows(world, store):
    actions = policy_actions("persistent", world.config)(2, QUICK.drift_steps, 0)
    result = measure_drift(world, store, actions, QUICK)
    assert [w["first_step"] for w in result.table["windows"]] == [1, 21, 41]
    first, last = (result.table["windows"][k]["sharpness"] for k in (0, -1))
    assert result.table["sharpness_ratio"] == pytest.approx(last / first)
    assert result.sheet.shape == (2, 4, 16, 32, 3)
    assert result.table["real"]["feature_distance"] < result.table["windows"][0]["feature_distance"]


def test_the_probe_tells_actions_that_show_in_the_frames(world, store, horizons):
    effort = dataclasses.replace(QUICK, probe_steps=150)
    figures = measure_actions(world, store, horizons, store, effort)
    # Nothing shows where the ball is pressed against a wall.
    assert figures["real_accuracy"] > figures["most_frequent_action"] + 0.2


def test_the_probe_tells_continuous_actions_from_frames_that_obey_and_not_from_others(tmp_path):
    env = gym.make(CONTINUOUS, render_mode="rgb_array")
    record(env, steps=700, out=tmp_path / "ball", policy="random", height=16, width=32)
    store = Episodes.open(tmp_path / "ball")
    clips = read_clips(store, choose_spans(store, 8, 8 + 8, 0))
    world = SimpleNamespace(config=SimpleNamespace(actions=store.meta.actions))
    effort = dataclasses.replace(QUICK, probe_steps=300, probe_rows=600)

    def measured(dreamed):
        return measure_actions(world, store, HorizonResult({}, {}, clips, dreamed), store, effort)

    obeying = measured(clips.frames[:, 8:])
    assert obeying["dream_correlation"] == obeying["real_correlation"] > 0.7
    assert obeying["real_correlations"] == [obeying["real_correlation"]]  # one dimension
    other = measured(np.roll(clips.frames[:, 8:], 1, axis=0))
    assert other["dream_correlation"] < 0.5 * other["real_correlation"]


def test_random_policies_are_drawn_alike_for_one_seed(world):
    draw = policy_actions("persistent", world.config)
    actions = draw(3, 50, 4)
    assert actions.shape == (3, 50) and set(np.unique(actions)) <= {0, 1, 2}
    assert np.array_equal(actions, draw(3, 50, 4)) and not np.array_equal(actions, draw(3, 50, 5))
    assert (np.diff(actions) == 0).mean() > 0.6  # held for a while


def test_a_store_of_another_world_is_refused_in_one_line(world, tmp_path, capsys):
    other = tiny_episodes(tmp_path / "other", source="elsewhere")
    world.save_pretrained(tmp_path / "world")
    with pytest.raises(SystemExit) as stopped:
        main(["eval", str(tmp_path / "world"), "--data", str(other.path), "--quick"])
    assert stopped.value.code == 2
    assert "source is elsewhere" in capsys.readouterr().err


def evaluate_quickly(world, folder, **options):
    world.save_pretrained(folder / "world")
    store = tiny_episodes(folder / "store", **options)
    main(["eval", str(folder / "world"), "--data", str(store.path), "--quick", "--json", str(folder / "figures.json")])
    return json.loads((folder / "figures.json").read_text())


def test_short_episodes_are_measured_at_the_horizons_that_fit(tmp_path, capsys):
    figures = evaluate_quickly(tiny_world(), tmp_path, lengths=(14, 26, 17, 26))
    assert list(figures["horizons"]) == ["1", "8", "16"] and figures["horizons_left_out"] == [32, 48]
    assert figures["effort"]["horizons"] == [1, 8, 16]
    assert "no episode is long enough for 32, 48 steps" in capsys.readouterr().out


@pytest.mark.parametrize(("lengths", "message"), [((7, 8, 8), "no episode of .* has 9 rows"), ((40,), "action probe")])
def test_episodes_that_are_too_few_or_short_are_refused_before_anything_is_measured(
    lengths, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("worldsim.evaluate.study.measure_tokenizer", None)  # calling it would raise something else
    with pytest.raises(SystemExit):
        evaluate_quickly(tiny_world(), tmp_path, lengths=lengths)
    assert re.search(message, capsys.readouterr().err)
