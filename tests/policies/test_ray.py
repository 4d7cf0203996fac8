"""The same work on a Ray cluster of two nodes, one of which is lost on the way."""

import os
from pathlib import Path

import counter_env
import pytest
from recordings import same_store
from rollout_jobs import Counting

from worldsim.cli.record import record
from worldsim.errors import InvalidInput
from worldsim.policies.rollouts import Workers, make_rollouts

ray = pytest.importorskip("ray", reason='Ray is not installed; pip install "worldsim[ray]"')
cluster_utils = pytest.importorskip("ray.cluster_utils")

SUPPORT = str(Path(__file__).parents[1] / "support")


@pytest.fixture(scope="module")
def cluster():
    """A head without CPUs, for the driver, and two nodes of one CPU each."""
    with pytest.MonkeyPatch.context() as patch:  # what nodes start with, and so their workers
        patch.setenv("PYTHONPATH", os.pathsep.join([SUPPORT, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep))
        patch.setenv("RAY_worker_register_timeout_seconds", "280")
        patch.setenv("RAY_worker_niceness", "0")  # else workers starve beside other tests
        made = cluster_utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        made.nodes = [made.add_node(num_cpus=1) for _ in range(2)]
        ray.init(made.address, log_to_driver=False, logging_level="ERROR")
        yield made
        ray.shutdown()
        made.shutdown()


def test_a_recording_has_the_same_bytes(cluster, tmp_path):
    source = f"gym:counter_env:{counter_env.DISCRETE}"
    record(source, steps=200, out=tmp_path / "here")
    record(source, steps=200, out=tmp_path / "there", ray=cluster.address)
    assert same_store(tmp_path / "here", tmp_path / "there")


def test_the_tasks_of_a_lost_node_run_again(cluster):
    expected = [[(n * 10 + i, 0) for i in range(3)] for n in range(10)]
    with make_rollouts(Counting(seconds=0.2), Workers(2, ray=cluster.address)) as rollouts:
        taken = rollouts.run(range(10))
        first = [next(taken) for _ in range(3)]
        cluster.remove_node(cluster.nodes.pop(), allow_graceful=False)
        cluster.nodes.append(cluster.add_node(num_cpus=1))
        assert first + list(taken) == expected and rollouts.replaced >= 1


def test_the_error_of_a_task_is_raised_here(cluster):
    rollouts = make_rollouts(Counting(), Workers(1, ray=cluster.address))
    with rollouts, pytest.raises(InvalidInput, match="task -1 is below 0"):
        list(rollouts.run([-1]))


def test_an_address_where_nothing_answers_is_refused_at_once():
    ray.shutdown()
    with pytest.raises(InvalidInput, match=r"no Ray cluster answers at '127.0.0.1:1'"):
        make_rollouts(Counting(), Workers(1, ray="127.0.0.1:1"))
