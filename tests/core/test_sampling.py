"""Drawing one step in some denoising steps, from given noise only; rolling on over recorded actions."""

import dataclasses
import math
from dataclasses import dataclass

import pytest
import torch
from lively import SIZES, lively_dynamics

from worldsim.errors import InvalidInput
from worldsim.sampling.sampler import (
    TEACHER_STEPS,
    Eager,
    SamplingConfig,
    context_step,
    empty_cache,
    levels,
    solve_ode,
    step_noise,
)
from worldsim.train.dream import dream

BATCH = 3
ZEROS = torch.zeros(BATCH, dtype=torch.int64)


@dataclass(frozen=True)
class Step:
    latents: torch.Tensor
    reward: torch.Tensor
    end_logit: torch.Tensor


@pytest.fixture(scope="module")
def model():
    return lively_dynamics().requires_grad_(False)


def inputs(seed: int = 0):
    random = torch.Generator().manual_seed(seed)
    past = torch.randn((BATCH, 2, SIZES.channels, SIZES.height, SIZES.width), generator=random)
    return past, torch.randint(SIZES.actions, (BATCH,), generator=random)


def draw(model, config, drawn_from=None, seed=0):
    past, actions = inputs(seed)
    drawn_from = drawn_from or step_noise(model, torch.arange(BATCH), ZEROS, ZEROS)
    return step(model, config, past, actions, empty_cache(model, ZEROS), drawn_from)


def step(model, config, past, actions, cache, drawn_from):
    """Both halves of a step: what the history says, and the latents that are drawn on it."""
    engine = Eager(model, config)
    features = engine.context_step(past, actions, cache, drawn_from.context, {})
    return Step(engine.draw(past, features, drawn_from), features.reward, features.end_logit)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_every_number_of_steps_works_and_is_deterministic(model, steps):
    torch.manual_seed(steps)
    drawn, again = draw(model, SamplingConfig(steps)), draw(model, SamplingConfig(steps))
    assert torch.equal(drawn.latents, again.latents) and drawn.latents.isfinite().all()
    assert drawn.latents.shape == (BATCH, SIZES.drawn_channels, SIZES.height, SIZES.width)
    assert drawn.reward.shape == drawn.end_logit.shape == (BATCH,)


def test_the_number_of_steps_matters_to_the_frame_only(model):
    one, two, four = (draw(model, SamplingConfig(steps)) for steps in (1, 2, 4))
    assert torch.equal(one.reward, four.reward) and torch.equal(one.end_logit, two.end_logit)
    assert (one.latents - two.latents).abs().max() > 1e-3 and (two.latents - four.latents).abs().max() > 1e-3


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_noise_level_rises_to_clean_and_the_last_step_is_the_prediction(model, monkeypatch, steps):
    target = torch.randn(1, SIZES.drawn_channels, SIZES.height, SIZES.width)
    levels, entered = [], []  # of each denoising step

    def know_the_answer(canvas, noisy, t, size):
        levels.append(t[0].item())
        entered.append(noisy)
        return target.expand_as(noisy)

    monkeypatch.setattr(model, "denoise", know_the_answer)
    noise = step_noise(model, torch.arange(BATCH), ZEROS, ZEROS)
    drawn = draw(model, SamplingConfig(steps), noise)
    torch.testing.assert_close(drawn.latents, target.expand_as(drawn.latents))
    assert levels[0] == 0 and levels == sorted(levels) and len(set(levels)) == steps and levels[-1] < 1
    for t, noisy in zip(levels, entered, strict=True):  # what goes in is noise and frame mixed, as in training
        torch.testing.assert_close(noisy, t * target + (1 - t) * noise.frame)


@pytest.mark.parametrize("part", ["context", "frame"])
def test_every_part_of_the_noise_matters_and_only_to_its_row(model, part):
    config = SamplingConfig(2)
    noise = step_noise(model, torch.arange(BATCH), ZEROS, ZEROS)
    changed = getattr(noise, part).clone()
    changed[1] = -changed[1]
    old = draw(model, config, noise).latents
    new = draw(model, config, dataclasses.replace(noise, **{part: changed})).latents
    difference = (new - old).abs().amax((1, 2, 3))
    assert difference[1] > 1e-4 and difference[0] == difference[2] == 0


def test_the_context_noise_has_the_level_that_is_told_to_the_model(model, monkeypatch):
    got = {}

    def forward_cached(previous, before, actions, level, *others):
        got.update(previous=previous, before=before, level=level)
        return "out"

    monkeypatch.setattr(model, "forward_cached", forward_cached)
    past, actions = inputs()
    noise = step_noise(model, torch.arange(BATCH), ZEROS, ZEROS)
    context_step(model, SamplingConfig(context_noise=0.2), past, actions, empty_cache(model, ZEROS), noise.context)
    torch.testing.assert_close(got["previous"], past[:, 0] + 0.2 * noise.context[:, 0])
    torch.testing.assert_close(got["before"], past[:, 1] + 0.2 * noise.context[:, 1])
    assert got["level"].tolist() == pytest.approx([0.2] * BATCH)
    context_step(model, SamplingConfig(context_noise=0), past, actions, empty_cache(model, ZEROS), noise.context)
    assert torch.equal(got["previous"], past[:, 0]) and torch.equal(got["before"], past[:, 1])


