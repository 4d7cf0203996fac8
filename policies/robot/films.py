"""Videos of episodes that end differently in the dream and in the real simulator, side by side."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from worldsim.envs.sources.base import Source
from worldsim.io.media import contact_sheet, save_video
from worldsim.policies.robot.evaluation import Verdict
from worldsim.policies.robot.protocol import SUCCESS
from worldsim.policies.robot.rollouts import begin, real_starts
from worldsim.world import World

DONE = (40, 200, 80)  # colour of the edge of an episode whose task is done
SCALE = 4


def film_disagreements(
    world: World, source: Source, verdicts: Sequence[Verdict], out: Path, *, first_seed: int, most: int
) -> list[Path]:
    """Write a video of each of the first `most` episodes of every verdict that only one of both places calls done.

    The real one is on the left, the dreamed one on the right, each with the actions that the policy chose there, which
    are played again; an edge turns green where the task is done. `first_seed` is that of the first episode. Returns
    the paths, `POLICY-TASK-EPISODE.mp4` in the folder `out`, which is made where there is something to show.
    """
    paths = []
    for verdict in verdicts:
        if verdict.real is None:
            continue
        for episode in np.flatnonzero(verdict.dream.success != verdict.real.success)[:most].tolist():
            name = "-".join(part for part in (verdict.policy, verdict.task, str(episode)) if part)
            path = out / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', name)}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            images = _side_by_side(world, source, verdict, episode, first_seed + episode)
            save_video(path, images, world.spec.steps_per_second, scale=SCALE)
            paths.append(path)
    return paths


def _side_by_side(world: World, source: Source, verdict: Verdict, episode: int, seed: int) -> Iterator[np.ndarray]:
    """Frames of one episode in both places, (H, 2 W, 3) with some space between; the shorter one waits at its end."""
    both = _real(source, verdict, episode, seed), _dreamed(world, source, verdict, episode, seed)
    longest = max(map(len, both))
    real, dreamed = (frames + frames[-1:] * (longest - len(frames)) for frames in both)
    for pair in zip(real, dreamed, strict=True):
        yield contact_sheet([np.stack(pair)], scale=1)


def _real(source: Source, verdict: Verdict, episode: int, seed: int) -> list[np.ndarray]:
    assert verdict.real is not None
    real_starts(source, verdict.task, [seed])
    frames, done = [source.render()], False
    for action in verdict.real.actions[episode]:
        row = source.step(action)
        done = done or bool(row.extras[SUCCESS])
        frames.append(_edged(row.rgb, done))
    return frames


@torch.no_grad()
def _dreamed(world: World, source: Source, verdict: Verdict, episode: int, seed: int) -> list[np.ndarray]:
    state = begin(world, real_starts(source, verdict.task, [seed]))
    frames, done = [world.render(state)[0]], False
    for action in verdict.dream.actions[episode]:
        state, step = world.step(state, action[None], decode="frame")
        done = done or bool(world.streams(state)[SUCCESS][0])
        frames.append(_edged(step.frame[0], done))
    return frames


def _edged(frame: np.ndarray, done: bool) -> np.ndarray:
    if not done:
        return frame
    edged = frame.copy()
    edged[[0, -1]] = DONE
    edged[:, [0, -1]] = DONE
    return edged
