import numpy as np
import pytest

from worldsim.errors import InvalidInput
from worldsim.policies.baselines import ToAndFro, blind_policies
from worldsim.policies.correlation import agreement, pearson_interval
from worldsim.spec import ActionSpec


def test_a_dream_that_ranks_all_policies_right_agrees():
    agreed = agreement([10, 200, 3000], [1, 2, 3])
    assert agreed["spearman"] == pytest.approx(1.0) and agreed["mmrv"] == 0.0
    assert 0.8 < agreed["pearson"] < 0.95  # the right order, other distances


def test_a_wrong_rank_costs_what_it_is_about():
    agreed = agreement([1, 3, 2, 4], [100, 200, 250, 900])  # the second and third are changed round, 50 apart
    assert agreed["mmrv"] == pytest.approx(25.0) and agreed["spearman"] == pytest.approx(0.8)
    assert agreement([4, 3, 2, 1], [1, 2, 3, 4])["spearman"] == pytest.approx(-1.0)


def test_equal_scores_share_a_rank_and_all_equal_ones_have_no_correlation():
    assert agreement([1, 1, 2], [5, 5, 9])["spearman"] == pytest.approx(1.0)
    assert np.isnan(agreement([1, 1], [1, 2])["pearson"])


def test_to_and_fro_begins_each_episode_in_mid_course():
    policy, state = ToAndFro(1, 2, 4), None
    taken = []
    for step in range(10):
        actions, state = policy.predict(np.zeros((2, 1)), state, np.array([step == 0, step in (0, 5)]))
        taken.append(actions.tolist())
    first, second = zip(*taken, strict=True)
    assert first == (1, 1, 2, 2, 2, 2, 1, 1, 1, 1)
    assert second == (1, 1, 2, 2, 2, 1, 1, 2, 2, 2)


def test_a_period_of_no_steps_is_refused():
    with pytest.raises(InvalidInput, match="0 steps; give at least 1"):
        blind_policies(ActionSpec(n=2, meanings=("LEFT", "RIGHT")), [0])


def test_blind_policies_are_named_by_what_they_do():
    policies = blind_policies(ActionSpec(n=3, meanings=("NOOP", "LEFT", "RIGHT")), [20])
    assert {"always NOOP", "LEFT and RIGHT, 20 steps each", "random, held"} <= set(policies) and len(policies) == 8


def test_the_interval_of_the_correlation_is_wide_where_episodes_differ_much():
    real = [[1.0, 1.1], [2.0, 2.1], [3.0, 3.1]]
    narrow, wide = pearson_interval(real, real), pearson_interval([[0.0, 9.0], [1.0, 8.0], [2.0, 7.0]], real)
    assert 0.95 < narrow[0] <= narrow[1] <= 1 and wide[0] < 0 < wide[1]
