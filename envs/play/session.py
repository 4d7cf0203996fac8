"""What happens when: steps at the game's pace, commands, the end of an episode and the next one. No threads.

One step: it is due at its deadline or, if the player's keys changed, from the deadline before on; then the
keys are read, the model runs, and its frames go into the feed with the times they are due.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from worldsim.bench.traces import Trace
from worldsim.envs.play.feed import Feed, QueuedFrame, View
from worldsim.envs.play.game import Game, Snapshot
from worldsim.envs.play.keys import ActionKeys, HeldKeys
from worldsim.envs.play.pace import Pace, Recent, spread
from worldsim.envs.play.real import RealGame
from worldsim.envs.play.recorder import Clips
from worldsim.envs.play.status import Settings, Status
from worldsim.errors import InvalidInput, MissingDependency
from worldsim.memory.base import FromAbove

if TYPE_CHECKING:
    from worldsim.envs.play.sound import Speaker

PLAN_SECONDS = 0.25  # between two drawings of what is remembered
RESTART_AFTER = 1.5  # seconds between the end of an episode and the next one
SPEEDS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)


class Session:
    """A player's time in one world: `upcoming` tells what to do next and when, `do` does it."""

    def __init__(
        self, game: Game, actions: ActionKeys, settings: Settings, wake: Callable[[], None] = lambda: None
    ) -> None:
        """`wake` is called whenever a frame was put into the feed."""
        self.feed = Feed(wake)
        self.held = HeldKeys()
        self.game, self._actions, self._settings = game, actions, settings
        self._script = deque(settings.script)
        self._speed = settings.speed
        self._pace = Pace(1.0 / (game.spec.steps_per_second * settings.speed), 0.0)
        self._step_times = Recent(32)
        self._paused = False
        self._playing_since = math.inf  # key presses before this are no measure of latency
        self._still_since = 0.0  # since when an ended game waits for the next
        self._keys: tuple[str, ...] = ()
        self._action: np.ndarray | None = None  # the last one, (1,) or (1, A)
        self._moment: Snapshot | None = None
        self._message, self._message_at = "", -math.inf
        self._seen: FromAbove | None = None
        self._plan_at = -math.inf
        self.clips = Clips(game.spec, self._say)
        self.speaker: Speaker | None = None  # of a world with sound, where there is a device
        self.trace = Trace(game.spec.name, game.spec.steps_per_second)

    def open(self) -> None:
        """Begin: the first episode, and what the settings ask for."""
        if self.game.spec.audio is not None and self._settings.audio:
            self._open_speaker()
        if self._settings.real:
            self.game.real = self._open_real()
        if self._settings.record is not None:
            self.clips.start(self._settings.record)
        self._begin(self._settings.seed)

    def close(self) -> None:
        """Finish the clip and the trace, stop the real game; may be called twice."""
        self.clips.stop()
        self.game.close()
        if self.speaker is not None:
            self.speaker.close()
        if self._settings.trace is not None:
            self.trace.save(self._settings.trace)

    def upcoming(self) -> tuple[float, str]:
        """When the game goes on by itself (infinity: not at all), and what happens then."""
        if self._paused:
            return math.inf, ""
        if self.game.ending:
            return self._still_since + RESTART_AFTER, "reset"
        return (self._pace.earliest() if self._keys_changed() else self._pace.deadline), "advance"

    def do(self, job: str) -> None:
        """One of the commands in `worldsim.envs.play.keys.COMMANDS` that concern the game, or "advance"."""
        match job:
            case "advance":
                self._advance()
            case "pause":
                self._pause(not self._paused)
            case "step":
                self._single_step()
            case "reset":
                self._begin(self.game.seed + 1)
            case "save":
                self._moment = self.game.save()
                self._say(f"saved step {self.game.steps} of seed {self.game.seed}")
            case "restore":
                self._restore()
            case "real":
                self._toggle_real()
            case "record":
                self.clips.toggle()
            case "memory":
                self._toggle_memory()
            case "slower" | "faster":
                self._change_speed(job)
            case "mute" | "quieter" | "louder":
                self._change_volume(job)
            case _:
                raise ValueError(f"no command {job!r}")

    def status(self) -> Status:
        """How things stand."""
        game = self.game
        return Status(
            phase="paused" if self._paused else "ended" if game.ending else "playing",
            seed=game.seed,
            steps=game.steps,
            reward=game.reward,
            ending=game.ending,
            ending_chance=game.ending_chance,
            speed=self._speed,
            step_ms=self._step_times.milliseconds(50),
            recording=self.clips.path,
            volume=None if self.speaker is None else self.speaker.volume,
            underruns=0 if self.speaker is None else self.speaker.ring.underruns,
            hit_rate=stats.hit_rate if (stats := game.speculation_stats) is not None and stats.steps else None,
            side_by_side=game.real is not None,
            real_ended=game.real is not None and game.real.ended,
            keys=self._keys if self._script else (),
            message=self._message,
            message_at=self._message_at,
            memory=game.memory,
            plan=self._plan() if game.memory is not None else None,
        )

    def _keys_changed(self) -> bool:
        if self._script:
            return False
        return bool((self._actions.action(self.held.peek()) != self._actions.action(self._keys)).any())

    def _advance(self) -> None:
        """Play one step with the keys of this very moment."""
        start = time.perf_counter()
        if start < self._pace.deadline:
            self.feed.hurry(start, (self._step_times.milliseconds(50) or 0.0) / 1000)
        self._pace.started(start)
        self._keys, pressed_at = self.held.sample()
        if self._script:
            self._keys, pressed_at = self._script.popleft(), None
        if pressed_at is not None and pressed_at < self._playing_since:
            pressed_at = None
        seconds = 1.0 / self.game.spec.steps_per_second
        action = self._action = self._actions.towards(self._action, self._actions.action(self._keys), seconds)
        self.trace.add(action[0])
        views = self.game.step(action)
        finish = time.perf_counter()
        self._step_times.add(finish - start)
        dues = spread(start, finish, self._pace.deadline, len(views))
        presses = [pressed_at] + [None] * (len(views) - 1)
        self.feed.put([QueuedFrame(*shot) for shot in zip(views, dues, presses, strict=True)])
        self.clips.write(views, self.game.sound)
        if self.speaker is not None and self.game.sound is not None:
            self.speaker.play(self.game.sound, self._speed)
            if self.game.ending or self._paused:
                self.speaker.ring.drain()
        if self.game.non_finite:
            self._say("the model made a value that is not finite; its frame cannot be trusted")
        if self.game.ending:
            self._still_since, self._playing_since = finish, math.inf

    def _begin(self, seed: int) -> None:
        self._show_at_once(self.game.start(seed))
        self.trace.begin(seed)

    def _show_at_once(self, view: View) -> None:
        """Show a view that no step made, and let the clock start over."""
        self.feed.replace(QueuedFrame(view, time.perf_counter()))
        self.clips.write([view])
        self._keys = ()
        self._restart_clock()

    def _restart_clock(self) -> None:
        if self.speaker is not None:
            self.speaker.ring.drain()
        now = time.perf_counter()
        self._pace.rebase(now + self._pace.period)
        self._still_since = now
        self._playing_since = math.inf if self._paused or self.game.ending else now

    def _pause(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            self._restart_clock()

    def _single_step(self) -> None:
        self._pause(True)
        if not self.game.ending:
            self._pace.rebase(time.perf_counter())
            self._advance()

    def _restore(self) -> None:
        if self._moment is None:
            self._say("nothing saved yet")
            return
        had_real = self.game.real is not None
        view = self.game.restore(self._moment)
        self.trace.begin(self.game.seed)
        self._say(f"back at step {self.game.steps} of seed {self.game.seed}")
        if had_real and self.game.real is None:
            self.clips.stop()
            self._say("that moment was saved without the real game: back to the dream alone")
        self._show_at_once(view)

    def _open_real(self) -> RealGame:
        if self._settings.open_real is None:
            raise InvalidInput(f"the world {self.game.spec.name!r} names no real game; play the dream alone")
        return self._settings.open_real()

    def _toggle_real(self) -> None:
        """Show the real game, or the dream alone; the episode starts over, both from the same frames."""
        if self.game.real is not None:
            self.game.close_real()
        else:
            try:
                self.game.real = self._open_real()
            except (MissingDependency, InvalidInput) as error:
                self._say(str(error))
                return
        self.clips.stop()  # a clip cannot change its size
        self._begin(self.game.seed)

    def _toggle_memory(self) -> None:
        on = self.game.toggle_memory()
        words = {None: "this world has no memory", True: "memory on", False: "memory off: what is out of sight is lost"}
        self._say(words[on])

    def _plan(self) -> FromAbove | None:
        """What is remembered, from above: anew only now and then, and after what is no step."""
        now = time.perf_counter()
        if now - self._plan_at > PLAN_SECONDS:
            self._plan_at, self._seen = now, self.game.env.from_above()
        return self._seen

    def _change_speed(self, direction: str) -> None:
        if direction == "faster":
            self._speed = min((s for s in SPEEDS if s > self._speed), default=self._speed)
        else:
            self._speed = max((s for s in SPEEDS if s < self._speed), default=self._speed)
        self._pace.rebase(time.perf_counter(), 1.0 / (self.game.spec.steps_per_second * self._speed))

    def _open_speaker(self) -> None:
        from worldsim.envs.play.sound import Speaker  # here: most worlds are silent, and need no device

        try:
            self.speaker = Speaker(self.game.spec)
        except MissingDependency as error:
            self._say(str(error))

    def _change_volume(self, how: str) -> None:
        if self.speaker is None:
            self._say("this world is played without sound")
        elif how == "mute":
            self.speaker.muted = not self.speaker.muted
        else:
            self.speaker.turn(1 if how == "louder" else -1)

    def _say(self, message: str) -> None:
        self._message, self._message_at = message, time.perf_counter()
