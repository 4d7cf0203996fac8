"""Steps a world and computes what may come next in the time between the steps: `Speculator`."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from worldsim.actions import check_actions
from worldsim.rollout import finish
from worldsim.runtime.threads import ThreadSettings, crowded, release_pool
from worldsim.spec import ActionSpec, WorldStep
from worldsim.speculation.cost import SlowdownGuard
from worldsim.speculation.guessers import make_guesser
from worldsim.speculation.settings import Speculation
from worldsim.speculation.stats import SpeculationStats
from worldsim.speculation.worker import Root, Step, Worker


class Speculator:
    """Steps a world, ahead of time where it can; what a step gives is the same to the bit as without.

    A guess is the very computation that the step would be: from a copy of the state, with the same actions, noise and
    batch, in a thread that computes as the caller's does. It is used only where all actions are those that were
    guessed. Without settings it does nothing but step.

    Example:
        >>> ahead = Speculator(world.stages, world.spec.actions, 3, Speculation())
        >>> state, step = ahead.step(state, actions)
        >>> ahead.expect(state)  # until the next step, what may follow on this state is computed
        >>> ahead.close()
    """

    def __init__(
        self,
        step: Step,
        actions: ActionSpec,
        rows: int,
        settings: Speculation | None,
        *,
        check: Callable[[Any], np.ndarray] | None = None,
    ) -> None:
        """`step(state, actions)` gives the stages of a step of `rows` worlds, as `World.stages` does.

        `check` makes of what a policy proposes what `step` takes.
        """
        self._step = step
        self._worker: Worker | None = None
        if settings is None:
            return
        check = check or (lambda proposal: check_actions(actions, proposal, rows))
        self._worker = Worker(step, make_guesser(settings, actions, rows, check), settings)
        self._guard = SlowdownGuard()
        # When the caller was answered, its thread, how long that had computed; None: not since the last `forget`.
        self._answered: tuple[float, int, float] | None = None
        self._allowed: bool | None = None  # whether guesses are made in this cycle; None: there is no time for them
        # Collected or not, the thread ends before the interpreter does.
        self._finalizer = weakref.finalize(self, self._worker.close)

    @property
    def stats(self) -> SpeculationStats | None:
        """What came of the guesses so far, kept up to date; None without settings."""
        return None if self._worker is None else self._worker.stats

    def step(self, state: Any, actions: np.ndarray) -> tuple[Any, WorldStep]:
        """What the world's step gives; raises what it raises, and what went wrong with a guess since the last step."""
        if self._worker is None:
            return finish(self._step(state, actions))
        worker, idle, actions = self._worker, self._idle(), np.asarray(actions)
        guess, kind = worker.take(state, actions)
        result = worker.compute(state, actions) if guess is None else guess.result
        with worker.monitor.lock:
            if idle is not None:
                worker.cost.idled(idle)
            worker.stats.kinds[kind] += 1
            worker.stats.last = kind
        worker.guesser.saw(actions)
        return result

    def expect(self, state: Any, observation: Any = None) -> None:
        """The caller is answered; from now to the next `step`, guess what follows on `state`.

        `observation` is what the caller sees there, for a policy that proposes.
        """
        if self._worker is None:
            return
        worker, now = self._worker, time.perf_counter()
        if self._answered is not None and self._allowed is not None:
            self._guard.note(now - self._answered[0], self._allowed)
        with worker.monitor.lock:
            enough = worker.cost.idle_enough()
        if worker.settings.adapt:
            self._allowed = self._guard.allows() if enough else None
        else:
            self._allowed = True
        if self._allowed:
            release_pool()
            worker.begin(Root(state, observation), ThreadSettings.here())
        else:
            worker.rest()
        self._answered = time.perf_counter(), threading.get_ident(), time.thread_time()

    def forget(self) -> None:
        """Drop what was guessed and guess no more until `expect`: the state is about to be replaced or written to."""
        if self._worker is not None:
            self._worker.forget()
            self._answered = None

    def close(self) -> None:
        """End the thread, if there is one, and step without it from now on; may be called twice."""
        if self._worker is not None:
            self._finalizer()

    def _idle(self) -> float | None:
        """Seconds since the answer in which the processors were free; None if there was none since `forget`."""
        if self._answered is None:
            return None
        when, caller, computed = self._answered
        idle = time.perf_counter() - when
        if caller == threading.get_ident() and crowded():
            idle -= time.thread_time() - computed
        return max(0.0, idle)
