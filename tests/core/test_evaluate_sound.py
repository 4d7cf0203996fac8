"""Figures of sound: onsets, loudness, clicks, and the probe of a world with sound."""

import numpy as np
import pytest
from sounding import sounding_world
from tiny import tiny_episodes

from worldsim.errors import InvalidInput
from worldsim.evaluate.effort import QUICK
from worldsim.evaluate.hearing import clicks, compare, flux, loudness, match_onsets, mel_distance, strongest
from worldsim.evaluate.probes import ProbeContext, find_probes
from worldsim.evaluate.sound import SoundProbe
from worldsim.io.weights import write_world

RNG = np.random.default_rng(0)
SAMPLES, RATE = 120, 2100.0


def ticks(steps, spans=3, length=60):
    """Quiet noise with a loud burst at some steps: (spans, length, SAMPLES, 2)."""
    sound = 0.001 * RNG.standard_normal((spans, length, SAMPLES, 2))
    for span, at in steps:
        sound[span, at] += 0.3 * RNG.standard_normal((SAMPLES, 1)) * np.linspace(1, 0, SAMPLES)[:, None]
    return sound.astype(np.float32)


def test_bursts_are_the_strongest_onsets_and_are_matched_within_a_step():
    real = ticks([(0, 10), (1, 30), (2, 5), (2, 50)])
    found = strongest(flux(real, RATE), 4)
    assert np.argwhere(found).tolist() == [[0, 10], [1, 30], [2, 5], [2, 50]]
    near = strongest(flux(ticks([(0, 11), (1, 29), (2, 5), (2, 52)]), RATE), 4)
    assert match_onsets(found, near) == {"f1": 0.75, "precision": 0.75, "recall": 0.75}
    assert match_onsets(found, np.zeros_like(found))["f1"] == 0
    other = strongest(flux(ticks([(0, 40), (1, 3), (2, 20), (0, 59)]), RATE), 4)
    assert match_onsets(found, other)["f1"] == 0  # not even over the border of two spans


def test_figures_of_a_sound_beside_itself_and_beside_silence():
    real = ticks([(0, 10), (1, 30), (2, 5), (2, 50)])
    same, silent = compare(real, real, (0.02,), RATE), compare(real, np.zeros_like(real), (0.02,), RATE)
    assert same["onsets_0.02"]["f1"] == same["onsets_0.02"]["rate_ratio"] == 1
    assert same["loudness_db"] == pytest.approx(0) and same["envelope_correlation"] == pytest.approx(1)
    assert abs(same["mel_distance"]) < 1e-3 < silent["mel_distance"]
    assert silent["onsets_0.02"]["f1"] == 0 and silent["loudness_db"] == float("-inf") and silent["silent_share"] == 1
    assert compare(real, real / 2, (0.02,), RATE)["loudness_db"] == pytest.approx(-6.02, abs=0.01)
    assert loudness(real).shape == (3, 60) and mel_distance(real, 0.1 * real, RATE) > 1


def test_a_seam_between_steps_is_a_click():
    smooth = np.sin(np.arange(50 * SAMPLES) / 20).reshape(1, 50, SAMPLES, 1).astype(np.float32)
    assert clicks(smooth) == pytest.approx(1, abs=0.2)
    assert clicks(smooth * np.where(np.arange(50) % 2, 1, -1)[None, :, None, None]) > 10


def test_a_world_with_sound_is_measured_and_shown(tmp_path):
    world = sounding_world()
    write_world(tmp_path / "world", world._files)
    probes = find_probes(tmp_path / "world", world.config).probes
    assert [probe.name for probe in probes] == ["sound"]
    store = tiny_episodes(tmp_path / "data", lengths=(40, 30), audio=40)
    context = ProbeContext(world, store, None, QUICK)
    probes[0].check(context)
    result = probes[0].measure(context)
    assert np.isfinite(result.figures["codec"]["si_sdr_db"]) and result.figures["long_dream"]["steps"] == 60
    assert result.figures["silence"]["onsets_0.05"]["f1"] == 0
    assert "F1, strongest 1%" in result.text and len(result.sheets["heard"]) == 5
    assert {row.shape[1:] for row in result.sheets["heard"]} == {(16, 32, 3)}


def test_episodes_without_sound_cannot_be_measured_and_silent_worlds_have_no_such_probe(tmp_path):
    context = ProbeContext(sounding_world(), tiny_episodes(tmp_path / "mute"), None, QUICK)
    with pytest.raises(InvalidInput, match=r"has no sound; the world's is \(40, 2\): record it again with --sound"):
        SoundProbe().check(context)
    from lively import lively_world

    assert find_probes(tmp_path, lively_world().config).probes == ()
