"""`worldsim eval`: measures a world against episodes it was not trained on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import tyro
from tqdm import tqdm

from worldsim.cli.output import say
from worldsim.errors import InvalidInput
from worldsim.evaluate.data import open_held_out
from worldsim.evaluate.effort import QUICK, Effort
from worldsim.evaluate.metrics import require_libraries
from worldsim.evaluate.plots import require_matplotlib, save_plots
from worldsim.evaluate.probes import Probe, find_probes
from worldsim.evaluate.revisits import Returns, format_returns, measure_returns
from worldsim.evaluate.sheets import save_sheets
from worldsim.evaluate.study import Measuring, Stores, Study, gather
from worldsim.evaluate.table import format_report
from worldsim.io.files import write_json
from worldsim.io.folders import find_world
from worldsim.io.media import contact_sheet, save_image
from worldsim.policies.rollouts import Workers, make_rollouts, one_thread
from worldsim.world import World

if TYPE_CHECKING:
    from worldsim.config import WorldConfig
    from worldsim.data.episodes import Episodes
    from worldsim.evaluate.endings import DrawActions

BLIND_POLICIES = ("random", "persistent", "sweep")  # data policies that do not look at the frames
DRIFT_POLICY = "persistent"
PATIENCE = 3600.0  # seconds: a part of a study gives no sign of life before it is over


@dataclass(frozen=True)
class EvalOptions:
    """What is measured, with which data, and what is written."""

    world: Annotated[str, tyro.conf.Positional]  # name of a shipped world, folder, or hub id
    data: Path  # episodes that the world was not trained on
    # more, recorded with --policy persistent, for endings and the world's own probes; by default those of data
    random_data: Path | None = None
    probe_data: Path | None = None  # episodes to train the action probe on; by default half of those of data
    json: Path | None = None  # write the figures here
    out: Path | None = None  # write report.json, contact sheets and plots into this folder
    quick: bool = False  # measure very little, to see whether all of it runs
    revisit: bool = False  # measure returns to places instead: memory on and off, true and own pose
    gaps: tuple[int, ...] = Returns().gaps  # with --revisit: steps after which a way comes back
    ways: int = Returns().clips  # with --revisit: ways of each gap
    kinds: bool = False  # with --revisit: each of several memories alone, too
    trust_probes: bool = False  # run the probes in the world's folder, which are code; shipped worlds' always run
    device: str = "auto"  # auto, cpu or cuda
    workers: Annotated[Workers, tyro.conf.arg(name="")] = field(default_factory=lambda: Workers(patience=PATIENCE))

    def __post_init__(self) -> None:
        if self.revisit and self.workers != Workers(patience=self.workers.patience):
            raise InvalidInput("returns to places are measured in one process; leave out --workers and --ray")

    def make_folders(self) -> None:
        """Make what is written to; raises InvalidInput, or MissingDependency for what draws the plots."""
        if self.out is not None:
            require_matplotlib()
            _make_folder(self.out)
        if self.json is not None:
            _make_folder(self.json.parent)


def evaluate(options: Annotated[EvalOptions, tyro.conf.arg(name="")]) -> None:
    """Measure a world against episodes it was not trained on; every draw is fixed, so are the figures.

    How often episodes end depends on who plays. A policy that does not look at the frames, such as persistent,
    can play the dreams too; actions of any other are replayed, which favours the real episodes.

    Episodes that are too short for the longest horizons are measured at the others, as the report says.
    """
    options.make_folders()
    require_libraries()
    folder = find_world(options.world)
    world = World.from_pretrained(folder, device=options.device)
    config = world.config
    probes = find_probes(folder, config, trust=options.trust_probes)
    if probes.untrusted is not None:
        say(f"{probes.untrusted} is not run, since it is code; if you trust it, add --trust-probes")
    stores = _open_stores(options, config)
    policy = (stores.random or stores.held_out).meta.policy
    fresh = policy_actions(policy, config) if policy in BLIND_POLICIES else None
    effort = QUICK if options.quick else Effort()
    if options.revisit:
        _revisit(world, stores.held_out, options)
        return
    job = Measuring(
        world, stores, policy_actions(DRIFT_POLICY, config), fresh, effort,
        probes=partial(the_probes, folder, config, options.trust_probes),
    )  # fmt: skip
    study = run_study(job, options.workers)
    _write(study, {**_header(options, world), **study.report}, options)


def run_study(job: Measuring, workers: Workers) -> Study:
    """Measure everything, with these workers; raises InvalidInput before it begins where the stores hold too little."""
    measurer = job.open()
    with one_thread(workers), make_rollouts(job, workers, opened=measurer) as rollouts:
        parts = tqdm(rollouts.run(measurer.parts), total=len(measurer.parts), desc="parts", disable=workers.here)
        study = gather(measurer, parts)
        if rollouts.replaced:
            say(f"{rollouts.replaced} workers died or hung and were replaced")
    return study


def the_probes(folder: Path, config: WorldConfig, trust: bool) -> tuple[Probe, ...]:
    """Those in a world's folder that run."""
    return find_probes(folder, config, trust=trust).probes


