"""Threads, errors and cancelling: with worlds that say when they are stepped, and by whom."""

import gc
import subprocess
import sys
import threading
import time

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from rolls import assert_same, play
from toy import ToyWorld

from worldsim.envs import WorldEnv, WorldVectorEnv
from worldsim.errors import InvalidAction, InvalidInput
from worldsim.rollout import finish
from worldsim.speculation import Speculation
from worldsim.speculation.worker import THREAD

PATIENCE = 10.0  # seconds; only so that a test fails instead of hanging
ALL = Speculation(breadth=1, adapt=False)  # after an action, the same one again


def threads():
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


def elsewhere():
    return threading.current_thread().name == THREAD


def until(done):
    deadline = time.monotonic() + PATIENCE
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.001)


def settle(env, computed):
    """Wait until so many guesses were computed."""
    until(lambda: env.speculation_stats.computed >= computed)


class StagedToy(ToyWorld):
    """A toy in two stages; the first guess of what follows on one step waits for `go` in the first."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.begun, self.go = threading.Event(), threading.Event()

    def step(self, state, actions):
        return finish(self.stages(state, actions))

    def stages(self, state, actions):
        if elsewhere() and state.counters["step"].tolist() == [1] and not self.begun.is_set():
            self.begun.set()
            assert self.go.wait(PATIENCE)
        yield "second"
        return super().step(state, actions)


@pytest.fixture(autouse=True)
def no_thread_stays():
    yield
    gc.collect()
    until(lambda: not threads())


@pytest.fixture
def hasty():
    """Threads take turns often, so that they meet in more places, and sooner."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    yield
    sys.setswitchinterval(before)


def test_ten_thousand_steps_are_the_same_whatever_is_guessed(hasty):
    """A long game of a small world; tests/core has shorter ones of models."""
    rng = np.random.default_rng(0)
    propose = Speculation(lambda observation: rng.integers(3, size=1), adapt=False)
    on, off = WorldEnv(ToyWorld(end=0.01), speculate=propose), WorldEnv(ToyWorld(end=0.01))
    choose, saved, ended = np.random.default_rng(1), [], True
    for step in range(10_000):
        if ended:
            assert_same(on.reset(seed=step), off.reset(seed=step))
            saved.append((on.save_state(), off.save_state()))
        elif step % 97 == 0:
            states = saved[choose.integers(len(saved))]
            on.restore_state(states[0])
            off.restore_state(states[1])
        action = int(choose.integers(3))
        one, other = on.step(action), off.step(action)
        ended = one[2]
        assert np.array_equal(one[0], other[0]) and one[1:] == other[1:]
    kinds = on.speculation_stats.kinds
    assert kinds["miss"] > 1000 and kinds["hit"] + kinds["late"] > 100
    on.close()


def test_a_hit_is_not_computed_again():
    world = ToyWorld()
    env = WorldEnv(world, speculate=ALL)
    env.reset(seed=0)
    env.step(1)
    settle(env, 1)
    steps = len(world.batches)
    env.step(1)
    assert env.speculation_stats.last == "hit"
    settle(env, 2)
    assert len(world.batches) == steps + 1
    env.close()


def amid_a_guess():
    """An environment that is computing a guess of action 1, and one without speculation at the same step."""
    world = StagedToy()
    env, plain = WorldEnv(world, speculate=ALL), WorldEnv(ToyWorld())
    for one in (env, plain):
        one.reset(seed=0)
        one.step(1)
    assert world.begun.wait(PATIENCE)
    threading.Timer(0.05, world.go.set).start()
    return env, plain


def test_a_miss_stops_the_guess_at_the_end_of_its_stage():
    env, plain = amid_a_guess()
    assert_same(env.step(2), plain.step(2))
    stats = env.speculation_stats
    assert stats.last == "miss" and stats.cancelled >= 1
    assert stats.waited_seconds > 0 and stats.discarded_seconds > 0
    env.close()


def test_a_guess_under_way_is_waited_for():
    env, plain = amid_a_guess()
    assert_same(env.step(1), plain.step(1))
    assert env.speculation_stats.last == "late"
    env.close()


