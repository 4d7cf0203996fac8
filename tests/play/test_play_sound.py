"""Sound in the window: the ring between model and sound card, volume, clips with sound, machines without a device."""

import time

import av
import numpy as np
import pygame
import pytest
from sounding import sounding_world

from worldsim.cli.rollout import rollout
from worldsim.envs.play.game import Game
from worldsim.envs.play.keys import ActionKeys
from worldsim.envs.play.session import Session
from worldsim.envs.play.sound import LEAD, MOST, TRIM, Ring, Speaker
from worldsim.envs.play.status import Settings
from worldsim.errors import InvalidInput
from worldsim.io.media import Sound, VideoWriter
from worldsim.io.weights import write_world


@pytest.fixture(autouse=True)
def no_sound_card(monkeypatch):
    monkeypatch.setenv("SDL_AUDIODRIVER", "dummy")


@pytest.fixture(scope="module")
def world():
    return sounding_world().with_audio()


def ramp(first, count):
    return np.arange(first, first + count, dtype=np.int16)[:, None].repeat(2, 1)


def test_samples_come_out_in_order_after_a_lead():
    ring = Ring(10, 2)
    ring.push(ramp(1, 10))
    assert not ring.pull(4).any() and ring.underruns == 0  # no lead yet
    for step in range(1, LEAD):
        ring.push(ramp(1 + 10 * step, 10))
    pulled = np.concatenate([ring.pull(7), ring.pull(8)])
    assert np.array_equal(pulled, ramp(1, 15))


def test_running_dry_is_counted_once_and_silent():
    ring = Ring(10, 2)
    ring.push(ramp(1, 10 * LEAD))
    assert np.array_equal(ring.pull(10 * LEAD), ramp(1, 10 * LEAD))
    for _ in range(3):
        assert not ring.pull(10).any()
    assert ring.underruns == 1
    ring.push(ramp(1, 10 * LEAD))
    ring.drain()  # a pause
    ring.pull(100)
    assert ring.underruns == 1


def test_a_card_that_is_behind_loses_the_oldest_samples():
    ring = Ring(10, 2)
    for step in range(MOST + 3):
        ring.push(ramp(10 * step, 10))
    assert np.array_equal(ring.pull(10), ramp(30, 10))


def test_sound_is_played_slower_while_little_waits_and_faster_while_much_does():
    ring = Ring(100, 2)
    assert ring.trim() == 1.0  # nothing plays yet
    ring.push(ramp(0, 300))
    assert ring.trim() == 1.0 + TRIM
    ring.pull(100)
    assert ring.trim() == 1.0
    ring.pull(190)
    assert ring.trim() == 1.0 - TRIM


def gaps_of_late_steps(speaker, steps=600):
    """Gaps where each step comes half a percent late, so that the card takes more than its samples between two."""
    speaker.ring = Ring(1000, 2)
    speaker.play(ramp(0, 1000))
    for _ in range(steps):
        speaker.play(ramp(0, 1000))
        speaker.ring.pull(1005)
    return speaker.ring.underruns


def test_small_delays_do_not_add_up_to_a_gap(world, monkeypatch):
    monkeypatch.setattr("worldsim.envs.play.sound._open_device", lambda *_: None)
    speaker = Speaker(world.spec)
    assert gaps_of_late_steps(speaker) == 0
    monkeypatch.setattr("worldsim.envs.play.sound.TRIM", 0.0)
    assert gaps_of_late_steps(speaker) > 0


def test_a_speaker_plays_at_other_speeds_quieter_and_muted(world):
    speaker = Speaker(world.spec)
    try:
        speaker.play(ramp(0, 40), speed=2.0)
        speaker.play(ramp(0, 40), speed=0.5)
        assert speaker.ring._count == 20 + 80
        assert speaker.volume == 1.0
        speaker.turn(1)
        assert speaker.volume == 1.0
        speaker.turn(-1)
        quieter = speaker.volume
        assert 0 < quieter < 1
        speaker.muted = True
        assert speaker.volume == 0
        speaker.turn(-1)
        assert 0 < speaker.volume < quieter
        speaker.ring = Ring(40, 2)
        speaker.ring.push(np.full((LEAD * 40, 2), 1000, np.int16))
        memory = bytearray(40)
        speaker._fill(None, memoryview(memory))
        assert set(np.frombuffer(memory, np.int16).tolist()) == {int(1000 * speaker.volume)}
    finally:
        speaker.close()
        speaker.close()


