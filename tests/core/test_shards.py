"""An array that several processes make together: whole, each row made once, whoever is missing."""

import threading

import numpy as np
import pytest

from worldsim.data import shards
from worldsim.data.shards import make_together

ROWS, TOTAL = 8, 50
EXPECTED = np.arange(TOTAL * 3, dtype=np.float32).reshape(TOTAL, 3)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(shards, "ROWS", ROWS)
    monkeypatch.setattr(shards, "POLL", 0.01)


class Maker:
    def __init__(self, folder):
        self.path, self.shards, self.made, self.done = folder / "whole.npy", folder / "shards", [], False

    def run(self, rank, world):
        def make(start, stop):
            self.made.append(start)
            return EXPECTED[start:stop]

        joined = make_together(self.path, self.shards, TOTAL, make, lambda: self.done, rank=rank, world=world)
        self.done = self.done or joined
        return joined


def test_one_process_makes_all_of_it(tmp_path):
    maker = Maker(tmp_path)
    assert maker.run(0, 1) and np.array_equal(np.load(maker.path), EXPECTED)
    assert maker.made == list(range(0, TOTAL, ROWS))
    assert not list(tmp_path.rglob("*.partial"))


def test_processes_share_the_work_and_make_nothing_twice(tmp_path):
    maker, joined = Maker(tmp_path), {}
    threads = [
        threading.Thread(target=lambda rank=rank: joined.update({rank: maker.run(rank, 3)})) for rank in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert joined == {0: True, 1: False, 2: False} and np.array_equal(np.load(maker.path), EXPECTED)
    assert sorted(maker.made) == list(range(0, TOTAL, ROWS))


@pytest.mark.parametrize("rank", [0, 1])
def test_the_share_of_a_lost_process_is_made_by_another(tmp_path, monkeypatch, rank):
    monkeypatch.setattr(shards, "WAIT", 0.05)
    maker = Maker(tmp_path)
    assert maker.run(rank, 2) and np.array_equal(np.load(maker.path), EXPECTED)


def test_what_an_interrupted_call_left_is_taken_up(tmp_path):
    maker = Maker(tmp_path)
    maker.shards.mkdir()
    np.save(maker.shards / "000000008.npy", EXPECTED[8:16])
    assert maker.run(0, 1) and 8 not in maker.made and np.array_equal(np.load(maker.path), EXPECTED)


def test_a_shard_that_another_process_made_meanwhile_stays(tmp_path):
    maker = Maker(tmp_path)

    def make(start, stop):
        np.save(maker.shards / f"{start:09d}.npy", EXPECTED[start:stop])  # the other process
        return EXPECTED[start:stop] + 1

    assert make_together(maker.path, maker.shards, TOTAL, make, lambda: False)
    assert np.array_equal(np.load(maker.path), EXPECTED)