def test_the_drawing_adds_to_the_frame_without_its_context_noise(model, monkeypatch):
    got = {}
    monkeypatch.setattr(model, "denoise", lambda canvas, z, t, size: got.update(locals()) or torch.zeros_like(z))
    draw(model, SamplingConfig(context_noise=0.5))
    assert torch.equal(got["canvas"].previous, inputs()[0][:, 0])


def test_the_temperature_is_the_size_of_the_noise_that_a_frame_is_drawn_from(model, monkeypatch):
    got = []
    monkeypatch.setattr(model, "denoise", lambda canvas, z, t, size: got.append(z) or torch.zeros_like(z))
    for temperature in (1.0, 1.5, 0.0):
        draw(model, SamplingConfig(1, temperature))
    torch.testing.assert_close(got[1], 1.5 * got[0])
    assert got[0].std() > 0.5 and not got[2].any()


def test_what_is_drawn_stays_within_the_range_of_the_data():
    free = lively_dynamics().requires_grad_(False)
    ranges = {"latent_low": (-0.1,) * SIZES.channels, "latent_high": (0.0, *(0.2,) * (SIZES.channels - 1))}
    model = lively_dynamics(config=dataclasses.replace(SIZES, **ranges))
    model.load_state_dict(free.state_dict())
    model.requires_grad_(False)
    wild, kept = (draw(m, SamplingConfig(2, 3.0)) for m in (free, model))
    assert wild.latents.abs().max() > 0.3
    frames = kept.latents.unflatten(1, (-1, SIZES.channels))  # the new one and those between
    assert frames.min() == pytest.approx(-0.1) and frames[:, :, 1:].max() == pytest.approx(0.2)
    assert frames[:, :, 0].max() == 0


def test_a_range_of_other_channels_is_refused():
    with pytest.raises(InvalidInput, match=r"latent_low and latent_high are of 1 and 0 channels; give 4, or none"):
        dataclasses.replace(SIZES, latent_low=(0.0,))


def test_the_noise_of_a_world_is_a_function_of_its_key(model):
    seeds, steps = torch.tensor([4, 5]), torch.tensor([0, 7])
    both = step_noise(model, seeds, ZEROS[:2], steps)
    single = step_noise(model, seeds[1:], ZEROS[:1], steps[1:])
    for part in ("context", "frame", "shaping"):
        assert torch.equal(getattr(both, part)[1:], getattr(single, part))
        assert not torch.equal(getattr(both, part)[0], getattr(both, part)[1])


# -- dreaming on


def recorded(steps: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(3)
    shape = (2, steps, 1 + SIZES.between, SIZES.channels, SIZES.height, SIZES.width)
    return torch.randn(shape, generator=random), torch.randint(SIZES.actions, (2, steps), generator=random)


def run(model, latents, actions, context=3, seed=0):
    return dream(model, SamplingConfig(), latents, actions, torch.tensor([0, 7]), context=context, seed=seed)


def test_a_dream_keeps_its_context_and_draws_the_rest(model):
    latents, actions = recorded()
    dreamed = run(model, latents, actions)
    assert dreamed.shape == latents.shape
    assert torch.equal(dreamed[:, :3], latents[:, :3])
    assert ((dreamed[:, 3:] - latents[:, 3:]).abs().amax((2, 3, 4, 5)) > 0.01).all()
    assert torch.equal(dreamed, run(model, latents, actions)) and not torch.equal(
        dreamed, run(model, latents, actions, seed=9)
    )


@pytest.mark.parametrize("t", [1, 2, 4, 8])
def test_the_action_of_a_row_leads_to_that_row(model, t):
    latents, actions = recorded()
    old = run(model, latents, actions)
    actions[:, t] = (actions[:, t] + 1) % SIZES.actions
    changed = (run(model, latents, actions) - old).abs().amax((2, 3, 4, 5))
    first = max(t, 3)  # the context itself does not change
    assert (changed[:, :first] == 0).all() and (changed[:, first:] > 1e-7).all()


def test_the_action_of_the_first_row_leads_nowhere(model):
    latents, actions = recorded()
    old = run(model, latents, actions)
    actions[:, 0] = (actions[:, 0] + 1) % SIZES.actions
    assert torch.equal(run(model, latents, actions), old)


def test_a_dream_does_not_see_what_was_recorded_after_its_context(model):
    latents, actions = recorded()
    old = run(model, latents, actions)
    latents[:, 3:] += 1
    assert torch.equal(run(model, latents, actions), old)
    latents[:, 2, 0] += 1
    assert not torch.equal(run(model, latents, actions)[:, 3:], old[:, 3:])


def test_small_steps_draw_what_is_rare_about_as_often_as_it_happens():
    rate, size = 0.002, 8.0
    noise = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    event = torch.tensor([size, 0.0], dtype=torch.float64)

    def best_guess(z, t):
        """The mean of what is, given z: nothing (0, 0), or rarely the event; the exact answer of a perfect network."""
        ratio = ((z.square() - (z - t * event).square()).sum(1)) / (2 * (1 - t) ** 2)
        return torch.sigmoid(ratio + math.log(rate / (1 - rate)))[:, None] * event

    times = [*levels(TEACHER_STEPS), 1.0]
    drawn, straight = (solve_ode(best_guess, noise, times, small=small)[:, 0] > size / 2 for small in (True, False))
    assert 0.85 * rate < drawn.double().mean() < 1.1 * rate
    assert straight.double().mean() < 0.9 * drawn.double().mean()