def test_keys_change_the_volume_and_the_status_tells(world):
    session = Session(Game(world), ActionKeys(world.spec.actions), Settings())
    session.open()
    try:
        for _ in range(3):
            session.do("advance")
        assert session.status().volume == 1.0 and session.speaker.ring._count > 0
        session.do("quieter")
        assert session.status().volume == 0.75
        session.do("mute")
        assert session.status().volume == 0
        session.do("mute")
        assert session.status().volume == 0.75
        session.do("louder")
        assert session.status().volume == 1.0
    finally:
        session.close()


def test_a_machine_without_a_sound_device_says_so_and_plays_on(world, monkeypatch):
    def refuse(*_):
        raise pygame.error("dsp: No such audio device")

    monkeypatch.setattr("pygame._sdl2.AudioDevice", refuse)
    session = Session(Game(world), ActionKeys(world.spec.actions), Settings())
    session.open()
    try:
        assert "no sound device can be opened" in session.status().message
        assert session.status().volume is None
        session.do("advance")
        session.do("mute")
        assert session.status().steps == 1 and "without sound" in session.status().message
    finally:
        session.close()


def test_a_silent_world_opens_no_device():
    session = Session(Game(sounding_world()), ActionKeys(sounding_world().spec.actions), Settings())
    session.open()
    assert session.speaker is None and session.status().volume is None
    session.close()


def test_the_window_shows_the_sound(play, world):
    player = play(world, script=((),) * 3)
    player.until(lambda: player.status.steps >= 2)
    assert player.status.volume == 1.0
    player.tap("v")
    player.until(lambda: player.status.volume == 0)


def heard(path):
    with av.open(str(path)) as container:
        track = container.streams.audio[0]
        samples = np.concatenate([frame.to_ndarray() for frame in container.decode(track)], axis=1)
        pictures = sum(1 for _ in av.open(str(path)).decode(video=0))
        return samples, track.rate, float(track.duration * track.time_base), pictures


def test_a_clip_of_the_window_has_a_sound_track_as_long_as_its_frames(world, tmp_path):
    session = Session(Game(world), ActionKeys(world.spec.actions), Settings(record=tmp_path / "a.mp4"))
    session.open()
    for _ in range(20):
        session.do("advance")
    session.close()
    samples, _, seconds, frames = heard(tmp_path / "a.mp4")
    assert frames == 41 and np.abs(samples).max() > 0.001
    assert seconds == pytest.approx(frames / 35, abs=0.1)


def test_a_rollout_has_a_sound_track_where_it_is_asked_for(tmp_path):
    write_world(tmp_path / "world", sounding_world()._files)
    rollout(str(tmp_path / "world"), steps=12, out=tmp_path / "a.mp4", audio=True, device="cpu")
    samples, _, seconds, frames = heard(tmp_path / "a.mp4")
    assert np.abs(samples).max() > 0.001 and seconds == pytest.approx(frames / 35, abs=0.1)
    rollout(str(tmp_path / "world"), steps=4, out=tmp_path / "b.mp4", device="cpu")
    with av.open(str(tmp_path / "b.mp4")) as container:
        assert not container.streams.audio


def test_sound_of_another_kind_does_not_fit_a_clip(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 10, sound=Sound(22_050, 2)) as writer:
        writer.write_sound(np.zeros((2205, 2), np.int16))
        writer.write(np.zeros((8, 8, 3), np.uint8))
        for wrong in (np.zeros((10, 1), np.int16), np.zeros((10, 2), np.float32)):
            with pytest.raises(InvalidInput, match=r"takes int16 samples \(N, 2\)"):
                writer.write_sound(wrong)
    assert heard(tmp_path / "a.mp4")[1] == 22_050
    with VideoWriter(tmp_path / "b.mp4", 10) as writer, pytest.raises(InvalidInput, match="int16"):
        writer.write(np.zeros((8, 8, 3), np.uint8))
        writer.write_sound(np.zeros((10, 2), np.int16))


def test_the_dummy_device_takes_samples(world):
    speaker = Speaker(world.spec)
    try:
        for _ in range(MOST):
            speaker.play(ramp(0, 40))
        before = speaker.ring._count
        deadline = time.monotonic() + 10
        while speaker.ring._count == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert speaker.ring._count < before
    finally:
        speaker.close()
