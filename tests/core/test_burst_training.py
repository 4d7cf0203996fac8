"""Teaching a world to draw bursts: the lessons are its own steps, and what is learned goes into its folder."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from lively import randomise
from small_training import brief, train
from tiny import tiny_files, tiny_world

from worldsim.burst_world import BurstWorld
from worldsim.cli.main import main
from worldsim.envs.held import HeldWorld
from worldsim.errors import DamagedCheckpoint, InvalidInput
from worldsim.models.burst import Burst
from worldsim.sampling import SamplingConfig, draw, draw_burst, empty_cache, look_back, step_noise
from worldsim.train import burst_task
from worldsim.train.burst_task import BurstTask, dream_lessons
from worldsim.weights import write_world
from worldsim.world import World

STEPS = 3


@pytest.fixture
def world(float32):
    """One whose steps are drawn in one leap, since that is what a burst does."""
    world = tiny_world().with_sampling(steps=1)
    torch.manual_seed(0)
    randomise(world.dynamics)
    return world


def task(world, **options):
    return BurstTask(world, STEPS, **{"batch": 8, "lessons": 128, **options})


def error(task):
    """Mean square of what the burst gets wrong, over that of all change."""
    with torch.no_grad():
        lesson = dream_lessons(task.world, STEPS, 64, seed=5)  # others than it learned from
        drawn = lesson.drawn_by(task.model.burst, task.world.dynamics)
    still = lesson.past[:, 0].repeat(1, 2 * (STEPS - 1), 1, 1)
    return float((drawn - lesson.goal).square().mean() / (lesson.goal - still).square().mean())


def test_a_burst_begins_with_the_first_step_and_what_would_follow_it_without_more_history(world):
    burst = Burst(world.config.dynamics, STEPS)
    burst.begin_as(world.dynamics)
    keys = (torch.arange(3), torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))
    noises = [step_noise(world.dynamics, *keys[:2], keys[2] + i) for i in range(STEPS)]
    past = torch.randn(3, 2, *world.spec.latent_shape)
    with torch.no_grad():
        cache = empty_cache(world.dynamics, keys[2])
        seen = look_back(world.dynamics, SamplingConfig(1), past, torch.tensor([0, 1, 2]), cache, noises[0].context)
        one = draw(world.dynamics, SamplingConfig(1), past, seen, noises[0]).latents
        known = torch.stack([one[:, : past.shape[2]], past[:, 0]], dim=1)
        local = world.dynamics.local(known.flatten(1, 2))
        stale = dataclasses.replace(seen, local=local)
        each = [draw(world.dynamics, SamplingConfig(1), known, stale, noise).latents for noise in noises]
        drawn = draw_burst(world.dynamics, burst, SamplingConfig(1), past, seen, noises)
    for i in range(STEPS):
        torch.testing.assert_close(drawn[:, i], each[i] if i else one)


def test_a_step_of_a_burst_sees_its_own_noise_and_that_of_the_steps_before_it(world):
    burst = Burst(world.config.dynamics, STEPS + 1)
    burst.begin_as(world.dynamics)
    randomise(burst)
    c = world.config.dynamics
    noisy = torch.randn(2, STEPS, c.drawn_channels, c.height, c.width)
    given = (torch.randn(2, c.tokens, c.dim), torch.randn(2, c.cond_dim), torch.randn(2, 2, *world.spec.latent_shape))

    def draw_from(noisy: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return burst(world.dynamics, *given, noisy.flatten(1, 2)).unflatten(1, (STEPS, -1))

    drawn = draw_from(noisy)
    for i in range(STEPS):
        other = noisy.clone()
        other[:, i] += 1.0
        changed = (draw_from(other) - drawn).abs().amax((0, 2, 3, 4)) > 1e-6
        assert changed.tolist() == [step >= i for step in range(STEPS)]


def test_lessons_are_what_held_actions_lead_to(world):
    plain = world.with_sampling(surprise=0.0)
    lesson = dream_lessons(plain, STEPS, 64, seed=3)
    state = plain.reset(range(64), episode=[3] * 64, start="anywhere")
    torch.testing.assert_close(lesson.past[:64, 1], state.past[:, 0])
    held = HeldWorld(plain, STEPS)
    ends = [held.step(plain.reset(range(64), episode=[3] * 64, start="anywhere"), np.full(64, a), pictures="none")[0]
            for a in range(3)]  # fmt: skip
    c = world.spec.latent_shape[0]
    last = lesson.goal[:64].unflatten(1, (STEPS - 1, 2, c))[:, -1, 0]  # the last step's own frame
    nearest = torch.stack([(end.past[:, 0] - last).abs().amax((1, 2, 3)) for end in ends]).amin(0)
    assert nearest.max() < 1e-4


def test_it_learns_to_draw_what_the_steps_draw(world, tmp_path):
    learner = task(world)
    before = error(learner)
    train(learner, brief(300), tmp_path)
    assert error(learner) < 0.7 * before


def test_an_interrupted_run_goes_on_to_the_same_bits(world, tmp_path):
    whole = train(task(world), brief(6), tmp_path / "whole")
    train(task(world), brief(3), tmp_path / "parts")
    parts = train(task(world), brief(6), tmp_path / "parts", resume=True)
    for name, tensor in whole.average.items():
        assert torch.equal(tensor, parts.average[name]), name
    with pytest.raises(DamagedCheckpoint, match="lessons"):
        train(task(world, lessons=1500), brief(8), tmp_path / "parts", resume=True)


def test_a_run_that_cannot_begin_is_refused_before_anything_is_dreamed(world, tmp_path, monkeypatch):
    monkeypatch.setattr(burst_task, "dream_lessons", None)
    (tmp_path / "burst.safetensors").touch()
    with pytest.raises(InvalidInput, match="--resume"):
        train(task(world), brief(3), tmp_path)
    with pytest.raises(InvalidInput, match="0 lessons"):
        task(world, lessons=0)


def test_the_command_writes_the_world_with_what_it_learned(tmp_path, capsys):
    write_world(tmp_path / "tiny", tiny_files())
    arguments = ["--together", STEPS, "--lessons", 64, "--batch", 4, "--steps", 3, "--device", "cpu"]
    out = tmp_path / "run"
    main([str(a) for a in ("train", "burst", tmp_path / "tiny", "--out", out, *arguments)])
    assert f"wrote {out / 'world'}" in capsys.readouterr().out
    old, new = World.from_pretrained(tmp_path / "tiny"), World.from_pretrained(out / "world")
    assert (old.config.burst, new.config.burst, BurstWorld(new).burst.steps) == (0, STEPS, STEPS)
    for name, tensor in old.dynamics.state_dict().items():
        assert torch.equal(tensor, new.dynamics.state_dict()[name])
    assert json.loads((out / "world" / "training.json").read_text())["burst"]["calls"][0]["reached_step"] == 3
    assert (out / "burst.png").exists()
