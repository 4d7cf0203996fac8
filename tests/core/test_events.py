"""Events: drawn as often as their probabilities say, trained through, and compared."""

import pytest
import torch

from worldsim.models.events import EventPosterior, EventPrior, divergence, sample_events, straight_through

PROBABILITIES = torch.tensor([0.70, 0.01, 0.19, 0.10])
DRAWS = 40_000


def frequencies(probabilities: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    logits = probabilities.log().expand(DRAWS, 1, 1, -1)
    uniform = torch.rand((DRAWS, 1, 1), generator=torch.Generator().manual_seed(0))
    return sample_events(logits, uniform, temperature).mean((0, 1, 2))


def test_events_happen_as_often_as_their_probabilities_say():
    torch.testing.assert_close(frequencies(PROBABILITIES), PROBABILITIES, rtol=0, atol=0.01)
    assert frequencies(PROBABILITIES)[1] == pytest.approx(0.01, rel=0.3)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_makes_rare_events_rarer_or_more_frequent(temperature):
    sharpened = PROBABILITIES ** (1 / temperature)
    expected = sharpened / sharpened.sum()
    torch.testing.assert_close(frequencies(PROBABILITIES, temperature), expected, rtol=0, atol=0.01)
    assert (frequencies(PROBABILITIES, temperature)[1] < 0.005) == (temperature < 1)


def test_temperature_zero_takes_the_likeliest():
    assert frequencies(PROBABILITIES, 0).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize(("uniform", "code"), [(0.0, 1), (0.2499, 1), (0.2501, 2), (1 - 2**-24, 3)])
def test_a_code_is_found_by_inverting_the_cumulative_probabilities(uniform, code):
    logits = torch.tensor([0.0, 0.25, 0.25, 0.5]).log()[None, None, None]
    assert sample_events(logits, torch.full((1, 1, 1), uniform)).argmax().item() == code


def test_rounding_never_leads_beyond_the_last_code():
    logits = torch.zeros(1, 1, 1, 7, dtype=torch.bfloat16)
    drawn = sample_events(logits, torch.ones(1, 1, 1))
    assert drawn.sum() == 1 and drawn.dtype == torch.float32


def test_each_code_is_drawn_with_its_own_number():
    logits = torch.zeros(1, 2, 2, 4)
    uniform = torch.tensor([[[0.1, 0.3], [0.6, 0.9]]])
    assert sample_events(logits, uniform).argmax(-1).tolist() == [[[0, 1], [2, 3]]]


def test_a_straight_through_sample_is_one_hot_with_the_gradient_of_the_probabilities():
    logits = torch.randn((5, 2, 3, 4), generator=torch.Generator().manual_seed(0), requires_grad=True)
    uniform = torch.rand((5, 2, 3), generator=torch.Generator().manual_seed(1))
    weight = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    sample = straight_through(logits, uniform)
    torch.testing.assert_close(sample, sample_events(logits, uniform))
    (gradient,) = torch.autograd.grad((sample * weight).sum(), logits)
    (expected,) = torch.autograd.grad((torch.softmax(logits, -1) * weight).sum(), logits)
    torch.testing.assert_close(gradient, expected)
    assert gradient.abs().max() > 0.01


def test_divergence_is_zero_for_equals_and_positive_otherwise():
    one, other = (torch.randn((50, 3, 2, 4), generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    torch.testing.assert_close(divergence(one, one + 3), torch.zeros(50), rtol=0, atol=1e-5)  # logits + a constant
    assert (divergence(one, other) > 0.1).all()


def test_divergence_sums_the_codes_of_a_frame():
    q = torch.tensor([0.5, 0.5]).log().expand(3, 4, 2, 2)
    p = torch.tensor([0.9, 0.1]).log().expand(3, 4, 2, 2)
    each = 0.5 * (torch.tensor(0.5 / 0.9).log() + torch.tensor(0.5 / 0.1).log())
    torch.testing.assert_close(divergence(q, p), (8 * each).expand(3))


def test_prior_and_posterior_speak_of_the_same_codes():
    prior, posterior = EventPrior(16, 2, 3), EventPosterior(12, 8, (2, 1), 2, 3)
    said = posterior(torch.randn(5, 4, 2, 6), torch.randn(5, 8, 2, 6))
    assert said.shape == prior(torch.randn(5, 6, 16)).shape == (5, 6, 2, 3)


def test_the_posterior_of_a_place_depends_on_what_changes_there():
    torch.manual_seed(0)
    posterior = EventPosterior(12, 8, (2, 1), 2, 3)
    previous, drawn = torch.randn(1, 4, 2, 12), torch.randn(1, 8, 2, 12)
    changed = drawn.clone()
    changed[..., 0] += 1
    difference = (posterior(previous, changed) - posterior(previous, drawn)).abs().amax((0, 2, 3))
    assert difference[0] > 1e-4 and (difference[3:] == 0).all()  # two 3x3 convolutions see two columns far
