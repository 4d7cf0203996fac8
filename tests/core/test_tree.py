"""States as trees: copied, cut and spliced whatever they are made of."""

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from worldsim.errors import InvalidInput
from worldsim.state.tree import clone, map_named, put_rows, select_rows, tree_map


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True)
class Inner:
    numbers: np.ndarray


@dataclass
class Outer:
    inner: Inner
    table: dict[str, torch.Tensor]
    several: list[torch.Tensor]
    pair: Pair


def make(batch: int = 3, offset: int = 0) -> Outer:
    rows = torch.arange(batch) + offset
    return Outer(
        Inner(rows.numpy() * 10),
        {"a": rows.float()[:, None].repeat(1, 2)},
        [rows.clone(), rows.bool()],
        Pair(rows.numpy()[:, None].copy(), (rows * 2,)),
    )


def rows_of(tree: Outer) -> list[list[Any]]:
    """Every leaf as a list."""
    found: list[list[Any]] = []
    tree_map(lambda leaf: found.append(leaf.tolist()) or leaf, tree)
    return found


def test_mapping_reaches_every_leaf():
    changed = tree_map(lambda leaf: leaf + leaf, make())
    assert changed.inner.numbers.tolist() == [0, 20, 40]
    assert changed.table["a"].tolist() == [[0, 0], [2, 2], [4, 4]]
    assert isinstance(changed.pair, Pair) and changed.pair.right[0].tolist() == [0, 4, 8]


@pytest.mark.parametrize("leaf", [None, 3, 0.5, "label", object(), {1, 2}, np.float32(1)])
def test_what_is_no_tensor_or_array_is_refused_by_its_place(leaf):
    tree, other = (dataclasses.replace(make(), several=[torch.zeros(3), {"odd": leaf}]) for _ in range(2))
    for use in (clone, lambda t: select_rows(t, [0]), lambda t: put_rows(t, [0, 1, 2], other)):
        with pytest.raises(InvalidInput, match=f"a {type(leaf).__name__} at '/several/1/odd'"):
            use(tree)


def test_every_leaf_has_a_name_of_its_own():
    names: list[str] = []
    map_named(lambda name, leaf: names.append(name) or leaf, make())
    assert names == ["/inner/numbers", "/table/a", "/several/0", "/several/1", "/pair/0", "/pair/1/0"]


def test_trees_of_different_shapes_are_not_mapped_together():
    short = dataclasses.replace(make(), several=[torch.zeros(3)])
    with pytest.raises(ValueError):
        tree_map(lambda a, b: a, make(), short)


def test_a_clone_shares_no_memory():
    tree = make()
    copy, before = clone(tree), rows_of(tree)
    tree_map(lambda leaf: leaf.__setitem__(slice(None), leaf[:1] * 0) or leaf, copy)
    assert rows_of(tree) == before != rows_of(copy)


def test_selected_rows_come_in_the_given_order_and_are_copies():
    tree = make()
    before = rows_of(tree)
    chosen = select_rows(tree, [2, 0, 2])
    assert chosen.inner.numbers.tolist() == [20, 0, 20] and chosen.pair.left.tolist() == [[2], [0], [2]]
    assert chosen.table["a"][:, 0].tolist() == [2, 0, 2]
    chosen.table["a"][:] = 9
    chosen.inner.numbers[:] = 9
    assert rows_of(tree) == before


def test_put_rows_writes_those_rows_and_no_other():
    tree = make()
    returned = put_rows(tree, [2, 0], make(2, offset=7))
    assert returned.inner.numbers.tolist() == [80, 10, 70] and tree.table["a"][:, 0].tolist() == [8, 1, 7]
    assert tree.pair.right[0].tolist() == [16, 2, 14] and tree.several[1].tolist() == [True, True, True]


def test_selecting_and_putting_back_changes_nothing():
    tree = make()
    before = rows_of(tree)
    put_rows(tree, [1, 2], select_rows(tree, [1, 2]))
    assert rows_of(tree) == before


def test_rows_can_be_put_into_tensors_made_in_inference_mode():
    with torch.inference_mode():
        tree, value = {"a": torch.zeros(2)}, {"a": torch.ones(1)}
    assert put_rows(tree, [1], value)["a"].tolist() == [0, 1]
    assert put_rows({"a": torch.zeros(2)}, [0], value)["a"].tolist() == [1, 0]
