"""The tokenizer: shapes, size of latents, and images in and out."""

import dataclasses

import pytest
import torch
from lively import randomise

from worldsim.errors import InvalidInput
from worldsim.models.layers import ResidualBlock
from worldsim.models.tokenizer import Tokenizer, TokenizerConfig, to_frames, to_images

SMALL = TokenizerConfig(height=24, width=40, channels=6, encoder_widths=(4, 4, 8), decoder_widths=(4, 4, 8), blocks=1)


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    model = Tokenizer(SMALL)
    randomise(model)
    return model.eval().requires_grad_(False)


@pytest.mark.parametrize("frames", [1, 3])
def test_shapes(tokenizer, frames):
    latents = tokenizer.encode(torch.randn(frames, 3, 24, 40))
    assert latents.shape == (frames, 6, SMALL.latent_height, SMALL.latent_width) == (frames, 6, 3, 5)
    assert tokenizer.decode(latents).shape == (frames, 3, 24, 40)


def test_the_size_that_was_learned_scales_latents_and_not_frames(tokenizer):
    images = torch.randn(2, 3, 24, 40)
    latents, decoded = tokenizer.encode(images), tokenizer.decode(tokenizer.encode(images))
    tokenizer.log_rms.add_(1.0)
    torch.testing.assert_close(tokenizer.encode(images), latents * torch.exp(torch.tensor(-1.0)))
    torch.testing.assert_close(tokenizer.decode(tokenizer.encode(images)), decoded)


def test_a_latent_depends_on_its_own_part_of_the_frame():
    torch.manual_seed(0)
    tokenizer = Tokenizer(SMALL)
    images = torch.randn(1, 3, 24, 40)
    changed = images.clone()
    changed[..., 8:16, 16:24] += 1.0
    difference = (tokenizer.encode(changed) - tokenizer.encode(images)).square().sum(1)[0]
    assert difference[1, 2] > 1e-4 and (difference[:, [0, 4]] == 0).all()


def test_a_part_of_the_frame_depends_on_its_own_latent_most():
    torch.manual_seed(0)
    tokenizer = Tokenizer(SMALL)
    latents = torch.randn(1, 6, 3, 5)
    changed = latents.clone()
    changed[..., 1, 2] += 1.0
    difference = (tokenizer.decode(changed) - tokenizer.decode(latents)).square().sum(1)[0]
    by_place = torch.nn.functional.avg_pool2d(difference[None], 8)[0]
    assert by_place.argmax() == 1 * 5 + 2


def test_frames_do_not_depend_on_their_neighbours_in_the_batch(tokenizer):
    images = torch.randn(3, 3, 24, 40)
    others = images.clone()
    others[1:] = torch.randn(2, 3, 24, 40)
    assert torch.equal(tokenizer.encode(images)[0], tokenizer.encode(others)[0])


def test_every_value_of_a_pixel_survives_the_way_to_a_frame_and_back():
    frames = torch.arange(256, dtype=torch.uint8).view(1, 16, 16, 1).repeat(2, 1, 1, 3)
    frames[1] = frames[1].flip(0)
    images = to_images(frames)
    assert images.shape == (2, 3, 16, 16) and images.min() == -1 and images.max() == 1
    assert torch.equal(to_frames(images), frames)


def test_colours_and_axes_keep_their_order():
    frames = torch.zeros(1, 2, 3, 3, dtype=torch.uint8)
    frames[0, 1, 2] = torch.tensor([255, 127, 0], dtype=torch.uint8)
    image = to_images(frames)[0, :, 1, 2]
    assert image[0] == 1 and abs(image[1]) < 0.01 and image[2] == -1


@pytest.mark.parametrize(
    ("value", "pixel"), [(float("nan"), 0), (-3.0, 0), (3.0, 255), (float("inf"), 255), (-float("inf"), 0)]
)
def test_what_no_pixel_can_show_is_clipped_and_nan_is_black(value, pixel):
    frames = to_frames(torch.full((1, 3, 2, 2), value))
    assert frames.dtype == torch.uint8 and (frames == pixel).all()


def test_frames_are_fresh_memory_and_frames_leave_them_alone():
    frames = torch.randint(256, (1, 4, 4, 3), dtype=torch.uint8)
    kept = frames.clone()
    to_images(frames).zero_()
    assert torch.equal(frames, kept)
    images = torch.zeros(1, 3, 4, 4)
    assert (to_frames(images).numpy() == 128).all() and (images == 0).all()


def test_residual_blocks_begin_as_the_identity():
    x = torch.randn(1, 8, 3, 5)
    assert torch.equal(ResidualBlock(8)(x), x)


@pytest.mark.parametrize("size", [{"height": 20}, {"width": 44}, {"height": 0}])
def test_a_size_that_is_no_multiple_of_eight_is_refused(size):
    with pytest.raises(InvalidInput, match=r"multiples of 8|8 to 8192"):
        dataclasses.replace(SMALL, **size)
