"""Speculation never changes a byte: whole games with it against the same games without it."""

import time

import numpy as np
import pytest
import torch
from exactness import Pair, assert_same, guess_with
from gymnasium.vector import AutoresetMode
from lively import lively_world
from tiny import tiny_files, tiny_world

from worldsim.bench.steps import Endless
from worldsim.config import WorldConfig
from worldsim.envs import WorldEnv, WorldVectorEnv
from worldsim.envs.held import HeldWorld
from worldsim.io.starts import Starts
from worldsim.io.weights import WorldFiles
from worldsim.models.dynamics import Dynamics, DynamicsConfig
from worldsim.models.tokenizer import Tokenizer, TokenizerConfig
from worldsim.rollout import finish
from worldsim.spec import ActionSpec, WorldStep
from worldsim.speculation import Speculation, Speculator
from worldsim.state.tree import clone
from worldsim.world import World

EVERYTHING = {"adapt": False}  # guesses are always being computed, whatever comes of them
STEPS = 120


def sticky(spec, rows=None):
    """Actions that often stay what they were."""
    last = [None]

    def draw(rng):
        if last[0] is None or rng.random() < 0.3:
            last[0] = rng.integers(spec.n, size=rows)
        return int(last[0]) if rows is None else last[0].copy()

    return draw


@pytest.mark.parametrize("seed", range(3))
def test_a_game_is_the_same_with_guesses_and_without(seed):
    world = lively_world(seed)
    on = WorldEnv(world, speculate=Speculation(**EVERYTHING), render_mode="rgb_array", max_episode_steps=60)
    off = WorldEnv(world, render_mode="rgb_array", max_episode_steps=60)
    Pair(on, off, seed).play(STEPS, sticky(world.spec.actions))
    assert 0.2 < on.speculation_stats.hit_rate < 1
    on.close()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("observation", ["pixels", "latents"])
