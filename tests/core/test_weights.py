"""A world's folder is read only when nothing in it is wrong."""

import contextlib
import dataclasses
import hashlib
import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import tiny_files

from worldsim.errors import DamagedWorld, InvalidInput
from worldsim.io import weights
from worldsim.io.folders import CARD, CONFIG, MODEL, STARTS
from worldsim.io.weights import read_world, write_world
from worldsim.train.export import export_world
from worldsim.world import World


def replace_tensors(folder, name, change):
    """Change a weight file and its SHA-256 in the config, as a hand that knows how would."""
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    values = json.loads((folder / CONFIG).read_text())
    values["sha256"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / CONFIG).write_text(json.dumps(values))


def test_what_was_written_is_read(folder):
    files, read = tiny_files(), read_world(folder)
    assert dataclasses.replace(read.config, sha256={}) == files.config and set(read.config.sha256) == {
        MODEL,
        STARTS,
    }
    for ours, theirs in ((files.model, read.model), (files.starts, read.starts)):
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert read.card == files.card
    assert sorted(path.name for path in folder.iterdir()) == sorted([MODEL, STARTS, CONFIG, CARD])


def test_a_world_without_a_card_is_whole(folder):
    (folder / CARD).unlink()
    assert read_world(folder).card == ""


@pytest.mark.parametrize("name", [MODEL, STARTS])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.99])
def test_a_truncated_file_is_refused(folder, name, kept):
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(DamagedWorld, match=name):
        read_world(folder)


@pytest.mark.parametrize("name", [MODEL, STARTS])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_a_flipped_bit_is_refused(folder, name, place):
    data = bytearray((folder / name).read_bytes())
    data[int((len(data) - 1) * place)] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(DamagedWorld, match=name):
        read_world(folder)


@pytest.mark.parametrize("name", [MODEL, STARTS, CONFIG])
def test_a_missing_file_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(DamagedWorld, match=name):
        read_world(folder)


@pytest.mark.parametrize("sums", [{}, {MODEL: "0" * 64, STARTS: "0" * 64}])
def test_checksums_that_differ_or_are_absent_are_refused(folder, sums):
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(values | {"sha256": sums}))
    with pytest.raises(DamagedWorld, match="SHA-256"):
        read_world(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(folder, value):
    replace_tensors(folder, MODEL, lambda tensors: tensors["dynamics.position"].view(-1)[3:4].fill_(value))
    with pytest.raises(DamagedWorld, match=r"'dynamics.position'.*not finite"):
        World.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("dynamics.position"),
        lambda tensors: tensors.update({"dynamics.extra": torch.zeros(1)}),
        lambda tensors: tensors.update({"tokenizer.extra": torch.zeros(1)}),
        lambda tensors: tensors.update({"other.extra": torch.zeros(1)}),
        lambda tensors: tensors.update({"dynamics.position": torch.zeros(3, 16)}),
    ],
    ids=["missing", "unknown", "unknown in the tokenizer", "of no part", "of another shape"],
)
def test_weights_that_do_not_fit_the_config_are_refused(folder, change):
    replace_tensors(folder, MODEL, change)
    with pytest.raises(DamagedWorld, match="do not fit"):
        World.from_pretrained(folder, device="cpu")


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors: tensors.pop("scale"),
        lambda tensors: tensors.update(latents=torch.zeros(4, 3, 4, 2, 5, dtype=torch.int8)),
        lambda tensors: tensors.update(actions=torch.zeros(4, 1, dtype=torch.int64)),
        lambda tensors: tensors.update(actions=torch.full((4, 2), 3)),
        lambda tensors: tensors.update(beginnings=torch.tensor(5)),
        lambda tensors: tensors.update(ages=torch.zeros(3, dtype=torch.int64)),
        lambda tensors: tensors.update(ages=torch.full((4,), -1)),
        lambda tensors: tensors.update(scale=torch.zeros(2)),
        lambda tensors: tensors.update(scale=torch.tensor(float("-1"))),
        lambda tensors: tensors.update(latents=torch.zeros(4, dtype=torch.int8)),
        lambda tensors: tensors.update(latents=tensors["latents"].float()),
        lambda tensors: tensors.update(actions=torch.tensor(1)),
        lambda tensors: tensors.update(beginnings=torch.zeros(0, dtype=torch.int64)),
        lambda tensors: tensors.update(ages=torch.zeros(4)),
    ],
    ids=[
        "no scale",
        "another grid",
        "too few actions",
        "unknown actions",
        "too many beginnings",
        "too few ages",
        "ages below 0",
        "two scales",
        "scale below 0",
        "latents of one axis",
        "float latents",
        "one action",
        "no number",
        "float ages",
    ],
)
def test_starts_of_the_wrong_kind_or_that_do_not_fit_the_config_are_refused(folder, change):
    replace_tensors(folder, STARTS, change)
    with pytest.raises(DamagedWorld, match=r"starts\.safetensors"):
        World.from_pretrained(folder, device="cpu")


# -- a folder from anybody


