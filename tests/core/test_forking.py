"""A process that was forked from one that had computed says so, where PyTorch would hang."""

import subprocess
import sys
from pathlib import Path

import pytest

PATIENCE = 120  # seconds; only so that a test fails instead of hanging
FORK = """
import multiprocessing, sys
import numpy as np, torch
from tiny import tiny_world
from worldsim.errors import InvalidState

torch.set_num_threads(int(sys.argv[1]))
world = tiny_world()
state = world.reset([0])
state, _ = world.step(state, np.zeros(1, int))

def compute(call):
    if len(sys.argv) > 2:
        torch.set_num_threads(int(sys.argv[2]))
    try:
        call()
        print("computed", flush=True)
    except InvalidState as error:
        print(error, flush=True)

for call in (lambda: world.reset([0]), lambda: world.step(state, np.zeros(1, int))):
    child = multiprocessing.get_context("fork").Process(target=compute, args=(call,))
    child.start()
    child.join()
    assert child.exitcode == 0
world.step(state, np.zeros(1, int))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems fork no processes that compute")
@pytest.mark.parametrize(("threads", "computes"), [(("2",), False), (("1",), True), (("2", "1"), True)])
def test_a_forked_process_computes_or_is_refused(threads, computes):
    command = [sys.executable, "-c", FORK, *threads]
    folder = Path(__file__).parents[1] / "support"
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    assert all(line == "computed" if computes else 'context="forkserver" or "spawn"' in line for line in lines)