@pytest.mark.parametrize("act", [lambda env, s: env.reset(seed=9), lambda env, s: env.restore_state(s)])
def test_a_guess_is_gone_before_the_state_is_replaced(act):
    world = StagedToy()
    env, plain = WorldEnv(world, speculate=ALL), WorldEnv(ToyWorld())
    saved = []
    for one in (env, plain):
        one.reset(seed=0)
        saved.append(one.save_state())
        one.step(1)
    assert world.begun.wait(PATIENCE)
    threading.Timer(0.05, world.go.set).start()
    cancelled = env.speculation_stats.cancelled  # a guess of the first step may be among them
    act(env, saved[0])
    assert env.speculation_stats.cancelled == cancelled + 1
    act(plain, saved[1])
    assert_same(play(env, [1, 1, 2]), play(plain, [1, 1, 2]))
    env.close()


def test_what_goes_wrong_in_the_other_thread_is_raised_by_step_and_leaves_the_game_as_it_was():
    class Breaks(ToyWorld):
        broke = False

        def step(self, state, actions):
            first = state.counters["step"].tolist() == [1]  # the guess of what follows on one step
            if elsewhere() and first and not self.broke:
                self.broke = True
                raise RuntimeError("out of luck")
            return super().step(state, actions)

    env, plain = WorldEnv(Breaks(), speculate=ALL), WorldEnv(ToyWorld())
    for one in (env, plain):
        one.reset(seed=0)
        one.step(1)
    until(lambda: env.ahead._worker._error is not None)
    with pytest.raises(RuntimeError, match="out of luck"):
        env.step(1)
    assert_same(play(env, [1, 1, 2]), play(plain, [1, 1, 2]))
    env.close()


@pytest.mark.parametrize(
    ("propose", "error"),
    [(lambda o: [9], InvalidAction), (lambda o: 1, InvalidInput), (lambda o: 1 / 0, ZeroDivisionError)],
)
def test_what_a_policy_does_wrong_is_raised_by_step(propose, error):
    env = WorldEnv(ToyWorld(), speculate=Speculation(propose, adapt=False))
    env.reset(seed=0)
    until(lambda: env.ahead._worker._error is not None)
    with pytest.raises(error):
        env.step(0)
    env.close()


def test_a_policy_sees_what_the_caller_sees():
    seen = []

    def propose(observation):
        seen.append(observation)
        return [1]

    env = WorldEnv(ToyWorld(), speculate=Speculation(propose, adapt=False))
    observations = [env.reset(seed=0)[0]]
    settle(env, 1)
    observations += [step[0] for step in play(env, [1])]
    settle(env, 2)
    assert all(np.array_equal(a, b) for a, b in zip(seen, observations, strict=True))
    env.close()
    envs = WorldVectorEnv(ToyWorld(), 2, speculate=Speculation(lambda o: [[1, 2]], adapt=False))
    envs.reset(seed=0)
    settle(envs, 1)
    envs.step([1, 2])
    assert envs.speculation_stats.last == "hit"
    envs.close()


def test_a_step_does_not_wait_for_a_policy():
    asked, go = threading.Event(), threading.Event()

    def propose(observation):
        asked.set()
        assert go.wait(PATIENCE)
        return [0]

    env, plain = WorldEnv(ToyWorld(), speculate=Speculation(propose, adapt=False)), WorldEnv(ToyWorld())
    for one in (env, plain):
        one.reset(seed=0)
    assert asked.wait(PATIENCE)
    assert_same(play(env, [1, 2]), play(plain, [1, 2]))
    go.set()
    env.close()


def test_what_a_step_itself_raises_is_raised_whoever_computes_it():
    class Ends(ToyWorld):
        def step(self, state, actions):
            if state.counters["step"][0] == 1:
                raise RuntimeError("the end")
            return super().step(state, actions)

    env = WorldEnv(Ends(), speculate=Speculation(lambda observation: [], adapt=False))
    env.reset(seed=0)
    env.step(1)
    with pytest.raises(RuntimeError, match="the end"):
        env.step(1)
    env.close()


