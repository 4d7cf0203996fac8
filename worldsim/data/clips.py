"""Which rows of the data make a training clip, and how much each of them counts.

A clip is one of four kinds, by chance:

    unseen    chosen for a row after which something comes into sight that no memory knows: most of what a walk shows
              has been seen, and what has not must be made up. How much of a frame that is says nothing of what comes.
    changing  chosen for a row where much of the frame changes: rows in which all of it does are rare, and a rollout
              that errs there is lost. Only what comes after that row is learned from: to learn from what leads up to
              it, in clips chosen because it came, would make it come too often in rollouts.
    event     chosen for a row with a precursor event, which are rare, too. Its rows count the less for being chosen
              more often (importance sampling), so that all of it is learned from and nothing comes too often.
    plain     anywhere; every row of the data is met about equally often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from worldsim.data.latents import LatentEpisodes
from worldsim.errors import check_bounds

STREAM = "stream."  # before the name of a recorded stream in a batch
CONTEXT = "context."  # before what a memory says, in a batch
ALONE = "alone."  # before what belongs to single frames, in a batch: "latents", and streams by their names
AHEAD, EXISTS, OUTCOME = "ahead.actions", "ahead.exists", "ahead.outcome"  # the next actions, in a batch


@dataclass(frozen=True)
class ClipConfig:
    """How often each kind of clip is drawn."""

    changing: float = 0.25  # share of the clips that are chosen for a change
    emphasis: float = 4.0  # a row's chance to be chosen for its change grows with that to this power
    event: float = 0.25  # share of the other clips that are chosen for an event
    unseen: float = 0.0  # share of the clips that are chosen for what no memory has seen before, where there is one

    def __post_init__(self) -> None:
        check_bounds("clips", self, changing=(0, 1), emphasis=(0, 100), event=(0, 1), unseen=(0, 1))


class Clips:
    """Draws clips of `steps` + 1 successive rows of one episode."""

    def __init__(
        self, stores: list[LatentEpisodes], steps: int, config: ClipConfig,
        *, ahead: int = 0, outcomes: Sequence[np.ndarray] = (),
    ) -> None:  # fmt: skip
        """With so many actions `ahead` of every row, and the `outcomes` (T,) of what is done at each row of a store."""
        self.stores, self.steps, self.config = stores, steps, config
        self._ahead, self._outcomes = np.arange(1, ahead + 1), outcomes
        self._rows = np.array([len(s.latents) for s in stores])
        # Running sums, to draw rows by how much changes in them.
        self._changes = [np.cumsum(changes(s) ** config.emphasis) for s in stores]
        self._changed = np.array([running[-1] for running in self._changes])
        self._events = [np.flatnonzero(s.event) for s in stores]
        self._event_counts = np.array([len(rows) for rows in self._events])
        self._unseen = [np.cumsum(unseen(s)) for s in stores] if config.unseen else []
        self._unseen_sums = np.array([running[-1] for running in self._unseen])
        self._unseen_share = config.unseen if self._unseen_sums.any() else 0.0
        self._event_share = config.event if self._event_counts.any() else 0.0
        self._weights = [self._count(store, events) for store, events in zip(stores, self._events, strict=True)]

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """What the stores hold of a clip, and of each row whether to learn from it (`valid`) and its `weight`."""
        if self._unseen_share and rng.random() < self._unseen_share:
            number = _pick(self._unseen_sums, rng)
            row = _weighted(self._unseen[number], rng)
            return self._clip(number, row, row - self.steps + 1, row + 1, rng)
        changing = rng.random() < self.config.changing
        event = not changing and rng.random() < self._event_share
        number = _pick(self._changed if changing else self._event_counts if event else self._rows, rng)
        row = self._row(number, rng, changing=changing, event=event)
        if changing or event:
            low, high = row - (self.steps // 2 if changing else self.steps), row
            return self._clip(number, row, low, high, rng, after=row if changing else None)
        first, end = self._episode(number, row)
        return self._clip(number, row, first - self.steps + 1, end - 1, rng)

    def _episode(self, number: int, row: int) -> tuple[int, int]:
        """The first row of a row's episode and the one after its last."""
        ends = self.stores[number].ends
        episode = int(np.searchsorted(ends, row, side="right"))
        return int(ends[episode - 1]) if episode else 0, int(ends[episode])

    def _clip(
        self, number: int, row: int, low: int, high: int, rng: np.random.Generator, *, after: int | None = None
    ) -> dict[str, np.ndarray]:
        """A clip of the episode of `row` that starts from `low` to before `high`, moved into the episode.

        With `after` only what comes after that row is learned from, and counts in full.
        """
        store, (first, end) = self.stores[number], self._episode(number, row)
        start = int(np.clip(rng.integers(low, high), first, max(first, end - 1 - self.steps)))
        clip = np.arange(start, start + self.steps + 1)
        rows = np.minimum(clip, end - 1)  # a short episode repeats its last row
        return {
            "latents": store.latents[rows], "actions": store.actions[rows], "rewards": store.rewards[rows],
            "terminated": store.terminated[rows], "event": store.event[rows], "ages": rows - first,
            "valid": (clip < end) & (clip > after if after is not None else True),
            "weight": np.ones(len(rows), np.float32) if after is not None else self._weights[number][rows],
            **{f"{STREAM}{name}": values[rows] for name, values in store.streams.items()},
            **{f"{CONTEXT}{name}": values[rows] for name, values in store.contexts.items()},
            **(self._actions_ahead(number, rows, end) if len(self._ahead) else {}),
        }  # fmt: skip

    def _actions_ahead(self, number: int, rows: np.ndarray, end: int) -> dict[str, np.ndarray]:
        """The next K actions after each row (T, K, A), whether they are in the episode (T, K), and their outcome (T,).

        An episode's last action stands for those that are not.
        """
        led = rows[:, None] + self._ahead  # the rows that the actions led to
        actions = self.stores[number].actions[np.minimum(led, end - 1)]
        return {AHEAD: actions, EXISTS: led < end, OUTCOME: self._outcomes[number][rows]}

    def draw_frames(self, count: int, rng: np.random.Generator, streams: Sequence[str]) -> dict[str, np.ndarray]:
        """Single frames from anywhere: `latents` (count, C, h, w) and the values of streams, (count, ...) by name."""
        picks = [(number := _pick(self._rows, rng), int(rng.integers(self._rows[number]))) for _ in range(count)]
        frames = {"latents": np.stack([self.stores[number].latents[row, 0] for number, row in picks])}
        for name in streams:
            frames[name] = np.stack([self.stores[number].streams[name][row] for number, row in picks])
        return frames

    def _row(self, number: int, rng: np.random.Generator, *, changing: bool, event: bool) -> int:
        """The row of a store that a clip is chosen for; of a plain one, any row of its episode."""
        if changing:
            return _weighted(self._changes[number], rng)
        return int(rng.choice(self._events[number])) if event else int(rng.integers(self._rows[number]))

    def _count(self, store: LatentEpisodes, events: np.ndarray) -> np.ndarray:
        """What each row counts in clips that are not chosen for a change, (T,) float32.

        The chance that a plain clip shows it over the chance that one of either kind does.
        """
        lengths = np.diff(store.ends, prepend=0)
        ways = lengths + self.steps - 2  # to draw a start in each episode
        episodes = np.repeat(np.arange(len(lengths)), ways)
        nth = np.arange(len(episodes)) - np.repeat(np.cumsum(ways) - ways, ways)
        starts = (store.ends - lengths)[episodes] - self.steps + 1 + nth
        plain = self._shown(store, episodes, starts, (lengths / ways)[episodes] / self._rows.sum())
        episodes = np.repeat(np.searchsorted(store.ends, events, side="right"), self.steps)
        starts = (events[:, None] - np.arange(1, self.steps + 1)).ravel()
        chance = 1 / (self.steps * max(self._event_counts.sum(), 1))
        either = (1 - self._event_share) * plain
        either += self._event_share * self._shown(store, episodes, starts, np.full(len(starts), chance))
        return np.divide(plain, either, out=np.ones_like(plain), where=either > 0).astype(np.float32)

    def _shown(self, store: LatentEpisodes, episodes: np.ndarray, starts: np.ndarray, chance: np.ndarray) -> np.ndarray:
        """The chance that a clip shows each row after its first, (T,), if it starts at each of `starts` with `chance`.

        Starts outside of their episode are moved into it, as `draw` does.
        """
        first = np.concatenate([[0], store.ends])[episodes]
        start = np.clip(starts, first, np.maximum(first, store.ends[episodes] - 1 - self.steps))
        change = np.zeros(len(store.latents) + 1)
        np.add.at(change, np.minimum(start + 1, store.ends[episodes]), chance)
        np.add.at(change, np.minimum(start + self.steps + 1, store.ends[episodes]), -chance)
        return np.maximum(np.cumsum(change)[:-1], 0)


