"""The same game with speculation and without it: whatever is done, at whatever moment, must give the same bytes."""

import time

import numpy as np
from gymnasium.utils.env_checker import data_equivalence


def assert_same(one, other):
    """Equal to the bit, types included."""
    assert data_equivalence(one, other, exact=True), (one, other)


class Pair:
    """Two environments that do the same; sometimes they wait, so that guesses are met in all stages of their making."""

    def __init__(self, on, off, seed, pause=0.004):
        self.on, self.off, self.pause = on, off, pause
        self.rng = np.random.default_rng(seed)
        self.saved = []

    def do(self, call):
        """The same call to both; what it gave, once."""
        if self.rng.random() < 0.5:
            time.sleep(self.rng.random() * self.pause)
        one, other = call(self.on), call(self.off)
        assert_same(one, other)
        return one

    def play(self, steps, draw):
        """Step with what `draw(rng)` gives, with resets, saved moments and forks in between."""
        seed = int(self.rng.integers(1000))
        self.do(lambda env: env.reset(seed=seed))
        for _ in range(steps):
            action = draw(self.rng)
            result = self.do(lambda env, action=action: env.step(action))
            chance = self.rng.random()
            if np.any(result[2] | result[3]) and not hasattr(self.on, "num_envs"):
                self.do(lambda env: env.reset())
            elif chance < 0.02:
                self.saved.append((self.on.save_state(), self.off.save_state()))
            elif chance < 0.04 and self.saved:
                on, off = self.saved[int(self.rng.integers(len(self.saved)))]
                self.on.restore_state(on)
                self.off.restore_state(off)
            elif chance < 0.05:
                self.do(lambda env: env.render())
            elif chance < 0.06 and hasattr(self.on, "fork"):
                self._fork(draw)

    def _fork(self, draw):
        """Forks go the same way, while the environment itself goes on guessing."""
        forks = self.on.fork(1)[0], self.off.fork(1)[0]
        for _ in range(3):
            action = draw(self.rng)
            one, other = (env.step(action) for env in forks)
            assert_same(one, other)
            if one[2] or one[3]:
                break
        forks[0].close()


def guess_with(rng, spec, right, rows=None):
    """A policy that proposes a random ranking, or what `right[0]` says the next action will be."""

    def propose(observation):
        if right[0] is not None and rng.random() < 0.6:
            return [right[0]]
        size = (2,) if rows is None else (2, rows)
        return list(rng.integers(spec.n, size=size))

    return propose
