"""`worldsim make`: from a recipe to a world, in stages that are resumed, and skipped where nothing changed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from worldsim.cli.make_audio import SOUNDING, audio_stages
from worldsim.cli.make_stage import Stage, files_of, given, read_state
from worldsim.cli.output import require_writable, say
from worldsim.errors import InvalidInput
from worldsim.io.files import read_json, write_atomically, write_json
from worldsim.io.locks import hold
from worldsim.train.recipe import HELD_OUT_SHARE, DataConfig, Recipe, load_recipe

LOCK = ".lock"
STATE = "state.json"  # in the folder of a making: which stages are done, and of what
CHECKPOINT = {kind: f"run/{kind}.safetensors" for kind in ("tokenizer", "dynamics")}
ALMOST = 0.01  # share of a budget that is not worth going on for


def make(
    recipe: Annotated[Path, tyro.conf.Positional],
    /,
    out: Path | None = None,
    scale: float = 1.0,
    device: str = "auto",
) -> None:
    """Make a world as a recipe says: record, train, pack, calibrate, measure, and write its card.

    What is done is not done again; what was interrupted goes on where it was. A stage runs anew when its part of the
    recipe changed, or a stage before it; what it had made is moved to the folder `old`.

    Args:
        recipe: the recipe, a TOML file.
        out: folder to work in (default: runs/NAME, with --scale runs/NAME-trial); the world is in its folder `world`.
        scale: share of all steps to record, hours and clips, for a trial: 0.05 takes minutes where all takes hours.
        device: auto, cpu or cuda.
    """
    whole = load_recipe(recipe)
    made = Making(
        whole.scaled(scale), recipe, out or Path("runs") / (whole.name + ("-trial" if scale < 1 else "")), device
    )
    made.check()
    with hold(made.out / LOCK, f"{made.out} is being made by another process; wait for it, or give another --out"):
        made.run()
    if scale < 1:
        for sentence in made.outlook(whole):
            say(sentence)


class Making:
    """A recipe, the folder that it is made in, and what is there already."""

    def __init__(self, recipe: Recipe, path: Path, out: Path, device: str) -> None:
        self.recipe, self.path, self.out, self.device = recipe, path, out, device
        self.train_data: list[Path] = []
        self.numbers_data: list[Path] = []
        self.held_out: list[Path] = []
        self.stages = self._stages()
        self.state = read_state(out / STATE)

    def check(self) -> None:
        """Raise what can be known before anything is recorded."""
        from worldsim.cli.make_checks import check_recipe

        check_recipe(self.recipe)
        require_writable(self.out / STATE)

    def run(self) -> None:
        """All stages that are not done, in order."""
        for number, stage in enumerate(self.stages, 1):
            mark, known = self._mark(stage), self.state.get(stage.name, {})
            title = f"[{number}/{len(self.stages)}] {stage.name}"
            more = stage.hours > known.get("hours", 0.0)
            if known.get("mark") == mark and known.get("done") and self._is_there(stage) and not more:
                say(f"{title}: done before")
                continue
            resume = known.get("mark") == mark and (more or not known.get("done"))
            if not resume:
                self._set_aside(stage, str(known.get("mark", "unknown")))
            say(f"{title}{': going on' if resume else ''}")
            seconds = known.get("seconds", 0.0) if resume else 0.0
            self._note(stage, {"mark": mark, "done": False, "seconds": seconds, "hours": stage.hours})
            begin = time.monotonic()
            try:
                facts = stage.run(resume)
            finally:
                self.state[stage.name]["seconds"] += round(time.monotonic() - begin, 1)
                write_json(self.out / STATE, self.state)
            self._note(stage, self.state[stage.name] | {"done": True, "facts": facts})
        say(f"\n{self._facts('evaluate')['text']}\n")
        for sentence in self._facts("evaluate")["verdict"]:
            say(sentence)
        page = self.out / "report" / "report.md"
        say(f"\nthe world is in {self.out / 'world'}, with its card; figures and frames are in {page}")

    def outlook(self, whole: Recipe) -> list[str]:
        """What all of the recipe would take on this machine and be worth, by what the trial took and reached."""
        from worldsim.evaluate.verdict import outlook
        from worldsim.train.record import TrainingRecord

        took = sum(self.state[s.name]["seconds"] for s in self.stages if s.name.startswith(("record", "hold-out")))
        steps = sum(d.steps for d in (*self.recipe.data, *self.recipe.held_outs()) if d.source)
        wanted = sum(d.steps for d in (*whole.data, *whole.held_outs()) if d.source)
        recording = took / steps * wanted / 3600 if steps else 0.0
        training = whole.training_hours
        clips = whole.evaluate.clips / self.recipe.evaluate.clips
        measuring = sum(self.state[s]["seconds"] for s in ("calibrate", "evaluate") if s in self.state) * clips / 3600
        record = TrainingRecord(self.out / "run" / "dynamics.json")
        report = read_json(self.out / "report" / "report.json")
        reached = int(record.calls[-1]["reached_step"])
        more = whole.dynamics.hours / self.recipe.dynamics.hours
        return [
            f"at the full budget: about {recording + training + measuring:.1f} h on this machine, {recording:.1f} h of "
            f"recording, {training:.1f} h of training and {measuring:.1f} h of measuring",
            f"at the full budget: {outlook(report, record.curve, reached, more)}",
        ]

    # -- what the stages are --------------------------------------------------------------------------------------

    def _stages(self) -> list[Stage]:
        r = self.recipe
        begun = r.begun_with()
        data = [*self._data_stages(r.data, "record", self.train_data)]
        data += self._data_stages(r.held_outs(), "hold-out", self.held_out)
        # Recordings of one's own are held out with the stage that records: those are among `recorded`.
        recorded = tuple(stage.name for stage in data if stage.name.startswith("record"))
        apart = tuple(stage.name for stage in data if stage.name not in recorded)
        packed = "calibrate" if r.calibrate else "export"
        codec, sounding = audio_stages(self, recorded, apart, packed)
        if sounding:
            packed = sounding[-1].name
        return [
            *data,
            *codec,  # first: recordings that are silent are found before hours of training
            Stage(
                "tokenizer",
                [given(r.tokenizer, without="hours"), *begun],
                recorded,
                self._tokenizer,
                ("run/tokenizer.safetensors",),
                r.tokenizer.hours,
            ),
            Stage(
                "dynamics",
                [given(r.dynamics, without="hours"), *begun],
                ("tokenizer",),
                self._dynamics,
                ("run/dynamics.safetensors",),
                r.dynamics.hours,
            ),
            Stage("export", [r.name, given(r.export)], ("dynamics",), self._export, ("world",)),
            *([Stage("calibrate", [], ("export", *apart), self._calibrate, ("calibrated",))] if r.calibrate else []),
            *sounding,
            Stage("evaluate", given(r.evaluate), (packed, *apart), self._evaluate, ("report",)),
            Stage("card", given(r.card), ("evaluate",), self._card, ("world/recipe.toml",)),
        ]

    def _data_stages(self, data: Sequence[DataConfig], verb: str, stores: list[Path]) -> list[Stage]:
        """Recordings; those of one's own are split, so that the held-out ones come with them."""
        stages = []
        for index, d in enumerate(data):
            name = f"{verb}-{index}"
            folder = self.out / "data" / name
            (self.numbers_data if d.numbers_only else stores).append(folder)
            made = [f"data/{name}"]
            apart = verb == "record" and not d.source and not self.recipe.held_out
            if apart:
                self.held_out.append(self.out / "data" / f"hold-out-of-{index}")
                made.append(f"data/hold-out-of-{index}")
            inputs = [given(d, without="" if d.source else "steps"), files_of(d), apart]
            stages.append(
                Stage(name, inputs, (), self._recorder(d, folder, self.held_out[-1] if apart else None), tuple(made))
            )
        return stages

    def _recorder(self, d: DataConfig, folder: Path, apart: Path | None) -> Callable[[bool], dict[str, Any]]:
        from worldsim.data.episodes import Episodes

        def record(resume: bool) -> dict[str, Any]:
            from worldsim.cli.record import record_episodes

            record_episodes(
                d.source, d.options, steps=d.steps, out=folder, seed=d.seed, policy=d.policy, resume=folder.exists()
            )
            return {}

        def take(resume: bool) -> dict[str, Any]:
            from worldsim.data.importing import import_videos
            from worldsim.data.splitting import split_episodes

            for path in (folder, apart, folder.with_name(f"{folder.name}-all")):
                if path is not None and path.exists():
                    shutil.rmtree(path)
            if d.videos:
                given = folder if apart is None else folder.with_name(f"{folder.name}-all")
                size = {"height": d.height, "width": d.width}
                store = import_videos(Path(d.videos), Path(d.actions), given, **size, source=Path(d.videos).name)
            else:
                store = Episodes.open(d.store)
                if apart is None:
                    folder.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copytree(d.store, folder)
            if apart is not None:
                split_episodes(store, folder, apart, share=HELD_OUT_SHARE, seed=d.seed)
                shutil.rmtree(folder.with_name(f"{folder.name}-all"), ignore_errors=True)
            return {}

        return record if d.source else take

    # -- how they run -----------------------------------------------------------------------------------------------

    def _tokenizer(self, resume: bool) -> dict[str, Any]:
        from worldsim.cli.train import TokenizerCommand

        c = self.recipe.tokenizer
        return self.train(
            "tokenizer", c.hours, c.lr, c.cooldown,
            lambda loop, go_on: TokenizerCommand(
                data=tuple(self.train_data), out=self.out / "run", batch=c.batch, channels=c.channels,
                cameras=c.cameras, decoder=c.decoder, decoder_widths=c.decoder_widths, loss=c.loss,
                start=self.recipe.start, resume=go_on, loop=loop,
            ),
        )  # fmt: skip

    def _dynamics(self, resume: bool) -> dict[str, Any]:
        from worldsim.cli.train import DynamicsCommand

        c = self.recipe.dynamics
        return self.train(
            "dynamics", c.hours, c.lr, c.cooldown,
            lambda loop, go_on: DynamicsCommand(
                data=tuple(self.train_data), out=self.out / "run", batch=c.batch, clip=c.clip, patch=c.patch,
                augment=c.augment, event=c.event, period=c.period, streams=c.streams, foreseen=c.foreseen,
                redraw=c.redraw, action_tokens=c.action_tokens, history_blocks=c.history_blocks,
                denoiser_blocks=c.denoiser_blocks,
                numbers_data=tuple(self.numbers_data), numbers_share=c.numbers_share,
                conditions=c.conditions, heads=c.heads, memories=c.memories, options=c.options, loss=c.loss,
                clips=c.clips, start=self.recipe.start, resume=go_on, loop=loop,
            ),
        )  # fmt: skip

    def train(self, kind: str, hours: float, lr: float, cooldown: float, command: Any) -> dict[str, Any]:
        """Train for what is left of the budget."""
        from worldsim.train.loop import LoopConfig
        from worldsim.train.record import TrainingRecord

        begun = (self.out / "run" / f"{kind}.safetensors").exists()
        spent = sum(call["seconds"] for call in TrainingRecord(self.out / "run" / f"{kind}.json").calls) / 3600
        left = hours - spent if begun else hours
        if left > ALMOST * hours:
            seed = self.recipe.seed
            command(LoopConfig(hours=left, lr=lr, cooldown=cooldown, seed=seed, device=self.device), begun).run()
        return {}

    def _export(self, resume: bool) -> dict[str, Any]:
        from worldsim.data.episodes import Episodes
        from worldsim.train.export import export_world

        c = self.recipe.export
        stores = [Episodes.open(path) for path in self.train_data]
        export_world(
            self.recipe.name, stores, self.out / "run", self.out / "world",
            starts=c.starts, context=c.context, sampling=c.sampling,
        )  # fmt: skip
        return {}

    def _calibrate(self, resume: bool) -> dict[str, Any]:
        from worldsim.data.episodes import Episodes
        from worldsim.train.calibration import FEWEST, calibrate_world

        ended = sum(int(s.read("terminated", 0, s.num_steps).sum()) for s in map(Episodes.open, self.held_out))
        if ended >= FEWEST:
            fitted = calibrate_world(
                str(self.out / "world"), tuple(self.held_out), self.out / "calibrated", device=self.device
            )
            return {name: fitted[name] for name in ("shift", "floor", "ceiling", "endings")}
        shutil.copytree(self.out / "world", self.out / "calibrated", dirs_exist_ok=True)
        say(f"not calibrated: {ended} held-out episodes end, and {FEWEST} say enough; hold out more steps")
        return {"endings": ended}

    def _evaluate(self, resume: bool) -> dict[str, Any]:
        from worldsim.cli.eval import study_of
        from worldsim.evaluate.effort import Effort
        from worldsim.evaluate.plots import save_plots
        from worldsim.evaluate.sheets import save_sheets
        from worldsim.evaluate.table import format_report
        from worldsim.evaluate.verdict import verdict
        from worldsim.train.card import write_report

        c = self.recipe.evaluate
        effort = replace(
            Effort(), clips=c.clips, horizons=c.horizons, drift_steps=c.drift_steps, drift_worlds=c.drift_worlds,
            drift_window=max(c.drift_steps // 10, 2), drift_every=min(10, max(c.drift_steps // 20, 1)),
            ending_dreams=min(200, 3 * c.clips), tokenizer_runs=2 * c.clips,
        )  # fmt: skip
        study = study_of(self._world(), self.held_out[0], self.train_data[0], effort, self.device)
        (self.out / "report").mkdir(exist_ok=True)
        write_json(self.out / "report" / "report.json", study.report)
        save_sheets(study, self.out / "report")
        save_plots(study, self.out / "report")
        text, told = format_report(study.report), verdict(study.report)
        page = write_report(self.recipe.name, text, told)
        write_atomically(self.out / "report" / "report.md", page.encode())
        return {"text": text, "verdict": told}

    def _card(self, resume: bool) -> dict[str, Any]:
        from worldsim.bench.steps import describe_machine, machine, matmul_gflops
        from worldsim.train.card import write_card
        from worldsim.train.export import RECORD, read_records
        from worldsim.world import World

        folder = self.out / "world"
        if self._world() != folder:
            shutil.copytree(self._world(), folder, dirs_exist_ok=True)
        world = World.from_pretrained(folder, device=self.device)
        where = {**machine(world), "matmul_gflops": matmul_gflops(world.device, world.dtype)}
        where_text = f"{describe_machine(where)}, a matrix product of {where['matmul_gflops']:.0f} GFLOP/s"
        measured = self._facts("evaluate")
        rows, records = self._data_rows(), read_records(folder / RECORD)
        text = write_card(self.recipe, rows, records, measured["text"], measured["verdict"], where_text)
        write_atomically(folder / "README.md", text.encode())
        write_atomically(folder / "recipe.toml", self.path.read_bytes())
        return {}

    def _is_there(self, stage: Stage) -> bool:
        return all((self.out / made).exists() for made in stage.made)

    # -- state ------------------------------------------------------------------------------------------------------

    def _world(self) -> Path:
        if self.recipe.audio is not None:
            return self.out / SOUNDING
        return self.silent_world()

    def silent_world(self) -> Path:
        """The world's folder before it is given sound."""
        return self.out / ("calibrated" if self.recipe.calibrate else "world")

    def _facts(self, name: str) -> dict[str, Any]:
        return self.state[name]["facts"]

    def _data_rows(self) -> list[dict[str, Any]]:
        from worldsim.data.episodes import Episodes

        rows = []
        uses = {"training": self.train_data, "numbers alone": self.numbers_data, "held out": self.held_out}
        for use, paths in uses.items():
            for store in map(Episodes.open, paths):
                meta = store.meta
                rows.append({
                    "for": use, "recording": meta.source, "policy": meta.policy, "seed": meta.seed,
                    "steps": store.num_steps, "episodes": len(store),
                })  # fmt: skip
        return rows

    def _mark(self, stage: Stage) -> str:
        """Names the inputs of a stage, and those of all stages before it."""
        after = [s for s in self.stages if s.name in stage.after]
        before = [[self._mark(s), s.hours] for s in after]  # its own hours are not among them: it trains on
        text = json.dumps([stage.name, stage.inputs, before], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _note(self, stage: Stage, values: dict[str, Any]) -> None:
        self.state[stage.name] = values
        write_json(self.out / STATE, self.state)

    def _set_aside(self, stage: Stage, mark: str) -> None:
        """Keep what the stage made of other inputs: hours may lie in it."""
        for made in stage.made:
            path = self.out / made
            if path.exists() and stage.name not in ("card", "export", "calibrate", "evaluate"):
                old = self.out / "old" / mark / made
                old.parent.mkdir(parents=True, exist_ok=True)
                if old.exists():
                    raise InvalidInput(f"{old} exists; delete it, or give another --out")
                say(f"{stage.name} changed: {path} moves to {old}")
                path.rename(old)
                record = path.with_suffix(".json")  # a training's
                if path.suffix == ".safetensors" and record.exists():
                    record.rename(old.with_suffix(".json"))
