"""What the keys do: the world's actions and the window's commands, as pygame names them ("left", "f1")."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from worldsim.errors import InvalidInput
from worldsim.spec import ActionSpec


@dataclass(frozen=True)
class Command:
    """Something the window does at a key press."""

    name: str
    keys: tuple[str, ...]  # any of them; those that a world's actions use are left to the actions
    text: str  # its line in the key table


COMMANDS = (
    Command("pause", ("p", "space", "break"), "pause and go on"),
    Command("step", ("n", ".", "insert"), "one step, then pause"),
    Command("reset", ("r", "return", "backspace"), "new episode, next seed"),
    Command("save", ("f5",), "save this moment"),
    Command("restore", ("f9",), "return to the saved moment"),
    Command("real", ("tab",), "real game beside the dream"),
    Command("record", ("f6",), "record a clip (mp4), on or off"),
    Command("memory", ("m", "f7"), "memory on or off, where the world has one"),
    Command("slower", ("-", "f3"), "slower"),
    Command("faster", ("+", "=", "f4"), "faster"),
    Command("mute", ("v", "f8"), "sound on or off"),
    Command("quieter", ("[", "f10"), "quieter"),
    Command("louder", ("]", "f12"), "louder"),
    Command("keys", ("f1",), "this table"),
    Command("panel", ("f2",), "side panel, on or off"),
    Command("fullscreen", ("f11",), "full screen, on or off"),
    Command("quit", ("escape",), "quit"),
)

# Where a continuous world names no keys, the i-th pair moves dimension i to its low and to its high end.
TURN_SECONDS = 0.4  # that a held key takes from one end of a dimension to the other; letting go is twice as fast
CONTINUOUS_PAIRS = (("left", "right"), ("down", "up"), ("a", "d"), ("s", "w"), ("q", "e"), ("z", "x"))


class ActionKeys:
    """The keys of a world's actions: which are there, and which action the held ones mean."""

    def __init__(self, spec: ActionSpec) -> None:
        self._spec = spec
        if not spec.discrete:
            self._sets = spec.keys or CONTINUOUS_PAIRS[: len(spec.low)]
            if spec.keys and [len(pair) for pair in spec.keys] != [2] * len(spec.low):
                raise InvalidInput(
                    f"the world names keys {spec.keys} for {len(spec.low)} numbers of an action; give a pair for each, "
                    "that which lowers it and that which raises it, '' for none"
                )
            self.names = tuple(dict.fromkeys(key for pair in self._sets for key in pair if key))
            return
        if spec.keys and len(spec.keys) != spec.n:
            raise InvalidInput(
                f"the world names keys for {len(spec.keys)} of {spec.n} actions; give one tuple an action"
            )
        # A world that names no keys is played with the digits; holding none means its first action.
        self._sets = spec.keys or ((), *((str(i),) for i in range(1, min(spec.n, 10))))
        self.names = tuple(dict.fromkeys(key for keys in self._sets for key in keys))

    def action(self, held: Sequence[str]) -> np.ndarray:
        """The action (1,) or (1, A) for the held keys, in the order they were pressed.

        The action with the most of its keys held wins, then the one whose key was pressed last.
        """
        if not self._spec.discrete:
            return self._continuous(held)
        order = {key: i for i, key in enumerate(held)}
        best, best_rank = 0, (-1, -1)
        for index, keys in enumerate(self._sets):
            if all(key in order for key in keys):
                rank = (len(keys), max((order[key] for key in keys), default=-1))
                if rank > best_rank:
                    best, best_rank = index, rank
        return np.array([self._spec.start + best], np.int64)

    def _continuous(self, held: Sequence[str]) -> np.ndarray:
        low, high = np.array(self._spec.low, np.float32), np.array(self._spec.high, np.float32)
        value = self._spec.rest
        for i, (down, up) in enumerate(self._sets):
            if (down in held) != (up in held):
                value[i] = low[i] if down in held else high[i]
        return value[None]

    def towards(self, last: np.ndarray | None, action: np.ndarray, seconds: float) -> np.ndarray:
        """The action (1,) or (1, A) after `last` on the way to `action`, which a step of `seconds` can reach.

        Keys are down or up, but wheels and pedals turn: a box of floats is moved through in `TURN_SECONDS`, and back to
        rest twice as fast. Other actions are there at once, as is the first one (`last` is None).
        """
        if last is None or self._spec.dtype != "float32":
            return action
        room = np.array(self._spec.high, np.float32) - np.array(self._spec.low, np.float32)
        most = room * np.float32(seconds / TURN_SECONDS) * np.where(action == self._continuous(()), 2, 1)
        return np.clip(action, last - most, last + most).astype(np.float32)

    def table(self) -> list[tuple[tuple[str, ...], str]]:
        """(keys held together, what that does) for every action that has keys."""
        if not self._spec.discrete:
            sides = [
                tuple((key, side) for key, side in zip(pair, ("down", "up"), strict=True) if key) for pair in self._sets
            ]
            return [
                (tuple(key for key, _ in keys), f"action {i}: {', '.join(side for _, side in keys)}")
                for i, keys in enumerate(sides)
                if keys
            ]
        meanings = self._spec.meanings or tuple(f"action {i}" for i in range(self._spec.n))
        rows = zip(self._sets, meanings, strict=False)
        return [(keys, meaning.replace("_", " ").lower()) for keys, meaning in rows if keys]


