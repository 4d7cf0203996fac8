import numpy as np
import pytest
from tiny import tiny_world

from worldsim.evaluate.dreams import Dreams, decode, dream_along, encode

CONTEXT, STEPS = 4, 6
AGES = np.array([0, 5, 30])  # of the clips' first rows


@pytest.fixture(scope="module")
def world():
    return tiny_world()


@pytest.fixture
def clips():
    """Frames (3, T, H, W, 3) and actions (3, T)."""
    rng = np.random.default_rng(1)
    frames = rng.integers(0, 256, (3, CONTEXT, 16, 32, 3), dtype=np.uint8)
    return frames, rng.integers(0, 3, (3, CONTEXT + STEPS))


def begin(world, frames, actions, seeds):
    return Dreams(world, encode(world, frames), actions[:, 1:CONTEXT], AGES[-len(frames) :], seeds)


def close(a, b):
    """Decoding of two ways to compute the same, up to the rounding of the number format."""
    return np.abs(a.astype(int) - b.astype(int)).mean() < 1.0


def test_a_dream_is_what_the_world_steps_through(world, clips):
    frames, actions = clips
    dreams = begin(world, frames, actions, [7, 8, 9])
    state = world.reset([7, 8, 9], frames=frames, actions=actions[:, 1:CONTEXT], age=AGES)
    for t in range(CONTEXT, CONTEXT + STEPS):
        dreamed = dreams.step(actions[:, t])
        state, step = world.step(state, actions[:, t])
        assert close(decode(world, dreamed.latents[:, 0]), step.frame)
        assert close(decode(world, dreamed.latents[:, 1:]), step.extras["between"])
        assert dreamed.end_probability == pytest.approx(step.extras["termination_probability"], abs=0.02)


def test_dreams_move(world, clips):
    frames, actions = clips
    images = decode(world, dream_along(world, frames, actions, AGES, context=CONTEXT, seed=0))
    assert images.shape == (3, STEPS, 16, 32, 3)
    assert np.abs(np.diff(images.astype(int), axis=1)).max() > 0


def test_a_seed_dreams_the_same_in_any_batch_and_after_others_left(world, clips):
    frames, actions = clips
    alone = begin(world, frames[2:], actions[2:], [9])
    batch = begin(world, frames, actions, [7, 8, 9])
    for t in range(CONTEXT, CONTEXT + STEPS):
        rows = [0, 1, 2] if t < CONTEXT + 3 else [2]
        a, b = alone.step(actions[2:, t]), batch.step(actions[rows, t])
        assert np.allclose(a.latents.float()[0], b.latents.float()[-1], atol=0.1)
        if t == CONTEXT + 2:
            batch.keep([2])


def test_observing_gives_the_same_ending_as_dreaming_the_step(world, clips):
    frames, actions = clips
    one, other = (begin(world, frames, actions, [0, 1, 2]) for _ in range(2))
    said = one.observe(encode(world, frames[:, 0]), actions[:, CONTEXT])
    dreamed = other.step(actions[:, CONTEXT])
    assert said.extras["termination_probability"] == pytest.approx(dreamed.end_probability)
    assert said.reward == pytest.approx(dreamed.reward)


def test_endings_are_drawn_as_often_as_they_are_likely(world, clips):
    frames, actions = (np.repeat(a[:1], 200, axis=0) for a in clips)
    ages = np.zeros(200, np.int64)
    dreamed = Dreams(world, encode(world, frames), actions[:, 1:CONTEXT], ages, range(200)).step(actions[:, CONTEXT])
    expected = float(dreamed.end_probability.mean())
    assert abs(dreamed.ended.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / 200)
