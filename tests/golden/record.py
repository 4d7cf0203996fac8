"""Write the reference of the golden rollouts anew: `python tests/golden/record.py`.

To be run only where what the shipped world dreams was meant to change, and the commit says why. The file says of itself
which commit, machine and PyTorch it is of (`made_by`).
"""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

import numpy as np
import torch
from rollouts import REFERENCE, cases, comparable, load, play, read_reference, thinned


def main() -> None:
    """Play all cases and keep what the test compares."""
    with comparable():
        world = load()
        # Frames dreamed once stand for recorded ones: they lie in the file, so that the start is the same for ever.
        given = read_reference()[0]
        arrays = {"given": given, "made_by": np.array(made_by())}
        for name, case in cases(given).items():
            arrays |= {f"{name}.{key}": values for key, values in thinned(play(world, case)).items()}
    np.savez_compressed(REFERENCE, allow_pickle=False, **arrays)
    print(f"wrote {REFERENCE}, {REFERENCE.stat().st_size / 1e3:.0f} kB, {made_by()}")


def made_by() -> str:
    """The commit, the machine and the PyTorch."""
    where = Path(__file__).parent
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=where, capture_output=True, text=True)
    capability = torch.backends.cpu.get_cpu_capability()
    return f"commit {git.stdout.strip()}, {platform.machine()} {capability}, torch {torch.__version__}, fp32, 1 thread"


if __name__ == "__main__":
    main()
