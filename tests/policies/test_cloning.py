"""Policies cloned from recordings of a simulator, or of a world: what they learn, where they play, what is refused."""

import numpy as np
import point_robot
import pytest
import torch

from worldsim.cli.main import main
from worldsim.cli.record import record_episodes
from worldsim.data.episodes import Episodes
from worldsim.envs.sources import make_source
from worldsim.errors import InvalidInput
from worldsim.policies.robot.cloning import ClonedPolicy, clone, read_shown
from worldsim.policies.robot.protocol import load_policy, make_batch
from worldsim.policies.robot.rollouts import real_episodes
from worldsim.world import World


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clone")
    point_robot.trained_world(path, steps=5)
    record_episodes("point-robot", {}, steps=400, out=path / "experts", policy="chaser:1", seed=5)
    return path


@pytest.fixture(scope="module")
def policy(folder):
    return clone(read_shown([Episodes.open(folder / "experts")]), steps=150)


def test_a_clone_of_an_expert_reaches_the_goal_that_it_sees(folder, policy, tmp_path):
    policy.save(tmp_path / "policy.safetensors")
    world, source = World.from_pretrained(folder / "world", device="cpu"), make_source("point-robot")
    make = load_policy(str(tmp_path / "policy.safetensors"), world.spec, world.config.source)
    played = [real_episodes(source, world.spec, make, task, range(10), 12).success for task in ("left", "right")]
    assert np.concatenate(played).mean() > 0.6
    again = ClonedPolicy.load(tmp_path / "policy.safetensors")
    frames = np.zeros((2, 16, 32, 3), np.uint8)
    batch = make_batch(world.spec, frames, {"proprio": np.zeros((2, 2), np.float32)}, ["left", "right"])
    assert torch.equal(again.select_action(batch), policy.select_action(batch))


def test_only_what_led_to_success_is_cloned(folder):
    store = Episodes.open(folder / "experts")
    shown = read_shown([store], episodes=3)
    rows = sum(int(np.argmax(store.episode(i)["success"])) for i in range(3))
    assert len(shown.images) == len(shown.actions) == rows and shown.names == ("left", "right")
    np.testing.assert_array_equal(shown.actions[0], store.episode(0)["action"][1])


def test_of_named_tasks_alone_episodes_are_cloned(folder):
    store = Episodes.open(folder / "experts")
    right = [i for i in range(len(store)) if store.episode(i)["task"][0] == 1]
    shown = read_shown([store], episodes=2, tasks=["right"])
    assert set(shown.tasks.tolist()) == {1}
    np.testing.assert_array_equal(shown.actions[0], store.episode(right[0])["action"][1])
    with pytest.raises(InvalidInput, match="no task 'up'; they have left, right"):
        read_shown([store], tasks=["up"])


def test_the_same_seed_clones_the_same_policy(folder):
    shown = read_shown([Episodes.open(folder / "experts")], episodes=2)
    one, two = (clone(shown, steps=2)._net.state_dict() for _ in range(2))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_the_commands_clone_what_a_world_dreamed(folder, tmp_path, capsys):
    world, store, out = (str(path) for path in (folder / "world", tmp_path / "dreamed", tmp_path / "p.safetensors"))
    main(["robot", "dream", "chaser:1", "--world", world, "--out", store, "--episodes", "5", "--steps", "4"])
    dreamed, real = Episodes.open(store), Episodes.open(folder / "data")
    assert dreamed.lengths.tolist() == [5] * 5 and dreamed.meta.streams.keys() == real.meta.streams.keys()
    episode = dreamed.episode(0)
    assert episode["truncated"].tolist() == [False] * 4 + [True] and episode["rgb"].any()
    assert len(np.unique(np.concatenate([dreamed.episode(i)["task"] for i in range(5)]))) == 2
    main(["robot", "clone", store, "--out", out, "--steps", "2"])
    main(["robot", "evaluate", out, "--world", world, "--out", str(tmp_path / "out"), "--episodes", "2", "--real"])
    said = capsys.readouterr().out
    assert "5 episodes, 25 steps" in said and f"| {out} | left |" in said


def test_wrong_input_is_refused_in_a_sentence(folder, policy, tmp_path, capsys):
    data, world = str(folder / "experts"), World.from_pretrained(folder / "world", device="cpu")
    for options, said in (
        (["--out", str(tmp_path / "p.pt")], "ends in .safetensors"),
        (["--out", str(tmp_path / "p.safetensors"), "--episodes", "999"], "give 1 to that"),
        (["--out", str(tmp_path / "p.safetensors"), "--seconds", "0"], "more than 0"),
    ):
        with pytest.raises(SystemExit):
            main(["robot", "clone", data, *options])
        assert said in capsys.readouterr().err.replace("\n", " ")
    state = {"proprio": np.zeros((1, 2), np.float32)}
    small, none = np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 16, 32, 3), np.uint8)
    for batch, said in (
        (make_batch(world.spec, small, state, ["left"]), r"\(B, 3, 16, 32\)"),
        (make_batch(world.spec, None, state, ["left"]), "None"),
        (make_batch(world.spec, none, state, ["up"]), "no task 'up'"),
        (make_batch(world.spec, none, {}, ["left"]), "observation.state of"),
    ):
        with pytest.raises(InvalidInput, match=said):
            policy.select_action(batch)
    with pytest.raises(InvalidInput, match="worldsim robot clone"):
        load_policy(str(tmp_path / "none.safetensors"), world.spec, world.config.source)
