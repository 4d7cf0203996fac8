"""A finished world gets another decoder: its latents, rewards and endings stay the same to the bit."""

from dataclasses import replace

import counter_env
import numpy as np
import pytest
import torch
from lively import randomise
from small_training import brief, train
from tiny import tiny_episodes, tiny_files
from torch.utils.flop_counter import FlopCounterMode

from worldsim.cli.main import main
from worldsim.cli.record import record
from worldsim.cli.train import DecoderCommand
from worldsim.data.latents import cache_latents
from worldsim.errors import DamagedCheckpoint, InvalidInput
from worldsim.io.weights import write_world
from worldsim.models.tokenizer import Tokenizer, TokenizerConfig
from worldsim.train.decoder_task import DecoderLossConfig, DecoderTask, export_decoder, lighter
from worldsim.train.loop import Trainer
from worldsim.world import World

WIDTHS = (6, 8)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_episodes(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("worlds") / "tiny"
    write_world(out, tiny_files())
    return out


def task_of(folder, data, run, **options):
    tokenizer = World.from_pretrained(folder, device="cpu").tokenizer.float()
    randomise(tokenizer)
    clips = cache_latents(tokenizer, data, run, "cpu")
    return DecoderTask([clips], tokenizer, lighter(tokenizer.config, WIDTHS), batch=8, **options)


def test_the_light_decoder_is_light():
    config = lighter(TokenizerConfig(), DecoderCommand.widths)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        frame = Tokenizer(config).decode(torch.zeros(1, 16, 8, 16))
    assert frame.shape == (1, 3, 64, 128) and counter.get_total_flops() <= 0.15e9


def test_it_learns(folder, data, tmp_path, float32):
    task = task_of(folder, data, tmp_path, loss=DecoderLossConfig(teacher=0.0))
    generator = torch.Generator().manual_seed(0)
    before = task.model(task.batch(1000, 0), 0, generator)[0].item()
    train(task, brief(60, lr=5e-3), tmp_path)
    assert task.model(task.batch(1000, 0), 0, generator)[0].item() < 0.5 * before
    assert task.preview(task.model).shape[2] == 3


def test_at_noisy_latents_it_learns_from_the_old_decoder(folder, data, tmp_path, float32):
    task = task_of(folder, data, tmp_path, loss=DecoderLossConfig(noise=0.0, teacher=1.0))
    task.model.decoder = task.tokenizer.decoder  # the old one has nothing to learn, but that images end at 1
    loss, _ = task.model(task.batch(0, 0), 0, torch.Generator().manual_seed(0))
    task.model.decoder = Tokenizer(task.settings).decoder
    other, _ = task.model(task.batch(0, 0), 0, torch.Generator().manual_seed(0))
    assert loss < 0.1 * other


def test_the_command_leaves_all_but_the_frames_as_they_were(folder, data, tmp_path, capsys):
    options = ["--data", data.path, "--out", tmp_path, "--steps", 2, "--device", "cpu", "--widths", *WIDTHS]
    main([str(option) for option in ["train", "decoder", folder, *options]])
    assert f"wrote {tmp_path / 'world'}" in capsys.readouterr().out
    old, new = (World.from_pretrained(path, device="cpu") for path in (folder, tmp_path / "world"))
    assert (new.config.tokenizer.decoder, new.config.tokenizer.decoder_widths) == ("subpixel", WIDTHS)
    weights = [world.tokenizer.state_dict() for world in (old, new)]
    assert all(torch.equal(weights[0][n], weights[1][n]) for n in weights[0] if not n.startswith("decoder."))
    states = [world.reset(seed=[0, 1]) for world in (old, new)]
    for action in (1, 2, 0):
        (one, step), (other, again) = (
            world.step(state, np.array([action, 1])) for world, state in zip((old, new), states, strict=True)
        )
        states = [one, other]
        assert torch.equal(one.past, other.past) and (step.reward == again.reward).all()
        assert (step.extras["termination_probability"] == again.extras["termination_probability"]).all()
        assert step.frame.shape == again.frame.shape and (step.frame != again.frame).any()


def test_a_light_decoder_of_other_widths_begins_with_the_one_that_is_there(folder, data, tmp_path, capsys):
    def lighten(world, run, *widths):
        options = ["--data", data.path, "--out", run, "--steps", 0, "--device", "cpu", "--widths", *widths]
        main([str(option) for option in ["train", "decoder", world, *options]])
        return World.from_pretrained(run / "world", device="cpu").tokenizer.decoder.state_dict()

    first = lighten(folder, tmp_path / "first", *WIDTHS)
    assert "weights begin as those of" not in capsys.readouterr().err
    second = lighten(tmp_path / "first" / "world", tmp_path / "second", WIDTHS[0], WIDTHS[1] + 2)
    assert "weights begin as those of" in capsys.readouterr().err
    same = [name for name in first if first[name].shape == second[name].shape]
    assert 0 < len(same) < len(first) and all(torch.equal(first[name], second[name]) for name in same)


@pytest.mark.parametrize(
    ("widths", "said"),
    [((0, 8), "decoder_widths is .*give 1 to 4096"), ((8, 8, 8), "give one each for 1/4 and 1/8 of the image")],
)
def test_widths_that_it_cannot_have_are_refused(widths, said):
    with pytest.raises(InvalidInput, match=said):
        lighter(TokenizerConfig(), widths)


def test_what_does_not_fit_is_refused_and_nothing_is_written(folder, data, tmp_path, capsys):
    with pytest.raises(InvalidInput, match="run `worldsim train decoder"):
        export_decoder(folder, tmp_path, tmp_path / "world")
    task = task_of(folder, data, tmp_path)
    other = replace(task.settings, encoder_widths=(4, 4, 16))
    run = tmp_path / "other"
    Trainer(DecoderTask(task.stores, task.tokenizer, other, batch=2), brief(0), run, resume=False).save()
    with pytest.raises(DamagedCheckpoint, match="decodes the latents of another world"):
        export_decoder(folder, run, tmp_path / "world")
    record(f"gym:{counter_env.DISCRETE}", steps=20, out=tmp_path / "size", height=24, width=24)
    with pytest.raises(SystemExit):
        main(["train", "decoder", str(folder), "--data", str(tmp_path / "size"), "--out", str(tmp_path / "run")])
    assert "makes frames of 24x24, world" in capsys.readouterr().err
    assert not (tmp_path / "world").exists()
