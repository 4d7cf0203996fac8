"""Robot policies in a learned world and in the real simulator: what they are given, what is judged, what is refused."""

import json
import sys
import types
from dataclasses import replace

import numpy as np
import point_robot
import pytest
import torch

from worldsim.cli.main import main
from worldsim.data.importing import read_video
from worldsim.envs.sources import make_source
from worldsim.errors import InvalidInput
from worldsim.policies.robot.evaluation import SEED, EvaluateConfig, RobotReport, Verdict, evaluate_policies, interval
from worldsim.policies.robot.films import film_disagreements
from worldsim.policies.robot.protocol import chosen, load_policy, make_batch
from worldsim.policies.robot.rollouts import Episodes, dream_episodes, own_starts, real_starts
from worldsim.world import World


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return point_robot.trained_world(tmp_path_factory.mktemp("robot"))


@pytest.fixture(scope="module")
def world(folder):
    return World.from_pretrained(folder, device="cpu")


class Looker:
    """Keeps what it is given, and pushes to the right."""

    def __init__(self):
        self.batches, self.resets = [], 0

    def reset(self):
        self.resets += 1

    def select_action(self, batch):
        self.batches.append(batch)
        return torch.ones(len(batch["task"]), 2)


def policies_of(world, *names):
    return {name: load_policy(name, world.spec, world.config.source) for name in names}


def test_a_world_of_seconds_tells_who_reaches_the_goal_as_the_real_simulator_does(world):
    made = policies_of(world, "chaser:1", "chaser:0.3", "chaser:-1", "random")
    report = evaluate_policies(world, made, EvaluateConfig(episodes=12), real=make_source("point-robot"))
    rates = {(v.policy, v.task): (v.dream.success.mean(), v.real.success.mean()) for v in report.verdicts}
    assert rates["chaser:1", "left"][1] == 1.0 and rates["chaser:-1", "left"][1] == 0.0
    found = report.agreements()
    assert set(found) == {"left", "right", "all"} and found["all"]["policies"] == 8
    assert found["all"]["pearson"] > 0.9 and found["all"]["pearson_ci"][0] > 0.7
    assert found["all"]["replays_agree"] > 0.8 and found["all"]["episodes_agree"] > 0.8


def test_policies_get_batches_in_the_words_of_lerobot(world):
    source, policy = make_source("point-robot"), Looker()
    starts = real_starts(source, "right", [3, 4, 5])
    played = dream_episodes(world, lambda: policy, starts, steps=4)
    assert policy.resets == 1 and len(policy.batches) <= 4 and played.success.shape == (3,)
    batch = policy.batches[0]
    assert batch["task"] == ["right"] * 3
    assert batch["observation.image"].shape == (3, 3, 16, 32) and batch["observation.image"].dtype == torch.float32
    assert batch["observation.image"].min() >= 0 and batch["observation.image"].max() <= 1
    np.testing.assert_allclose(batch["observation.state"], starts.streams["proprio"], atol=1e-6)
    np.testing.assert_allclose(batch["observation.environment_state"], starts.streams["goal"], atol=1e-6)
    np.testing.assert_allclose(policy.batches[-1]["observation.goal"], starts.streams["goal"], atol=1e-6)


def test_episodes_that_end_differently_are_filmed_side_by_side(world, tmp_path):
    source, made = make_source("point-robot"), policies_of(world, "chaser:0.3")
    verdict = evaluate_policies(world, made, EvaluateConfig(episodes=4, tasks=("left",)), real=source).verdicts[0]
    assert film_disagreements(world, source, [verdict], tmp_path, first_seed=SEED, most=0) == []
    other = replace(verdict, dream=replace(verdict.dream, success=~verdict.real.success))
    (path, _) = film_disagreements(world, source, [other], tmp_path, first_seed=SEED, most=2)
    assert path.name == "chaser_0.3-left-0.mp4"
    frames = read_video(path, 4 * 18, 4 * 68)
    taken = max(len(verdict.real.actions[0]), len(verdict.dream.actions[0]))
    assert len(frames) == taken + 1
    start = source.reset(SEED)
    seen = frames[0][: 16 * 4, : 32 * 4][2::4, 2::4]
    assert np.abs(seen.astype(int) - start.rgb).mean() < 40  # the real one is on the left; a video is lossy


