"""Sound as a head of a world: the same frames with it, part of the state, a file of its own."""

import dataclasses

import numpy as np
import pytest
import torch
from lively import lively_files, lively_world
from small_training import brief, fixed_tokenizer, train
from sounding import SOUND, sounding_files, sounding_world
from tiny import tiny_episodes

from worldsim.config import WorldConfig
from worldsim.data.latents import cache_latents
from worldsim.data.sound import CodecEncoder
from worldsim.errors import DamagedWorld, InvalidInput
from worldsim.io.folders import AUDIO, CONFIG, MODEL, STARTS
from worldsim.io.weights import read_world, write_world
from worldsim.models.audio import AudioHead
from worldsim.models.audio_codec import AudioCodec
from worldsim.models.carried import Drawn
from worldsim.models.registry import StepInputs
from worldsim.state.tree import clone, put_rows, select_rows
from worldsim.state.tree_io import load_tree, save_tree
from worldsim.train.audio_task import AudioTask, _shifted, listen
from worldsim.world import World


def play(world, steps=6, seed=(0, 1)):
    state, told = world.reset(seed=list(seed)), []
    for t in range(steps):
        state, step = world.step(state, np.array([t % 3, (t + 1) % 3])[: len(seed)])
        told.append(step)
    return state, told


@pytest.mark.parametrize("options", [{}, {"between": 0}, {"steering": True}], ids=str)
def test_frames_are_the_same_to_the_bit_with_sound_and_without(options):
    world = sounding_world(**options)
    draw = np.random.default_rng(0)
    silent, heard = world.reset(seed=[0, 1]), world.with_audio().reset(seed=[0, 1])
    for _ in range(5):
        actions = np.stack([world.spec.actions.draw(draw) for _ in range(2)])
        silent, one = world.step(silent, actions)
        heard, other = world.with_audio().step(heard, actions)
        sound = other.extras.pop("audio")
        assert sound.shape == (2, 40, 2) and sound.dtype == np.int16 and np.abs(sound.astype(int)).max() > 0
        assert "audio" not in one.extras
        for name in ("frame", "reward", "terminated"):
            assert np.array_equal(getattr(one, name), getattr(other, name))
        assert all(np.array_equal(one.extras[name], other.extras[name]) for name in one.extras)


def test_the_same_seed_sounds_the_same_and_another_one_otherwise():
    world = sounding_world().with_audio()
    one, again, other = (
        np.stack([s.extras["audio"] for s in play(world, seed=seed)[1]]) for seed in ((3,), (3,), (4,))
    )
    assert np.array_equal(one, again) and not np.array_equal(one, other)


def test_sound_depends_on_the_frame_the_action_the_noise_and_what_was_heard():
    torch.manual_seed(0)
    head = AudioHead(SOUND, sounding_files().config.dynamics)
    head.load_state_dict(sounding_files().audio)
    frame, noise = torch.randn(1, 2, 4, 2, 4), torch.randn(1, *head.noise_shape)
    inputs = StepInputs(torch.tensor([1]), torch.zeros(1), torch.zeros(1, dtype=torch.int64))

    def made(carried=None, latents=frame, draw=noise, action=1):
        drawn = Drawn(latents, torch.zeros(1, 4, 2, 4), dataclasses.replace(inputs, actions=torch.tensor([action])))
        return head.step(head.empty(1) if carried is None else carried, drawn, draw)

    carried, plain = made()
    for changed in (made(carried), made(latents=frame + 1), made(draw=noise + 1), made(action=2)):
        assert not torch.equal(changed[1], plain)
    assert made(latents=frame[:, :1])[1].shape == (1, 40, 2)  # given without the frames between


def test_a_head_that_does_not_listen_follows_the_frame_alone():
    deaf = dataclasses.replace(SOUND, listens=False)
    files, drawn = sounding_files(), []
    for config in (SOUND, deaf):
        head = AudioHead(config, files.config.dynamics)
        head.load_state_dict(files.audio)
        inputs = StepInputs(torch.tensor([1]), torch.zeros(1), torch.zeros(1, dtype=torch.int64))
        step = Drawn(torch.ones(1, 2, 4, 2, 4), torch.zeros(1, 4, 2, 4), inputs)
        for last in (0.0, 1.0):
            carried = head.empty(1)
            carried["heard"]["last"] += last
            drawn.append(head.step(carried, step, torch.zeros(1, *head.noise_shape))[1])
    assert not torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[2], drawn[3])


def test_sound_is_saved_restored_and_forked_with_the_state(tmp_path):
    world = sounding_world().with_audio()
    state, _ = play(world)
    kept = clone(state)
    save_tree(tmp_path / "state.safetensors", state)
    actions = np.array([1, 2])

    def ahead(state):
        sounds = []
        for _ in range(4):
            state, step = world.step(state, actions)
            sounds.append(step.extras["audio"])
        return np.stack(sounds)

    expected = ahead(state)
    assert np.array_equal(ahead(clone(kept)), expected)
    assert np.array_equal(ahead(load_tree(tmp_path / "state.safetensors", kept)), expected)
    forked = put_rows(world.reset(seed=[5, 6]), [0, 1], select_rows(kept, [0, 0]))
    _, step = world.step(forked, np.array([1, 1]))
    assert np.array_equal(step.extras["audio"][0], step.extras["audio"][1])
    assert np.array_equal(step.extras["audio"][0], expected[0, 0])


