"""Work in other processes: the same results in the same order, whoever dies or hangs on the way."""

import itertools
import multiprocessing
import os
import pickle
import random
import signal
import time

import counter_env
import numpy as np
import pytest
from recordings import same_store
from rollout_jobs import Counting

from worldsim.cli.record import record
from worldsim.errors import InvalidInput, MissingDependency, WorldsimError
from worldsim.policies.rollouts import InProcess, Workers, make_rollouts
from worldsim.policies.rollouts.pool import AHEAD, MOST_TRIES, Pool, Report
from worldsim.policies.rollouts.processes import portable

EXPECTED = [[(n * 10 + i, 0) for i in range(3)] for n in range(12)]


class FakeCrew:
    """Workers that answer in another order every time, and die or fall silent as `random` says."""

    def __init__(self, seed: int = 0, *, die: float = 0.0, hang: float = 0.0) -> None:
        self.random = np.random.default_rng(seed)
        self.die, self.hang = die, hang
        self.said: dict[int, list[tuple[str, object]]] = {}
        self.given: list[int] = []

    def start(self, worker):
        self.said[worker] = [("opened", None)]

    def give(self, worker, task):
        self.given.append(task)
        said = [("items", [item]) for item in Counting().run(task)] + [("done", None)]
        if self.random.random() < self.die:
            said = [*said[: self.random.integers(len(said))], ("lost", None)]
        elif self.random.random() < self.hang:
            said = said[: self.random.integers(len(said))]
        self.said[worker] += said

    def kill(self, worker):
        del self.said[worker]

    def listen(self, seconds):
        talking = [worker for worker, said in self.said.items() if said]
        if not talking:
            return []
        worker = int(self.random.choice(talking))
        kind, value = self.said[worker].pop(0)
        if kind == "lost":
            del self.said[worker]
        return [Report(worker, kind, value)]

    def close(self):
        self.said.clear()


@pytest.mark.parametrize("workers", [1, 3])
def test_results_come_whole_and_in_the_order_of_the_tasks(workers):
    for seed in range(10):
        with Pool(FakeCrew(seed), workers, 100) as pool:
            assert list(pool.run(range(12))) == EXPECTED and pool.replaced == 0
            assert list(pool.run(range(3, 5))) == EXPECTED[3:5]  # the workers are there still


def test_every_task_is_there_once_whatever_dies_or_hangs():
    lost = 0
    for seed in range(50):
        with Pool(FakeCrew(seed, die=0.15, hang=0.05), 3, 0.05) as pool:
            try:
                assert list(pool.run(range(12))) == EXPECTED
            except WorldsimError as error:
                assert f"lost {MOST_TRIES} times" in str(error)
            lost += pool.replaced
    assert lost > 50


def test_a_task_that_kills_every_worker_is_named():
    with Pool(FakeCrew(die=1.0), 2, 100) as pool, pytest.raises(WorldsimError, match=r"task \d was lost 3 times, as a"):
        list(pool.run(range(4)))


def test_nothing_is_begun_that_is_far_from_being_taken():
    crew = FakeCrew()
    with Pool(crew, 2, 100) as pool:
        taken = pool.run(itertools.count())
        for n in range(4):
            assert next(taken) == [(n * 10 + i, 0) for i in range(3)]
            assert max(crew.given) <= n + AHEAD * 2


def test_rollouts_stop_when_they_are_told_to():
    taken: list[object] = []
    with Pool(FakeCrew(), 2, 100) as pool:
        for items in pool.run(itertools.count(), stop=lambda: len(taken) == 4):
            taken.append(items)
        assert taken == EXPECTED[:4]
        assert list(pool.run(range(2))) == EXPECTED[:2]


def test_this_process_gives_items_as_they_are_made():
    with InProcess(Counting()) as rollouts:
        (items,) = rollouts.run([1])
        assert next(iter(items)) == (10, 0)


def test_processes_that_are_killed_at_any_moment_or_hang_cost_no_task_and_repeat_none(tmp_path):
    (tmp_path / "hang-5").touch()
    draw, taken = random.Random(0), []
    moments = draw.sample(range(1, 10), 2)
    with make_rollouts(Counting(tmp_path, seconds=0.02), Workers(2, patience=2)) as rollouts:
        for number, items in enumerate(rollouts.run(range(12))):
            taken.append(items)
            if number in moments:
                time.sleep(draw.uniform(0, 0.04))
                os.kill(draw.choice(multiprocessing.active_children()).pid, signal.SIGKILL)
        assert taken == EXPECTED and rollouts.replaced >= 2
        with pytest.raises(InvalidInput, match="task -1 is below 0"):
            list(rollouts.run([-1]))


def test_what_cannot_be_sent_is_refused_and_errors_that_cannot_arrive_as_text():
    with pytest.raises(InvalidInput, match="cannot be given to other processes"):
        make_rollouts(lambda: None, Workers(2))  # type: ignore[arg-type]
    assert isinstance(portable(InvalidInput("x")), InvalidInput)

    class Local(Exception):
        pass

    arrived = pickle.loads(pickle.dumps(portable(Local("why"))))
    assert isinstance(arrived, WorldsimError) and "Local: why" in str(arrived)


@pytest.mark.parametrize("options", [{"workers": 0}, {"patience": 0.0}])
def test_workers_that_cannot_be_are_refused(options):
    with pytest.raises(InvalidInput, match=r"give 1 or more"):
        Workers(**options)


def test_without_ray_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingDependency, match=r"pip install .*worldsim\[ray\]"):
        make_rollouts(Counting(), Workers(ray="auto"))


def test_a_recording_by_two_processes_has_the_same_bytes_and_goes_on_as_if_nothing_had_been(tmp_path):
    source = f"gym:counter_env:{counter_env.DISCRETE}"
    record(source, steps=150, out=tmp_path / "one")
    record(source, steps=40, out=tmp_path / "two")
    record(source, steps=150, out=tmp_path / "two", workers=2, resume=True)
    assert same_store(tmp_path / "one", tmp_path / "two")
    with pytest.raises(InvalidInput, match="the source is an environment of this process"):
        record(object(), steps=10, out=tmp_path / "three", workers=2)
