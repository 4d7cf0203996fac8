"""`worldsim agent train | evaluate | play | compare`."""

import json
import shutil
import sys

import pytest
import torch
from rollout_jobs import PickledCrew
from safetensors.torch import load_file

from worldsim.cli.main import main
from worldsim.errors import InvalidInput
from worldsim.io.folders import AGENT, find_world, shipped_worlds
from worldsim.policies.agent import load_agent
from worldsim.policies.config import QUICK, DreamConfig, Effort, EvaluateConfig, TrainConfig, effort

SMALL = ("--quick", "--episodes", "2", "--num-envs", "2", "--dream-steps", "6")


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "tiny"
    world.save_pretrained(path)
    return str(path)


def run(*arguments):
    main(["agent", *map(str, arguments)])


@pytest.fixture(scope="module")
def trained(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "agent"
    run("train", folder, "--out", out, *SMALL, "--steps", 64, "--no-real", "--hold", 2)
    return out


@pytest.mark.parametrize(
    "options",
    [("--seeds", "2", "--baselines"), ("--real", "1280", "--change-cost", "1"), ("--shuffled-actions", "--no-real")],
    ids=str,
)
def test_it_trains_evaluates_and_films(folder, tmp_path, capsys, options):
    budget = () if "--real" in options else ("--steps", "64")
    run("train", folder, "--out", tmp_path / "out", *SMALL, *budget, *options)
    printed = capsys.readouterr().out
    assert "| seed 0 |" in printed and ("| random |" in printed) == ("--baselines" in options)
    for table in ("stage by stage", "by the age of the game", "by how long it has kept up an action"):
        assert f"seed 0, {table}:" in printed
    seeds = 2 if "--seeds" in options else 1
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    places = {"dream"} if "--no-real" in options else {"dream", "real"}
    assert set(results["mean_length"]) == places and set(results["agents"]["seed 0"]) == places
    assert results["options"]["hold"] == 20 and results["options"]["num_envs"] == 2
    assert (tmp_path / "out" / "curves.png").stat().st_size > 1000
    for seed in range(seeds):
        run_folder = tmp_path / "out" / f"seed-{seed}"
        assert {f"{place}.mp4" for place in places} == {path.name for path in run_folder.glob("*.mp4")}
        assert load_agent(run_folder / "agent.safetensors").observation.hold == 20
        assert set(json.loads((run_folder / "curve.json").read_text())["points"][-1]["scores"]) == places


def test_a_run_is_resumed_and_an_agent_is_trained_on(folder, trained, tmp_path):
    agent = trained / "seed-0" / "agent.safetensors"
    options = (*SMALL, "--no-real", "--hold", 2)
    with pytest.raises(SystemExit):
        run("train", folder, "--out", trained, *options, "--steps", 128)
    run("train", folder, "--out", trained, *options, "--steps", 128, "--resume")
    assert load_agent(agent).steps == 128
    run("train", folder, "--out", tmp_path, *options, "--steps", 64, "--from-agent", agent)
    assert load_agent(tmp_path / "seed-0" / "agent.safetensors").steps == 64


def test_a_trained_agent_is_evaluated(trained, tmp_path, capsys):
    path = tmp_path / "scores.json"
    agent = trained / "seed-0" / "agent.safetensors"
    run("evaluate", agent, "--real", "--episodes", 3, "--baselines", "--json", path)
    printed = capsys.readouterr().out
    assert "| agent |" in printed and "| random |" in printed and "agent, by the age of the game:" in printed
    scores = json.loads(path.read_text())["agents"]
    assert set(scores["agent"]) == {"dream", "real"} and len(scores["agent"]["real"]["returns"]) == 3
    run("evaluate", agent, "--episodes", 3, "--json", path)
    again = json.loads(path.read_text())["agents"]
    assert set(again["agent"]) == {"dream"} and again["agent"]["dream"] == scores["agent"]["dream"]


def test_a_trained_agent_plays_for_a_video(trained, tmp_path):
    run("play", trained / "seed-0" / "agent.safetensors", "--real", "--decisions", 4, "--out", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"dream.mp4", "real.mp4"}
    assert all(path.stat().st_size > 500 for path in tmp_path.iterdir())


def test_the_agent_that_comes_with_a_world_is_named_by_the_world(world, trained, tmp_path, monkeypatch, capsys):
    own, bare = tmp_path / "own", tmp_path / "bare"
    for path in (own, bare):
        world.save_pretrained(path)
    shutil.copy(trained / "seed-0" / "agent.safetensors", own)
    run("evaluate", own, "--episodes", 2)
    assert "| agent |" in capsys.readouterr().out
    monkeypatch.chdir(bare)
    run("play", own, "--decisions", 2)
    assert (bare / "dream.mp4").exists() and not (own / "dream.mp4").exists()
    with pytest.raises(SystemExit):
        run("evaluate", bare)
    assert "comes without an agent; train one (worldsim agent train" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run("play", "no-such-world")
    assert "no world 'no-such-world'" in capsys.readouterr().err


@pytest.mark.parametrize("name", [name for name in shipped_worlds() if (find_world(name) / AGENT).exists()])
def test_an_agent_that_ships_plays_in_its_world(name, tmp_path):
    run("play", name, "--decisions", 2, "--out", tmp_path)
    assert (tmp_path / "dream.mp4").exists()


def test_policies_are_compared(folder, tmp_path, capsys):
    run("compare", folder, "--out", tmp_path / "out", "--episodes", 2, "--periods", 2)
    assert "spearman" in capsys.readouterr().out
    figures = json.loads((tmp_path / "out" / "policies.json").read_text())
    assert set(figures["agreement"]) == {"pearson", "spearman", "mmrv", "pearson_ci"}
    assert set(figures["policies"]["random"]) == {"dream", "real"}
    assert (tmp_path / "out" / "policies.png").stat().st_size > 1000


def test_what_is_asked_for_counts_more_than_quick():
    assert effort(TrainConfig(), EvaluateConfig()) == Effort()
    assert effort(TrainConfig(quick=True), EvaluateConfig()) == QUICK
    asked = effort(TrainConfig(quick=True, num_envs=32), EvaluateConfig(episodes=100))
    assert (asked.num_envs, asked.episodes, asked.stages) == (32, 100, QUICK.stages)


@pytest.mark.parametrize(
    "made",
    [
        lambda: TrainConfig(real=400, dream=DreamConfig(ending_cost=300.0)),
        lambda: TrainConfig(real=400, dream=DreamConfig(compiled=True)),
        lambda: TrainConfig(minutes=0.0),
        lambda: TrainConfig(stages=0),
        lambda: EvaluateConfig(episodes=0),
        lambda: DreamConfig(dream_steps=0),
    ],
)
def test_settings_that_do_not_go_are_refused(made):
    with pytest.raises(InvalidInput, match=r"^--.*(leave it out|give)"):
        made()


def test_without_stable_baselines_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "stable_baselines3", None)
    with pytest.raises(SystemExit) as stop:
        run("evaluate", tmp_path / "agent.safetensors")
    assert stop.value.code == 2 and 'pip install "worldsim[rl]"' in capsys.readouterr().err


