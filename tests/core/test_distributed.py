"""Training in two processes, as torchrun starts them: they end with the same weights."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_training import brief, loss_of, tokenizer_task, train
from tiny import tiny_episodes
from train_on_ranks import LineTask, weights

from worldsim.cli.main import main
from worldsim.data.episodes import Episodes
from worldsim.train.checkpoint import load_checkpoint

SUPPORT = Path(__file__).parents[1] / "support"
LIMIT = 280  # seconds


def torchrun(*arguments: object) -> None:
    """Two processes; they are ended when they take too long."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        *map(str, arguments),
    ]
    paths = os.pathsep.join([str(SUPPORT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, timeout=LIMIT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_episodes(tmp_path_factory.mktemp("data") / "tiny").path


@pytest.fixture(scope="module")
def ranks(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks")
    train(tokenizer_task(Episodes.open(data)), brief(3, accumulate=2), out / "begun")
    torchrun(SUPPORT / "train_on_ranks.py", data, out)
    return out


def assert_same(one, other):
    assert one.keys() == other.keys() and [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.timeout(LIMIT + 20)
@pytest.mark.parametrize("name", ["line", "whole", "parts", "begun"])
def test_all_processes_hold_the_same_weights(ranks, name):
    assert_same(load_file(ranks / f"{name}-0.safetensors"), load_file(ranks / f"{name}-1.safetensors"))


def test_the_processes_train_on_different_batches(ranks):
    one, other = (load_file(ranks / f"batch-{rank}.safetensors")["frames"] for rank in (0, 1))
    assert not torch.equal(one, other)


def test_two_processes_do_what_one_does_with_the_joined_batch(ranks, tmp_path):
    single = weights(train(LineTask(shares=2), brief(8), tmp_path))
    double = load_file(ranks / "line-0.safetensors")
    untrained = LineTask().model.map.weight
    assert (single["model.map.weight"] - untrained).abs().max() > 0.01
    for name, tensor in single.items():
        torch.testing.assert_close(double[name], tensor, rtol=1e-4, atol=1e-6)


def test_two_processes_reach_the_loss_of_one_that_accumulates_two_batches(ranks, data, tmp_path):
    store = Episodes.open(data)
    single = train(tokenizer_task(store), brief(6, accumulate=2), tmp_path)
    double, untrained = tokenizer_task(store), loss_of(tokenizer_task(store))
    weights_of_two = load_file(ranks / "whole-0.safetensors")
    for name, p in double.model.named_parameters():
        p.data.copy_(weights_of_two[f"model.{name}"])
    assert loss_of(double) == pytest.approx(loss_of(single.task), rel=1e-3)
    assert loss_of(double) < 0.95 * untrained


def test_what_two_processes_began_one_goes_on_with(ranks, data, tmp_path):
    store = Episodes.open(data)
    whole = train(tokenizer_task(store), brief(9, accumulate=2), tmp_path / "whole")
    shutil.copytree(ranks / "whole", tmp_path / "parts")
    parts = train(tokenizer_task(store), brief(9, accumulate=2), tmp_path / "parts", resume=True)
    assert parts.step == whole.step == 9
    assert loss_of(parts.task) == pytest.approx(loss_of(whole.task), rel=1e-3)


def test_what_one_process_began_two_go_on_with(ranks, data):
    losses = []
    for name in ("begun", "whole"):
        task, weights_of_two = tokenizer_task(Episodes.open(data)), load_file(ranks / f"{name}-0.safetensors")
        for parameter, p in task.model.named_parameters():
            p.data.copy_(weights_of_two[f"model.{parameter}"])
        losses.append(loss_of(task))
    assert load_checkpoint(ranks / "begun" / "tokenizer.safetensors")[1]["step"] == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_a_run_of_two_processes_is_resumed_to_the_bit(ranks):
    (whole, one), (parts, other) = (
        load_checkpoint(ranks / name / "tokenizer.safetensors") for name in ("whole", "parts")
    )
    assert one["step"] == other["step"] == 6
    assert_same(whole, parts)


@pytest.mark.timeout(LIMIT + 20)
def test_the_command_runs_under_torchrun(data, tmp_path):
    options = ["--data", data, "--out", tmp_path, "--batch", 2, "--device", "cpu", "--steps", 2]
    main([str(option) for option in ["train", "tokenizer", *options]])
    torchrun("-m", "worldsim.cli.main", "train", "dynamics", *options, "--clip", 8, "--patch", 2, 1)
    assert load_checkpoint(tmp_path / "dynamics.safetensors")[1]["step"] == 2
    calls = json.loads((tmp_path / "dynamics.json").read_text())["calls"]
    assert [call["reached_step"] for call in calls] == [2]  # one process keeps the record
    (latents,) = [path for path in (tmp_path / "latents").iterdir() if path.is_dir()]
    assert {path.name for path in latents.iterdir()} == {"latents.npy", "done.json"}
