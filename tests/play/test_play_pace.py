import math
import random

import numpy as np
import pytest

from worldsim.envs.play.feed import Feed, QueuedFrame
from worldsim.envs.play.pace import Pace, Rate, Recent, spread


def _run(pace, seconds, compute, change_every=math.inf):
    """Simulate the model thread; keys change every so often. Returns when the steps started."""
    now, changed_at, starts = 0.0, change_every, []
    while now < seconds:
        start = max(now, pace.deadline)
        early = max(now, pace.earliest(), changed_at)
        if early < start:
            start = early
        if start >= changed_at:
            changed_at = start + change_every
        starts.append(start)
        pace.started(start)
        now = start + compute
    return starts


def test_steps_keep_the_rate_without_drift():
    starts = _run(Pace(0.05, 0.0), 100.0, compute=0.02)
    np.testing.assert_allclose(starts, 0.05 * np.arange(len(starts)), atol=1e-9)


def test_early_steps_do_not_speed_the_game_up():
    starts = _run(Pace(0.05, 0.0), 100.0, compute=0.02, change_every=0.07)
    ahead = 0.05 * np.arange(len(starts)) - starts
    assert ahead.max() > 0.02  # the keys were answered early
    assert ahead.max() <= 0.05 + 1e-9  # and never more than one step ahead
    assert ahead.min() > -1e-9


def test_a_slow_model_falls_behind_and_does_not_catch_up():
    pace = Pace(0.05, 0.0)
    slow = _run(pace, 10.0, compute=0.08)
    np.testing.assert_allclose(np.diff(slow), 0.08)
    now = slow[-1] + 0.08
    pace.started(now)
    assert pace.deadline >= now


def test_a_small_delay_is_made_up_for():
    pace = Pace(0.05, 0.0)
    pace.started(0.03)
    assert pace.deadline == pytest.approx(0.05)


def test_another_speed_takes_effect_at_once():
    pace = Pace(10.0, 0.0)
    pace.started(0.0)
    pace.rebase(1.0, 0.5)
    assert pace.deadline == 1.5
    assert pace.earliest() == 1.0


def test_frames_of_a_step_are_spread_until_the_next_step():
    assert spread(0.0, 0.02, 0.05, 2) == pytest.approx([0.02, 0.045])
    assert spread(0.0, 0.08, 0.05, 2) == pytest.approx([0.08, 0.12])  # too slow: over the time a step takes


def _shot(due, pressed_at=None):
    return QueuedFrame((np.zeros((1, 1, 3), np.uint8),), due, pressed_at)


def test_the_newest_due_frame_is_shown_with_the_oldest_key_press():
    woken = []
    feed = Feed(lambda: woken.append(1))
    feed.put([_shot(1.0, 0.5), _shot(2.0), _shot(3.0)])
    assert woken
    assert feed.take(0.9) is None
    assert feed.next_due() == 1.0
    shot = feed.take(2.5)
    assert (shot.due, shot.pressed_at) == (2.0, 0.5)
    assert feed.take(2.5) is None
    assert feed.take(3.0).due == 3.0
    assert feed.next_due() == math.inf


def test_an_early_step_shows_waiting_frames_in_time():
    feed = Feed(lambda: None)
    feed.put([_shot(5.0), _shot(6.0)])
    feed.hurry(1.0, within=0.3)
    assert feed.take(1.1).due == pytest.approx(1.1)
    assert feed.take(1.2).due == pytest.approx(1.2)


def test_a_new_episode_drops_what_waits():
    feed = Feed(lambda: None)
    feed.put([_shot(5.0)])
    feed.replace(_shot(1.0))
    assert feed.take(9.0).due == 1.0
    assert feed.take(9.0) is None


def test_rates_and_percentiles():
    rate, recent = Rate(span=2.0), Recent()
    assert rate.per_second(0.0) is None
    assert recent.milliseconds(50) is None
    random.seed(0)
    for i in range(100):
        rate.tick(i / 35)
        recent.add(0.010 if i % 10 else 0.030)
    assert rate.per_second(99 / 35) == pytest.approx(35)
    assert recent.milliseconds(50) == pytest.approx(10)
    assert recent.milliseconds(95) == pytest.approx(30)
    assert rate.per_second(1000.0) is None
