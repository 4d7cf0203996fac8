"""`worldsim eval`: measures a world against episodes it was not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import tyro

from worldsim.cli.output import say
from worldsim.errors import InvalidInput
from worldsim.evaluate.data import open_held_out
from worldsim.evaluate.effort import QUICK, Effort
from worldsim.evaluate.metrics import require_libraries
from worldsim.evaluate.plots import require_matplotlib, save_plots
from worldsim.evaluate.probes import find_probes
from worldsim.evaluate.sheets import save_sheets
from worldsim.evaluate.study import Stores, Study, run_study
from worldsim.evaluate.table import format_report, save_json
from worldsim.io.weights import find_world
from worldsim.world import World

if TYPE_CHECKING:
    from worldsim.config import WorldConfig
    from worldsim.evaluate.endings import DrawActions

BLIND_POLICIES = ("random", "persistent", "sweep")  # data policies that do not look at the frames
DRIFT_POLICY = "persistent"


def evaluate(
    world: Annotated[str, tyro.conf.Positional],
    /,
    data: Path,
    random_data: Path | None = None,
    probe_data: Path | None = None,
    json: Path | None = None,
    out: Path | None = None,
    quick: bool = False,
    trust_probes: bool = False,
    device: str = "auto",
) -> None:
    """Measure a world against episodes it was not trained on; every draw is fixed, so are the figures.

    How often episodes end depends on who plays. A policy that does not look at the frames, such as persistent,
    can play the dreams too; actions of any other are replayed, which favours the real episodes.

    Episodes that are too short for the longest horizons are measured at the others, as the report says.

    Args:
        world: name of a shipped world, folder, or hub id.
        data: episodes that the world was not trained on.
        random_data: more, recorded with --policy persistent, for endings and the world's own probes
            (default: data).
        probe_data: episodes to train the action probe on (default: half of the episodes of data).
        json: write the figures here.
        out: write report.json, contact sheets and plots into this folder.
        quick: measure very little, to see whether all of it runs.
        trust_probes: run the probes in the world's folder, which are code; those of worlds that ship always run.
        device: auto, cpu or cuda.
    """
    if out is not None:
        require_matplotlib()
        _make_folder(out)
    if json is not None:
        _make_folder(json.parent)
    require_libraries()
    folder = find_world(world)
    loaded = World.from_pretrained(folder, device=device)
    config = loaded.config
    found = find_probes(folder, config, trust=trust_probes)
    if found.untrusted is not None:
        say(f"{found.untrusted} is not run, since it is code; if you trust it, add --trust-probes")
    stores = Stores(
        open_held_out(data, config),
        None if random_data is None else open_held_out(random_data, config),
        None if probe_data is None else open_held_out(probe_data, config),
    )
    policy = (stores.random or stores.held_out).meta.policy
    if stores.random is not None and policy not in BLIND_POLICIES:
        raise InvalidInput(
            f"--random-data {random_data} was recorded with --policy {policy}, which looks at the frames; "
            f"record it with one of {', '.join(BLIND_POLICIES)}"
        )
    effort = QUICK if quick else Effort()
    fresh = policy_actions(policy, config) if policy in BLIND_POLICIES else None
    study = run_study(loaded, stores, policy_actions(DRIFT_POLICY, config), fresh, effort, found.probes)
    report = {
        "world": config.name,
        "data": str(data),
        "random_data": None if random_data is None else str(random_data),
        "device": str(loaded.device),
        "dtype": str(loaded.dtype).removeprefix("torch."),
        "quick": quick,
        **study.report,
    }
    say(format_report(report, [result.text for result in study.probes.values() if result.text]))
    if json is not None:
        save_json(json, report)
    if out is not None:
        save_json(out / "report.json", report)
        save_sheets(study, out)
        save_plots(study, out)
        print(f"\nwrote report.json, contact sheets and plots to {out}")


def study_of(world: Path, data: Path, probe_data: Path, effort: Effort, device: str) -> Study:
    """Measure the world in a folder against one store of held-out episodes; its actions are replayed.

    The action probe learns from `probe_data`, which may be what the world was trained on.
    """
    loaded = World.from_pretrained(world, device=device)
    stores = Stores(open_held_out(data, loaded.config), probe=open_held_out(probe_data, loaded.config))
    probes = find_probes(world, loaded.config).probes
    return run_study(loaded, stores, policy_actions(DRIFT_POLICY, loaded.config), None, effort, probes)


def policy_actions(policy: str, config: WorldConfig) -> DrawActions:
    """Draws actions of a data policy that does not look: (rows, steps, seed) -> (rows, steps, ...)."""
    from worldsim.envs.sources.base import SourceSpec, TimeStep
    from worldsim.policies.data import make_policy

    size = (config.tokenizer.height, config.tokenizer.width)
    player = make_policy(policy, SourceSpec(config.source.name, *size, config.actions, config.source.fps))
    unseen = TimeStep(rgb=np.zeros((*size, 3), np.uint8))

    def draw(rows: int, steps: int, seed: int) -> np.ndarray:
        taken = []
        for row in range(rows):
            player.reset(np.random.default_rng([seed, row]))
            taken.append(np.stack([player.act(unseen) for _ in range(steps)]))
        return np.stack(taken)

    return draw


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"cannot write to {str(folder)!r} ({error}); give a folder to write in") from error