def bind_commands(actions: ActionKeys) -> dict[str, tuple[str, ...]]:
    """The keys of every command, less those that the world's actions need."""
    bound = {c.name: tuple(key for key in c.keys if key not in actions.names) for c in COMMANDS}
    for command in COMMANDS:
        if not bound[command.name]:
            raise InvalidInput(
                f"the world's actions use every key of the window's command {command.name!r} "
                f"({', '.join(command.keys)}); give those actions other keys in the world's config"
            )
    return bound


class HeldKeys:
    """The action keys that are down, shared by the thread that sees them and the thread that samples them.

    A key that was tapped between two samples counts as held in the next one, so that no press is lost.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._keys: dict[str, bool] = {}  # in order of pressing; False: released before any sample saw it
        self._unseen: dict[str, float] = {}  # presses that no sample saw yet, and when they were made

    def press(self, key: str, now: float) -> None:
        """A key went down at time `now`."""
        with self._lock:
            self._keys.pop(key, None)
            self._keys[key] = True
            self._unseen.setdefault(key, now)

    def release(self, key: str) -> None:
        """A key went up."""
        with self._lock:
            if key in self._unseen:
                self._keys[key] = False
            else:
                self._keys.pop(key, None)

    def peek(self) -> tuple[str, ...]:
        """The keys that a sample taken now would give, in the order they were pressed."""
        with self._lock:
            return tuple(self._keys)

    def sample(self) -> tuple[tuple[str, ...], float | None]:
        """The keys for a step that starts now, and when the oldest press that no step saw yet was made."""
        with self._lock:
            keys, pressed_at = tuple(self._keys), min(self._unseen.values(), default=None)
            self._keys = {key: True for key, down in self._keys.items() if down}
            self._unseen.clear()
            return keys, pressed_at


def parse_script(text: str, allowed: Iterable[str]) -> list[tuple[str, ...]]:
    """Scripted keys, one tuple a step: `left*20 noop*10 left+up`, left for 20, nothing for 10, both for 1.

    Raises InvalidInput for a word of another form and for a key that is not in `allowed`.
    """
    names = set(allowed)
    steps: list[tuple[str, ...]] = []
    for word in text.split():
        match = re.fullmatch(r"(?P<keys>[^*]+?)(\*(?P<count>[1-9]\d*))?", word)
        if match is None:
            raise InvalidInput(f"script word {word!r} is not KEYS or KEYS*STEPS; write it like left*20 or left+up*5")
        keys = () if match["keys"] == "noop" else tuple(match["keys"].split("+"))
        unknown = [key for key in keys if key not in names]
        if unknown:
            known = ", ".join(["noop", *sorted(names)])
            raise InvalidInput(f"script word {word!r} names the key {unknown[0]!r}; this world's keys are {known}")
        steps += [keys] * int(match["count"] or 1)
    return steps
