"""Checkpoints and the training record: whole or refused, and never overwritten by accident."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_training import brief, tokenizer_task, train
from tiny import tiny_episodes

from worldsim.errors import DamagedCheckpoint, InvalidInput
from worldsim.train import checkpoint
from worldsim.train.checkpoint import load_checkpoint, save_checkpoint
from worldsim.train.loop import Trainer

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_episodes(tmp_path_factory.mktemp("data") / "tiny")


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture
def run(store, tmp_path):
    train(tokenizer_task(store), brief(2), tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("options", [{"batch": 5}, {"seed": 1}])
def test_a_run_is_not_resumed_with_another_configuration(store, run, options):
    with pytest.raises(DamagedCheckpoint, match=r"another (batch|seed)"):
        Trainer(tokenizer_task(store, **options), brief(4), run, resume=True)


def test_a_run_is_not_resumed_with_another_model(store, run):
    other = tokenizer_task(store)
    other.kind = "dynamics"
    (run / "tokenizer.safetensors").rename(run / "dynamics.safetensors")
    with pytest.raises(DamagedCheckpoint, match="not of a"):
        Trainer(other, brief(4), run, resume=True)


def test_a_run_is_not_overwritten_by_accident(store, run):
    before = (run / "tokenizer.safetensors").read_bytes()
    with pytest.raises(InvalidInput, match="--resume"):
        Trainer(tokenizer_task(store), brief(4), run, resume=False)
    assert (run / "tokenizer.safetensors").read_bytes() == before


def test_what_was_never_trained_cannot_be_resumed(store, tmp_path):
    with pytest.raises(DamagedCheckpoint, match=r"tokenizer\.safetensors"):
        Trainer(tokenizer_task(store), brief(4), tmp_path, resume=True)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.999])
def test_a_truncated_checkpoint_is_refused(store, run, kept):
    path = run / "tokenizer.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DamagedCheckpoint, match=r"tokenizer\.safetensors.*restore it"):
        Trainer(tokenizer_task(store), brief(4), run, resume=True)


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_flipped_bit_in_a_checkpoint_is_refused(store, run, place):
    path = run / "tokenizer.safetensors"
    data = bytearray(path.read_bytes())
    data[int((len(data) - 1) * place)] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedCheckpoint, match=r"tokenizer\.safetensors"):
        Trainer(tokenizer_task(store), brief(4), run, resume=True)


def test_a_checkpoint_of_another_format_is_refused(store, run, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT", checkpoint.FORMAT + 1)
    with pytest.raises(DamagedCheckpoint, match=r"has format 1, this version reads 2"):
        Trainer(tokenizer_task(store), brief(4), run, resume=True)


def test_a_checkpoint_without_a_checksum_is_still_read(run):
    path = run / "tokenizer.safetensors"
    tensors, meta = load_checkpoint(path)
    assert meta.pop("sha256")
    save_file(tensors, path, metadata={"worldsim": json.dumps(meta)})
    assert_same(load_checkpoint(path)[0], tensors)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failure_while_saving_leaves_the_old_checkpoint(run, monkeypatch, error):
    path = run / "tokenizer.safetensors"
    before = path.read_bytes()

    def fail(tensors, target, metadata):
        target.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises((KeyboardInterrupt, InvalidInput)):
        save_checkpoint(path, {"a": torch.zeros(1)}, {})
    assert path.read_bytes() == before and not list(run.glob("*.partial"))


def test_a_checkpoint_holds_tensors_of_every_kind(tmp_path):
    tensors = {
        "a": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "b": torch.tensor(3.0),
        "c": torch.zeros(0),
    }
    save_checkpoint(tmp_path / "deep" / "x.safetensors", tensors, {"step": 1})
    read, meta = load_checkpoint(tmp_path / "deep" / "x.safetensors")
    assert_same(read, tensors)
    assert meta["step"] == 1 and load_file(tmp_path / "deep" / "x.safetensors").keys() == tensors.keys()


def test_a_damaged_training_record_is_named(store, run):
    (run / "tokenizer.json").write_text('{"curve": [')
    with pytest.raises(DamagedCheckpoint, match=r"tokenizer\.json"):
        Trainer(tokenizer_task(store), brief(4), run, resume=True)


def test_the_training_record_tells_of_every_call(store, run):
    trainer = train(tokenizer_task(store), brief(21), run, resume=True)
    again = Trainer(tokenizer_task(store), brief(22), run, resume=True).record
    assert (
        [call["reached_step"] for call in again.calls] == [2, 21] == [c["reached_step"] for c in trainer.record.calls]
    )
    assert [point["step"] for point in again.curve] == [20] and again.curve[0]["loss"] > 0
