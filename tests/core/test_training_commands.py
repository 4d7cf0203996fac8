"""From episodes to a world by the commands: train both stages, with logs and frames, export, load, step."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from recordings import META, rows
from small_training import brief, fixed_tokenizer, narrow, tokenizer_task
from tiny import tiny_episodes

from worldsim.cli.main import main
from worldsim.cli.train import fit, open_board, open_stores
from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import Episodes
from worldsim.data.latents import encode_frames, load_tokenizer
from worldsim.errors import DamagedCheckpoint, InvalidInput, MissingDependency
from worldsim.io.locks import hold
from worldsim.train import dynamics_task
from worldsim.train.board import logging_to
from worldsim.train.checkpoint import load_checkpoint
from worldsim.train.export import CONTEXT, export_world, pick_starts
from worldsim.train.loop import Trainer
from worldsim.train.transfer import start_from
from worldsim.world import World

OPTIONS = ["--warmup", "5", "--device", "cpu", "--seed", "3"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_episodes(tmp_path_factory.mktemp("data") / "tiny").path


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """The folder of a run with both stages trained by command, for a few steps."""
    out = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dynamics_task, "DynamicsConfig", narrow)
        for stage, *own in (
            ["tokenizer", "--channels", "4"],
            ["dynamics", "--clip", "8", "--patch", "2", "1", "--augment", "mirror"],
        ):
            main(
                [
                    "train",
                    stage,
                    "--data",
                    str(data),
                    "--out",
                    str(out),
                    "--steps",
                    "20",
                    "--batch",
                    "2",
                    *own,
                    *OPTIONS,
                ]
            )
    return out


@pytest.mark.parametrize("kind", ["tokenizer", "dynamics"])
def test_training_leaves_checkpoint_record_frames_and_logs(run, kind):
    assert load_checkpoint(run / f"{kind}.safetensors")[1]["step"] == 20
    assert (run / f"{kind}.json").is_file() and (run / f"{kind}.png").stat().st_size > 100
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(run / "tensorboard" / kind)).Reload()
    assert {f"{kind}/loss", f"{kind}/gradient_norm", f"{kind}/frames_per_s"} <= set(log.Tags()["scalars"])
    assert log.Scalars(f"{kind}/loss")[0].step == 20 and log.Tags()["images"] == [f"{kind}/sample"]


def test_without_tensorboard_training_says_how_to_get_it(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingDependency, match="pip install"):
        fit(tokenizer_task(open_stores((data,))[0]), brief(1), tmp_path, resume=False)


def test_a_run_that_another_process_trains_in_is_refused_as_it_is(data, tmp_path):
    with (
        hold(tmp_path / ".tokenizer.lock", "unused"),
        pytest.raises(InvalidInput, match="trained in by another process"),
    ):
        fit(tokenizer_task(open_stores((data,))[0]), brief(2), tmp_path, resume=False)
    assert not (tmp_path / "tokenizer.safetensors").exists()


def test_stores_whose_numbers_teach_nothing_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr("worldsim.data.episode_writer.FINITE_STREAMS", ())  # as stores were written before
    for name, stream, value in (("nan", "reward", np.nan), ("far", "action", 7)):
        with EpisodeWriter(tmp_path / name, META) as writer:
            for t, row in enumerate(rows(6)):
                writer.append({**row, stream: value} if t == 4 else row)
            writer.end_episode()
        with pytest.raises(InvalidInput, match=rf"store '.*{name}' has {stream} {value} in row 4, and 1 such rows"):
            open_stores((tmp_path / name,))


def test_a_stopped_command_says_how_to_go_on(data, tmp_path, capsys):
    task = tokenizer_task(open_stores((data,))[0])
    batch = task.batch

    def interrupted(step, rank):
        if step == 2:
            raise KeyboardInterrupt
        return batch(step, rank)

    task.batch = interrupted
    with pytest.raises(KeyboardInterrupt):
        fit(task, brief(5), tmp_path, resume=False)
    assert "stopped at step 2" in capsys.readouterr().err and (tmp_path / "tokenizer.safetensors").is_file()


def test_a_full_disk_is_one_sentence_wherever_it_is_met(data, tmp_path, full_disk, capsys):
    task = tokenizer_task(open_stores((data,))[0])
    with full_disk(3000), pytest.raises(InvalidInput, match=r"cannot be written .*(too large|os error 27)"):
        fit(task, brief(2), tmp_path / "checkpoint", resume=False)
    fit(task, brief(2), tmp_path / "whole", resume=False)
    sizes = {path.suffix: path.stat().st_size for path in (tmp_path / "whole").glob("tokenizer.*")}
    frame = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    task.preview = lambda averaged: frame
    with full_disk(2 * sizes[".safetensors"]), pytest.raises(InvalidInput, match=r"cannot (write|be written)"):
        fit(task, brief(3), tmp_path / "frame", resume=False)
    assert load_checkpoint(tmp_path / "frame" / "tokenizer.safetensors")[1]["step"] == 3
    assert "Traceback" not in capsys.readouterr().err
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and "tfevents" not in path.name}
    assert left == {"tokenizer.safetensors", "tokenizer.json", "tokenizer.png", ".tokenizer.lock"}


def test_the_first_error_is_told_where_the_last_saving_fails_too(data, tmp_path, full_disk):
    trainer = Trainer(tokenizer_task(open_stores((data,))[0]), brief(30), tmp_path, resume=False)

    def fail(values, step):
        raise ValueError("the first error")

    with full_disk(100), pytest.raises(ValueError, match="the first error"):
        trainer.run(fail, lambda frame, step: None)


def test_a_log_that_cannot_be_written_is_one_sentence(tmp_path, capsys, full_disk):
    with (
        full_disk(5000),
        pytest.raises(InvalidInput, match=r"log in .*cannot be written.*free space"),
        logging_to(tmp_path),
        open_board(tmp_path) as board,
    ):
        for step in range(1000):
            board.add_scalar("loss", 1.0, step)
            board.flush()
    assert "Traceback" not in capsys.readouterr().err


def command(*arguments: object) -> None:
    main([str(a) for a in arguments])


def test_a_run_is_resumed_by_command(data, run, tmp_path, capsys):
    arguments = [
        "train",
        "tokenizer",
        "--data",
        data,
        "--out",
        tmp_path,
        "--batch",
        2,
        "--channels",
        4,
        *OPTIONS,
    ]
    command(*arguments, "--steps", 1)
    with pytest.raises(SystemExit):
        command(*arguments, "--steps", 2)
    assert "--resume" in capsys.readouterr().err
    command(*arguments, "--steps", 2, "--resume")
    assert load_checkpoint(tmp_path / "tokenizer.safetensors")[1]["step"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["dynamics", "--data", "DATA", "--out", "EMPTY"], "worldsim train tokenizer --out"),
        (["tokenizer", "--data", "EMPTY", "--out", "EMPTY"], "no episode store"),
        (["tokenizer", "--data", "DATA", "--out", "EMPTY", "--hours", "0"], "hours"),
        (["dynamics", "--data", "DATA", "--out", "RUN", "--patch", "3", "1"], "does not divide"),
        (
            ["export", "--name", "tiny", "--data", "DATA", "--run-dir", "EMPTY", "--out", "EMPTY"],
            "tokenizer.safetensors",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_cannot_be_done_is_one_line_with_the_fix(data, run, tmp_path, capsys, arguments, message):
    places = {"DATA": str(data), "EMPTY": str(tmp_path), "RUN": str(run)}
    with pytest.raises(SystemExit) as caught:
        main(["train", *(places.get(a, a) for a in arguments)])
    error = capsys.readouterr().err
    assert caught.value.code == 2 and message in error and error.count("\n") == 1


@pytest.mark.parametrize("other", [{"between": 0}, {"source": "another"}])
def test_stores_that_differ_are_not_trained_on_together(data, tmp_path, other):
    odd = tiny_episodes(tmp_path / "odd", lengths=(5,), **other)
    with pytest.raises(InvalidInput, match="differ in"):
        open_stores((data, odd.path))


def test_an_empty_store_is_not_trained_on(tmp_path):
    empty = tiny_episodes(tmp_path / "empty", lengths=())
    with pytest.raises(InvalidInput, match="no finished episode"):
        open_stores((empty.path,))


# -- the world that comes out


@pytest.fixture(scope="module")
def exported(data, run, tmp_path_factory):
    out = tmp_path_factory.mktemp("worlds") / "tiny"
    command(
        "train",
        "export",
        "--name",
        "tiny-room",
        "--data",
        data,
        "--run-dir",
        run,
        "--out",
        out,
        "--starts",
        4,
    )
    return out


def test_an_exported_world_runs(exported):
    world = World.from_pretrained(exported, device="cpu")
    assert (world.spec.name, world.spec.height, world.spec.width, world.spec.frames_per_step) == (
        "tiny-room",
        16,
        32,
        2,
    )
    assert world.spec.steps_per_second == 17.5 and world.spec.max_episode_steps == 40
    assert world.config.source.name == "tiny" and world.config.source.frame_skip == 2
    assert world.spec.actions.meanings == ("NOOP", "LEFT", "RIGHT")
    for start in ("beginning", "anywhere"):
        state = world.reset(seed=[0, 1, 2], start=start)
        for _ in range(12):
            state, step = world.step(state, np.array([0, 1, 2]))
        assert not step.extras["non_finite"].any() and step.frame.std() > 0


def test_an_exported_world_has_the_averaged_weights(exported, run):
    world = World.from_pretrained(exported, device="cpu")
    for kind, prefix in (("tokenizer", "average.tokenizer."), ("dynamics", "average.dynamics.")):
        trained, _ = load_checkpoint(run / f"{kind}.safetensors")
        for name, tensor in world._files.model.items():
            if name.startswith(f"{kind}."):
                assert torch.equal(tensor, trained[prefix + name.split(".", 1)[1]].to(torch.bfloat16)), name


def test_a_start_lies_in_an_episode_as_often_as_it_is_long(tmp_path, monkeypatch):
    store = tiny_episodes(tmp_path / "uneven", lengths=(7, 39, 7, 7))
    taken, read = [], Episodes.read

    def spy(self, name, start, stop):
        taken.append(start)
        return read(self, name, start, stop)

    monkeypatch.setattr(Episodes, "read", spy)
    starts = pick_starts(fixed_tokenizer(), [store], 80)
    assert len(starts.latents) == 80
    anywhere = np.array(taken[40:80])  # the frames of the later half of the starts
    # Rows from which 6 more follow: one in each short episode, 33 in the long one.
    inside = (anywhere >= 7) & (anywhere < 46)
    assert (starts.ages[:40] == 0).all() and (starts.ages[40:][inside] == torch.from_numpy(anywhere[inside] - 7)).all()
    assert inside.mean() == pytest.approx(33 / 36, abs=0.04) and len(set(anywhere[inside].tolist())) > 25


def test_starts_have_as_many_frames_as_are_asked_for(tmp_path):
    store = tiny_episodes(tmp_path / "long", lengths=(7, 39))
    starts = pick_starts(fixed_tokenizer(), [store], 6, context=9)
    assert starts.latents.shape[:2] == (6, 9) and starts.actions.shape == (6, 8)
    for context, words in ((0, "at least one frame"), (20, "longer than 40 steps")):
        with pytest.raises(InvalidInput, match=words):
            pick_starts(fixed_tokenizer(), [store], 6, context=context)


def test_the_starts_are_the_beginnings_and_other_places_of_the_data(exported, data, run):
    starts, store = World.from_pretrained(exported, device="cpu").starts, open_stores((data,))[0]
    assert starts.latents.shape[:2] == (4, CONTEXT) and starts.beginnings == 2
    latents = encode_frames(load_tokenizer(run, "cpu"), store.read("rgb", 0, store.num_steps))
    actions = store.read("action", 0, store.num_steps)
    places = []
    for packed, taken in zip(starts.latents.float() * starts.scale, starts.actions.numpy(), strict=True):
        fits = [
            row
            for row in range(store.num_steps - CONTEXT + 1)
            if (latents[row : row + CONTEXT] - packed).abs().max() < starts.scale
            and (actions[row + 1 : row + CONTEXT] == taken).all()
        ]
        assert fits
        places.append(fits)
    beginnings = set((store.ends - store.lengths).tolist())
    assert all(beginnings & set(fits) for fits in places[:2])


def test_a_card_that_was_written_is_kept(data, run, tmp_path):
    stores = open_stores((data,))
    export_world("tiny", stores, run, tmp_path / "world", starts=2)
    assert (tmp_path / "world" / "README.md").read_text() == "# tiny\n"
    (tmp_path / "world" / "README.md").write_text("# My card\n")
    export_world("tiny", stores, run, tmp_path / "world", starts=2)
    assert World.from_pretrained(tmp_path / "world", device="cpu").card == "# My card\n"


def test_episodes_too_short_for_a_start_are_refused(run, tmp_path):
    store = tiny_episodes(tmp_path / "short", lengths=(5, 6))
    with pytest.raises(InvalidInput, match="longer than 6 steps"):
        export_world("tiny", [store], run, tmp_path / "world", starts=2)
    assert not (tmp_path / "world").exists()


def test_a_damaged_checkpoint_is_not_exported(data, run, tmp_path):
    broken = shutil.copytree(run, tmp_path / "run", ignore=shutil.ignore_patterns("latents", "tensorboard"))
    path = Path(broken) / "dynamics.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DamagedCheckpoint, match=r"dynamics\.safetensors"):
        export_world("tiny", open_stores((data,)), Path(broken), tmp_path / "world", starts=2)


def test_an_exported_world_is_unpacked_and_trained_on(exported, data, tmp_path, monkeypatch):
    monkeypatch.setattr(dynamics_task, "DynamicsConfig", narrow)
    out = tmp_path / "run"
    command("train", "unpack", exported, "--out", out)
    tensors, meta = load_checkpoint(out / "dynamics.safetensors")
    assert meta["step"] == 20
    for name, tensor in World.from_pretrained(exported).dynamics.state_dict().items():
        assert torch.equal(tensors[f"average.dynamics.{name}"], tensor.float())
    more = tiny_episodes(tmp_path / "more", lengths=(12, 3), seed=1).path  # its usual reward is another
    arguments = ["--data", data, more, "--out", out, "--steps", 21, "--batch", 3, "--clip", 8, "--patch", 2, 1]
    command("train", "dynamics", *arguments, "--resume", *OPTIONS)
    assert load_checkpoint(out / "dynamics.safetensors")[1]["step"] == 21
    with pytest.raises(SystemExit):
        command("train", "unpack", exported, "--out", out)


def test_a_world_with_a_damaged_training_record_is_not_unpacked(exported, tmp_path, capsys):
    world = shutil.copytree(exported, tmp_path / "world")
    (world / "training.json").write_text("{")
    with pytest.raises(SystemExit):
        command("train", "unpack", world, "--out", tmp_path / "run")
    assert "training.json" in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_training_begins_with_the_weights_of_a_world_where_names_and_shapes_agree(exported, data, tmp_path, capsys):
    tensors, said = begun(exported, data, tmp_path / "same", capsys)
    world = World.from_pretrained(exported).tokenizer.state_dict()
    weights = [name for name in world if name != "log_rms"]  # that is measured when a checkpoint is written
    for name in weights:
        assert torch.equal(tensors[f"model.tokenizer.{name}"], world[name].float())
        assert torch.equal(tensors[f"average.tokenizer.{name}"], world[name].float())
    total = sum(world[name].numel() for name in world)
    assert f"{total:,} of {total:,} weights begin as those of" in said

    light, said = begun(exported, data, tmp_path / "light", capsys, "--decoder", "subpixel")
    taken = {n[16:] for n, t in light.items() if n[16:] in world and torch.equal(t, world[n[16:]].float())}
    assert taken >= {name for name in weights if name.startswith("encoder.")}
    assert "decoder.0.weight" not in taken and f"{total:,} of" not in said
    assert load_tokenizer(tmp_path / "light", "cpu").config.decoder_widths == (64, 112)


def begun(world, data, out, capsys, *more):
    """The weights of a tokenizer that begins with a world's, before its first step, and what was printed."""
    arguments = ["--data", data, "--out", out, "--channels", 4, "--steps", 0, "--start", world, *more, *OPTIONS]
    command("train", "tokenizer", *arguments)
    return load_checkpoint(out / "tokenizer.safetensors")[0], capsys.readouterr().err


def test_a_world_that_nothing_fits_of_is_no_start(exported):
    with pytest.raises(InvalidInput, match=r"no weights of world .* have the names and shapes"):
        start_from(torch.nn.Linear(2, 2), str(exported))
