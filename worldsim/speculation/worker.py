"""The thread that computes guesses, and on-demand steps while it is awake: `Worker`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from worldsim.runtime.threads import Monitor, ThreadSettings, release_pool
from worldsim.spec import Stages, WorldStep
from worldsim.speculation.cost import CostModel
from worldsim.speculation.guessers import Candidate, Guesser
from worldsim.speculation.settings import Speculation
from worldsim.speculation.stats import Kind, SpeculationStats
from worldsim.state.tree import clone

THREAD = "worldsim-speculation"
Step = Callable[[Any, np.ndarray], Stages]


@dataclass(eq=False)
class Guess:
    """What a step gives, whose state nobody writes to before it is asked for."""

    result: tuple[Any, WorldStep]
    seconds: float  # that it took


@dataclass(eq=False)
class Root:
    """Where the world stands, what may come next, and what was computed of that."""

    state: Any
    observation: Any = None  # for policies that propose
    candidates: list[Candidate] | None = None  # likeliest first; None: not asked yet
    guesses: dict[bytes, Guess] = field(default_factory=dict)


@dataclass(eq=False)
class Job:
    """What the thread is at: a candidate's step from a root or, without one, asking for the root's candidates."""

    root: Root
    candidate: Candidate | None = None
    stop: bool = False  # set when nobody wants it any more


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
    """Guesses what follows on a state, from copies of it, until it is asked what did follow.

    While it is awake it also computes the steps that were not guessed: only one thread at a time should compute, see
    `release_pool`. All that it shares with the caller's thread is read and written under `monitor.lock`, in blocks of
    which any may be the last: Ctrl-C can end the caller's methods everywhere. The state that the caller holds is only
    ever copied, and not even that once `take` has returned.
    """

    step: Step
    guesser: Guesser
    settings: Speculation
    cost: CostModel = field(default_factory=CostModel)
    stats: SpeculationStats = field(default_factory=SpeculationStats)
    monitor: Monitor = field(default_factory=Monitor)

    def __post_init__(self) -> None:
        self.awake = False  # between `begin` and `rest` or `forget`
        self._root: Root | None = None
        self._like = ThreadSettings(1, ())
        self._job: Job | None = None  # that the thread is at
        self._demand: Demand | None = None  # that goes before all guesses
        self._warm = False  # whether the thread has helpers of its own
        self._error: BaseException | None = None
        self._closed = False
        self._thread: threading.Thread | None = None

    # -- for the caller's thread --------------------------------------------------------------------------------

    def begin(self, root: Root, like: ThreadSettings) -> None:
        """Guess what follows on `root`, computing as the thread with the settings `like` does."""
        with self.monitor.lock:
            if not self._closed:
                self._root, self._like, self.awake = root, like, True
                self._ensure_thread()
                self.monitor.notify()

    def take(self, state: Any, actions: np.ndarray) -> tuple[Guess | None, Kind]:
        """The guess that `actions` lead to from `state`, if there is one, and what became of the step.

        Nothing reads `state` any more when this returns without a guess. Raises what went wrong in the thread.
        """
        key, guess, late = actions.tobytes(), None, False

        def settled() -> bool:
            nonlocal late
            job, root = self._job, self._root
            wanted = job is not None and job.root is root and job.candidate is not None and job.candidate.key == key
            under_way = wanted and root is not None and root.state is state
            late |= under_way
            return self._demand is None and not under_way

        self.monitor.wait_until(settled)
        with self.monitor.lock:
            if self._error is not None:
                error, self._error = self._error, None
                raise error
            root = self._root
            if root is not None and root.state is state:
                guess = root.guesses.get(key)
                self.stats.used_seconds += 0.0 if guess is None else guess.seconds
                if root.candidates is not None:
                    self.cost.calibrator.note(root.candidates, key)
        self._leave(guess)
        return guess, "miss" if guess is None else "late" if late else "hit"

    def compute(self, state: Any, actions: np.ndarray) -> tuple[Any, WorldStep]:
        """The step itself, after `take`: in the thread if it is awake and asks no policy, else here.

        Raises what the step raises.
        """
        with self.monitor.lock:
            demand = Demand(state, actions) if self.awake and self._job is None else None
            if demand is not None:
                self._demand = demand
                self._ensure_thread()
                self.monitor.notify()
        if demand is None:
            return self._advance(state, actions)[0]
        self.monitor.wait_until(lambda: demand.done)
        if demand.error is not None:
            raise demand.error
        return demand.result

    def forget(self) -> None:
        """Drop all guesses and rest; nothing reads the state that they began from when this returns."""
        self.monitor.wait_until(lambda: self._demand is None)  # whose caller was interrupted, and which still writes
        self._leave(None)
        self.rest()

    def rest(self) -> None:
        """Guess no more, and wait until the thread is out of the caller's way: it computes nothing, has no helpers."""
        with self.monitor.lock:
            self.awake = False
            self._drop_root()
            if self._warm:
                self.monitor.notify()
        self.monitor.wait_until(
            lambda: not self._warm or self._closed or (self._job is not None and self._job.candidate is None)
        )

    def close(self) -> None:
        """End the thread; may be called twice, and from any thread."""
        with self.monitor.lock:
            self._closed, self.awake = True, False
            self._drop_root()
            self.monitor.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def _ensure_thread(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
            self._thread.start()

    def _drop_root(self) -> None:
        """Want no guesses any more; to be called with the lock held."""
        self._root = None
        if self._job is not None:
            self._job.stop = True

    def _leave(self, guess: Guess | None) -> None:
        """Drop all guesses but one; without one, wait until no state is read that may now be written to."""
        with self.monitor.lock:
            self._drop_root()
            in_the_way = guess is None and self._job is not None
        if in_the_way:
            began = time.perf_counter()
            self.monitor.wait_until(lambda: self._job is None or self._job.candidate is None)
            self.stats.waited_seconds += time.perf_counter() - began

    def _advance(self, state: Any, actions: np.ndarray, job: Job | None = None) -> tuple[Any, float]:
        """What a step gives, None if the job is stopped before its end, and the seconds that its stages took."""
        stages, result = self.step(state, actions), None
        seconds: list[float] = []
        while result is None and not (job is not None and job.stop):
            began = time.perf_counter()
            try:
                next(stages)
            except StopIteration as done:
                result = done.value
            seconds.append(time.perf_counter() - began)
        if result is not None:
            with self.monitor.lock:
                self.cost.computed(seconds)
        return result, sum(seconds)

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
        root = self._root
        if self._demand is None and root is not None and self._error is None:
            if root.candidates is None:
                self._job = Job(root)
            elif candidate := self.cost.best(root.candidates, set(root.guesses), self.settings.adapt):
                self._job = Job(root, candidate)
        busy = self._job is not None or self._demand is not None
        if busy or self._closed or (self._warm and not self.awake):
            self._warm = self._warm or busy
            return self._job, self._demand, self._like
        return None

    def _answer(self, demand: Demand, like: ThreadSettings) -> None:
        try:
            with like.applied():
                demand.result, _ = self._advance(demand.state, demand.actions)
        except BaseException as error:  # raised by `compute`
            demand.error = error
        with self.monitor.lock:
            self._demand, demand.done = None, True
            self.monitor.notify()

    def _do(self, job: Job, like: ThreadSettings) -> None:
        try:
            if job.candidate is None:
                job.root.candidates = self.guesser.ranked(job.root.observation)[: self.settings.breadth]
            else:
                with like.applied():
                    self._compute(job, job.candidate)
        except BaseException as error:  # raised by the caller's next step
            with self.monitor.lock:
                self._error, self._root = error, None
        with self.monitor.lock:
            self._job = None
            self.monitor.notify()

    def _compute(self, job: Job, candidate: Candidate) -> None:
        """Compute a guess, unless it is stopped."""
        result, seconds = self._advance(clone(job.root.state), candidate.actions, job)
        with self.monitor.lock:
            self.stats.computed_seconds += seconds
            if result is None:
                self.stats.cancelled += 1
            else:
                self.stats.computed += 1
                job.root.guesses[candidate.key] = Guess(result, seconds)
