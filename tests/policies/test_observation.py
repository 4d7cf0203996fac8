import numpy as np
import pytest
import torch
from game import counter_world

from worldsim.errors import InvalidInput
from worldsim.policies.observation import ObservationConfig
from worldsim.spec import ActionSpec, WorldSpec

FRAMES = np.random.default_rng(0).integers(0, 256, (3, 16, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (ObservationConfig("pixels"), (16, 32, 1)),
        (ObservationConfig("pixels", gray=False), (16, 32, 3)),
        (ObservationConfig("pixels", height=8, width=8), (8, 8, 1)),
        (ObservationConfig("latents"), (4, 2, 4)),
    ],
)
def test_what_is_seen_lies_in_its_space(world, config, shape):
    space, seen = config.space(world.spec), config.see(world)(FRAMES)
    assert space.shape == shape and seen.shape == (3, *shape) and seen.dtype == space.dtype
    assert all(space.contains(one) for one in seen)


def test_pixels_are_averaged_over_areas_by_brightness():
    frame = np.zeros((1, 4, 4, 3), np.uint8)
    frame[:, :2] = (255, 255, 255)
    frame[:, :, :2, 2] = 200
    see = ObservationConfig("pixels", height=2, width=2).see(None)
    bright, half = 255, round(0.114 * 200)
    assert see(frame)[0, :, :, 0].tolist() == [[round(255 * 0.886 + 200 * 0.114), bright], [half, 0]]
    assert np.array_equal(ObservationConfig("pixels", gray=False).see(None)(frame), frame)


def test_latents_are_the_worlds(world):
    assert np.array_equal(ObservationConfig().see(world)(FRAMES), world.encode(FRAMES))
    assert not np.array_equal(ObservationConfig().see(counter_world(1))(FRAMES), world.encode(FRAMES))


def test_what_cannot_be_seen_is_refused(world):
    for wrong in ({"kind": "sound"}, {"stack": 0}, {"hold": 0}, {"height": 0}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            ObservationConfig(**wrong)
    with pytest.raises(InvalidInput, match="tokenizer"):
        ObservationConfig().see(None)
    with pytest.raises(InvalidInput, match="no latents"):
        ObservationConfig().space(WorldSpec("w", 8, 8, ActionSpec(n=2), 10.0))


@pytest.mark.parametrize("grid", [(2, 4), (3, 5), (8, 16)])
def test_the_latents_network_takes_any_grid(grid):
    pytest.importorskip("stable_baselines3")
    import gymnasium as gym

    from worldsim.policies.network import LatentCNN

    network = LatentCNN(gym.spaces.Box(-np.inf, np.inf, (6, *grid), np.float32))
    latents = torch.randn(2, 6, *grid)
    features = network(latents)
    assert features.shape == (2, 128)
    for place in (latents[:, :, :1, :1], latents[:, :, -1:, -1:]):  # every corner is seen
        place += 5
        assert not torch.equal(network(latents), features)
        place -= 5
