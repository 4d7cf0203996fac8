"""Files and folders are written whole or not at all."""

import json
import os

import pytest

from worldsim.errors import InvalidInput
from worldsim.io.files import making_folder, replacing, replacing_folder, write_atomically, write_json


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_file_is_as_before_where_writing_failed(tmp_path, error):
    path = tmp_path / "a.mp4"
    path.write_text("old")
    with pytest.raises(error), replacing(path) as partial:
        assert partial.suffix == ".mp4" and partial.parent == tmp_path
        partial.write_text("half")
        raise error
    assert path.read_text() == "old" and listing(tmp_path) == ["a.mp4"]


def test_a_file_has_its_name_only_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a"
    with replacing(path) as partial:
        partial.write_text("all")
        assert not path.exists()
    assert path.read_text() == "all" and listing(path.parent) == ["a"]


def test_a_device_is_written_as_it_is():
    write_atomically(os.devnull, b"gone")
    assert not os.path.isfile(os.devnull)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidInput, match=r"cannot write '.*file/a'"):
        write_atomically(tmp_path / "file" / "a", b"")


def test_a_new_folder_takes_no_other_ones_place(tmp_path):
    path = tmp_path / "store"
    with making_folder(path) as partial:
        (partial / "a").write_text("new")
        assert not path.exists()
    with pytest.raises(OSError), making_folder(path) as partial:
        (partial / "b").write_text("newer")
    assert listing(path) == ["a"] and listing(tmp_path) == ["store"]


def test_a_folder_makes_way_for_another_and_keeps_what_that_one_lacks(tmp_path):
    path = tmp_path / "world"
    path.mkdir()
    for name in ("weights", "notes"):
        (path / name).write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing_folder(path) as partial:
        (partial / "weights").write_text("half")
        raise KeyboardInterrupt
    assert (path / "weights").read_text() == "old" and listing(tmp_path) == ["world"]
    with replacing_folder(path) as partial:
        (partial / "weights").write_text("new")
    assert (path / "weights").read_text() == "new" and (path / "notes").read_text() == "old"
    assert listing(tmp_path) == ["world"]


def test_numbers_that_are_not_finite_become_null(tmp_path):
    write_json(tmp_path / "a.json", {"a": float("nan"), "b": [1.0, float("inf")], "c": {"d": None}})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": None, "b": [1.0, None], "c": {"d": None}}
