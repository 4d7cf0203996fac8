"""Episodes of a robot policy, in a learned world and in the real simulator, from the same starts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from worldsim.envs.sources.base import Source, TimeStep
from worldsim.errors import InvalidInput
from worldsim.policies.robot.protocol import SUCCESS, TASK, MakePolicy, RobotPolicy, chosen, make_batch, sees_frames
from worldsim.spec import WorldSpec
from worldsim.world import World

AFTER = 2  # steps that a real episode goes on after its success, so that its actions say what led there
ROWS = 64  # episodes of a dream at a time


@dataclass(frozen=True)
class Starts:
    """Where N episodes of one task begin."""

    task: str  # its name; empty in a world without tasks
    seeds: tuple[int, ...]
    frames: np.ndarray | None = None  # (N, H, W, 3) uint8 of the real simulator; None: the world's own starts
    streams: dict[str, np.ndarray] = field(default_factory=dict)  # (N, ...), what its sensors gave with them

    def rows(self, first: int, stop: int) -> Starts:
        """Some of them."""
        rows = slice(first, stop)
        frames = None if self.frames is None else self.frames[rows]
        return Starts(self.task, self.seeds[rows], frames, {n: v[rows] for n, v in self.streams.items()})


@dataclass(frozen=True)
class Episodes:
    """What became of N episodes of one policy and task."""

    success: np.ndarray  # (N,) bool, whether the task was done at any step
    steps: np.ndarray  # (N,) int64, steps until then, or all of them
    actions: tuple[np.ndarray, ...] = ()  # N of (steps taken, A)


def check_world(world: World) -> None:
    """Raise InvalidInput for a world that cannot say whether a task is done."""
    if SUCCESS not in world.spec.streams or world.spec.actions.discrete:
        raise InvalidInput(
            f"world {world.spec.name!r} has no stream {SUCCESS!r}, or discrete actions; a robot's world is trained "
            f"with --streams … {SUCCESS} on recordings that have it (`worldsim record metaworld`)"
        )


def tasks_of(spec: WorldSpec) -> tuple[str, ...]:
    """The names of a world's tasks; one without a name where it has none."""
    return spec.streams[TASK].names if TASK in spec.streams else ("",)


def choose_task(source: Source, task: str) -> None:
    """Let a source play a task from its next reset on; raises InvalidInput for one that has none to choose."""
    if not task:
        return
    choose = getattr(source, "choose_task", None)
    if choose is None:
        raise InvalidInput(f"source {source.spec.name!r} has no method choose_task(name), so no {task!r}; add one")
    choose(task)


def real_starts(source: Source, task: str, seeds: Sequence[int]) -> Starts:
    """How the real simulator's episodes of these seeds begin."""
    choose_task(source, task)
    rows = [source.reset(seed) for seed in seeds]
    streams = {name: np.stack([np.asarray(row.extras[name]) for row in rows]) for name in rows[0].extras}
    return Starts(task, tuple(seeds), np.stack([row.rgb for row in rows]), streams)


def own_starts(world: World, task: str, count: int, seed: int) -> Starts:
    """`count` seeds from `seed` on with which the world begins an episode of that task by itself."""
    wanted, seeds = tasks_of(world.spec).index(task), []
    for candidate in range(seed, seed + 1000 * count):
        streams = world.streams(world.reset([candidate]))
        if TASK not in streams or int(streams[TASK][0]) == wanted:
            seeds.append(candidate)
        if len(seeds) == count:
            return Starts(task, tuple(seeds))
    raise InvalidInput(f"world {world.spec.name!r} has no recorded start of task {task!r}; give --real")


def seeded(policy: RobotPolicy, seeds: Sequence[int]) -> RobotPolicy:
    """The policy at the beginning of episodes with these seeds."""
    if callable(seed := getattr(policy, "seed", None)):
        seed(seeds)
    policy.reset()
    return policy


