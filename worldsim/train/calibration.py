"""Calibrating what a finished world says of endings and rewards on recordings that it did not learn from.

A head is surer of what it was trained on than it is right elsewhere: endings come where it sees none, and those that
it is sure of fail to come. Platt (1999, "Probabilistic outputs for support vector machines") fits a logistic curve to
what a classifier says; here it has a floor and a ceiling, as psychometric curves have (guesses and lapses; Wichmann
and Hill, 2001). Rewards are shrunk to the line of least squares, which never adds to what the head says.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInput
from worldsim.evaluate.data import open_held_out
from worldsim.evaluate.ending_head import outcomes_of_recorded
from worldsim.io.files import write_json
from worldsim.io.folders import find_world
from worldsim.io.weights import WorldFiles, read_world, write_world
from worldsim.models.endings import EndingConfig
from worldsim.models.rewards import RewardConfig
from worldsim.train.export import RECORD, read_records
from worldsim.world import World

LEAST = 1e-7  # probabilities are kept so far from 0 and 1
FEWEST = 10  # endings that say anything
# Where nothing is known: the shift, and the logits of the floor and of the ceiling's share of what is above that.
LIKELY = (0.0, -9.0, 3.0)
WEIGHT = 0.01  # of that, against all that is recorded: so little that only what has no bounds feels it


def fit_endings(probability: np.ndarray, ended: np.ndarray) -> EndingConfig:
    """The curve under which recorded endings are likeliest.

    `probability` (N,) is what the head itself says, from 0 to 1, `ended` (N,) bool whether the ending came.
    Raises InvalidInput for fewer than ten endings, or for as few steps without one.
    """
    if min(ended.sum(), (~ended).sum()) < FEWEST:
        raise InvalidInput(
            f"{ended.sum()} endings in {len(ended)} steps are too few to calibrate by; record {FEWEST} games that "
            "end, or more"
        )
    logit = torch.logit(torch.from_numpy(probability.astype(np.float64)).clamp(LEAST, 1 - LEAST))
    came, prior = torch.from_numpy(ended), torch.tensor(LIKELY, dtype=torch.float64)
    found = prior.clone().requires_grad_()
    solver = torch.optim.LBFGS([found], max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        solver.zero_grad()
        floor, ceiling = _bounds(found)
        chance = floor + (ceiling - floor) * torch.sigmoid(logit + found[0])
        of_all = -torch.where(came, chance.log(), (1 - chance).log()).sum() + WEIGHT * (found - prior).square().sum()
        of_all.backward()
        return of_all

    with torch.enable_grad():
        solver.step(loss)
    floor, ceiling = _bounds(found.detach())
    return EndingConfig(found[0].item(), floor.item(), ceiling.item())


def fit_rewards(said: np.ndarray, paid: np.ndarray) -> RewardConfig:
    """The line from what the head says (N,) to what was paid (N,), of least squares, with a slope of 0 to 1."""
    x, y = said.astype(np.float64), paid.astype(np.float64)
    varies = np.square(x - x.mean()).sum()
    slope = float(((x - x.mean()) * (y - y.mean())).sum() / varies) if varies > 1e-12 * len(x) else 0.0
    slope = min(max(slope, 0.0), 1.0)
    return RewardConfig(slope, float(y.mean() - slope * x.mean()))


def _bounds(found: Tensor) -> tuple[Tensor, Tensor]:
    """Floor and ceiling, of which the second is the higher one whatever is found."""
    floor = torch.sigmoid(found[1])
    return floor, floor + (1 - floor) * torch.sigmoid(found[2])


def calibrate_world(name: str, data: Sequence[Path], out: Path, *, device: str = "auto") -> dict[str, Any]:
    """Write the world `name` with its endings and rewards calibrated; returns what was fitted, which its record keeps.

    Raises InvalidInput, with nothing written, for stores that do not fit the world or hold too few endings.
    """
    folder = find_world(name)
    files = read_world(folder)
    records = read_records(folder / RECORD)
    literal = _with(files, EndingConfig(), RewardConfig())
    world = World(literal, device=device, where=str(folder))
    stores = [open_held_out(path, files.config) for path in data]
    found = [outcomes_of_recorded(world, store) for store in stores]
    probability = np.concatenate([np.zeros(0, np.float32), *(row for one in found for row in one.probability)])
    ended = np.concatenate([np.zeros(0, bool), *(row for one in found for row in one.ended)])
    endings = fit_endings(probability, ended)
    said, paid = (np.concatenate([row for one in found for row in getattr(one, name)]) for name in ("reward", "paid"))
    rewards = fit_rewards(said, paid)
    after = endings.chance(torch.logit(torch.from_numpy(probability), eps=LEAST)).numpy()
    fitted = {
        "steps": len(ended), "endings": int(ended.sum()), **dataclasses.asdict(endings),
        "reward_slope": rewards.slope, "reward_shift": rewards.shift,
        "log_loss_before": _log_loss(probability, ended), "log_loss": _log_loss(after, ended),
    }  # fmt: skip
    write_world(out, _with(files, endings, rewards))
    write_json(out / RECORD, records | {"calibration": fitted}, indent=None)
    return fitted


def _with(files: WorldFiles, endings: EndingConfig, rewards: RewardConfig) -> WorldFiles:
    return dataclasses.replace(files, config=dataclasses.replace(files.config, endings=endings, rewards=rewards))


def _log_loss(probability: np.ndarray, ended: np.ndarray) -> float:
    """Mean over steps, in nats."""
    p = np.clip(probability.astype(np.float64), LEAST, 1 - LEAST)
    return float(-np.where(ended, np.log(p), np.log(1 - p)).mean())
