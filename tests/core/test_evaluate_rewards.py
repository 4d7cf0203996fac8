import dataclasses

import numpy as np
import pytest
from tiny import tiny_episodes, tiny_world

from worldsim.evaluate.data import choose_spans, read_clips
from worldsim.evaluate.effort import QUICK
from worldsim.evaluate.rewards import compare_rewards, correlation, measure_rewards

EFFORT = dataclasses.replace(QUICK, clips=3)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    store = tiny_episodes(tmp_path_factory.mktemp("episodes") / "store", lengths=(40, 30))
    clips = read_clips(store, choose_spans(store, 3, EFFORT.context + 16, 0))
    return measure_rewards(tiny_world(), store, clips, EFFORT), len(clips.spans)


def test_predictions_are_compared_step_by_step_and_in_sums():
    real = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]], np.float32)
    figures = compare_rewards(real, 2 * real + 1)
    assert figures["correlation"] == pytest.approx(1)
    assert figures["bias"] == pytest.approx(4 / 3)
    low, high = figures["bias_ci"]
    assert low <= 4 / 3 <= high


def test_a_correlation_of_what_does_not_vary_is_none():
    assert np.isnan(correlation(np.ones(5), np.arange(5)))
    assert correlation(np.arange(5), -np.arange(5)) == pytest.approx(-1)


def test_rewards_are_measured_on_real_frames_and_in_dreams(measured):
    figures, clips = measured
    assert figures["steps"] == 16 and figures["clips"] == clips
    assert figures["real_mean"] == 1 and figures["real_deviation"] == 0  # of every step but the first
    for part in ("teacher_forced", "dream"):
        assert np.isfinite(figures[part]["bias"]) and len(figures[part]["bias_ci"]) == 2
    # Sixteen steps of dreams that each pay too little are too little by sixteen times as much.
    assert figures["dream"]["bias"] == pytest.approx(16 * figures["teacher_forced"]["bias"], rel=0.2)