def test_wrong_proposals_change_nothing(seed, observation):
    world = tiny_world(seed)
    propose = guess_with(np.random.default_rng(seed), world.spec.actions, [None])
    options = {"observation": observation, "between": True, "render_mode": "rgb_array", "start": "anywhere"}
    on = WorldEnv(world, speculate=Speculation(propose, **EVERYTHING), **options)
    Pair(on, WorldEnv(world, **options), seed, pause=0.002).play(STEPS // 2, sticky(world.spec.actions))
    assert on.speculation_stats.discarded_seconds > 0
    on.close()


def test_held_actions_and_steering_are_the_same_too():
    world = lively_world(steering=True)
    low, high = (np.array(bound, np.float32) for bound in (world.spec.actions.low, world.spec.actions.high))
    draws = [np.float32([-1, 0]), np.float32([0.5, 2]), low, high]
    held = HeldWorld(world, 3)
    on = WorldEnv(held, speculate=Speculation(**EVERYTHING), render_mode="rgb_array")
    index = sticky(ActionSpec(n=4))
    Pair(on, WorldEnv(held, render_mode="rgb_array"), 0).play(STEPS // 4, lambda rng: draws[index(rng)])
    assert on.speculation_stats.hit_rate > 0.2
    on.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_a_batch_with_some_right_and_some_wrong_guesses_is_the_same(mode):
    world, rows, right = Endless(lively_world(1)), 3, [None]
    propose = guess_with(np.random.default_rng(0), world.spec.actions, right, rows)
    options = {"autoreset_mode": mode, "max_episode_steps": 25, "render_mode": "rgb_array"}
    on = WorldVectorEnv(world, rows, speculate=Speculation(propose, **EVERYTHING), **options)
    sticks = sticky(world.spec.actions, rows)

    def draw(rng):
        action, right[0] = right[0] if right[0] is not None else sticks(rng), sticks(rng)
        if rng.random() < 0.3:
            action = action.copy()
            action[rng.integers(rows)] = rng.integers(3)  # wrong in one row only
        return action

    Pair(on, WorldVectorEnv(world, rows, **options), 0).play(STEPS // 2, draw)
    assert 0.1 < on.speculation_stats.hit_rate < 0.9
    on.close()


def test_a_state_itself_is_the_same_after_guesses():
    """Not only what follows from it: no leaf of a saved state tells whether there was speculation."""
    world = lively_world()
    on, off = WorldEnv(world, speculate=Speculation(**EVERYTHING)), WorldEnv(world)
    pair = Pair(on, off, 0)
    pair.do(lambda env: env.reset(seed=1))
    draw = sticky(world.spec.actions)
    for _ in range(30):
        action = draw(pair.rng)
        result = pair.do(lambda env, action=action: env.step(action))
        if result[2] or result[3]:
            pair.do(lambda env: env.reset())
        one, other = on.save_state().tree, off.save_state().tree
        for a, b in zip(one.cache.keys + one.cache.values, other.cache.keys + other.cache.values, strict=True):
            assert torch.equal(a, b)
        assert torch.equal(one.cache.written, other.cache.written) and torch.equal(one.past, other.past)
    on.close()


def wide_world():
    """A world of the size that ships, whose matrix products are split among threads, with random weights."""
    tokenizer, dynamics = TokenizerConfig(), DynamicsConfig(history_blocks=2)
    files = tiny_files()
    old: WorldConfig = files.config
    config = WorldConfig(old.name, old.source, old.actions, tokenizer, dynamics)
    torch.manual_seed(0)
    parts = {"tokenizer": Tokenizer(tokenizer), "dynamics": Dynamics(dynamics)}
    weights = {
        f"{part}.{name}": tensor + 0.03 * torch.randn_like(tensor)
        for part, module in parts.items()
        for name, tensor in module.state_dict().items()
    }
    shape = (dynamics.channels, dynamics.height, dynamics.width)
    latents = np.random.default_rng(0).standard_normal((2, 3, *shape), dtype=np.float32)
    starts = Starts.pack(latents, np.zeros((2, 2), np.int64), np.zeros(2, np.int64), beginnings=1)
    return World(WorldFiles(config, weights, starts.to_tensors(), ""), device="cpu")


@pytest.mark.parametrize("threads", [1, 2])
def test_the_other_thread_computes_the_very_same_bits(threads):
    world = wide_world()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for rows in (1, 3):
            actions = np.zeros(rows, np.int64)
            ahead = Speculator(world.stages, world.spec.actions, rows, Speculation(**EVERYTHING))
            state = world.reset(list(range(rows)))
            plain = clone(state)
            for _ in range(12):
                state, step = ahead.step(state, actions)
                ahead.expect(state)
                plain, expected = world.step(plain, actions)
                assert_same((step.frame, step.reward, step.extras), (expected.frame, expected.reward, expected.extras))
                assert torch.equal(state.past, plain.past)
            assert ahead.stats.kinds["hit"] + ahead.stats.kinds["late"] > 8
            ahead.close()
    finally:
        torch.set_num_threads(before)


def test_automatic_casts_of_the_caller_hold_for_guesses_too():
    weight = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))

    def stages(state, actions):
        state = torch.tanh(state @ weight + float(actions[0]))
        return state, WorldStep(np.zeros((1, 1, 1, 3), np.uint8), state.float().mean(1).numpy(), np.zeros(1, bool))
        yield

    states, plain = [torch.ones(1, 8)], torch.ones(1, 8)
    ahead = Speculator(stages, lively_world().spec.actions, 1, Speculation(**EVERYTHING))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for _ in range(20):
            states.append(ahead.step(states[-1], np.array([1]))[0])
            ahead.expect(states[-1])
            plain, _ = finish(stages(plain, np.array([1])))
            assert torch.equal(states[-1], plain) and plain.dtype == torch.bfloat16
            time.sleep(0.002)
    assert ahead.stats.kinds["hit"] > 5
    ahead.close()
