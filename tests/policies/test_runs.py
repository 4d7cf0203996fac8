"""What happened while an action was kept up for how long, when an agent was judged."""

import numpy as np
import pytest

from worldsim.policies.agent_envs import dream_envs, real_envs
from worldsim.policies.baselines import Always
from worldsim.policies.evaluate import evaluate
from worldsim.policies.observation import ObservationConfig
from worldsim.policies.runs import Run, Runs, format_runs


def play(runs, actions, *, row=0, ends=False, cut=False):
    """One episode of an environment, or the beginning of one."""
    for t, action in enumerate(actions):
        done = ends and t + 1 == len(actions)
        taken = np.full((2, *np.shape(action)), -1.0)
        taken[row] = action
        runs({"i": row, "actions": taken, "done": done, "info": {"TimeLimit.truncated": cut}}, {})


def test_decisions_and_terminations_are_counted_by_how_long_an_action_was_kept_up():
    runs = Runs(20)
    play(runs, [1, 1, 1, 2, 2], ends=True)  # at the second decision for 2
    play(runs, [2], ends=True)  # of another episode, in which it is a new action
    assert [(run.first, run.last, run.steps, run.terminations) for run in runs.rows()] == [
        (0, 20, 60, 1), (20, 40, 40, 1), (40, 60, 20, 0),
    ]  # fmt: skip
    assert [run.share for run in runs.rows()] == pytest.approx([3 / 6, 2 / 6, 1 / 6])
    assert [run.hazard for run in runs.rows()] == pytest.approx([1000 / 60, 25, 0])


def test_environments_keep_up_their_own_actions_and_a_cut_is_no_termination():
    runs = Runs(1)
    for action in (0, 0, 0):
        play(runs, [action])
        play(runs, [action % 2], row=1)
    play(runs, [0], ends=True, cut=True)
    found = [(run.first, run.steps, run.terminations) for run in runs.rows()]
    assert found == [(0, 2, 0), (1, 2, 0), (2, 2, 0), (3, 1, 0)]


def test_actions_that_are_arrays_change_with_any_of_their_numbers():
    runs = Runs(1)
    play(runs, [(0.0, 1.0), (0.0, 1.0), (0.5, 1.0)])
    assert [(run.first, run.steps) for run in runs.rows()] == [(0, 2), (1, 1)]


@pytest.mark.parametrize("make", [dream_envs, real_envs])
def test_a_score_tells_runs_of_all_its_episodes(world, make):
    score = evaluate(Always(1), make(world, 2, ObservationConfig(stack=1, hold=2)), 5, hold=100)
    assert sum(run.steps for run in score.runs) == sum(score.lengths)
    assert sum(run.share for run in score.runs) == pytest.approx(1) and score.runs[0].steps == 500
    assert len(score.to_json()["runs"]) == len(score.runs)


def test_the_table_has_a_line_for_runs_of_each_length_that_there_were():
    real = (Run(0, 20, 1000, 1, 0.25), Run(120, 20 * (1 << 31), 3000, 6, 0.75))
    table = format_runs({"dream": real[:1], "real": real}).splitlines()
    assert table[0].count("|") == table[1].count("|") == 6 and len(table) == 4
    assert table[2] == "| 0 to 20 | 0.25 | 0.25 | 1.00 | 1.00 |"
    assert table[3] == "| from 120 | - | 0.75 | - | 2.00 |"
