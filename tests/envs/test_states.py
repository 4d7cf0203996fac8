import numpy as np
import pytest
from rolls import assert_same, play, snapshot
from toy import ToyWorld

from worldsim.envs import EnvState, WorldEnv
from worldsim.errors import InvalidInput, InvalidState


def test_a_saved_state_goes_on_bit_for_bit_and_more_than_once():
    env = WorldEnv(ToyWorld(between=1), render_mode="rgb_array")
    env.reset(seed=1)
    play(env, [1, 2, 0])
    state, picture = env.save_state(), env.render()
    actions = [0, 1, 2, 2, 1] * 4
    first, after = play(env, actions), env.reset()[0]
    fresh = WorldEnv(ToyWorld(between=1), render_mode="rgb_array")
    for other in (env, fresh):
        other.restore_state(state)
        assert np.array_equal(other.render(), picture)
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
