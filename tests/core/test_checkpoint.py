"""Checkpoints and the training record: whole or refused, and never overwritten by accident."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_training import brief, tokenizer_task, train
from tiny import tiny_episodes

from worldsim.data.latents import load_tokenizer
from worldsim.errors import DamagedCheckpoint, DamagedWorld, InvalidInput
from worldsim.migration import migrate_settings
from worldsim.train import checkpoint
from worldsim.train.checkpoint import load_checkpoint, save_checkpoint
from worldsim.train.export import read_records
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
    with pytest.raises(DamagedCheckpoint, match=r"has format 2, this version reads 1 and 3"):
        Trainer(tokenizer_task(store), brief(4), run, resume=True)


META = {"kind": "tokenizer", "step": 50, "config": {"batch": 4}}
TENSORS = {"model.a": torch.arange(6.0).reshape(2, 3), "optimizer.0.step": torch.tensor(50.0)}


def test_a_flipped_bit_anywhere_in_a_checkpoint_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, TENSORS, META)
    data, refused = path.read_bytes(), 0
    _, meta = load_checkpoint(path)
    for bit in range(0, 8 * len(data), 7):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            tensors, found = load_checkpoint(path)
        except DamagedCheckpoint as error:
            assert path.name in str(error)
            refused += 1
            continue
        assert_same(tensors, TENSORS)  # spaces of the header may change into others
        assert found == meta
    assert refused > 0.95 * 8 * len(data) / 7


def save_format_1(path, meta, *, checksum=True):
    """As the first version wrote: the checksum, if any, inside of the text that it does not cover."""
    sums = {"sha256": checkpoint._digest(TENSORS)} if checksum else {}
    save_file(TENSORS, path, metadata={"worldsim": json.dumps({"format": 1, **sums, **meta})})


@pytest.mark.parametrize("checksum", [True, False])
def test_a_checkpoint_of_the_first_format_is_still_read(tmp_path, checksum):
    save_format_1(tmp_path / "x", META, checksum=checksum)
    tensors, meta = load_checkpoint(tmp_path / "x")
    assert_same(tensors, TENSORS)
    settings = migrate_settings(META["kind"], META["config"])
    assert {name: meta[name] for name in META} == META | {"config": settings} and settings["batch"] == 4


@pytest.mark.parametrize(("old", "new"), [(b"sha256", b"sha257"), (b'\\"sha256\\": \\"', b'\\"sha256\\": \\"x')])
def test_a_damaged_checksum_of_the_first_format_is_not_taken_for_none(tmp_path, old, new):
    save_format_1(tmp_path / "x", META)
    data = (tmp_path / "x").read_bytes()
    assert old in data
    start = data.index(old)
    (tmp_path / "x").write_bytes(data[:start] + new + data[start + len(new) :])
    with pytest.raises(DamagedCheckpoint, match="damaged"):
        load_checkpoint(tmp_path / "x")


MALFORMED = {
    "no object": "[]",
    "nothing": "",
    "no JSON": "{",
    "no fields": '{"format": 2}',
    "text for a step": '{"format": 2, "kind": "dynamics", "step": "70", "config": {}}',
    "a step below 0": '{"format": 2, "kind": "dynamics", "step": -1, "config": {}}',
    "a list for settings": '{"format": 2, "kind": "dynamics", "step": 1, "config": []}',
    "a deep nest": "[" * 100_000,
    "a nest": '{"format": 2, "kind": "dynamics", "step": 1, "config": {"a": ' + "[" * 80 + "]" * 80 + "}}",
}


@pytest.mark.parametrize("content", MALFORMED.values(), ids=MALFORMED)
def test_malformed_metadata_with_a_right_checksum_is_refused_by_name(tmp_path, content):
    metadata = {"worldsim": content, "sha256": checkpoint._digest(TENSORS, content)}
    save_file(TENSORS, tmp_path / "x.safetensors", metadata=metadata)
    with pytest.raises(DamagedCheckpoint, match=r"x\.safetensors.*restore it"):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize("config", [{}, {"model": 3}, {"model": {"height": "16"}}, {"model": {"colour": 1}}], ids=str)
def test_settings_that_are_none_are_refused_by_name(tmp_path, config):
    save_checkpoint(tmp_path / "tokenizer.safetensors", TENSORS, {**META, "config": config})
    with pytest.raises(DamagedCheckpoint, match=r"tokenizer\.safetensors has settings.*model"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("lost", ["model.", "average.", "optimizer.0.exp_avg"])
def test_a_checkpoint_whose_tensors_do_not_fit_is_refused_by_name(store, run, lost):
    path = run / "tokenizer.safetensors"
    tensors, meta = load_checkpoint(path)
    gone = next(name for name in tensors if name.startswith(lost))
    extra = {"optimizer.x": torch.zeros(1)} if lost.startswith("optimizer") else {}
    save_checkpoint(path, {name: t for name, t in tensors.items() if name != gone} | extra, meta)
    with pytest.raises(DamagedCheckpoint, match=r"tokenizer\.safetensors does not fit"):
        Trainer(tokenizer_task(store), brief(4), run, resume=True)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failure_while_saving_leaves_the_old_checkpoint(run, monkeypatch, error):
    path = run / "tokenizer.safetensors"
    before, listed = path.read_bytes(), sorted(run.iterdir())

    def fail(tensors, target, metadata):
        target.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoint, "save_file", fail)
    with pytest.raises((KeyboardInterrupt, InvalidInput)):
        save_checkpoint(path, {"a": torch.zeros(1)}, META)
    assert path.read_bytes() == before and sorted(run.iterdir()) == listed


def test_a_checkpoint_holds_tensors_of_every_kind(tmp_path):
    tensors = {
        "a": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
        "b": torch.tensor(3.0),
        "c": torch.zeros(0),
    }
    save_checkpoint(tmp_path / "deep" / "x.safetensors", tensors, {**META, "step": 1})
    read, meta = load_checkpoint(tmp_path / "deep" / "x.safetensors")
    assert_same(read, tensors)
    assert meta["step"] == 1 and load_file(tmp_path / "deep" / "x.safetensors").keys() == tensors.keys()


RECORDS = ['{"curve": [', "[]", "3", '{"curve": []}', '{"curve": [], "calls": [3]}', '{"curve": [{}], "calls": []}']
RECORDS += ['{"curve": [], "calls": [{"seconds": 1, "reached_step": "x"}]}', "[" * 100_000]


@pytest.mark.parametrize("text", RECORDS, ids=lambda text: text[:50])
def test_a_damaged_training_record_is_named(store, run, text):
    (run / "tokenizer.json").write_text(text)
    with pytest.raises(DamagedCheckpoint, match=r"tokenizer\.json"):
        Trainer(tokenizer_task(store), brief(4), run, resume=True)
    (run / "training.json").write_text('{"tokenizer": ' + text + "}")
    with pytest.raises(DamagedWorld, match=r"training\.json.*restore it"):
        read_records(run / "training.json")


def test_the_training_record_tells_of_every_call(store, run):
    trainer = train(tokenizer_task(store), brief(21), run, resume=True)
    again = Trainer(tokenizer_task(store), brief(22), run, resume=True).record
    assert (
        [call["reached_step"] for call in again.calls] == [2, 21] == [c["reached_step"] for c in trainer.record.calls]
    )
    assert [point["step"] for point in again.curve] == [20] and again.curve[0]["loss"] > 0
