"""Episodes of sources, played and compared."""

import numpy as np


def play(source, seed, actions):
    """Rows of an episode, the reset's first, up to its end or that of the actions."""
    rows = [source.reset(seed)]
    for action in actions:
        rows.append(source.step(action))
        if rows[-1].done:
            break
    return rows


def same(rows, others):
    return len(rows) == len(others) and all(
        np.array_equal(a.rgb, b.rgb)
        and (a.reward, a.terminated, a.truncated) == (b.reward, b.terminated, b.truncated)
        and all(np.array_equal(a.extras[k], b.extras[k], equal_nan=True) for k in a.extras)
        for a, b in zip(rows, others, strict=True)
    )
