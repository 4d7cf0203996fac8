"""Learning to draw in few steps."""

from __future__ import annotations

import pytest
import torch
from lively import lively_dynamics

from worldsim.sampling.sampler import TEACHER_STEPS, SamplingConfig, euler_step, levels, solve_ode, step_size
from worldsim.train import shortcuts


@pytest.fixture
def model():
    return lively_dynamics()


def some_canvas(model, frames=6, seed=0):
    c, random = model.config, torch.Generator().manual_seed(seed)
    latents = torch.randn((2, frames // 2, c.channels, c.height, c.width), generator=random)
    actions = torch.randint(c.actions, latents.shape[:2], generator=random)
    features = model.forward(latents, latents, actions, torch.zeros(latents.shape[:2]), torch.zeros_like(actions))
    canvas = model.prepare(features, latents.flatten(0, 1))
    target = torch.randn((frames, c.drawn_channels, c.height, c.width), generator=random)
    return canvas.detach(), target


def test_shortcut_steps_of_all_sizes_lie_on_the_grid_of_the_small_steps():
    fine = [*levels(TEACHER_STEPS), 1.0]
    for steps in set(shortcuts.STEPS):
        assert set(levels(steps)) <= set(fine) and step_size(steps) == 1 / steps
    assert step_size(TEACHER_STEPS) == 0.0


def test_where_the_prediction_is_always_the_same_the_goal_is_that_prediction(model, monkeypatch):
    canvas, target = some_canvas(model)
    answer = torch.randn_like(target)
    monkeypatch.setattr(model, "denoise", lambda canvas, z, t, size: answer)
    for seed in range(8):
        drawn, goal = shortcuts.shortcut_targets(model, canvas, target, torch.Generator().manual_seed(seed))
        assert drawn is answer
        torch.testing.assert_close(goal, answer, rtol=1e-4, atol=1e-4)


def test_the_line_to_the_goal_passes_where_the_small_steps_end(model, monkeypatch):
    canvas, target = some_canvas(model)
    asked = []
    real = model.denoise

    def listen(canvas, z, t, size):
        asked.append((z, t[0].item(), size[0].item()))
        return real(canvas, z, t, size)

    monkeypatch.setattr(model, "denoise", listen)
    seen = set()
    for seed in range(12):
        asked.clear()
        with torch.no_grad():
            _, goal = shortcuts.shortcut_targets(model, canvas, target, torch.Generator().manual_seed(seed))
        *small, (start, begin, size) = asked
        assert (
            torch.equal(small[0][0], start)
            and {s[2] for s in small} == {0.0}
            and len(small) == round(size * TEACHER_STEPS)
        )
        fine = [*levels(TEACHER_STEPS), 1.0]
        first = min(range(TEACHER_STEPS), key=lambda k: abs(fine[k] - begin))
        assert [s[1] for s in small] == pytest.approx(fine[first : first + len(small)])
        end = fine[first + len(small)]
        reached = solve_ode(lambda z, t: real(canvas, z, *at(t, z)), start, fine[first:][: len(small) + 1], small=True)
        torch.testing.assert_close(euler_step(start, goal, begin, end), reached.detach(), rtol=1e-4, atol=1e-4)
        seen.add((size, round(begin, 3)))
    assert len(seen) > 3  # sizes and places vary


def at(t, z):
    return torch.full((len(z),), t), torch.zeros(len(z))


def test_a_model_learns_to_draw_in_two_steps_what_it_draws_in_many(model, monkeypatch):
    monkeypatch.setattr(shortcuts, "STEPS", (2,))
    canvas, target = some_canvas(model)
    teacher = lively_dynamics()
    optimizer = torch.optim.Adam([*model.level_embed.parameters(), *model.latent_decoder.parameters()], lr=3e-3)

    def gap() -> float:
        noise = torch.randn(target.shape, generator=torch.Generator().manual_seed(9))
        with torch.no_grad():
            few, many = (walk(m, canvas, noise, steps) for m, steps in ((model, 2), (teacher, TEACHER_STEPS)))
        return (few - many).square().mean().item()

    before = gap()
    for step in range(80):
        generator = torch.Generator().manual_seed(step)
        drawn, _ = shortcuts.shortcut_targets(model, canvas, target, generator)
        _, goal = shortcuts.shortcut_targets(teacher, canvas, target, generator.manual_seed(step))
        optimizer.zero_grad()
        (drawn - goal).square().mean().backward()
        optimizer.step()
    assert gap() < 0.5 * before


def walk(model, canvas, noise, steps):
    far = torch.full((len(noise),), step_size(steps))
    times = [*levels(SamplingConfig(steps).steps), 1.0]
    return solve_ode(
        lambda z, t: model.denoise(canvas, z, torch.full((len(z),), t), far), noise, times, small=steps >= TEACHER_STEPS
    )
