from dataclasses import replace

import counter_env
import numpy as np
import pytest
from game import counter_world

from worldsim.policies.agent_envs import dream_envs, real_envs
from worldsim.policies.baselines import Always, HeldRandom, baselines
from worldsim.policies.curves import format_stages, save_curves
from worldsim.policies.evaluate import Score, evaluate
from worldsim.policies.judge import TRAINED_IN, Judge, format_table, pooled
from worldsim.policies.observation import ObservationConfig
from worldsim.policies.rollouts import Workers
from worldsim.spec import ActionSpec

CONFIG = ObservationConfig(stack=1, hold=2)
DISCRETE = ActionSpec(n=3, meanings=("NOOP", "LEFT", "RIGHT")).to_space()


@pytest.mark.parametrize("make", [dream_envs, real_envs])
def test_a_score_counts_whole_episodes_and_follows_from_its_seed(world, make):
    envs = make(world, 2, CONFIG)
    one, again, other = (evaluate(HeldRandom(DISCRETE), envs, 6, hold=2, seed=s) for s in (3, 3, 4))
    assert len(one.returns) == len(one.lengths) == 6 and one == again and one.returns != other.returns
    assert all(steps % 2 == 0 and 2 <= steps <= 8 for steps in one.lengths)


def test_the_same_action_earns_the_same_in_the_same_games(world):
    envs = real_envs(world, 2, CONFIG)
    scores = [evaluate(Always(action), envs, 4, hold=2) for action in (0, 2)]
    assert scores[0].lengths == scores[1].lengths  # the counter's end does not depend on the actions, its reward does
    assert scores[1].mean == pytest.approx(3 * scores[0].mean)


def test_the_interval_surrounds_the_mean_and_narrows():
    rng = np.random.default_rng(0)
    few, many = (Score(tuple(rng.normal(100, 10, n)), tuple(rng.integers(90, 110, n).tolist())) for n in (10, 1000))
    for score in (few, many):
        assert score.interval()[0] < score.mean < score.interval()[1]
        assert score.length_interval()[0] < score.mean_length < score.length_interval()[1]
    assert np.diff(many.interval()) < np.diff(few.interval()) / 3
    assert str(many).startswith(f"{many.mean_length:.0f} [") and many.to_json()["episodes"] == 1000


def test_held_actions_are_held():
    seen = np.zeros((500, 1))
    for mean_steps, low, high in ((1.0, 0.55, 0.75), (10.0, 0.03, 0.1)):
        policy = HeldRandom(DISCRETE, mean_steps=mean_steps)
        actions = np.stack([policy.predict(seen)[0] for _ in range(20)])
        assert low < np.mean(np.diff(actions, axis=0) != 0) < high
        assert set(actions.ravel().tolist()) == {0, 1, 2}
    before = policy.predict(seen)[0]
    assert np.mean(policy.predict(seen, episode_start=np.ones(500, bool))[0] != before) > 0.5


def test_random_actions_fill_a_box():
    space = ActionSpec(low=(-1.0, 0.0), high=(1.0, 3.0)).to_space()
    actions = HeldRandom(space).predict(np.zeros((200, 1)))[0]
    assert actions.shape == (200, 2) and all(space.contains(action) for action in actions)
    assert (actions.max(0) > [0.9, 2.7]).all() and (actions.min(0) < [-0.9, 0.3]).all()


def test_the_baselines_of_take_cover():
    spec = ActionSpec(n=3, meanings=("NOOP", "LEFT", "RIGHT"))
    assert set(baselines(spec, hold=2)) == {"random", "random, held", "always LEFT", "always RIGHT"}
    assert set(baselines(spec, hold=20)) == {"random", "always LEFT", "always RIGHT"}
    assert set(baselines(ActionSpec(n=18), hold=1)) == {"random", "random, held"}


def test_the_judge_plays_both_and_the_table_has_both(world):
    judge = Judge(world, CONFIG, episodes=3)
    rows = {"seed 0": judge(Always(1)), "random": judge(Always(2), 2)}
    judge.close()
    assert [len(rows["random"][place].returns) for place in ("dream", "real")] == [2, 2]
    table = format_table(rows, {"seed 0": 1000}).splitlines()
    assert table[2].startswith("| seed 0 |") and table[2].endswith("| 1,000 |") and table[3].endswith("| 0 |")
    assert pooled([rows["seed 0"], rows["seed 0"]])["real"] == rows["seed 0"]["real"].mean_length
    only = Judge(world, CONFIG, episodes=2, real=False)(Always(0))
    assert set(only) == {"dream"} and "| - |" in format_table({"a": only}, {"a": None})


def test_an_agent_is_also_judged_in_the_dream_that_it_was_trained_in(world):
    judge = Judge(world, CONFIG, episodes=4, trained_in=world.with_sampling(replace(world.sampling, temperature=1.4)))
    scores = judge(Always(1))
    assert list(scores) == ["dream", TRAINED_IN, "real"] and len(scores[TRAINED_IN].returns) == 4
    title, _, row = format_table({"seed 0": scores}, {}).splitlines()
    cells = dict(zip(*([cell.strip() for cell in line.split("|")] for line in (title, row)), strict=False))
    assert cells[f"in the {TRAINED_IN}"].startswith(f"{scores[TRAINED_IN].mean:.0f} [")
    assert title.count("over real") == 2


def test_scores_do_not_depend_on_who_plays(world):
    source = replace(world.config.source, name=f"gym:counter_env:{counter_env.DISCRETE}")
    modular = counter_world(source=source)  # other processes have not registered the game
    policy = HeldRandom(DISCRETE, mean_steps=2.0)
    scores = []
    for workers in (1, 2):
        judge = Judge(modular, CONFIG, episodes=20, trust_source=True, workers=Workers(workers))
        scores.append(judge(policy))
        judge.close()
    assert scores[0] == scores[1]
    for score in scores[0].values():
        assert len(score.returns) == 20 and sum(age.steps for age in score.ages) == sum(score.lengths)
        assert sum(run.share for run in score.runs) == pytest.approx(1)


def test_stages_show_the_dream_beside_the_game():
    def scored(steps, **returns):
        return {"steps": steps, "scores": {place: {"mean_return": value} for place, value in returns.items()}}

    table = format_stages([{"steps": 500}, scored(1000, dream=300.0, real=200.0), scored(2000, dream=90.0, real=0.0)])
    assert table.splitlines() == [
        "| decisions | return, dream | return, real | dream over real |",
        "|---|---|---|---|",
        "| 1,000 | 300 | 200 | 1.50 |",
        "| 2,000 | 90 | 0 | - |",
    ]
    alone = format_stages([scored(1000, dream=300.0)])
    assert alone.splitlines()[0] == "| decisions | return, dream |" and alone.endswith("| 1,000 | 300 |")


def test_curves_of_runs_whose_scores_counted_tics_are_still_read(tmp_path):
    score = {"mean_return": 2.0, "return_ci": [1.0, 3.0], "mean_tics": 40.0, "tics_ci": [40.0, 40.0], "tics": [40]}
    points = [{"steps": 1000, "minutes": 1.0, "scores": {"real": score}}]
    assert format_stages(points).endswith("| 1,000 | 2 |")
    pytest.importorskip("matplotlib")
    save_curves(tmp_path / "curves.png", {"seed 0": points})
    assert (tmp_path / "curves.png").exists()
