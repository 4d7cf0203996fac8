"""What a caller has set in torch neither reaches a world nor is changed by it."""

import contextlib
import hashlib

import numpy as np
import pytest
import torch
from lively import lively_files

from worldsim.runtime.ambient import isolated
from worldsim.world import World


def roll(make=None) -> str:
    """A digest of all that a world gives: made, begun, also from frames, stepped, drawn and encoded."""
    world = make() if make else World(lively_files(), device="cpu")
    frames = np.random.default_rng(0).integers(0, 256, (2, 2, 16, 32, 3), np.uint8)
    digest = hashlib.sha256(world.encode(frames[:, 0]).tobytes())
    for options in ({}, {"frames": frames, "actions": np.array([[1], [2]])}):
        state = world.reset(seed=[0, 1], **options)
        for t in range(4):
            state, step = world.step(state, np.array([t % 3, 2]))
            parts = [step.frame, step.reward, step.terminated, *(step.extras[k] for k in sorted(step.extras))]
            for part in [*parts, world.latents(state), world.render(state)]:
                digest.update(part.tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def default_dtype(dtype):
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


SETTINGS = {
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "float64": lambda: default_dtype(torch.float64),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "grad": torch.enable_grad,
    "anomaly": torch.autograd.detect_anomaly,
    "inference": torch.inference_mode,
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("made", ["before", "under"])
def test_a_callers_settings_change_nothing_that_a_world_gives(setting, made):
    plain = roll()
    world = World(lively_files(), device="cpu") if made == "before" else None
    files = lively_files()
    with SETTINGS[setting]():
        assert roll((lambda: world) if world else lambda: World(files, device="cpu")) == plain


def test_a_callers_settings_are_as_they_were():
    world = World(lively_files(), device="cpu")
    with torch.autocast("cpu", dtype=torch.float16), default_dtype(torch.float64), torch.device("meta"):
        roll(lambda: world)
        assert torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.float16
        assert torch.get_default_dtype() == torch.float64 and torch.get_default_device() == torch.device("meta")
    files = lively_files()
    torch.manual_seed(0)
    before = torch.get_rng_state()
    World(files, device="cpu")
    roll(lambda: world)
    assert torch.equal(torch.get_rng_state(), before) and torch.is_grad_enabled()


def test_a_generator_is_isolated_in_its_parts_and_its_caller_is_not():
    inside = []

    @isolated
    def parts():
        inside.append((torch.is_autocast_enabled("cpu"), torch.get_default_dtype(), torch.is_inference_mode_enabled()))
        yield 1
        inside.append((torch.is_autocast_enabled("cpu"), torch.get_default_dtype(), torch.is_inference_mode_enabled()))
        return 2

    with torch.autocast("cpu"), default_dtype(torch.float64):
        generator = parts()
        assert next(generator) == 1
        assert torch.is_autocast_enabled("cpu") and torch.get_default_dtype() == torch.float64
        assert not torch.is_inference_mode_enabled()
        with pytest.raises(StopIteration) as done:
            next(generator)
    assert done.value.value == 2 and inside == [(False, torch.float32, True)] * 2
