"""Frames and actions of your own as a store in a folder that you name; prints what to run next to train a world."""

import sys

import numpy as np

from worldsim.data.importing import Recording, write_recordings


def record_one(rng: np.random.Generator, steps: int = 60) -> Recording:
    """Stands for your own data: a bright square that two actions move left and right."""
    actions = rng.integers(2, size=steps)
    columns = np.clip(28 + np.cumsum(np.concatenate([[0], 4 * actions - 2])), 0, 56)
    frames = np.zeros((steps + 1, 64, 64, 3), np.uint8)  # one frame more than actions
    for frame, column in zip(frames, columns, strict=True):
        frame[28:36, column : column + 8] = 255
    return Recording(frames, actions, rewards=np.ones(steps), terminated=False)


def main(out: str) -> None:
    rng = np.random.default_rng(0)
    store = write_recordings(out, [record_one(rng) for _ in range(8)], fps=20)
    print(f"wrote {len(store)} episodes, {store.num_steps} rows, to {out}; now run")
    print(f"  worldsim train tokenizer --data {out} --out run --hours 0.5")
    print(f"  worldsim train dynamics --data {out} --out run --hours 1")
    print(f"  worldsim train export --name mine --data {out} --run-dir run --out mine")
    print("  worldsim play mine")


if __name__ == "__main__":
    main(*sys.argv[1:])
