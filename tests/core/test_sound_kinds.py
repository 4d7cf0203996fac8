"""Kinds of sound: levels of what was recorded, how they are drawn and kept to, calibrated on dreams."""

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
from worldsim.evaluate.hearing import flux
from worldsim.models.audio import AudioHead, SoundKinds, SoundModel
from worldsim.models.audio_codec import AudioCodec
from worldsim.models.onsets import onset_strength, past_samples
from worldsim.train.audio_task import AudioLossConfig, AudioTask
from worldsim.train.calibrate_sound import adjusted, as_often, calibrate_sound
from worldsim.train.sound_kinds import choose_kinds, kinds_of, next_levels, onset_rows

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


def model_with(kinds, bias):
    """A model that gives kinds these log-odds, whatever it sees."""
    model = SoundModel(dataclasses.replace(SOUND, kinds=kinds), dynamics())
    torch.nn.init.zeros_(model.kind.weight)
    model.kind.bias.data = torch.tensor(bias)
    return model


def drawn(model, last=0, count=100, kind=6):
    """Kinds that it draws at as many even chances of the onset, at even odds of the loudness, and levels of onset."""
    uniform = torch.stack([(torch.arange(count) + 0.5) / count, torch.full((count,), 0.4)], dim=1)
    heard = {"level": torch.full((count,), last), "kind": torch.full((count,), kind)}
    return model.choose(torch.zeros(count, SOUND.width), heard, uniform)


def test_levels_are_drawn_by_their_probability_and_by_a_certain_head_the_likely_ones():
    odds = [1.0, -9.0, 0.0, -9.0, -0.5, -9.0]  # levels of onset by 0.51, 0.19 + 0.11
    _, level = drawn(model_with(KINDS, odds))
    expected = torch.softmax(torch.tensor([1.0, 0.0, -0.5]), 0)
    assert torch.allclose(level.bincount(minlength=3) / 100, expected, atol=0.02)
    _, certain = drawn(model_with(dataclasses.replace(KINDS, certainty=1000.0), odds))
    assert set(certain.tolist()) == {0}
    pushed = dataclasses.replace(KINDS, certainty=1000.0, onset_bias=(1.0, -9.0), loudness_bias=(30.0,))
    kinds, certain = drawn(model_with(pushed, odds))
    assert set(certain.tolist()) == {1} and set(kinds.tolist()) == {3}  # onset 1, loudness 1
    with pytest.raises(InvalidInput, match="onset_bias has 1 numbers; give 2"):
        dataclasses.replace(KINDS, onset_bias=(1.0,))


