"""Sound in environments: in the info of every step, in batches, saved and guessed with the rest of the state."""

import time

import numpy as np
import pytest
from lively import lively_world
from rolls import assert_same, play
from sounding import sounding_world
from toy import ToyWorld

from worldsim.envs import WorldEnv, WorldVectorEnv
from worldsim.errors import InvalidInput
from worldsim.speculation import Speculation

ACTIONS = [0, 1, 2, 1, 1, 0, 2, 2]


@pytest.fixture(scope="module")
def world():
    return sounding_world()


def test_the_info_of_a_step_has_its_sound_and_the_rest_is_as_without(world):
    env, silent = WorldEnv(world, audio=True), WorldEnv(world)
    first, info = env.reset(seed=0)
    assert "audio" not in info and np.array_equal(first, silent.reset(seed=0)[0])
    for one, other in zip(play(env, ACTIONS[:4]), play(silent, ACTIONS[:4]), strict=True):
        sound = one[4].pop("audio")
        assert sound.shape == (40, 2) and sound.dtype == np.int16 and sound.any()
        assert_same([one], [other])
    assert env.world.config.audio.codec.rate == env.world.spec.audio_rate == 700


def test_a_batch_has_the_sound_of_every_row(world):
    envs = WorldVectorEnv(world, 3, audio=True)
    envs.reset(seed=[0, 1, 0])
    for action in ACTIONS[:3]:
        infos = envs.step(np.full(3, action))[4]
    assert infos["audio"].shape == (3, 40, 2) and infos["audio"].dtype == np.int16 and infos["_audio"].all()
    assert not np.array_equal(infos["audio"][0], infos["audio"][1])
    np.testing.assert_array_equal(infos["audio"][0], infos["audio"][2])


def test_a_restored_and_a_forked_environment_sound_the_same(world, tmp_path):
    env = WorldEnv(world, audio=True)
    env.reset(seed=3)
    play(env, ACTIONS[:3])
    state = env.save_state()
    ahead = play(env, ACTIONS[3:])
    env.restore_state(state)
    fork = env.fork(1)[0]
    assert_same(play(env, ACTIONS[3:]), ahead)
    assert_same(play(fork, ACTIONS[3:]), ahead)
    state.save(tmp_path / "moment.safetensors")
    env.restore_state(type(state).load(tmp_path / "moment.safetensors", env.world))
    assert_same(play(env, ACTIONS[3:]), ahead)


def test_a_state_with_sound_is_no_state_without(world):
    env, silent = WorldEnv(world, audio=True), WorldEnv(world)
    env.reset(seed=3)
    silent.reset(seed=3)
    for one, other in ((env, silent), (silent, env)):
        with pytest.raises(InvalidInput, match="this is a state of world"):
            one.restore_state(other.save_state())


def test_guessed_steps_sound_the_same(world):
    guessing = WorldEnv(world, audio=True, speculate=Speculation(breadth=3, adapt=False))
    env = WorldEnv(world, audio=True)
    guessing.reset(seed=1)
    env.reset(seed=1)
    for action in ACTIONS:
        time.sleep(0.01)  # for guesses to be made
        assert_same(play(guessing, [action]), play(env, [action]))
    assert guessing.speculation_stats.computed
    guessing.close()


def test_a_world_without_sound_is_refused():
    for world in (lively_world(), ToyWorld()):
        for make in (WorldEnv, WorldVectorEnv):
            with pytest.raises(InvalidInput, match=r"has no sound; leave out audio=True"):
                make(world, audio=True)
