"""What happened at which age of a game, while an agent was judged."""

import numpy as np
import pytest

from worldsim.evaluate.probes import count_in_sight
from worldsim.policies.agent_envs import dream_envs, real_envs
from worldsim.policies.ages import LOOK_EVERY, Age, Ages, format_ages
from worldsim.policies.baselines import Always
from worldsim.policies.evaluate import evaluate
from worldsim.policies.observation import ObservationConfig


class Envs:
    """As many frames as rows; the first row shows a fireball."""

    def __init__(self) -> None:
        self.asked = 0

    def get_images(self):
        self.asked += 1
        frames = np.zeros((2, 64, 128, 3), np.uint8)
        frames[0, 20:26, 40:46] = (255, 230, 140)
        return list(frames)


def decide(ages, envs, lengths, done=(False, False), cut=False):
    """One decision of two environments whose episodes are so long by now."""
    observations = object()
    for row in range(2):
        info = {"TimeLimit.truncated": cut}
        ages(
            {
                "i": row, "current_lengths": lengths, "done": done[row], "info": info, "env": envs,
                "new_observations": observations,
            },
            {},
        )  # fmt: skip


def test_steps_terminations_and_what_is_in_sight_are_counted_by_age():
    ages, envs = Ages(5, count_in_sight("doom-take-cover")), Envs()
    for length in range(1, 16):
        decide(ages, envs, (length, length), done=(length == 15, False))
    first, second = ages.rows()
    assert (first.first, first.last, first.steps, first.terminations) == (0, 50, 100, 0)
    assert (second.first, second.last, second.steps, second.terminations) == (50, 100, 50, 1)
    looks = 15 // LOOK_EVERY
    assert first.looks + second.looks == 2 * looks and first.seen + second.seen == looks
    assert envs.asked == looks  # once for all rows
    assert second.hazard == pytest.approx(20) and first.in_sight == 0.5


def test_an_episode_that_was_cut_off_is_no_termination():
    ages = Ages(10, None)
    decide(ages, Envs(), (5, 5), done=(True, True), cut=True)
    assert [(age.terminations, age.looks) for age in ages.rows()] == [(0, 0)]


def test_nothing_is_looked_at_in_a_game_in_which_nothing_is_counted():
    assert count_in_sight("doom-my-way-home") is None
    ages, envs = Ages(1, None), Envs()
    decide(ages, envs, (LOOK_EVERY, LOOK_EVERY))
    assert envs.asked == 0


@pytest.mark.parametrize("make", [dream_envs, real_envs])
def test_a_score_tells_ages_of_all_its_episodes(world, make):
    score = evaluate(
        Always(1), make(world, 2, ObservationConfig(stack=1, hold=2)), 5, hold=100,
        count=lambda frames: np.arange(len(frames)),
    )  # fmt: skip
    assert sum(age.steps for age in score.ages) == sum(score.lengths)
    assert sum(age.terminations for age in score.ages) <= 5 and len(score.to_json()["ages"]) == len(score.ages)


def test_the_table_has_a_line_for_each_age_that_somebody_reached():
    real = (Age(0, 50, 1000, 1, 10, 5), Age(50, 100, 500, 2, 0, 0))
    table = format_ages({"dream": real[:1], "real": real}).splitlines()
    assert table[0].count("|") == table[1].count("|") == 6 and len(table) == 4
    assert table[2] == "| 0 to 50 | 1.00 | 1.00 | 0.50 | 0.50 |"
    assert table[3] == "| 50 to 100 | - | 4.00 | - | - |"
    unseen = format_ages({"dream": (Age(800, 1 << 31, 10, 0, 0, 0),)}).splitlines()
    assert unseen[0] == "| age, steps | terminations in 1,000 steps, dream |" and unseen[2] == "| from 800 | 0.00 |"