def test_what_stays_probable_begins_once():
    odds = [-9.0, -9.0, 9.0, -9.0, -9.0, -9.0]
    onsets = [(drawn(model_with(KINDS, odds), last)[0] // 2).unique().tolist() for last in (0, 1, 2)]
    assert onsets == [[1], [0], [0]]
    assert drawn(model_with(KINDS, odds), 2)[1].unique().tolist() == [1]


def test_loudness_changes_as_it_does_in_recordings():
    kinds = SoundKinds(onsets=(), loudness=(0.1, 0.2))
    loud = np.tile(np.array([0, 0, 0.15, 0.3, 0.3, 0.0], np.float32), 50)  # silence ends softly, and comes at once
    low, high = next_levels(kinds, [loud])
    assert (low, high) == ((0, 1, 0), (1, 2, 2))
    model = model_with(dataclasses.replace(kinds, lowest=low, highest=high), [-9.0, -9.0, 9.0])
    assert [drawn(model, kind=kind)[0].unique().tolist() for kind in (0, 1, 2, 3)] == [[1], [2], [2], [2]]
    with pytest.raises(InvalidInput, match="need 3 levels each"):
        dataclasses.replace(kinds, lowest=(0,), highest=(1,))


def test_of_several_sounds_the_first_is_taken_that_begins_as_its_kind_does():
    kinds = dataclasses.replace(KINDS, rms=())
    head = AudioHead(dataclasses.replace(SOUND, kinds=kinds, candidates=3), dynamics())
    strength = torch.tensor([0.5, 0.2, 1.5, 1.4, 9.0, 3.0, 0.2, 0.1, 0.5])
    kind = torch.tensor([0, 2, 5]).repeat_interleave(3)  # levels below 1, from 1 to 2, above 2
    assert head._nearest(strength, kind).tolist() == [0, 3, 8]


def test_the_onset_of_a_step_that_is_made_is_the_one_that_is_measured():
    sound = np.random.default_rng(0).standard_normal((1, 12, 120, 2)).astype(np.float32)
    sound[:, ::3] *= 5
    measured = flux(sound, 2100.0)[0]
    mono, past = torch.from_numpy(sound.mean(-1).reshape(1, -1)), past_samples(120)
    for step in np.flatnonzero(measured):
        end = (int(step) + 1) * 120
        made = onset_strength(mono[:, end - 120 - past : end], 120, 2100.0)
        assert made.item() == pytest.approx(measured[step], rel=1e-3)
    assert (measured > 0).sum() > 2


def bursts(every, size, steps=60):
    """Spans of faint noise, in which now and then a loud step comes: (4, steps, 40, 2)."""
    sound = np.random.default_rng(0).standard_normal((4, steps, 40, 2)).astype(np.float32) * 0.01
    sound[:, ::every] *= size
    return sound


def test_calibration_makes_dreams_louder_and_onsets_more_frequent_where_they_lack():
    levels = SoundKinds(onsets=(1.0,), loudness=(0.1,))
    sound, real = dataclasses.replace(SOUND, kinds=levels), bursts(every=6, size=40)
    more = adjusted(sound, real, bursts(every=20, size=40))
    assert more.kinds.onset_bias[0] > 0.5 and more.kinds.loudness_bias[0] > 0.5
    less = adjusted(more, real, bursts(every=3, size=40))
    assert less.kinds.onset_bias[0] < more.kinds.onset_bias[0]
    same = adjusted(sound, real, real)
    assert same.gain == pytest.approx(1) and same.kinds.onset_bias == same.kinds.loudness_bias == (0,)
    louder = adjusted(dataclasses.replace(sound, gain=1.5), real, real * 0.8)
    assert louder.gain == pytest.approx(1.5 / 0.8**0.5, rel=1e-3)


def test_levels_are_chosen_as_often_as_they_were_recorded():
    levels = SoundKinds(onsets=(1.0,), loudness=(0.1,))
    sound, real = dataclasses.replace(SOUND, kinds=levels), bursts(every=6, size=40)
    for chosen, more in ((0, True), (3, False)):  # none, and all, are loud onsets
        kinds = as_often(sound, real, np.full((4, 60), chosen)).kinds
        assert all((bias > 0) == more for bias in (*kinds.onset_bias, *kinds.loudness_bias))


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
    assert sound.gain != 1 and len(sound.kinds.onset_bias) == len(sound.kinds.onsets)


def test_clips_show_rare_onsets_often_and_beginnings_of_episodes_count(tmp_path):
    store = tiny_episodes(tmp_path / "data", lengths=(60, 60), audio=40)
    torch.manual_seed(0)
    codec = AudioCodec(SOUND.codec).eval().requires_grad_(False)
    clips = cache_latents(
        fixed_tokenizer(), store, tmp_path, "cpu", streams=("audio",), encoders={"audio": CodecEncoder(codec)}
    )

    def task(balanced, delay=0):
        sizes = {"features": 8, "width": 16, "hidden": 16, "steps": 2, "delay": delay}
        loss = AudioLossConfig(balanced=balanced)
        return AudioTask([clips], fixed_tokenizer(), codec, batch=64, clip=4, sizes=sizes, loss=loss)

    top = task(0).settings.kinds
    rare = (len(top.onsets)) * (len(top.loudness) + 1)  # the first kind of the strongest level of onset
    shares = [float((task(share).batch(0, 0)["kinds"] >= rare).any(1).float().mean()) for share in (0.0, 1.0)]
    assert shares[1] > 2 * shares[0]
    batch = task(0).batch(0, 0)
    firsts = batch["ages"][:, 0] == 0
    assert firsts.any() and not firsts.all()
    assert (batch["ages"].diff(dim=1) >= 0).all()
    late = task(0, delay=2).batch(0, 0)  # the sound of what was two steps before, and none before the episode
    assert torch.equal(late["latents"], batch["latents"]) and not late["valid"][firsts, :2].any()
    same = late["valid"][:, 2:] & batch["valid"][:, :-2]
    assert same.any() and torch.equal(late["stream.audio"][:, 2:][same], batch["stream.audio"][:, :-2][same])
