"""Print SHA-256 digests of what the shipped world dreams: `python tests/golden/digest.py`.

For a comparison to the bit, before and after a change of code that is to move no number: on one machine, with one
PyTorch, the lines must be the same. Rollouts of 200 steps by one world and by four, a state that is stepped anew, a
start from given frames, and the environment with its saved states; in fp32, and in bf16 where the processor has it.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from rollouts import GIVEN, Case, advance, begin, cases, change, comparable, load, play, read_reference

from worldsim.state.tree import clone
from worldsim.world import World

STEPS, AWAY, MORE = 200, 100, 20  # of a rollout, before a state is kept, after coming back to it


def main() -> None:
    """Print a line for each rollout."""
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, 1 thread")
    with comparable():
        show("fp32")
        os.environ.pop("WORLDSIM_BF16", None)  # `comparable` puts it back
        native = str(load().dtype).removeprefix("torch.")
        if native != "float32":
            show(native)


def show(form: str) -> None:
    """The digests in one number format."""
    world = load()
    for rows, start in ((1, "beginning"), (4, "anywhere")):
        whole, again = there_and_back(world, rows, start)
        line(f"{form}, {rows} world(s), {STEPS} steps", whole)
        line(f"{form}, {rows} world(s), {MORE} steps from a kept state", again)
    given = cases(read_reference()[0])[GIVEN]
    line(f"{form}, from given frames", play(world, change(given, actions=drawn(MORE, len(given.seeds)))))
    line(f"{form}, the environment", from_environment())


def there_and_back(world: World, rows: int, start: str) -> tuple[Any, Any]:
    """A rollout, and another one from a state that was kept in the middle of it."""
    state = begin(world, Case(tuple(range(rows)), drawn(0, rows), (0,) * rows, start))
    whole, kept = [], None
    for t, actions in enumerate(drawn(STEPS, rows)):
        if t == AWAY:
            kept = clone(state)
        state, row = advance(world, state, actions)
        whole.append(row)
    again = []
    for actions in drawn(MORE, rows):
        kept, row = advance(world, kept, actions)
        again.append(row)
    return whole, again


def from_environment() -> list[Any]:
    """Frames, rewards and endings of an episode with a saved state on the way."""
    env = gym.make("worldsim:worldsim/DoomTakeCover-v0", device="cpu", render_mode="rgb_array")
    core: Any = env.unwrapped
    seen: list[Any] = [core.reset(seed=3)[0]]
    actions = drawn(2 * MORE, 1)[:, 0]
    seen += [core.step(action)[:4] for action in actions[:MORE]]
    saved = core.save_state()
    for _ in range(2):
        seen += [core.step(action)[:4] for action in actions[MORE:]]
        seen.append(core.render())
        core.restore_state(saved)
    env.close()
    return seen


def drawn(steps: int, rows: int) -> np.ndarray:
    """Actions (steps, rows), the same ones ever."""
    return np.random.default_rng(0).integers(0, 3, (steps, rows))


def line(name: str, values: Any) -> None:
    """Print one digest."""
    digest = hashlib.sha256()
    _add(digest, values)
    print(f"{digest.hexdigest()[:32]}  {name}", flush=True)


def _add(digest: Any, values: Any) -> None:
    if isinstance(values, dict):
        values = [part for name in sorted(values) for part in (name.encode(), values[name])]
    if isinstance(values, list | tuple):
        for value in values:
            _add(digest, value)
    elif isinstance(values, bytes):
        digest.update(values)
    else:
        array = np.ascontiguousarray(values)
        digest.update(f"{array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())


if __name__ == "__main__":
    main()