def test_episodes_without_the_simulator_begin_as_recorded_ones_of_the_task(world):
    starts = own_starts(world, "left", 5, seed=0)
    state = world.reset(list(starts.seeds))
    assert len(starts.seeds) == 5 and (world.streams(state)["task"] == 0).all()
    report = evaluate_policies(world, policies_of(world, "chaser:1"), EvaluateConfig(episodes=5, tasks=("left",)))
    assert report.agreements() == {} and [v.task for v in report.verdicts] == ["left"]


def test_the_same_seeds_give_the_same_episodes(world):
    config = EvaluateConfig(episodes=6, tasks=("right",), seed=9)
    one, two = (evaluate_policies(world, policies_of(world, "random"), config).verdicts[0].dream for _ in range(2))
    assert one.success.tolist() == two.success.tolist() and one.steps.tolist() == two.steps.tolist()


def test_an_interval_says_something_of_no_success_at_all():
    low, high = interval(np.zeros(20, bool))
    assert low == 0.0 and 0.1 < high < 0.25
    assert interval(np.ones(20, bool))[0] == pytest.approx(1 - high)


def test_one_wrong_rank_is_seen_in_the_report():
    def verdict(name, dream, real):
        played = [Episodes(np.arange(10) < n, np.full(10, 5)) for n in (dream, real)]
        return Verdict(name, "push", played[0], played[1], played[1])

    report = RobotReport("w", [verdict("a", 9, 9), verdict("b", 1, 5), verdict("c", 5, 1)])
    found = report.agreements()["push"]
    assert found["mmrv"] == pytest.approx(0.8 / 3) and found["episodes_agree"] == pytest.approx(1.0 - 0.8 / 3)
    assert found["replays_agree"] == 1.0 and "| push | 3 |" in report.to_text()


@pytest.mark.parametrize(
    ("actions", "said"),
    [(torch.zeros(3, 4), r"\(3, 4\)"), (torch.full((3, 2), torch.nan), "finite"), (torch.zeros(2), r"\(2,\)")],
)
def test_actions_of_another_shape_are_refused(world, actions, said):
    policy = types.SimpleNamespace(reset=lambda: None, select_action=lambda batch: actions)
    with pytest.raises(InvalidInput, match=said):
        chosen(policy, make_batch(world.spec, None, {}, ["left"] * 3), world.spec)


@pytest.mark.parametrize(
    ("name", "said"),
    [("nobody", "chaser"), ("point_robot:nothing", "nothing"), ("point_robot:STREAMS", "not callable|tuple")],
)
def test_what_is_no_policy_is_refused(world, name, said):
    with pytest.raises((InvalidInput, TypeError), match=said):
        load_policy(name, world.spec, world.config.source)()


def test_a_policy_without_the_protocol_is_refused(world, monkeypatch):
    monkeypatch.setitem(sys.modules, "mine", types.SimpleNamespace(make=lambda: object()))
    with pytest.raises(InvalidInput, match="select_action"):
        load_policy("mine:make", world.spec, world.config.source)()


def test_a_policy_that_cannot_play_the_world_is_refused(world):
    with pytest.raises(InvalidInput, match="expert"):
        load_policy("expert", world.spec, world.config.source)()


def test_the_command_writes_rates_agreement_and_a_plot(folder, tmp_path, capsys):
    main(["robot", "evaluate", "chaser:1", "chaser:-1", "--world", str(folder), "--out", str(tmp_path / "out"),
          "--real", "--episodes", "3"])  # fmt: skip
    said = capsys.readouterr().out
    assert "Pearson's r" in said and (tmp_path / "out" / "robots.png").exists()
    saved = json.loads((tmp_path / "out" / "robots.json").read_text())
    assert len(saved["verdicts"]) == 4 and saved["verdicts"][0]["real"]["success"] == [1, 1, 1]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (("--tasks", "up"), "knows no task 'up'"),
        (("--episodes", "0"), "give at least 1"),
        (("chaser:1",), "name each once"),
    ],
)
def test_wrong_options_are_one_sentence(folder, tmp_path, capsys, extra, said):
    with pytest.raises(SystemExit):
        main(["robot", "evaluate", "chaser:1", *extra, "--world", str(folder), "--out", str(tmp_path)])
    assert said in capsys.readouterr().err


def test_a_world_that_knows_no_success_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["robot", "evaluate", "random", "--world", "doom-take-cover", "--out", str(tmp_path)])
    assert "no stream 'success'" in capsys.readouterr().err