def test_an_agent_is_the_same_whichever_others_are_trained_beside_it(folder, tmp_path, monkeypatch):
    options = (*SMALL, "--steps", 32, "--no-real", "--hold", 2)
    run("train", folder, "--out", tmp_path / "alone", *options, "--seed", 1)
    monkeypatch.setattr("worldsim.policies.rollouts.processes.ProcessCrew", PickledCrew)
    run("train", folder, "--out", tmp_path / "both", *options, "--seeds", 2, "--workers", 2)
    alone, both = (tmp_path / name / "seed-1" for name in ("alone", "both"))
    one, other = (load_file(path / "agent.safetensors") for path in (alone, both))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert {path.name for path in alone.iterdir()} == {path.name for path in both.iterdir()}
    alone, both = (json.loads((tmp_path / name / "results.json").read_text())["agents"] for name in ("alone", "both"))
    assert list(both) == ["seed 0", "seed 1"] and both["seed 1"] == alone["seed 1"]


def test_one_agent_or_a_folder_that_holds_one_is_not_given_to_workers(folder, trained, tmp_path, capsys):
    options = (*SMALL, "--steps", 32, "--no-real", "--hold", 2, "--workers", 2)
    for others, why in (
        (("--out", tmp_path), "add --seeds 2 or more"), (("--out", trained, "--seeds", 2), "holds an agent already"),
    ):  # fmt: skip
        with pytest.raises(SystemExit):
            run("train", folder, *options, *others)
        assert why in capsys.readouterr().err
