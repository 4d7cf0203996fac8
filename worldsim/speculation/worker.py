"""The thread that computes guesses while the caller does something else: `Worker`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldsim.spec import Stages, WorldStep
from worldsim.speculation.choosing import next_job
from worldsim.speculation.economy import Economy, Trust
from worldsim.speculation.guessers import Guesser
from worldsim.speculation.guesses import Guess, Job
from worldsim.speculation.settings import Speculation
from worldsim.speculation.stats import SpeculationStats
from worldsim.threads import Monitor, ThreadSettings, release_pool
from worldsim.tree import clone

THREAD = "worldsim-speculation"
Step = Callable[[Any, np.ndarray], Stages]
See = Callable[[Any, WorldStep], Any]  # the state after a step, and what it gave -> the observation


@dataclass(eq=False)
class Demand:
    """A step that the caller waits for."""

    state: Any
    actions: np.ndarray
    done: bool = False
    result: Any = None
    error: BaseException | None = None


@dataclass(eq=False)
class Worker:
    """Guesses what follows on a state, step by step from copies of it, until it is asked what did follow.

    While it is awake it also computes the steps that were not guessed: only one thread at a time should compute, see
    `release_pool`. All that it shares with the caller's thread is read and written under `monitor.lock`, in blocks of
    which any may be the last: Ctrl-C can end the caller's methods everywhere. The state that the caller holds is only
    ever copied, and not even that once `take` has returned.
    """

    step: Step
    guesser: Guesser
    settings: Speculation
    see: See | None = None
    economy: Economy = field(default_factory=Economy)
    stats: SpeculationStats = field(default_factory=SpeculationStats)
    monitor: Monitor = field(default_factory=Monitor)

    def __post_init__(self) -> None:
        self.trust = Trust(self.settings.breadth)
        self.awake = False  # between `begin` and `rest` or `forget`
        self._root: Guess | None = None
        self._since = 0.0  # when the caller was answered
        self._like = ThreadSettings(1, ())
        self._job: Job | None = None  # that the thread is at
        self._demand: Demand | None = None  # that goes before all guesses
        self._warm = False  # whether the thread has helpers of its own
        self._error: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    # -- for the caller's thread --------------------------------------------------------------------------------

    def begin(self, root: Guess, like: ThreadSettings) -> None:
        """Guess what follows on `root`, computing as the thread with the settings `like` does."""
        with self.monitor.lock:
            if self._closed:
                return
            self._root, self._since, self._like, self.awake = root, time.perf_counter(), like, True
            self._ensure_thread()
            self.monitor.notify()

    def take(self, state: Any, actions: np.ndarray) -> tuple[Guess | None, bool]:
        """The guess that `actions` lead to from `state`, if there is one, and whether it had to be waited for.

        Nothing reads `state` any more when this returns without a guess. Raises what went wrong in the thread.
        """
        key = actions.tobytes()
        self._wait_for_demand()
        with self.monitor.lock:
            self._raise_error()
            root = self._root_of(state)
            late = root is not None and key not in root.children and self._is_computing(root, key)
            job = self._job
        if late:
            self.monitor.wait_until(lambda: self._job is not job)
        with self.monitor.lock:
            self._raise_error()
            root = self._root_of(state)
            guess = root.children.get(key) if root is not None else None
            if root is not None and root.candidates is not None:
                keys = [candidate.key for candidate in root.candidates]
                came = keys.index(key) if key in keys else None
                self.trust.note([candidate.probability for candidate in root.candidates], came)
            if guess is not None:
                self.stats.used[guess.depth] += 1
        self._leave(guess)
        return guess, late and guess is not None

    @property
    def free(self) -> bool:
        """Whether a step, after `take`, is better computed in the thread: awake, and no policy is being asked there."""
        return self.awake and self._job is None

    def compute(self, state: Any, actions: np.ndarray) -> tuple[Any, WorldStep]:
        """The step itself, computed in the thread, which must be free; raises what the step raises."""
        demand = Demand(state, actions)
        with self.monitor.lock:
            self._demand = demand
            self._ensure_thread()
            self.monitor.notify()
        self.monitor.wait_until(lambda: demand.done)
        if demand.error is not None:
            raise demand.error
        return demand.result

    def forget(self) -> None:
        """Drop all guesses and rest; nothing reads the state that they began from when this returns."""
        self._wait_for_demand()
        self._leave(None)
        self._rest()

    def rest(self, root: Guess) -> None:
        """Go no further from `root`, and rest."""
        with self.monitor.lock:
            self.stats.discarded(root.below())
            if self._job is not None:
                self._job.stop = True
        self._rest()

    def close(self) -> None:
        """End the thread; may be called twice, and from any thread."""
        with self.monitor.lock:
            self._closed, self._root, self.awake = True, None, False
            if self._job is not None:
                self._job.stop = True
            self.monitor.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
            self._thread.start()

    def _wait_for_demand(self) -> None:
        """Wait for a step whose caller was interrupted: it still writes into the state that is to be stepped again."""
        self.monitor.wait_until(lambda: self._demand is None)

    def _root_of(self, state: Any) -> Guess | None:
        return self._root if self._root is not None and self._root.state is state else None

    def _is_computing(self, node: Guess, key: bytes) -> bool:
        job = self._job
        return job is not None and job.node is node and job.candidate is not None and job.candidate.key == key

    def _leave(self, guess: Guess | None) -> None:
        """Drop all guesses but one and what follows on it; wait until no state is read that may now be written to."""
        with self.monitor.lock:
            if self._root is not None:
                kept = {guess, *guess.below()} if guess is not None else set()
                self.stats.discarded(one for one in self._root.below() if one not in kept)
                if guess is not None:
                    self._root.children = {}  # what is kept must not keep the rest alive
            self._root = None
            job = self._job
            if job is None:
                return
            following = guess is not None and any(job.node is one for one in (guess, *guess.below()))
            if job.candidate is None or not following:
                job.stop = True
        if guess is not None:
            return
        began = time.perf_counter()
        self.monitor.wait_until(lambda: self._job is None or self._job.candidate is None)
        self.stats.waited_seconds += time.perf_counter() - began

    def _rest(self) -> None:
        """Wait until the thread is out of the caller's way: it computes nothing and has no helpers."""
        with self.monitor.lock:
            self._root, self.awake = None, False
            if self._warm:
                self.monitor.notify()
        self.monitor.wait_until(
            lambda: not self._warm or self._closed or (self._job is not None and self._job.candidate is None)
        )

    def _raise_error(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    # -- in the thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while work := self.monitor.wait_until(self._work):
            job, demand, like = work
            if demand is not None:
                self._answer(demand, like)
            elif job is not None:
                self._do(job, like)
            elif self._closed:
                return
            else:
                release_pool()
                with self.monitor.lock:
                    self._warm = False
                    self.monitor.notify()
            del work, job, demand  # what they hold may be large, and the next wait long

    def _work(self) -> tuple[Job | None, Demand | None, ThreadSettings] | None:
        """What is to be done now, if anything is; with neither job nor demand, to end or to release the helpers."""
        if self._demand is None and self._root is not None and self._error is None:
            elapsed = time.perf_counter() - self._since
            self._job = next_job(self._root, self.settings, self.economy, self.trust, elapsed)
        busy = self._job is not None or self._demand is not None
        if busy or self._closed or (self._warm and not self.awake):
            self._warm = self._warm or busy
            return self._job, self._demand, self._like
        return None

    def _answer(self, demand: Demand, like: ThreadSettings) -> None:
        seconds: list[float] = []
        try:
            with like.applied():
                *_, demand.result = timed(self.step(demand.state, demand.actions), seconds)
        except BaseException as error:  # raised by `compute`
            demand.error = error
        with self.monitor.lock:
            if demand.error is None:
                self.economy.computed(seconds)
            self._demand, demand.done = None, True
            self.monitor.notify()

    def _do(self, job: Job, like: ThreadSettings) -> None:
        try:
            if job.candidate is None:
                job.node.candidates = self._rank(job)
            else:
                with like.applied():
                    self._compute(job)
        except BaseException as error:  # raised by the caller's next step
            with self.monitor.lock:
                self._error, self._root = error, None
        with self.monitor.lock:
            self._job = None
            self.monitor.notify()

    def _rank(self, job: Job) -> Any:
        candidates = self.guesser.ranked(job.path, job.node.observation)
        return None if job.stop else candidates

    def _compute(self, job: Job) -> None:
        """Compute a guess, unless it is stopped."""
        assert job.candidate is not None
        began = time.perf_counter()
        seconds: list[float] = []
        stages = timed(self.step(clone(job.node.state), job.candidate.actions), seconds)
        result = next(stages)
        while result is None and not job.stop:
            result = next(stages)
        spent = time.perf_counter() - began
        with self.monitor.lock:
            if result is None:
                self.stats.left(spent)
                return
            self.economy.computed(seconds)
        state, step = result
        observation = self.see(state, step) if self.see is not None and self.guesser.needs_observation else None
        guess = Guess(state, step, observation, job.candidate.actions, job.depth, spent)
        with self.monitor.lock:
            self.stats.guessed(guess)
            if job.stop:
                self.stats.discarded([guess])
            else:
                job.node.children[job.candidate.key] = guess


def timed(stages: Stages, seconds: list[float]) -> Iterator[tuple[Any, WorldStep] | None]:
    """None after every stage but the last, then what the step gives; `seconds` gets how long each stage took."""
    while True:
        began = time.perf_counter()
        try:
            next(stages)
        except StopIteration as done:
            seconds.append(time.perf_counter() - began)
            yield done.value
            return
        seconds.append(time.perf_counter() - began)
        yield None
