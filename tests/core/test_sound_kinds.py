"""Kinds of sound: levels of what was recorded, drawn by their probability, calibrated on dreams."""

import dataclasses

import numpy as np
import pytest
import torch
from small_training import fixed_tokenizer
from sounding import SOUND, sounding_files
from tiny import tiny_episodes

from worldsim.data.latents import cache_latents
from worldsim.data.sound import CodecEncoder
from worldsim.errors import InvalidInput
from worldsim.evaluate.sound import Heard
from worldsim.models.audio import AudioHead, SoundKinds, SoundModel
from worldsim.models.audio_codec import AudioCodec
from worldsim.train.audio_task import AudioLossConfig, AudioTask
from worldsim.train.calibrate_sound import adjusted, calibrate_sound
from worldsim.train.sound_kinds import choose_kinds, kinds_of, onset_rows

KINDS = SoundKinds(onsets=(1.0, 2.0), loudness=(0.5,))


def test_levels_begin_at_quantiles_and_those_that_coincide_are_one():
    onsets = np.concatenate([np.zeros(900), np.arange(100)]).astype(np.float32)
    loud = np.full(1000, 0.1, np.float32)
    kinds = choose_kinds([(onsets[:500], loud[:500]), (onsets[500:], loud[500:])])
    assert kinds.loudness == () and kinds.onsets[0] > 0 and len(kinds.onsets) < 5
    assert kinds.count == len(kinds.onsets) + 1
    with pytest.raises(InvalidInput, match="ascending"):
        SoundKinds(onsets=(2.0, 1.0), loudness=())
    with pytest.raises(InvalidInput, match="rms has 3 numbers; give 2"):
        dataclasses.replace(KINDS, rms=(0.1, 0.2, 0.3))


def test_a_kind_is_a_level_of_onset_and_one_of_loudness():
    rows = kinds_of(KINDS, np.array([0, 1, 1.5, 9], np.float32), np.array([0.1, 0.6, 0.4, 0.5], np.float32))
    assert rows.tolist() == [0, 3, 2, 5] and KINDS.count == 6
    levels = onset_rows(KINDS, [rows, rows[:1]])
    assert [one.tolist() for one in levels] == [[[0, 0], [1, 0]], [[0, 1], [0, 2]], [[0, 3]]]


def dynamics():
    return sounding_files().config.dynamics


def test_kinds_are_drawn_by_their_probability_and_by_a_certain_head_the_likely_ones():
    shares = []
    for certainty in (1.0, 3.0):
        kinds = dataclasses.replace(KINDS, certainty=certainty)
        model = SoundModel(dataclasses.replace(SOUND, kinds=kinds), dynamics())
        torch.nn.init.zeros_(model.kind.weight)
        model.kind.bias.data = torch.tensor([1.0, 0, 0, 0, 0, 0])
        drawn = model.choose(torch.zeros(100, SOUND.width), (torch.arange(100) + 0.5) / 100)
        shares.append(float((drawn == 0).float().mean()))
    assert shares[0] == pytest.approx(0.35, abs=0.02) and shares[1] > 0.75


def bursts(every, size, steps=60):
    """Spans of faint noise, in which now and then a loud step comes: (4, steps, 40, 2)."""
    sound = np.random.default_rng(0).standard_normal((4, steps, 40, 2)).astype(np.float32) * 0.01
    sound[:, ::every] *= size
    return sound


def test_calibration_makes_dreams_louder_and_onsets_more_frequent_where_they_lack():
    levels = SoundKinds(onsets=(1.0,), loudness=())
    sound, real = dataclasses.replace(SOUND, kinds=levels), bursts(every=6, size=40)
    heard = Heard(real, torch.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0))
    more = adjusted(sound, heard, bursts(every=20, size=40))
    assert more.temperature > 1.2
    same = adjusted(sound, heard, real)
    assert same.gain == pytest.approx(1) and same.temperature == pytest.approx(1)
    louder = adjusted(dataclasses.replace(sound, gain=1.5), heard, real * 0.8)
    assert louder.gain == pytest.approx(1.5 / 0.8, rel=1e-3) and louder.temperature == pytest.approx(1)


def test_a_step_is_brought_to_the_loudness_of_its_kind_without_a_seam():
    head = AudioHead(SOUND, dynamics())
    sound, last = torch.full((3, 40, 2), 0.1), torch.tensor([1.0, 1.0, 2.0])
    made, gain = head._as_loud(sound, torch.tensor([0, 2, 1]), last)
    assert torch.allclose(gain, torch.tensor([0.5, 3.0, 1.5]))
    assert torch.allclose(made[:, -1, 0], torch.tensor([0.05, 0.3, 0.15]))
    assert (made[:, 0, 0] - 0.1 * last).abs().max() < 0.25 * (0.1 * (gain - last)).abs().max()


def test_a_world_is_calibrated_on_a_recording(tmp_path):
    files = sounding_files()
    store = tiny_episodes(tmp_path / "data", lengths=(12, 12), audio=40)
    sound = calibrate_sound(files, store, spans=2)
    assert sound.gain != 1 and sound.kinds == files.config.audio.kinds


def test_clips_show_rare_onsets_often_and_beginnings_of_episodes_count(tmp_path):
    store = tiny_episodes(tmp_path / "data", lengths=(60, 60), audio=40)
    torch.manual_seed(0)
    codec = AudioCodec(SOUND.codec).eval().requires_grad_(False)
    clips = cache_latents(
        fixed_tokenizer(), store, tmp_path, "cpu", streams=("audio",), encoders={"audio": CodecEncoder(codec)}
    )

    def task(balanced):
        sizes, loss = {"features": 8, "width": 16, "hidden": 16, "steps": 2}, AudioLossConfig(balanced=balanced)
        return AudioTask([clips], fixed_tokenizer(), codec, batch=64, clip=4, sizes=sizes, loss=loss)

    top = task(0).settings.kinds
    rare = (len(top.onsets)) * (len(top.loudness) + 1)  # the first kind of the strongest level of onset
    shares = [float((task(share).batch(0, 0)["kinds"] >= rare).any(1).float().mean()) for share in (0.0, 1.0)]
    assert shares[1] > 2 * shares[0]
    batch = task(0).batch(0, 0)
    firsts = batch["ages"][:, 0] == 0
    assert firsts.any() and not firsts.all()
    assert (batch["ages"].diff(dim=1) >= 0).all()