def leaves(value, place=()):
    """Places of all numbers in a config, and of what may be a number and is None."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return [leaf for key, child in pairs for leaf in leaves(child, (*place, key))]
    number = value is None or (isinstance(value, int | float) and not isinstance(value, bool))
    return [place] if number and place[0] != "format_version" and "parameters" not in place else []


STRANGE = [0, -1, float("nan"), float("inf"), 1e12, 10**12, 10**400]
NUMBERS = leaves(json.loads(tiny_files().config.to_json()))


def test_all_parts_of_a_config_are_walked():
    assert {place[0] for place in NUMBERS} >= {
        "source", "actions", "tokenizer", "dynamics", "sampling", "endings", "reward_scale"
    }  # fmt: skip


@pytest.fixture(scope="module")
def written_world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "tiny"
    write_world(folder, tiny_files())
    return folder


@pytest.mark.parametrize("place", NUMBERS, ids=lambda place: ".".join(map(str, place)))
def test_a_strange_number_in_a_config_is_refused_or_does_no_harm(written_world, place):
    text = (written_world / CONFIG).read_text()
    try:
        for strange in STRANGE:
            values = part = json.loads(text)
            for key in place[:-1]:
                part = part[key]
            part[place[-1]] = strange
            (written_world / CONFIG).write_text(json.dumps(values))
            with contextlib.suppress(DamagedWorld):
                world = World.from_pretrained(written_world, device="cpu")
                _, step = world.step(world.reset(0), world.config.actions.lowest(1))
                assert step.frame.shape == (1, 16, 32, 3)
    finally:
        (written_world / CONFIG).write_text(text)


WRONG = {
    "fps is 0.0": lambda v: v["source"].update(fps=0),
    "fps is nan": lambda v: v["source"].update(fps=float("nan")),
    "steps is 1000000000": lambda v: v["sampling"].update(steps=10**9),
    "history_blocks is 10000000": lambda v: v["dynamics"].update(history_blocks=10**7),
    "heads is 0": lambda v: v["dynamics"].update(heads=0),
    "multiple of heads": lambda v: v["dynamics"].update(heads=3),
    "patch is (0, 1)": lambda v: v["dynamics"].update(patch=[0, 1]),
    "do not fit its config (dynamics.history.1.": lambda v: v["dynamics"].update(history_blocks=100),
    "(dynamics.conditions.action.embed.weight is (3, 8) instead of (3, 8192)": lambda v: v["dynamics"].update(
        cond_dim=8192
    ),
    "nested too deeply": lambda v: v["source"]["parameters"].update(x=json.loads("[" * 70 + "]" * 70)),
}


@pytest.mark.parametrize("reason", WRONG)
def test_a_config_that_would_hang_or_fail_later_is_refused_at_once(written_world, reason):
    text = (written_world / CONFIG).read_text()
    values = json.loads(text)
    WRONG[reason](values)
    try:
        (written_world / CONFIG).write_text(json.dumps(values))
        with pytest.raises(DamagedWorld) as caught:
            World.from_pretrained(written_world, device="cpu")
        assert reason in str(caught.value) and ";" in str(caught.value)
    finally:
        (written_world / CONFIG).write_text(text)


@pytest.mark.parametrize("name", ["../../x", "%Y/x", "a/b", ".hidden", "", "x" * 65, "naïve", "a b", "a\x1b[2J", "a\n"])
def test_a_name_that_is_no_name_is_refused_on_load_and_in_export(folder, tmp_path, name):
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(values | {"name": name}))
    with pytest.raises(DamagedWorld, match="cannot be used; give 1 to 64 letters"):
        read_world(folder)
    with pytest.raises(InvalidInput, match="cannot be used; give 1 to 64 letters"):
        export_world(name, [], tmp_path / "run", tmp_path / "out", starts=1)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["maze", "doom-take-cover", "v1.2_final", "_", "x" * 64])
def test_names_of_letters_digits_and_a_few_signs_are_names(name):
    assert dataclasses.replace(tiny_files().config, name=name).name == name


def pipe(path):
    os.mkfifo(path)


def endless(path):
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", [MODEL, STARTS, CONFIG, CARD])
@pytest.mark.parametrize("make", [pipe, endless, os.mkdir])
def test_what_is_no_regular_file_is_refused(folder, name, make):
    (folder / name).unlink()
    make(folder / name)
    with pytest.raises(DamagedWorld, match=name):
        read_world(folder)


def test_a_link_to_a_regular_file_is_followed_as_the_hub_makes_them(folder):
    (folder / MODEL).rename(folder.parent / "blob")
    (folder / MODEL).symlink_to(folder.parent / "blob")
    assert read_world(folder).config.name == "tiny"


@pytest.mark.parametrize(("name", "limit"), [(MODEL, "WEIGHT_BYTES"), (STARTS, "WEIGHT_BYTES"), (CARD, "CARD_BYTES")])
def test_a_file_of_absurd_size_is_not_read(folder, monkeypatch, name, limit):
    monkeypatch.setattr(weights, limit, (folder / name).stat().st_size - 1)
    with pytest.raises(DamagedWorld, match=r"(weights|card) .*bytes, more than"):
        read_world(folder)
