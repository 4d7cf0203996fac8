"""Noise shaping: which patches of a frame are drawn from larger noise, and that a step is drawn from it."""

import pytest
import torch
from lively import SIZES, lively_dynamics

from worldsim.sampling.noise_shaping import NoiseShaping
from worldsim.sampling.sampler import SamplingConfig, StepNoise, context_step, draw, empty_cache

BATCH = 3
GRID = (SIZES.height, SIZES.width)
ZEROS = torch.zeros(BATCH, dtype=torch.int64)


class Shaped:
    """Noise as it is shaped, where the latents last changed by a length of 4 everywhere."""

    def __init__(self) -> None:
        self.past = torch.zeros((BATCH, 2, SIZES.channels, *GRID))
        self.past[:, 0] = 4 / SIZES.channels**0.5
        self.noise = torch.randn((BATCH, SIZES.drawn_channels, *GRID), generator=torch.Generator().manual_seed(0))
        self.uniform = torch.full((BATCH, 1, *GRID), 0.9)
        self.ages = ZEROS

    def __call__(self, rate: float, **options) -> torch.Tensor:
        return NoiseShaping(rate, **options).apply(self.noise, self.past, self.ages, self.uniform)


@pytest.fixture
def shaped():
    return Shaped()


def test_the_noise_is_scaled_in_patches_and_left_alone_elsewhere(shaped):
    shaped.uniform[1, 0, 0, 0] = 0.041  # the centre of a patch, in a corner of the frame
    assert torch.equal(shaped(0.010), shaped.noise) and torch.equal(shaped(1.0), 2 * shaped.noise)
    wanted = shaped.noise.clone()
    wanted[1, :, :2, :2] *= 2
    assert torch.equal(shaped(0.0105), wanted)
    wanted[1, :, :2, :2] *= 1.5
    assert torch.equal(shaped(0.0105, noise_scale=3.0), wanted)


def test_the_more_moves_the_more_patches_there_are(shaped):
    shaped.past[0, 1] = shaped.past[0, 0]  # nothing moves in the first world
    assert torch.equal(shaped(0.3)[0], shaped.noise[0]) and torch.equal(shaped(0.3)[1:], 2 * shaped.noise[1:])


def test_the_rate_grows_with_the_steps_of_an_episode(shaped):
    shaped.uniform[:] = 0.05  # at a motion of 4, a rate of 0.01 takes what is below 0.04
    shaped.ages = torch.tensor([0, 24, 26])
    got = shaped(0.01, rate_growth=0.01)
    assert torch.equal(got[:2], shaped.noise[:2]) and torch.equal(got[2:], 2 * shaped.noise[2:])


def test_centres_lie_in_the_rows_that_are_named():
    past = torch.zeros(1, 2, 4, 6, 5)
    past[:, 0] = 1.0
    shaping = NoiseShaping(0.1, rows=(2, 3))
    z = shaping.apply(torch.ones(1, 8, 6, 5), past, torch.zeros(1), torch.zeros(1, 1, 6, 5))
    rows = torch.tensor([1.0, 2.0, 2.0, 2.0, 1.0, 1.0])  # patches of three by three about row 2
    assert torch.equal(z, rows[:, None].expand(1, 8, 6, 5))


def test_long_latents_and_their_neighbours_are_protected(shaped):
    shaped.past[2, :, 0, 0, 0] = 10.0  # in both frames: it makes no motion
    assert torch.equal(shaped(1.0, protection_threshold=11.0), 2 * shaped.noise)
    wanted = 2 * shaped.noise
    wanted[2, :, :2, :2] /= 2
    assert torch.equal(shaped(1.0), wanted)


def test_a_step_is_drawn_from_shaped_noise_at_the_ages_of_its_episodes(shaped, monkeypatch):
    model, entered = lively_dynamics().requires_grad_(False), []
    monkeypatch.setattr(model, "denoise", lambda canvas, z, t, size: entered.append(z) or torch.zeros_like(z))
    shaped.ages, shaped.uniform[:] = torch.tensor([0, 24, 26]), 0.05
    noise = StepNoise(torch.zeros_like(shaped.past), shaped.noise, shaped.uniform)
    shaping = NoiseShaping(0.01, rate_growth=0.01)
    for config in (SamplingConfig(1, 1.5), SamplingConfig(1, 1.5, shaping)):
        features = context_step(model, config, shaped.past, ZEROS, empty_cache(model, shaped.ages), noise.context)
        draw(model, config, shaped.past, features, noise)
    plain, drawn = entered
    assert torch.equal(plain, 1.5 * shaped.noise)
    assert torch.equal(drawn, shaping.apply(plain, shaped.past, shaped.ages, shaped.uniform))
    assert not torch.equal(drawn, plain)