@torch.no_grad()
def dream_episodes(world: World, make: MakePolicy, starts: Starts, steps: int) -> Episodes:
    """Play a policy from these starts in the world, all episodes of a batch in step."""

    def play(policy: RobotPolicy, part: Starts) -> Callable[[int, Any], np.ndarray]:
        looks = sees_frames(policy)

        def act(t: int, state: Any) -> np.ndarray:
            frames = world.render(state) if looks else None
            tasks = [part.task] * len(part.seeds)
            return chosen(policy, make_batch(world.spec, frames, world.streams(state), tasks), world.spec)

        return act

    return _dream(world, starts, steps, lambda part: play(seeded(make(), part.seeds), part))


@torch.no_grad()
def dream_replays(world: World, starts: Starts, actions: Sequence[np.ndarray]) -> Episodes:
    """Play recorded actions, N of (T, A), from these starts in the world; an episode is over where its actions are."""
    longest = max(len(one) for one in actions)
    padded = np.stack([np.concatenate([one, np.repeat(one[-1:], longest - len(one), 0)]) for one in actions])
    lengths, rows = np.array([len(one) for one in actions]), iter(range(0, len(actions), ROWS))

    def play(part: Starts) -> Callable[[int, Any], np.ndarray]:
        first = next(rows)
        return lambda t, state: padded[first : first + len(part.seeds), t]

    played = _dream(world, starts, longest, play)
    return Episodes(played.success & (played.steps <= lengths), np.minimum(played.steps, lengths), tuple(actions))


def _dream(
    world: World, starts: Starts, steps: int, play: Callable[[Starts], Callable[[int, Any], np.ndarray]]
) -> Episodes:
    """Episodes whose actions (B, A) at a step `play` gives for each part of the starts, from the state before it."""
    success, first, taken = [], [], []  # type: list[np.ndarray], list[np.ndarray], list[np.ndarray]
    with torch.random.fork_rng(devices=[]):
        for start in range(0, len(starts.seeds), ROWS):
            part = starts.rows(start, start + ROWS)
            torch.manual_seed(part.seeds[0])  # for policies that draw from torch's generator
            act, state = play(part), begin(world, part)
            done, actions = np.full(len(part.seeds), steps + 1), []
            for t in range(steps):
                actions.append(act(t, state))
                state, _ = world.step(state, actions[-1], decode="none")
                now = world.streams(state)[SUCCESS].astype(bool)
                done = np.where(now, np.minimum(done, t + 1), done)
                if (done <= steps).all():
                    break
            success.append(done <= steps)
            first.append(np.minimum(done, steps))
            taken += [one[:n] for one, n in zip(np.stack(actions, axis=1), first[-1], strict=True)]  # (B, T, A)
    return Episodes(np.concatenate(success), np.concatenate(first), tuple(taken))


def begin(world: World, starts: Starts) -> Any:
    """The world's state at these starts."""
    if starts.frames is None:
        return world.reset(list(starts.seeds))
    streams = {name: values[:, None] for name, values in starts.streams.items() if name in world.spec.streams}
    return world.reset(list(starts.seeds), frames=starts.frames[:, None], streams=streams)


@torch.no_grad()
def real_episodes(
    source: Source, spec: WorldSpec, make: MakePolicy, task: str, seeds: Sequence[int], steps: int
) -> Episodes:
    """Play a policy in the real simulator, one episode after the other."""
    choose_task(source, task)
    policy, success, taken, played = make(), [], [], []
    with torch.random.fork_rng(devices=[]):
        for seed in seeds:
            torch.manual_seed(seed)
            seeded(policy, [seed])
            row, done = source.reset(seed), 0
            actions: list[np.ndarray] = []
            while not row.done and len(actions) < steps and not (done and len(actions) >= done + AFTER):
                actions.append(_act(policy, row, spec, task))
                row = source.step(actions[-1])
                if not done and bool(row.extras[SUCCESS]):
                    done = len(actions)
            success.append(done > 0)
            taken.append(done or len(actions))
            played.append(np.stack(actions))
    return Episodes(np.array(success), np.array(taken), tuple(played))


def _act(policy: RobotPolicy, row: TimeStep, spec: WorldSpec, task: str) -> np.ndarray:
    streams = {name: np.asarray(row.extras[name])[None] for name in spec.streams}
    frames = row.rgb[None] if sees_frames(policy) else None
    action: np.ndarray = chosen(policy, make_batch(spec, frames, streams, [task]), spec)[0]
    return action
