import json

import numpy as np
import pytest
from tiny import tiny_world

from worldsim.bench import steps
from worldsim.bench.steps import (
    Endless,
    matmul_gflops,
    measure_growth,
    measure_memory,
    resident_megabytes,
    step_gflop,
)
from worldsim.cli.bench import make_env
from worldsim.cli.main import main
from worldsim.envs.world_env import WorldEnv


@pytest.fixture(scope="module")
def world():
    return tiny_world()


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("worlds") / "tiny"
    world.save_pretrained(path)
    return str(path)


def test_the_command_reports_every_number_of_environments(folder, tmp_path, capsys):
    out = tmp_path / "new" / "bench.json"
    sizes = ["--num-envs", "1", "3", "--steps", "4", "--memory", "20", "--growth", "9"]
    main(["bench", folder, *sizes, "--json", str(out)])
    report = json.loads(out.read_text())
    assert set(report) == {"world", "machine", "runs", "memory", "growth", "decoded", "compiled"}
    assert report["world"] == "tiny"
    assert {"cpu", "cores", "torch", "dtype", "matmul_gflops"} <= set(report["machine"])
    assert [run["num_envs"] for run in report["runs"]] == [1, 3]
    for run in report["runs"]:
        wanted = {"num_envs", "steps_per_s", "ms_p50", "ms_p95", "gflop_per_frame", "fraction_of_peak"}
        assert set(run) == wanted
        assert run["steps_per_s"] == pytest.approx(run["num_envs"] * 1000 / run["ms_p50"])
        assert run["ms_p50"] <= run["ms_p95"]
        peak = report["machine"]["matmul_gflops"]
        assert run["fraction_of_peak"] == pytest.approx(run["gflop_per_frame"] * run["steps_per_s"] / peak)
    assert report["memory"]["steps"] == 20
    text = capsys.readouterr().out
    assert "steps/s" in text and "step of one episode" in text


def test_growth_is_told_along_one_episode(world, monkeypatch):
    monkeypatch.setattr(steps, "MARKS", (5, 50))
    figures = measure_growth(make_env(Endless(world), 1), 45)  # past the world's own limit of 40
    assert [mark["step"] for mark in figures["marks"]] == [5, 45]
    assert all(mark["ms"] > 0 and mark["mb"] > 10 for mark in figures["marks"])


def test_endings_do_not_interrupt_what_is_timed(world):
    env = make_env(Endless(world), 2)
    env.reset(seed=0)
    ended = [env.step(env.action_space.sample())[2:4] for _ in range(60)]  # past the world's own limit of 40
    assert not np.array(ended).any()


def test_operations_grow_with_the_batch(world):
    assert step_gflop(world, 1) > 0
    assert step_gflop(world, 3) == pytest.approx(3 * step_gflop(world, 1))


def test_what_is_not_decoded_is_not_computed(folder, world, tmp_path):
    assert step_gflop(world, 2, "none") < step_gflop(world, 2, "frame") < step_gflop(world, 2, "all")
    out, found = tmp_path / "bench.json", {}
    for options in (["--observation", "latents"], [], ["--between"]):
        main(["bench", folder, "--num-envs", "2", "--steps", "2", "--json", str(out), *options])
        report = json.loads(out.read_text())
        found[report["decoded"]] = report["runs"][0]["gflop_per_frame"]
    assert found == {p: pytest.approx(step_gflop(world, 2, p) / 2) for p in ("none", "frame", "all")}


def test_the_operations_of_a_matrix_product_are_rated(world):
    assert matmul_gflops(world.device, world.dtype) > 0


def test_memory_is_measured_over_steps_with_resets(world):
    figures = measure_memory(WorldEnv(world), 60)
    assert figures["resets"] >= 1 and figures["warm_up_steps"] == 6
    assert figures["growth_mb"] == pytest.approx(figures["end_mb"] - figures["start_mb"])
    assert resident_megabytes() > 10


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--steps", "0"], "--steps is 0"),
        (["--num-envs", "0"], "--num-envs is 0"),
        (["--memory", "-1"], "--memory"),
        (["--growth", "-1"], "--growth"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(folder, capsys, options, named):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", folder, *options])
    assert stopped.value.code == 2
    assert named in capsys.readouterr().err
