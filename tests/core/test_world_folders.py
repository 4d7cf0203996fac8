"""A world's folder is written whole or not at all, and found by name."""

import os
import shutil
import sys
import types

import pytest
from lively import lively_files
from safetensors.torch import save_file
from tiny import tiny_files

from worldsim.errors import DamagedWorld, InvalidInput, UnknownWorld
from worldsim.io import folders, weights
from worldsim.io.folders import AGENT, AUDIO, CARD, CONFIG, MODEL, PROBES, STARTS, find_world, shipped_worlds
from worldsim.io.weights import read_world, write_world
from worldsim.world import World


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# -- writing


@pytest.mark.parametrize("fails_at", [MODEL, STARTS])
@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_failure_in_the_middle_of_writing_leaves_the_old_world_whole(folder, monkeypatch, fails_at, error):
    before = contents(folder)

    def fail(tensors, path, *args, **kwargs):
        if path.name == fails_at:
            path.write_bytes(b"half")
            raise error
        save_file(tensors, path, *args, **kwargs)

    monkeypatch.setattr(weights, "save_file", fail)
    with pytest.raises((KeyboardInterrupt, InvalidInput)):
        write_world(folder, lively_files())
    assert contents(folder) == before
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_failure_while_the_files_are_put_in_place_leaves_the_old_world_or_the_new(folder, monkeypatch):
    old = contents(folder)
    write_world(folder.parent / "new", lively_files())
    new = contents(folder.parent / "new")
    replace, calls, fails_at = os.replace, 0, 0

    def fail_once(source, target):
        nonlocal calls
        calls += 1
        if calls == fails_at:
            raise OSError(5, "Input/output error")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fail_once)
    for number in range(1, 9):
        calls, fails_at = 0, number
        try:
            write_world(folder, lively_files())
        except InvalidInput:
            assert contents(folder) == old
        else:
            assert contents(folder) == new
            return
    raise AssertionError("writing never succeeded")


def test_writing_over_a_world_replaces_it_and_keeps_what_else_lies_there(folder):
    (folder / "notes.txt").write_text("mine")
    (folder / "frames").mkdir()
    (folder / "frames" / "one.png").write_bytes(b"png")
    write_world(folder, lively_files())
    assert read_world(folder).config.dynamics == lively_files().config.dynamics
    assert (folder / "notes.txt").read_text() == "mine" and (folder / "frames" / "one.png").read_bytes() == b"png"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_world_can_be_written_into_folders_that_do_not_exist_yet(tmp_path):
    write_world(tmp_path / "a" / "b", tiny_files())
    assert World.from_pretrained(tmp_path / "a" / "b", device="cpu").spec.name == "tiny"


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match="file"):
        write_world(tmp_path / "file" / "world", tiny_files())


# -- finding


@pytest.fixture
def shipped(written, tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "SHIPPED", tmp_path / "shipped")
    for name in ("two", "one"):
        shutil.copytree(written, tmp_path / "shipped" / name)
    (tmp_path / "shipped" / "no-world").mkdir()


def test_shipped_worlds_are_found_by_name(shipped, tmp_path):
    assert shipped_worlds() == ["one", "two"]
    assert find_world("two") == tmp_path / "shipped" / "two"


def test_a_shipped_world_wins_over_a_folder_of_the_same_name(shipped, tmp_path, monkeypatch):
    (tmp_path / "one").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_world("one") == tmp_path / "shipped" / "one"


def test_a_local_folder_is_found(shipped, folder):
    assert find_world(folder) == find_world(str(folder)) == folder


@pytest.mark.parametrize("name", ["three", "no-world", "a/b/c", "/absent", "./absent", "../absent/x", ""])
def test_an_unknown_name_is_refused_with_the_shipped_ones(shipped, name):
    with pytest.raises(UnknownWorld, match="one, two") as caught:
        find_world(name)
    assert repr(name) in str(caught.value)


def test_a_folder_without_a_world_is_refused(tmp_path):
    with pytest.raises(DamagedWorld, match=r"config\.json"):
        World.from_pretrained(tmp_path, device="cpu")


def hub(monkeypatch, download):
    module = types.ModuleType("huggingface_hub")
    module.snapshot_download = download
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)


def test_a_hub_id_is_downloaded(folder, monkeypatch):
    asked = []

    def download(hub_id, allow_patterns):
        asked.append((hub_id, sorted(allow_patterns)))
        return str(folder)

    hub(monkeypatch, download)
    assert World.from_pretrained("owner/name", device="cpu").spec.name == "tiny"
    assert asked == [("owner/name", sorted([MODEL, STARTS, AUDIO, CONFIG, CARD, AGENT, *PROBES]))]


def test_a_hub_id_without_network_is_an_unknown_world(monkeypatch):
    def download(hub_id, allow_patterns):
        raise ConnectionError("no route to host")

    hub(monkeypatch, download)
    with pytest.raises(UnknownWorld, match=r"'owner/name'.*no route to host"):
        World.from_pretrained("owner/name")


def test_a_hub_id_without_the_hub_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UnknownWorld, match="pip install"):
        World.from_pretrained("owner/name")
