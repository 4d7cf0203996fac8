import re
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.wrappers import ClipReward, OrderEnforcing, RecordEpisodeStatistics, TimeLimit
from rolls import assert_same, play, snapshot
from toy import ToyWorld

from worldsim.envs import EnvState, WorldEnv, WorldVectorEnv
from worldsim.errors import InvalidInput, InvalidState


def test_a_saved_state_goes_on_bit_for_bit_and_more_than_once():
    env = WorldEnv(ToyWorld(between=1), render_mode="rgb_array")
    env.reset(seed=1)
    play(env, [1, 2, 0])
    state, frame = env.save_state(), env.render()
    actions = [0, 1, 2, 2, 1] * 4
    first, after = play(env, actions), env.reset()[0]
    fresh = WorldEnv(ToyWorld(between=1), render_mode="rgb_array")
    for other in (env, fresh):
        other.restore_state(state)
        assert np.array_equal(other.render(), frame)
        assert_same(play(other, actions), first)
        assert np.array_equal(other.reset()[0], after)


def test_the_time_limit_counts_on_from_a_restored_state():
    env = WorldEnv(ToyWorld(), max_episode_steps=3)
    env.reset(seed=0)
    env.step(0)
    state = env.save_state()
    for _ in range(2):
        assert [step[3] for step in play(env, [0, 0])] == [False, True]
        env.restore_state(state)


def flags(env, actions):
    return [(info["step"], terminated, truncated) for *_, terminated, truncated, info in play(env, actions)]


STACKS = [
    lambda env: TimeLimit(env, 5),
    lambda env: TimeLimit(ClipReward(OrderEnforcing(TimeLimit(env, 9)), 0, 1), 5),
    lambda env: RecordEpisodeStatistics(TimeLimit(ClipReward(env, 0, 1), 5)),
]


@pytest.mark.parametrize("wrap", STACKS)
def test_gymnasiums_time_limits_count_on_from_a_restored_state(wrap):
    env, bystander = wrap(WorldEnv(ToyWorld())), TimeLimit(WorldEnv(ToyWorld()), 5)
    env.reset(seed=0)
    play(env, [1, 1, 1])
    state = env.unwrapped.save_state()
    first = flags(env, [0, 2])
    assert first[-1] == (5, False, True)
    for _ in range(2):
        env.unwrapped.restore_state(state)
        assert flags(env, [0, 2]) == first
    env.reset()
    bystander.reset()
    assert [truncated for *_, truncated in flags(env, [0] * 5)] == [False] * 4 + [True]
    env.unwrapped.restore_state(state)
    env.reset()
    assert [truncated for *_, truncated in flags(env, [0] * 5)] == [False] * 4 + [True]


def test_gymnasiums_time_limit_takes_a_restored_state_without_a_reset():
    env, fresh = (TimeLimit(WorldEnv(ToyWorld()), 5) for _ in range(2))
    env.reset(seed=0)
    play(env, [1, 1, 1])
    fresh.unwrapped.restore_state(env.unwrapped.save_state())
    assert flags(fresh, [0, 2]) == flags(env, [0, 2])


def damaged(state):
    """The state with one thing wrong, and what is said of it."""
    tree, counters = state.tree, state.tree.counters
    for change, what in (
        ({"position": tree.position.double()}, "tree/position is tensor float64 (1,) instead of tensor float32 (1,)"),
        ({"recent": tree.recent[:, :3]}, "tree/recent is tensor float32 (1, 3) instead of tensor float32 (1, 4)"),
        ({"recent": tree.recent.repeat(2, 1)}, "tree/recent is tensor float32 (2, 4) instead of"),
        ({"recent": tree.recent.numpy()}, "tree/recent is array float32"),
        ({"recent": None}, "tree/recent is a NoneType"),
        ({"counters": {"seed": counters["seed"]}}, "tree/counters/episode is missing"),
        (
            {"counters": counters | {"more": counters["seed"]}},
            "tree/counters/more is array int64 (1,) instead of missing",
        ),
    ):
        yield replace(state, tree=replace(tree, **change)), re.escape(what)
    yield replace(state, tree=None), "tree is a NoneType"
    yield replace(state, step=-1), "seed, episode and step"
    yield replace(state, seed=None), "seed, episode and step"
    yield replace(state, world="another"), "'another'"
    yield state.tree, "save_state"


def test_a_refused_state_changes_nothing():
    env, envs, never_reset = WorldEnv(ToyWorld()), WorldVectorEnv(ToyWorld(), 3), WorldEnv(ToyWorld())
    env.reset(seed=0)
    play(env, [1, 1])
    state = env.save_state()
    envs.reset(seed=0)
    before = snapshot(env), [snapshot(fork) for fork in rows_of(envs)]
    for wrong, what in damaged(state):
        for refused in (
            lambda wrong=wrong: env.restore_state(wrong),
            lambda wrong=wrong: envs.restore_state([state, state, wrong]),
            lambda wrong=wrong: never_reset.restore_state(wrong),
        ):
            with pytest.raises(InvalidInput, match=what):
                refused()
    assert (snapshot(env), [snapshot(fork) for fork in rows_of(envs)]) == before
    with pytest.raises(InvalidState):
        never_reset.step(0)


def rows_of(envs):
    """Each row as an environment of its own."""
    rows = [WorldEnv(ToyWorld()) for _ in range(envs.num_envs)]
    for row, state in zip(rows, envs.save_state(), strict=True):
        row.restore_state(state)
    return rows


def test_an_ended_state_stays_ended():
    env = WorldEnv(ToyWorld(end=1.0))
    env.reset(seed=0)
    env.step(0)
    state = env.save_state()
    env.reset()
    env.restore_state(state)
    with pytest.raises(InvalidState):
        env.step(0)


def test_forks_go_their_own_ways_and_share_the_weights():
    env = WorldEnv(ToyWorld(), max_episode_steps=9)
    env.reset(seed=4)
    play(env, [1, 1])
    left, same, right = env.fork(3)
    runs = [play(left, [1] * 7), play(same, [0] * 7), play(right, [2] * 7)]
    assert_same(play(env, [0] * 7), runs[1])
    assert not np.array_equal(runs[0][-1][0], runs[2][-1][0])
    assert left.world is env.world and runs[0][-1][3]


def test_a_state_can_be_written_and_read(tmp_path):
    env = WorldEnv(ToyWorld())
    env.reset(seed=4)
    play(env, [1, 2])
    env.save_state().save(tmp_path / "s.safetensors")
    after = play(env, [0, 1, 2])
    other = WorldEnv(ToyWorld())
    other.restore_state(EnvState.load(tmp_path / "s.safetensors", other.world))
    assert_same(play(other, [0, 1, 2]), after)


def test_a_state_of_another_world_is_refused(tmp_path):
    env, other = WorldEnv(ToyWorld()), WorldEnv(ToyWorld())
    object.__setattr__(other.world.spec, "name", "another")
    env.reset(seed=0)
    other.reset(seed=0)
    before = snapshot(other)
    env.save_state().save(tmp_path / "s")
    for attempt in (
        lambda: other.restore_state(env.save_state()),
        lambda: EnvState.load(tmp_path / "s", other.world),
    ):
        with pytest.raises(InvalidInput, match="'toy'"):
            attempt()
    with pytest.raises(InvalidInput, match="save_state"):
        other.restore_state(env.save_state().tree)
    assert snapshot(other) == before
