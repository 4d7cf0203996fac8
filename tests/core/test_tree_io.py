from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from worldsim.errors import InvalidInput
from worldsim.state import tree_io
from worldsim.state.tree import tree_map
from worldsim.state.tree_io import load_extra, load_tree, save_tree


class Pair(NamedTuple):
    first: Any
    second: Any


@dataclass(frozen=True)
class State:
    cache: torch.Tensor
    counters: dict[str, np.ndarray]
    items: list[Any]
    pair: Pair


def a_state(fill: float = 1.5) -> State:
    base = torch.full((2, 6), fill, dtype=torch.bfloat16)
    counters = {"step": np.array([3, 1 << 62], np.int64), "mask": np.array([True, False])}
    leaves = [np.asfortranarray(np.arange(6, dtype=np.float64).reshape(2, 3) * fill), torch.zeros(2, 0)]
    return State(base[:, ::2], counters, leaves, Pair(np.array(fill), base[:, 0]))


def zeros(state: State) -> State:
    return tree_map(lambda x: np.zeros_like(x) if isinstance(x, np.ndarray) else torch.zeros_like(x), state)


def assert_same(one: State, other: State) -> None:
    def compare(a: Any, b: Any) -> Any:
        assert type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape
        assert torch.equal(torch.as_tensor(a), torch.as_tensor(b))
        return a

    tree_map(compare, one, other)


def test_a_tree_survives_the_file_bit_for_bit(tmp_path):
    path = tmp_path / "deep" / "s.safetensors"
    save_tree(path, a_state(), {"step": 7, "name": "ü", "p": 0.1})
    loaded = load_tree(path, zeros(a_state()))
    assert_same(loaded, a_state())
    assert isinstance(loaded.pair, Pair)
    assert load_extra(path) == {"step": 7, "name": "ü", "p": 0.1}
    assert [p.name for p in path.parent.iterdir()] == ["s.safetensors"]


def test_the_template_stays_as_it_is(tmp_path):
    save_tree(tmp_path / "s", a_state())
    template = zeros(a_state())
    loaded = load_tree(tmp_path / "s", template)
    loaded.counters["step"][:] = 9
    assert template.counters["step"].tolist() == [0, 0]


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "s"
    save_tree(path, a_state())
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(InvalidInput, match="damaged"):
        load_tree(path, a_state())


def test_a_flipped_bit_anywhere_is_refused(tmp_path):
    path = tmp_path / "s"
    save_tree(path, a_state(), {"step": 7})
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 11):
        at, flip = bit // 8, 1 << bit % 8
        path.write_bytes(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
        try:
            loaded = load_tree(path, a_state())
        except InvalidInput:
            continue
        assert_same(loaded, a_state())  # padding of the header is the only place where it may go unnoticed
        assert load_extra(path) == {"step": 7}


def test_missing_files_and_other_formats_are_refused(tmp_path):
    with pytest.raises(InvalidInput, match="no state file"):
        load_tree(tmp_path / "absent", a_state())
    save_file({"a": torch.zeros(1)}, tmp_path / "weights")
    with pytest.raises(InvalidInput, match="format"):
        load_tree(tmp_path / "weights", a_state())


@pytest.mark.parametrize("content", [None, "", "[]", "{}", '{"extra": []}', "[" * 100_000])
def test_malformed_content_with_a_right_checksum_is_refused(tmp_path, content):
    tensors = {"/a": torch.zeros(1)}
    metadata = {"format": tree_io.FORMAT, "sha256": tree_io._digest(content or "", tensors)}
    save_file(tensors, tmp_path / "s", metadata | ({} if content is None else {"content": content}))
    for load in (load_extra, lambda path: load_tree(path, {"a": torch.zeros(1)})):
        with pytest.raises(InvalidInput, match="damaged"):
            load(tmp_path / "s")


@pytest.mark.parametrize(
    ("saved", "template", "what"),
    [
        (
            {"a": torch.zeros(2, 3)},
            {"a": torch.zeros(2, 4)},
            "float32 \\(2, 3\\) instead of float32 \\(2, 4\\)",
        ),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(2, dtype=torch.float16)}, "instead of float16"),
        ({"a": np.zeros(2)}, {"a": np.zeros(2), "b": np.zeros(2)}, "no array '/b'"),
        ({"a": np.zeros(2), "b": np.zeros(1)}, {"a": np.zeros(2)}, "also has \\['/b'\\]"),
    ],
)
def test_a_tree_of_another_structure_is_refused(tmp_path, saved, template, what):
    save_tree(tmp_path / "s", saved)
    with pytest.raises(InvalidInput, match=what):
        load_tree(tmp_path / "s", template)


@pytest.mark.parametrize(
    "tree",
    [
        {"a": object()}, {"a": 1}, {"a": None}, {"a": np.array(["x"])}, {1: np.zeros(1)},
        {"a/b": np.zeros(1), "a": {"b": np.zeros(1)}},
    ],
)  # fmt: skip
def test_what_cannot_be_written_is_named(tmp_path, tree):
    with pytest.raises(InvalidInput):
        save_tree(tmp_path / "s", tree)
    assert not (tmp_path / "s").exists()


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "s"
    save_tree(path, {"a": np.array([1])})

    def full_disk(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full_disk)
    with pytest.raises(InvalidInput, match="No space left"):
        save_tree(path, {"a": np.array([2])})
    assert load_tree(path, {"a": np.array([0])})["a"].tolist() == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["s"]
