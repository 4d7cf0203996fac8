"""Calibrating: curves from what heads say to how likely endings are, and what is paid, which go into the config."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny import tiny_episodes, tiny_files, tiny_world

from worldsim.cli.main import main
from worldsim.errors import InvalidInput
from worldsim.io.weights import read_world, write_world
from worldsim.models.endings import EndingConfig
from worldsim.models.rewards import RewardConfig
from worldsim.train.calibration import fit_endings, fit_rewards
from worldsim.world import World


def drawn_by(endings: EndingConfig, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """What a head says and what comes, where that is as likely as `endings` takes it to be."""
    rng = np.random.default_rng(seed)
    said = 1 / (1 + np.exp(-rng.normal(-8.0, 5.0, count)))
    return said.astype(np.float32), rng.random(count) < endings.chance(torch.logit(torch.from_numpy(said))).numpy()


def test_the_curve_that_endings_were_drawn_by_is_found():
    truth = EndingConfig(shift=1.5, floor=0.001, ceiling=0.6)
    said, ended = drawn_by(truth, 300_000)
    found = fit_endings(said, ended)
    assert found.shift == pytest.approx(1.5, abs=0.15)
    assert found.floor == pytest.approx(0.001, rel=0.2) and found.ceiling == pytest.approx(0.6, abs=0.02)
    expected = found.chance(torch.logit(torch.from_numpy(said), eps=1e-7)).sum()
    assert float(expected) == pytest.approx(ended.sum(), rel=0.01)


def test_a_head_that_is_right_is_left_nearly_as_it_is():
    found = fit_endings(*drawn_by(EndingConfig(), 300_000))
    assert abs(found.shift) < 0.15 and found.floor < 1e-4 and found.ceiling > 0.97


def test_a_head_that_says_the_same_of_all_steps_gets_the_mean():
    found = fit_endings(np.full(1000, 0.3, np.float32), np.arange(1000) % 50 == 0)
    assert float(found.chance(torch.logit(torch.tensor([0.3])))[0]) == pytest.approx(0.02, rel=0.02)


def test_of_a_head_that_has_it_backwards_only_the_mean_is_kept():
    said = np.repeat(np.float32([0.99, 0.01]), 500)
    found = fit_endings(said, (said < 0.5) & (np.arange(1000) % 10 == 0))
    chances = found.chance(torch.logit(torch.from_numpy(said)))
    assert float(chances.max() - chances.min()) < 0.01 and float(chances.mean()) == pytest.approx(0.05, rel=0.05)


def test_rewards_are_shrunk_to_what_was_paid_and_never_stretched_or_turned_round():
    rng = np.random.default_rng(0)
    said = rng.normal(-0.5, 1.0, 50_000)
    found = fit_rewards(said, 0.25 * said + 2.0 + rng.normal(0.0, 1.0, len(said)))
    assert found.slope == pytest.approx(0.25, abs=0.02) and found.shift == pytest.approx(2.0, abs=0.03)
    assert fit_rewards(said, 3 * said).slope == 1.0
    backwards = fit_rewards(said, 1.0 - said)
    assert backwards.slope == 0.0 and backwards.shift == pytest.approx((1.0 - said).mean())
    assert fit_rewards(np.full(10, 0.3), np.arange(10.0)) == RewardConfig(0.0, 4.5)


def test_a_world_pays_what_its_line_says_and_draws_the_same():
    plain, files = tiny_world(), tiny_files()
    config = dataclasses.replace(files.config, rewards=RewardConfig(0.5, 2.0))
    lined = World(dataclasses.replace(files, config=config), device="cpu")
    before, after = (world.step(world.reset(seed=[0, 1, 2]), np.array([0, 1, 2]))[1] for world in (plain, lined))
    np.testing.assert_allclose(after.reward, 0.5 * before.reward + 2.0, rtol=1e-6)
    np.testing.assert_array_equal(before.frame, after.frame)


def test_too_few_endings_to_calibrate_by_are_refused():
    with pytest.raises(InvalidInput, match="9 endings in 500 steps"):
        fit_endings(np.full(500, 0.1, np.float32), np.arange(500) < 9)


@pytest.mark.parametrize("values", [{"floor": 0.5, "ceiling": 0.4}, {"floor": -0.1}, {"ceiling": 1.1},
                                    {"shift": float("nan")}])  # fmt: skip
def test_curves_that_are_none_are_refused(values):
    with pytest.raises(InvalidInput, match="endings"):
        EndingConfig(**values)


def test_a_world_ends_as_often_as_its_curve_says_and_draws_the_same():
    plain, certain = tiny_world(), tiny_world(endings=EndingConfig(floor=0.999, ceiling=1.0))
    actions = np.array([0, 1, 2])
    before, after = (world.step(world.reset(seed=[0, 1, 2]), actions)[1] for world in (plain, certain))
    assert (after.extras["termination_probability"] >= 0.999).all() and after.terminated.all()
    assert (before.extras["termination_probability"] < 0.999).all()
    np.testing.assert_array_equal(before.frame, after.frame)
    np.testing.assert_array_equal(before.reward, after.reward)


def test_the_command_writes_a_world_that_foresees_endings_better(tmp_path, capsys):
    write_world(tmp_path / "tiny", tiny_files())
    data = str(tiny_episodes(tmp_path / "data", lengths=(14,) * 12).path)
    main(["train", "calibrate", str(tmp_path / "tiny"), "--data", data, "--out", str(tmp_path / "once")])
    assert "11 endings in 156 steps" in capsys.readouterr().out
    record = json.loads((tmp_path / "once" / "training.json").read_text())["calibration"]
    assert record["log_loss"] < record["log_loss_before"]
    endings = World.from_pretrained(tmp_path / "once").config.endings
    assert (endings.shift, endings.floor, endings.ceiling) == tuple(record[k] for k in ("shift", "floor", "ceiling"))
    # Again, it is the head itself that is calibrated, not what was made of it.
    main(["train", "calibrate", str(tmp_path / "once"), "--data", data, "--out", str(tmp_path / "twice")])
    assert read_world(tmp_path / "twice").config == read_world(tmp_path / "once").config


def test_episodes_without_a_step_are_too_few_and_nothing_is_written(tmp_path, capsys):
    write_world(tmp_path / "tiny", tiny_files())
    data = str(tiny_episodes(tmp_path / "data", lengths=(1, 1)).path)
    with pytest.raises(SystemExit):
        main(["train", "calibrate", str(tmp_path / "tiny"), "--data", data, "--out", str(tmp_path / "out")])
    assert "0 endings in 0 steps" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_damaged_training_record_is_refused_before_anything_is_written(tmp_path, capsys):
    write_world(tmp_path / "tiny", tiny_files())
    (tmp_path / "tiny" / "training.json").write_text("{")
    data = str(tiny_episodes(tmp_path / "data").path)
    with pytest.raises(SystemExit):
        main(["train", "calibrate", str(tmp_path / "tiny"), "--data", data, "--out", str(tmp_path / "out")])
    assert "training.json" in capsys.readouterr().err and not (tmp_path / "out").exists()
