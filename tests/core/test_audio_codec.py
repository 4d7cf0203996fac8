"""The audio codec: causal, without seams between steps, and what it is trained on."""

import dataclasses

import numpy as np
import pytest
import torch
from lively import randomise
from small_training import brief, train
from tiny import tiny_episodes

from worldsim.data.sound import CodecEncoder, sound_format, sound_level
from worldsim.errors import InvalidInput
from worldsim.models.audio_codec import (
    AudioCodec,
    AudioCodecConfig,
    fitting_frames,
    from_mid_side,
    to_float,
    to_int16,
    to_mid_side,
)
from worldsim.train.audio_codec_task import AudioCodecTask, si_sdr, unevenness
from worldsim.train.audio_task import load_codec

SIZES = AudioCodecConfig(rate=700, samples=40, frames=4, dim=4, width=12)


def made_codec(config=SIZES):
    torch.manual_seed(0)
    codec = AudioCodec(config)
    randomise(codec)
    return codec.eval().requires_grad_(False)


def sound(steps, batch=2, config=SIZES):
    generator = torch.Generator().manual_seed(1)
    return 0.1 * torch.randn(batch, steps * config.samples, config.channels, generator=generator)


@pytest.mark.parametrize("channels", [1, 2])
def test_step_by_step_gives_what_all_at_once_gives(channels):
    config = dataclasses.replace(SIZES, channels=channels)
    codec, heard = made_codec(config), sound(6, config=config)
    whole, _ = codec.encode(heard)
    decoded, _ = codec.decode(whole)
    assert whole.shape == (2, 6, 2, 4) and decoded.shape == heard.shape
    encoder, decoder, latents, steps = codec.empty_encoder(2), codec.empty_decoder(2), [], []
    for piece in heard.split(config.samples, dim=1):
        one, encoder = codec.encode(piece, encoder)
        again, decoder = codec.decode(one, decoder)
        latents.append(one)
        steps.append(again)
    torch.testing.assert_close(torch.cat(latents, 1), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.cat(steps, 1), decoded, rtol=1e-4, atol=1e-5)


def test_no_step_knows_what_comes_after_it():
    codec, heard = made_codec(), sound(6)
    other = heard.clone()
    other[:, 4 * SIZES.samples :] += 0.5
    for run in (lambda x: codec.encode(x)[0], lambda x: codec.decode(codec.encode(x)[0])[0].unflatten(1, (6, -1))):
        one, two = run(heard), run(other)
        assert torch.equal(one[:, :4], two[:, :4]) and not torch.equal(one[:, 4:], two[:, 4:])


def test_a_sound_rings_on_over_the_border_of_its_step():
    codec = made_codec()
    latents = torch.zeros(1, 2, 2, 4)
    silent = codec.decode(latents)[0]
    latents[:, 0] = 1.0
    changed = (codec.decode(latents)[0] - silent).abs()[0]
    assert changed[: SIZES.samples].max() > 0 and changed[SIZES.samples : SIZES.samples + SIZES.hop].max() > 0


def test_mid_and_side_are_undone_and_samples_are_clipped_not_wrapped():
    heard = sound(1)
    torch.testing.assert_close(from_mid_side(to_mid_side(heard)), heard)
    assert to_int16(torch.tensor([2.0, -2.0, float("nan"), 0.0])).tolist() == [32767, -32767, 0, 0]
    assert to_float(torch.tensor([-32768, 16384], dtype=torch.int16)).tolist() == [-1.0, 0.5]


def test_frames_of_a_step_divide_its_samples():
    assert fitting_frames(1260, 2) == 10 and fitting_frames(2520, 2) == 20 and fitting_frames(735, 1) == 5
    with pytest.raises(InvalidInput, match="735 samples"):
        fitting_frames(735, 2)
    with pytest.raises(InvalidInput, match="divisor of the 40 samples"):
        AudioCodecConfig(rate=700, samples=40, frames=7)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_episodes(tmp_path_factory.mktemp("data") / "tiny", audio=40)


def test_it_learns_and_its_latents_have_rms_one(store, tmp_path):
    task = AudioCodecTask([store], batch=8, clip=6, dim=8, width=32)
    batch = task.batch(10_000, 0)

    def distortion():
        with torch.no_grad():
            return float(task.model(batch, 0, torch.Generator().manual_seed(0))[0])

    before = distortion()
    train(task, brief(60), tmp_path)
    assert distortion() < 0.8 * before
    encoder = CodecEncoder(load_codec(tmp_path))
    rows = [store.read("audio", a, b) for a, b in ((0, 30), (30, 55), (55, 95))]  # all that was measured
    latents = np.concatenate([encoder.encode(episode) for episode in rows])
    assert latents.shape == (95, 16) and 0.7 < np.sqrt(np.square(latents).mean()) < 1.4


def test_distortion_ignores_the_scale_of_a_sound():
    heard = sound(8)
    assert si_sdr(3 * heard, heard) > 60 and si_sdr(torch.randn_like(heard), heard) < 0


def test_noise_that_lies_at_the_same_place_of_every_step_is_uneven():
    noise = 0.1 * torch.randn(8, 50 * 40, 2, generator=torch.Generator().manual_seed(0))
    buzz = noise.unflatten(1, (50, 40)).clone()
    buzz[:, :, :10] *= 0.3
    assert unevenness(noise, noise, 40) < 0.1 < 0.3 < unevenness(buzz.flatten(1, 2), noise, 40)


def test_stores_without_sound_of_silence_and_unlike_each_other_are_refused(store, tmp_path):
    mute = tiny_episodes(tmp_path / "mute")
    with pytest.raises(InvalidInput, match="has no sound; record it again with --sound"):
        sound_format([mute])
    with pytest.raises(InvalidInput, match="700 and 875 samples a second in 2 and 2 channels"):
        sound_format([store, tiny_episodes(tmp_path / "other", audio=50)])
    assert 0.001 < sound_level([store]) < 1
    with pytest.raises(InvalidInput, match="silent throughout"):
        sound_level([tiny_episodes(tmp_path / "silent", lengths=(8,), audio=40, loudness=0)])
    with pytest.raises(InvalidInput, match="the audio codec was trained on"):
        CodecEncoder(made_codec()).row_shape((50, 2))