def _revisit(world: World, store: Episodes, options: EvalOptions) -> None:
    """Measure and print returns to places, and write what the options ask for."""
    sizes = Returns(options.gaps, options.ways, kinds=options.kinds)
    sizes = replace(sizes, gaps=(min(options.gaps),), clips=2, context=8) if options.quick else sizes
    report, sheet = measure_returns(world, store, sizes)
    say(format_returns(report))
    report = {**_header(options, world), **report}
    if options.json is not None:
        write_json(options.json, report)
    if options.out is not None:
        write_json(options.out / "revisits.json", report)
        save_image(options.out / "revisits.png", contact_sheet(sheet, scale=2))


def _open_stores(options: EvalOptions, config: WorldConfig) -> Stores:
    """The episodes that the options name, checked against the world."""
    paths = (options.data, options.random_data, options.probe_data)
    held_out, random, probe = (None if path is None else open_held_out(path, config) for path in paths)
    assert held_out is not None
    if random is not None and random.meta.policy not in BLIND_POLICIES:
        raise InvalidInput(
            f"--random-data {options.random_data} was recorded with --policy {random.meta.policy}, which looks at the "
            f"frames; record it with one of {', '.join(BLIND_POLICIES)}"
        )
    return Stores(held_out, random, probe)


def _header(options: EvalOptions, world: World) -> dict[str, Any]:
    """What the report says of how it came about."""
    return {
        "world": world.config.name,
        "data": str(options.data),
        "random_data": None if options.random_data is None else str(options.random_data),
        "device": str(world.device),
        "dtype": str(world.dtype).removeprefix("torch."),
        "quick": options.quick,
    }


def _write(study: Study, report: dict[str, Any], options: EvalOptions) -> None:
    """Print the report, and write what the options ask for."""
    say(format_report(report, [result.text for result in study.probes.values() if result.text]))
    if options.json is not None:
        write_json(options.json, report)
    if options.out is not None:
        write_json(options.out / "report.json", report)
        save_sheets(study, options.out)
        save_plots(study, options.out)
        print(f"\nwrote report.json, contact sheets and plots to {options.out}")


def study_of(world: Path, data: Path, probe_data: Path, effort: Effort, device: str) -> Study:
    """Measure the world in a folder against one store of held-out episodes; its actions are replayed.

    The action probe learns from `probe_data`, which may be what the world was trained on.
    """
    loaded = World.from_pretrained(world, device=device)
    stores = Stores(open_held_out(data, loaded.config), probe=open_held_out(probe_data, loaded.config))
    drift, probes = policy_actions(DRIFT_POLICY, loaded.config), partial(the_probes, world, loaded.config, False)
    return run_study(Measuring(loaded, stores, drift, None, effort, probes), Workers())


def policy_actions(policy: str, config: WorldConfig) -> DrawActions:
    """Draws actions of a data policy that does not look: (rows, steps, seed) -> (rows, steps, ...)."""
    return partial(_draw_actions, policy, config)  # which can be pickled, for other processes


def _draw_actions(policy: str, config: WorldConfig, rows: int, steps: int, seed: int) -> np.ndarray:
    from worldsim.envs.sources.base import SourceSpec, TimeStep
    from worldsim.policies.data import make_policy

    size = (config.tokenizer.height, config.tokenizer.width)
    player = make_policy(policy, SourceSpec(config.source.name, *size, config.actions, config.source.fps))
    unseen = TimeStep(rgb=np.zeros((*size, 3), np.uint8))
    taken = []
    for row in range(rows):
        player.reset(np.random.default_rng([seed, row]))
        taken.append(np.stack([player.act(unseen) for _ in range(steps)]))
    return np.stack(taken)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(f"cannot write to {str(folder)!r} ({error}); give a folder to write in") from error