def test_closing_twice_and_going_on_without_guesses():
    env, plain = WorldEnv(ToyWorld(), speculate=ALL), WorldEnv(ToyWorld())
    for one in (env, plain):
        one.reset(seed=0)
    env.step(1)
    assert len(threads()) == 1
    env.close()
    env.close()
    assert not threads()
    plain.step(1)
    assert_same(play(env, [1, 2]), play(plain, [1, 2]))


def test_without_speculation_there_is_no_thread_and_no_statistics():
    env = WorldEnv(ToyWorld(), speculate=False)
    env.reset(seed=0)
    env.step(0)
    assert env.speculation_stats is None and not threads()


def test_environments_that_are_forgotten_take_their_threads_along():
    env = WorldEnv(ToyWorld(), speculate=ALL)
    env.reset(seed=0)
    env.step(1)
    forks = env.fork(2)
    for fork in forks:
        fork.step(0)
    assert len(threads()) == 3
    del env, fork, forks
    gc.collect()
    until(lambda: not threads())


def test_an_interpreter_ends_with_guesses_under_way():
    code = (
        "import sys; sys.path.insert(0, 'tests/support')\n"
        "from toy import ToyWorld\nfrom worldsim.envs import WorldEnv\nfrom worldsim.speculation import Speculation\n"
        "env = WorldEnv(ToyWorld(size=256), speculate=Speculation(adapt=False))\n"
        "env.reset(seed=0)\nfor _ in range(5): env.step(1)\nprint('done')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_gymnasium_finds_nothing_to_complain_about():
    check_env(WorldEnv(ToyWorld(size=64), speculate=True), skip_render_check=True)
    env = gym.make("worldsim:worldsim/DoomTakeCover-v0", world=ToyWorld(), speculate=Speculation(breadth=1))
    env.reset(seed=0)
    assert env.unwrapped.speculation_stats.steps == 0
    env.close()
    with pytest.raises(InvalidInput, match="speculate='yes'"):
        WorldEnv(ToyWorld(), speculate="yes")
    with pytest.raises(InvalidInput, match="speculate=3"):
        WorldVectorEnv(ToyWorld(), 2, speculate=3)


def test_a_caller_who_never_idles_wakes_no_thread():
    env = WorldEnv(ToyWorld(), speculate=True)
    env.reset(seed=0)
    for _ in range(3):
        env.step(0)
    env.ahead._worker.cost._idle.extend([1e-5] * 64)
    for _ in range(20):
        env.ahead._answered = None  # whatever else runs on this machine
        env.step(0)
    assert not threads() and env.speculation_stats.computed_seconds == 0
    env.close()


def test_a_caller_who_computes_all_the_time_wakes_no_thread(monkeypatch):
    monkeypatch.setattr("worldsim.speculation.speculator.crowded", lambda: True)
    monkeypatch.setattr("time.thread_time", time.perf_counter)
    env = WorldEnv(ToyWorld(), speculate=True)
    env.reset(seed=0)
    for _ in range(20):
        time.sleep(0.002)
        env.step(0)
    assert not threads() and env.speculation_stats.hit_rate == 0
    env.close()


def test_stable_baselines_gets_the_same_with_guesses():
    pytest.importorskip("stable_baselines3")
    from worldsim.envs.sb3 import WorldVecEnv

    world = ToyWorld(end=0.1, limit=6)
    on, off = WorldVecEnv(world, 2, speculate=Speculation(adapt=False)), WorldVecEnv(world, 2)
    for envs in (on, off):
        envs.seed(3)
    assert np.array_equal(on.reset(), off.reset())
    rng = np.random.default_rng(0)
    for _ in range(40):
        actions = rng.integers(2, size=2)
        time.sleep(0.002)
        one, other = on.step(actions), off.step(actions)
        for a, b in zip(one[:3], other[:3], strict=True):
            assert np.array_equal(a, b)
        assert [set(info) for info in one[3]] == [set(info) for info in other[3]]
    assert on.get_attr("speculation_stats")[0].kinds["hit"] > 0
    on.close()
