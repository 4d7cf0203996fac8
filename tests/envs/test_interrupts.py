"""Ctrl-C, or any exception, on any line of a call: nothing has changed, and the call can be made again."""

import dataclasses
import signal
import sys
import threading
import time

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from lively import lively_files, lively_world
from toy import ToyWorld

from worldsim.envs import WorldEnv, WorldVectorEnv
from worldsim.envs.held import HeldWorld
from worldsim.models.endings import EndingConfig
from worldsim.speculation import Speculation
from worldsim.world import World

ACTIONS = np.random.default_rng(0).integers(0, 3, (14, 3))
OWN = ("/worldsim/", "/envs/")  # folders in whose lines an exception strikes


class Stop(KeyboardInterrupt):
    """Stands for Ctrl-C on a line."""


def strike(call, line):
    """Make a call; raise `Stop` before the given one of its lines in our own code. How many lines it came to."""
    count = 0

    def trace(frame, event, arg):
        nonlocal count
        if not any(folder in frame.f_code.co_filename for folder in OWN):
            return None
        if event == "line":
            count += 1
            if count == line:
                raise Stop
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return count


def lines(call, samples=5):
    """Some of the lines of a call, the last ones among them."""
    # Not the very last one, which hands out what is settled: between that and the line before Python sees no signal.
    last = strike(call, None) - 1
    return sorted({*np.linspace(1, last, samples).astype(int).tolist(), last - 1})


def flat(given):
    """What a call gave, as something to compare."""
    if isinstance(given, dict):
        return {key: flat(value) for key, value in given.items()}
    if isinstance(given, tuple | list):
        return [flat(value) for value in given]
    if isinstance(given, np.ndarray) and given.dtype.hasobject:
        return [flat(one) for one in given]
    return np.asarray(given).tolist()


def endless_world():
    files = lively_files()
    return World(dataclasses.replace(files, config=dataclasses.replace(files.config, endings=EndingConfig(shift=-99))))


def single(world):
    return WorldEnv(world, max_episode_steps=None), lambda t: int(ACTIONS[t, 0])


def many(mode):
    def make(world):
        return WorldVectorEnv(world, 3, autoreset_mode=mode, max_episode_steps=3), lambda t: ACTIONS[t]

    return make


WORLDS = {"learned": lively_world, "writes in place": ToyWorld, "held": lambda: HeldWorld(lively_world(), 2)}
ENVS = {"one": single, "next step": many(AutoresetMode.NEXT_STEP), "same step": many(AutoresetMode.SAME_STEP)}


@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
@pytest.mark.parametrize("make", ENVS.values(), ids=ENVS)
def test_a_step_that_was_interrupted_on_any_line_can_be_taken_again(make, world):
    plain, action = make(world())
    env, _ = make(world())
    plain.reset(seed=0)
    env.reset(seed=0)
    for t in range(3):
        expected = flat(plain.step(action(t)))
        state = env.save_state()
        for line in lines(lambda t=t: env.step(action(t))):
            env.restore_state(state)
            with pytest.raises(Stop):
                strike(lambda t=t: env.step(action(t)), line)
            assert flat(env.step(action(t))) == expected
        env.restore_state(state)
        assert flat(env.step(action(t))) == expected
        if expected[2] is True or expected[3] is True:
            assert flat(env.reset()) == flat(plain.reset())


@pytest.mark.parametrize("make", [single, many(AutoresetMode.NEXT_STEP)], ids=["one", "many"])
def test_a_reset_that_was_interrupted_on_any_line_leaves_the_episode_as_it_was(make):
    env, action = make(endless_world())
    env.reset(seed=0)
    env.step(action(0))
    state = env.save_state()
    expected = flat(env.step(action(1)))
    for line in lines(lambda: env.reset(seed=5)):
        env.restore_state(state)
        with pytest.raises(Stop):
            strike(lambda: env.reset(seed=5), line)
        assert flat(env.step(action(1))) == expected


def test_another_action_than_that_of_the_interrupted_step_may_follow():
    env, plain = (WorldEnv(endless_world(), max_episode_steps=None) for _ in range(2))
    for one in (env, plain):
        one.reset(seed=0)
        for _ in range(9):  # beyond the context of 4 steps: the ring of keys and values is full
            one.step(0)
    expected = [flat(plain.step(action)) for action in (2, 0, 0, 0, 0, 0)]
    state = env.save_state()
    late = lines(lambda: env.step(1))[-1]
    env.restore_state(state)
    with pytest.raises(Stop):
        strike(lambda: env.step(1), late)
    assert [flat(env.step(action)) for action in (2, 0, 0, 0, 0, 0)] == expected


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs signals that are sent to one thread")
def test_a_signal_while_guesses_are_made_leaves_no_lock_and_no_demand_behind():
    eager = Speculation(lambda observation: [0], adapt=False)
    env, plain = (WorldEnv(endless_world(), speculate=s, max_episode_steps=None) for s in (eager, None))
    handler = signal.signal(signal.SIGALRM, signal.default_int_handler)  # SIGALRM stands for Ctrl-C
    to_us = (threading.get_ident(), signal.SIGALRM)
    struck = 0
    try:
        for k in range(40):
            for one in (env, plain):
                one.reset(seed=k)
                one.step(0)
            time.sleep(0.002)
            begun = time.perf_counter()
            expected, done = plain.step(1), None
            took = time.perf_counter() - begun  # steps are milliseconds on one machine, a fraction of one on another
            alarm = threading.Timer(1.2 * took * k / 40, signal.pthread_kill, to_us)
            with pytest.raises(KeyboardInterrupt):
                alarm.start()
                done = env.step(1)
                alarm.join()  # it comes here at the latest
            struck += done is None
            if done is None and env._now.progress.step[0] == 1:  # else it came after the step was taken
                done = env.step(1)
            if done is not None:
                assert flat(done) == flat(expected)
            assert flat(env.step(2)) == flat(plain.step(2))
    finally:
        signal.signal(signal.SIGALRM, handler)
        env.close()
    assert struck > 10
    assert not [thread for thread in threading.enumerate() if thread.name == "worldsim-speculation"]
