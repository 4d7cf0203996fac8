"""The model thread: it waits for the next step or command and does it; the window only sends it keys."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable

from worldsim.envs.play.feed import Feed
from worldsim.envs.play.keys import HeldKeys
from worldsim.envs.play.session import Session
from worldsim.envs.play.status import Status
from worldsim.runtime.threads import release_pool


class Runner:
    """Runs a session in its own thread. `wake` is called from there when there is news to show."""

    def __init__(self, session: Session, wake: Callable[[], None]) -> None:
        self.error: BaseException | None = None  # what ended the thread, other than `stop`
        self.status = Status()
        self._session, self._wake = session, wake
        self._condition = threading.Condition()
        self._commands: deque[str] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="worldsim-play-model", daemon=True)

    @property
    def feed(self) -> Feed:
        """The frames to show."""
        return self._session.feed

    @property
    def held(self) -> HeldKeys:
        """The action keys that are down."""
        return self._session.held

    def start(self) -> None:
        """Start the thread; the calling one, which may have loaded the world, computes no more."""
        release_pool()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the step it is in and wait for it; clips are finished, simulators closed."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        if self._thread.is_alive():
            self._thread.join()

    def send(self, command: str) -> None:
        """Ask for a command of the session."""
        with self._condition:
            self._commands.append(command)
            self._condition.notify()

    def press(self, key: str, now: float) -> None:
        """An action key went down."""
        with self._condition:
            self.held.press(key, now)
            self._condition.notify()

    def release(self, key: str) -> None:
        """An action key went up."""
        with self._condition:
            self.held.release(key)
            self._condition.notify()

    def _run(self) -> None:
        try:
            try:
                self._session.open()
                self._publish()
                while (job := self._next_job()) is not None:
                    self._session.do(job)
                    self._publish()
            finally:
                self._session.close()
        except BaseException as error:  # handed to the window's thread, which raises it
            self.error = error
        self._publish()

    def _publish(self) -> None:
        self.status = self._session.status()
        self._wake()

    def _next_job(self) -> str | None:
        """Block until there is something to do, commands before steps; None when the thread is to end."""
        with self._condition:
            while not self._stopping:
                if self._commands:
                    return self._commands.popleft()
                at, job = self._session.upcoming()
                wait = at - time.perf_counter()
                if wait <= 0:
                    return job
                self._condition.wait(None if math.isinf(wait) else wait)
            return None