def _pick(sizes: np.ndarray, rng: np.random.Generator) -> int:
    """An index, as likely as its size."""
    return int(rng.choice(len(sizes), p=sizes / sizes.sum()))


def _weighted(running: np.ndarray, rng: np.random.Generator) -> int:
    """An index, as likely as it adds to running sums."""
    return int(np.searchsorted(running, rng.random() * running[-1]))


def unseen(store: LatentEpisodes) -> np.ndarray:
    """The share of the next frame that no memory's guide knows, (T,) float64; 0 where no memory has a mask."""
    masks = [values for name, values in store.contexts.items() if name.endswith(".mask")]
    share = np.zeros(len(store.latents))
    for start in range(0, len(share) if masks else 0, 2000):
        known = [values[start : start + 2000].astype(np.float32) for values in masks]
        share[start : start + 2000] = 1 - np.max(known, axis=0).mean((1, 2, 3))
    share[store.ends - 1] = 0
    return share


def change_scale(stores: list[LatentEpisodes]) -> float:
    """How much a place changes from row to row where something changes: mean square over channels, latents' units.

    The mean over all places, each counted as much as it changes, so that a background that stands still has no say.
    1 where nothing ever changes.
    """
    total = squares = 0.0
    for store in stores:
        begins = np.concatenate([[0], store.ends[:-1]])
        for start in range(1, len(store.latents), 2000):
            latents = store.latents[start - 1 : start + 2000, 0].astype(np.float32)  # (rows + 1, C, h, w)
            change = np.square(np.diff(latents, axis=0)).mean(1, dtype=np.float64)
            change[np.isin(np.arange(start, start + len(change)), begins)] = 0
            total, squares = total + float(change.sum()), squares + float(np.square(change).sum())
    return squares / total if total > 0 else 1.0


def changes(store: LatentEpisodes) -> np.ndarray:
    """Mean square change of the latents from the row before, (T,) float64; 0 for the first row of an episode.

    A sequence that never changes gets equal chances.
    """
    change = np.zeros(len(store.latents))
    for start in range(1, len(change), 2000):
        rows = store.latents[start - 1 : start + 2000, 0].astype(np.float32)
        change[start : start + 2000] = np.square(np.diff(rows, axis=0)).mean((1, 2, 3))
    change[np.concatenate([[0], store.ends[:-1]])] = 0
    return change if change.any() else np.ones_like(change)
