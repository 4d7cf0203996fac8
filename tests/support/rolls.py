"""Playing an environment and comparing what came of it."""

from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode


def play(env, actions):
    """(observation, reward, terminated, truncated, info) of every step."""
    return [env.step(action) for action in actions]


def assert_same(one, other):
    """Equal to the bit, types and dtypes included, whatever the order of info keys."""
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert data_equivalence(a, b, exact=True), (a, b)


def roll(envs, actions):
    """Every step's result; ended rows are reset by mask where the mode leaves that to the caller."""
    results = []
    for action in actions:
        results.append(envs.step(action))
        ended = results[-1][2] | results[-1][3]
        if envs.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
            results.append(envs.reset(options={"reset_mask": ended}))
    return results


def snapshot(env):
    """Everything a refused call must leave alone."""
    state = env.save_state()
    return state.step, state.episode, state.seed, state.ended, state.tree.position.tolist()
