"""From recordings to a world with sound: the commands, the recipe's table, and what they refuse."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from tiny import tiny_episodes, tiny_files

from worldsim.cli.main import main
from worldsim.cli.make import Making
from worldsim.cli.make_checks import check_recipe
from worldsim.errors import InvalidInput
from worldsim.io.folders import MODEL
from worldsim.io.weights import read_world, write_world
from worldsim.train.add_audio import add_audio
from worldsim.train.export import RECORD, read_records
from worldsim.train.recipe import load_recipe
from worldsim.train.unpack import unpack_world
from worldsim.world import World

TRAIN = ["--steps", "2", "--warmup", "1", "--device", "cpu", "--batch", "2"]


def command(*words):
    with contextlib.suppress(SystemExit):
        main(["train", *map(str, words)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A world, a run of it in which sound was trained for two steps, and the world with that sound."""
    folder = tmp_path_factory.mktemp("sound")
    tiny_episodes(folder / "data", audio=40)
    write_world(folder / "world", tiny_files())
    run = ("--data", folder / "data", "--out", folder / "run", *TRAIN)
    command("unpack", folder / "world", "--out", folder / "run")
    command("audio-codec", *run, "--clip", "4", "--dim", "4", "--width", "12")
    command("audio", *run, "--clip", "6", "--draw-steps", "2", "--augment", "mirror")
    command("add-audio", folder / "world", "--run-dir", folder / "run", "--out", folder / "sounding")
    return folder


def test_a_finished_world_is_given_sound_and_keeps_its_weights(made):
    silent, sounding = made / "world", made / "sounding"
    assert (silent / MODEL).read_bytes() == (sounding / MODEL).read_bytes()
    world = World.from_pretrained(sounding, device="cpu").with_audio()
    _, step = world.step(world.reset(seed=[0]), np.array([1]))
    assert step.extras["audio"].shape == (1, 40, 2)
    assert read_records(sounding / RECORD)["audio"]["calls"][-1]["reached_step"] == 2
    assert (made / "run" / "audio.png").exists() and (made / "run" / "audio-codec.png").exists()


def test_sound_of_another_tokenizer_is_refused(made, tmp_path):
    write_world(tmp_path / "other", tiny_files(seed=1))
    with pytest.raises(InvalidInput, match="latents of another tokenizer"):
        add_audio(tmp_path / "other", made / "run", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(InvalidInput, match="worldsim train audio --out"):
        add_audio(made / "world", tmp_path, tmp_path / "out")


def test_what_is_made_of_an_unpacked_world_gets_its_sound(made, tmp_path):
    add_audio(made / "world", made / "run", tmp_path / "loud")
    with pytest.raises(InvalidInput, match="has no sound"):
        unpack_world(made / "world", tmp_path / "run", sound=True)
    command("unpack", tmp_path / "loud", "--out", tmp_path / "run", "--sound")
    add_audio(made / "world", tmp_path / "run", tmp_path / "again")
    one, two = (read_world(tmp_path / name) for name in ("loud", "again"))
    assert one.config.audio == two.config.audio and one.audio.keys() == two.audio.keys()
    assert all(torch.equal(tensor, two.audio[name]) for name, tensor in one.audio.items())


def test_training_without_sound_or_codec_says_what_to_do(made, tmp_path, capsys):
    tiny_episodes(tmp_path / "mute", lengths=(8,))
    command("audio-codec", "--data", tmp_path / "mute", "--out", tmp_path / "run", *TRAIN)
    assert "has no sound; record it again with --sound" in capsys.readouterr().err
    command("unpack", made / "world", "--out", tmp_path / "run")
    command("audio", "--data", made / "data", "--out", tmp_path / "run", *TRAIN)
    assert "run `worldsim train audio-codec" in capsys.readouterr().err


def recipe(folder, *stores, audio="[audio]"):
    data = "".join(f'[[data]]\nstore = "{store}"\n' for store in stores)
    (folder / "recipe.toml").write_text(f'name = "beeps"\n{data}\n[dynamics]\npatch = [2, 1]\n{audio}\n')
    return load_recipe(folder / "recipe.toml")


def test_a_table_of_the_recipe_adds_the_stages(made, tmp_path):
    silent = recipe(tmp_path, made / "data", audio="")
    loud = recipe(tmp_path, made / "data", audio="[audio]\nhours = 0.1")
    check_recipe(loud)
    plain, more = (
        [stage.name for stage in Making(one, tmp_path / "recipe.toml", tmp_path / "out", "cpu").stages]
        for one in (silent, loud)
    )
    assert [name for name in more if name not in plain] == ["audio-codec", "audio", "add-audio"]
    assert more.index("audio-codec") < more.index("tokenizer") and more.index("add-audio") < more.index("evaluate")
    assert loud.scaled(0.1).audio.hours == pytest.approx(0.01) and silent.scaled(0.1).audio is None
    assert loud.training_hours == pytest.approx(silent.training_hours + 0.6)


def test_stages_before_the_sound_stay_done_when_it_is_added(made, tmp_path):
    makings = [
        Making(recipe(tmp_path, made / "data", audio=text), tmp_path / "recipe.toml", tmp_path / "out", "cpu")
        for text in ("", "[audio]", "[audio]\ndraw_steps = 4")
    ]
    marks = [{stage.name: making._mark(stage) for stage in making.stages} for making in makings]
    for name in ("record-0", "tokenizer", "dynamics", "calibrate"):
        assert marks[0][name] == marks[1][name] == marks[2][name]
    assert marks[1]["audio-codec"] == marks[2]["audio-codec"] and marks[1]["audio"] != marks[2]["audio"]


def test_recipes_of_mute_and_of_different_recordings_are_refused(made, tmp_path):
    tiny_episodes(tmp_path / "mute", lengths=(8,))
    tiny_episodes(tmp_path / "other", lengths=(8,), audio=50)
    with pytest.raises(InvalidInput, match="recorded without sound; add options"):
        check_recipe(recipe(tmp_path, tmp_path / "mute"))
    with pytest.raises(InvalidInput, match="700 and 875 samples a second in 2 and 2 channels"):
        check_recipe(recipe(tmp_path, made / "data", tmp_path / "other"))
    with pytest.raises(InvalidInput, match="declares no augmentation upside-down"):
        check_recipe(recipe(tmp_path, made / "data", audio='[audio]\naugment = ["upside-down"]'))
    with pytest.raises(InvalidInput, match="audio: hours is 0"):
        recipe(tmp_path, made / "data", audio="[audio]\nhours = 0.0")


def test_files_of_a_world_with_sound_can_be_written_again(made, tmp_path):
    files = read_world(made / "sounding")
    write_world(tmp_path / "again", dataclasses.replace(files, card="# another card\n"))
    assert read_world(tmp_path / "again").config.audio == files.config.audio