def test_a_rewound_step_sounds_the_same_again():
    world = sounding_world().with_audio()
    state, _ = play(world)
    _, one = world.step(state, np.array([1, 2]))
    world.rewind(state)
    _, two = world.step(state, np.array([1, 2]))
    assert np.array_equal(one.extras["audio"], two.extras["audio"])


def test_rows_do_not_hear_each_other():
    world = sounding_world().with_audio()
    state = world.reset(seed=[0, 1])
    broken = clone(world.reset(seed=[1]))
    broken.past[:] = float("nan")
    put_rows(state, [1], broken)
    alone = world.reset(seed=[0, 1])
    for _ in range(3):
        state, step = world.step(state, np.array([0, 1]))
        alone, expected = world.step(alone, np.array([0, 1]))
        assert np.array_equal(step.extras["audio"][0], expected.extras["audio"][0])
    assert step.extras["non_finite"].tolist() == [False, True]


def test_a_world_with_sound_is_written_and_read_and_its_other_files_stay_as_they_are(tmp_path):
    files, plain = sounding_files(), lively_files()
    write_world(tmp_path / "sound", files)
    write_world(tmp_path / "plain", plain)
    for name in (MODEL, STARTS):
        assert (tmp_path / "sound" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    assert not (tmp_path / "plain" / AUDIO).exists() and "audio" not in (tmp_path / "plain" / CONFIG).read_text()
    assert WorldConfig.read(tmp_path / "sound" / CONFIG).audio == SOUND
    loaded = World.from_pretrained(tmp_path / "sound", device="cpu").with_audio()
    one, other = (play(world)[1][-1].extras["audio"] for world in (loaded, sounding_world().with_audio()))
    assert np.array_equal(one, other)
    assert loaded.spec.audio_rate == 700 and loaded.spec.weights.startswith(world_weights(tmp_path / "sound") + "+")


def world_weights(folder):
    return World.from_pretrained(folder, device="cpu").spec.weights


def test_damaged_and_missing_weights_of_sound_are_told(tmp_path):
    write_world(tmp_path / "world", sounding_files())
    path = tmp_path / "world" / AUDIO
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DamagedWorld, match=r"audio\.safetensors have SHA-256"):
        read_world(tmp_path / "world")
    path.unlink()
    with pytest.raises(DamagedWorld, match=r"audio\.safetensors cannot be read"):
        read_world(tmp_path / "world")
    files = sounding_files()
    smaller = dataclasses.replace(SOUND, hidden=8)
    write_world(tmp_path / "other", dataclasses.replace(files, config=dataclasses.replace(files.config, audio=smaller)))
    with pytest.raises(DamagedWorld, match="do not fit its config"):
        read_world(tmp_path / "other")


def test_a_world_without_sound_says_so():
    with pytest.raises(InvalidInput, match="has no sound; leave out audio=True, or train it"):
        lively_world().with_audio()
    codec = dataclasses.replace(SOUND.codec, rate=800)
    with pytest.raises(InvalidInput, match="800 samples a second, its steps have 700"):
        dataclasses.replace(sounding_files().config, audio=dataclasses.replace(SOUND, codec=codec))


def test_it_learns_what_a_frame_sounds_like(tmp_path):
    store = tiny_episodes(tmp_path / "data", lengths=(40, 30), audio=40)
    torch.manual_seed(0)
    codec = AudioCodec(SOUND.codec).eval().requires_grad_(False)
    clips = cache_latents(
        fixed_tokenizer(), store, tmp_path, "cpu", streams=("audio",), encoders={"audio": CodecEncoder(codec)}
    )
    sizes = {"features": 8, "width": 16, "hidden": 16, "steps": 2}
    task = AudioTask([clips], fixed_tokenizer(), codec, batch=4, clip=8, sizes=sizes)

    def error():
        with torch.no_grad():
            return float(task.model(task.batch(10_000, 0), 0, torch.Generator().manual_seed(0))[0])

    before = error()
    train(task, brief(40), tmp_path)
    assert error() < 0.8 * before
    batch = task.batch(0, 0)
    assert batch["valid"].any() and batch["stream.audio"].shape == (4, 9, 8)
    heard, kinds = listen(task.model.model, batch["latents"], batch["actions"], batch["ages"], seed=0)
    assert kinds.shape == (4, 8) and heard.shape == (4, 8, 8) and torch.isfinite(heard).all()


def test_frames_of_a_clip_are_shifted_alike_and_the_border_is_repeated():
    clips = torch.arange(24.0).reshape(1, 1, 1, 1, 4, 6).expand(40, 3, 2, 5, 4, 6)
    shifted = _shifted(clips, 1, torch.Generator().manual_seed(0))
    assert shifted.shape == clips.shape and (shifted == shifted[:, :1, :1, :1]).all()
    ways = {tuple(one[0, 0, 0, 1:3, 2].tolist()) for one in shifted}
    assert len(ways) == 9 and torch.equal(_shifted(clips, 0, torch.Generator()), clips)
    right = next(one for one in shifted if one[0, 0, 0, 1, 1] == 6)  # the columns moved by one
    assert right[0, 0, 0, 1].tolist() == [6, 6, 7, 8, 9, 10]
