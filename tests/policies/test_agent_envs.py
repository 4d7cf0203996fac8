"""The dream and the real game have one interface."""

import dataclasses
import sys

import gymnasium as gym
import numpy as np
import pytest
from game import COUNTER, counter_world, doom_world, with_source
from tiny import tiny_files

from worldsim.errors import InvalidInput
from worldsim.policies.agent_envs import dream_envs, real_envs
from worldsim.policies.baselines import HeldRandom
from worldsim.policies.change_cost import ChangeCost
from worldsim.policies.controls import ShuffledActions
from worldsim.policies.evaluate import evaluate
from worldsim.policies.judge import Judge
from worldsim.policies.observation import ObservationConfig

KINDS = [
    ObservationConfig("latents", stack=2, hold=2),
    ObservationConfig("pixels", stack=3, hold=1),
    ObservationConfig("pixels", height=8, width=8, gray=False, stack=1, hold=3),
]


def play(envs, steps, seed=0):
    envs.seed(seed)
    shown, infos, rng = [envs.reset().copy()], [], np.random.default_rng(0)
    for _ in range(steps):
        observation, _, _, info = envs.step(rng.integers(3, size=envs.num_envs))
        shown.append(observation.copy())
        infos += info
    return np.stack(shown), infos


@pytest.mark.parametrize("config", KINDS)
def test_an_agent_cannot_tell_them_apart_by_their_interface(world, config):
    dream, real = dream_envs(world, 2, config), real_envs(world, 2, config)
    assert dream.observation_space == real.observation_space and dream.action_space == real.action_space
    for envs in (dream, real):
        shown, infos = play(envs, 20)
        assert shown.shape[2:] == envs.observation_space.shape and shown.dtype == envs.observation_space.dtype
        lengths = [info["episode"]["l"] for info in infos if "episode" in info]
        assert lengths and max(lengths) <= -(-8 // config.hold)
        finals = [info["terminal_observation"] for info in infos if "terminal_observation" in info]
        assert all(final.shape == envs.observation_space.shape for final in finals)
        assert np.array_equal(shown, play(envs, 20)[0]) and not np.array_equal(shown, play(envs, 20, seed=7)[0])


def test_a_game_in_a_module_that_a_worlds_files_name_runs_only_where_it_is_trusted(tmp_path, monkeypatch):
    (tmp_path / "named_game.py").write_text("import counter_env")
    monkeypatch.syspath_prepend(tmp_path)
    id = COUNTER.name.removeprefix("gym:")
    world = counter_world(source=dataclasses.replace(COUNTER, name=f"gym:named_game:{id}"))
    config = ObservationConfig(stack=1)
    for opened in (lambda: real_envs(world, 1, config), lambda: Judge(world, config, episodes=1)):
        with pytest.raises(InvalidInput, match=r"Python module 'named_game'.*trust_source=True"):
            opened()
    assert "named_game" not in sys.modules
    Judge(world, config, episodes=1, trust_source=True).close()
    assert sys.modules.pop("named_game")


def test_another_game_takes_the_place_of_the_worlds_own(world):
    config, named = ObservationConfig(stack=1), {"source": COUNTER.name}
    lost = counter_world(source=dataclasses.replace(COUNTER, name="gym:worldsim/Nowhere-v0"))
    here, there = real_envs(world, 1, config), real_envs(lost, 1, config, **named)
    assert np.array_equal(play(here, 5)[0], play(there, 5)[0])
    Judge(lost, config, episodes=1, **named).close()
    with pytest.raises(InvalidInput, match="does not fit world"):
        real_envs(doom_world(), 1, config, **named)


def test_the_real_game_is_seen_through_the_worlds_tokenizer(world):
    config = ObservationConfig("latents", stack=1, hold=1)
    raw = real_envs(world, 1, ObservationConfig("pixels", gray=False, stack=1, hold=1))
    frames, latents = play(raw, 5)[0], play(real_envs(world, 1, config), 5)[0]
    for frame, seen in zip(frames, latents, strict=True):
        np.testing.assert_allclose(seen, world.encode(frame), atol=1e-5)


@pytest.mark.parametrize("make", [dream_envs, real_envs])
def test_the_last_observations_are_seen_together(world, make):
    plain = play(make(world, 1, ObservationConfig(stack=1, hold=1)), 9)[0]
    stacked, infos = play(make(world, 1, ObservationConfig(stack=2, hold=1)), 9)
    begun = [True, *("episode" in info for info in infos)]
    assert any(begun[1:])
    for t, begins in enumerate(begun):
        before = np.zeros_like(plain[0, 0]) if begins else plain[t - 1, 0]
        assert np.array_equal(stacked[t, 0], np.concatenate([before, plain[t, 0]]))


def test_dreams_may_be_short_and_begin_anywhere(world):
    envs = dream_envs(world, 2, ObservationConfig(hold=2), max_episode_steps=3, start="anywhere", temperature=1.5)
    _, infos = play(envs, 2)
    assert all(info["TimeLimit.truncated"] or "episode" in info for info in infos[2:])
    assert envs.get_attr("start") == ["anywhere"] * 2
    assert envs.get_attr("world")[0].world.config.sampling.temperature == 1.5


def test_shuffled_actions_have_no_say():
    world = with_source(tiny_files(), COUNTER)
    envs = dream_envs(world, 64, ObservationConfig(hold=1))
    taken = []
    inner = envs
    while hasattr(inner, "venv"):
        inner = inner.venv
    step = inner.step_async
    inner.step_async = lambda actions: (taken.append(actions), step(actions))[1]
    shuffled = ShuffledActions(envs)
    shuffled.reset()
    for _ in range(4):
        shuffled.step(np.full(64, 1))
    counts = np.bincount(np.concatenate(taken), minlength=3)
    assert counts.min() > 50 and counts.sum() == 256
    with pytest.raises(InvalidInput, match="no order to shuffle"):
        envs.action_space = envs.observation_space
        ShuffledActions(envs)


def test_a_changed_action_costs_reward_but_not_the_first_of_an_episode(world):
    plain, costly = (dream_envs(world, 2, ObservationConfig(hold=1), max_episode_steps=4) for _ in range(2))
    costly = ChangeCost(costly, 5.0)
    assert np.array_equal(plain.reset(), costly.reset())
    rng, last, paid, ended = np.random.default_rng(0), [None, None], 0, 0
    for _ in range(40):
        actions = rng.integers(2, size=2)
        seen, rewards, dones, _ = plain.step(actions)
        seen_too, less, dones_too, _ = costly.step(actions)
        assert np.array_equal(seen, seen_too) and np.array_equal(dones, dones_too)
        changed = [before is not None and before != now for before, now in zip(last, actions, strict=True)]
        assert np.allclose(rewards - less, 5 * np.array(changed))
        last = [None if done else now for done, now in zip(dones, actions, strict=True)]
        paid, ended = paid + sum(changed), ended + sum(dones)
    assert paid > 5 and ended > 5


def test_a_changed_continuous_action_costs_the_square_of_the_change(world):
    inner = dream_envs(world, 2, ObservationConfig(hold=1))
    inner.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    inner.reset()
    rewards = np.zeros(2, np.float32)
    inner.step_async = lambda actions: None
    inner.step_wait = lambda: (np.zeros(1), rewards, np.zeros(2, bool), [{}, {}])
    costly = ChangeCost(inner, 2.0)
    costly.step(np.array([[0.0, 0.0], [1.0, 1.0]], np.float32))
    less = costly.step(np.array([[0.5, 0.5], [1.0, -1.0]], np.float32))[1]
    assert np.allclose(less, [-1.0, -8.0])
    for cost in (-1.0, float("nan")):
        with pytest.raises(InvalidInput, match="cost of a change"):
            ChangeCost(inner, cost)


@pytest.mark.simulator
@pytest.mark.parametrize("kind", ["latents", "pixels"])
def test_take_cover_is_played_as_its_worlds_are(kind):
    pytest.importorskip("vizdoom")
    world, config = doom_world(), ObservationConfig(kind, stack=2, hold=2)
    dream, real = dream_envs(world, 2, config), real_envs(world, 2, config)
    assert dream.observation_space == real.observation_space and dream.action_space == real.action_space
    score = evaluate(HeldRandom(real.action_space, mean_steps=5), real, 4, hold=2)
    # a point for each tic, two a step
    assert all(2 * n - 4 <= earned <= 2 * n for earned, n in zip(score.returns, score.lengths, strict=True))
    assert 75 < score.mean_length < 500
    assert score == evaluate(HeldRandom(real.action_space, mean_steps=5), real, 4, hold=2)
    real.close()


def test_with_a_cost_of_endings_dreams_last_to_their_limit(world):
    config = ObservationConfig(stack=1, hold=2)
    for cost in (None, 50.0):
        infos = play(dream_envs(world, 4, config, max_episode_steps=8, ending_cost=cost), 24)[1]
        episodes = [info["episode"] for info in infos if "episode" in info]
        assert all(one["l"] == 4 for one in episodes) == (cost is not None) and len(episodes) > 8
        assert (min(one["r"] for one in episodes) < -20) == (cost is not None)
