"""`worldsim robot …`: judges robot policies in a learned world, and by the real simulator how far to trust that."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from worldsim.cli.output import require_writable, say
from worldsim.errors import InvalidInput
from worldsim.policies.robot.evaluation import EvaluateConfig
from worldsim.world import World

Flat = tyro.conf.arg(name="")  # options without a prefix


@dataclass(frozen=True)
class EvaluateCommand:
    """Success rates of policies in a world, task by task; with --real also in the simulator, and how well both agree.

    Leaves robots.json and, with --real, robots.png.
    """

    policies: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Policies: a data policy of the world's source (expert, biased:0.05), MODULE:CALLABLE, or lerobot:FOLDER."""
    world: str  # a shipped name, a local folder or a hub id
    out: Path  # folder for the figures and the plot
    real: bool = False  # play them in the simulator, too, from the same starts
    evaluate: Annotated[EvaluateConfig, Flat] = field(default_factory=EvaluateConfig)
    trust_source: bool = False  # let the simulator be a Python module that the world's files name
    device: str = "auto"  # auto, cpu or cuda

    def run(self) -> None:
        """Play, print and write."""
        from worldsim.envs.sources import find_modules_here
        from worldsim.evaluate.plots import require_matplotlib
        from worldsim.policies.robot.evaluation import evaluate_policies
        from worldsim.policies.robot.protocol import load_policy
        from worldsim.policies.robot.rollouts import check_world

        if len(set(self.policies)) < len(self.policies):
            raise InvalidInput(f"policies are {', '.join(self.policies)}; name each once")
        find_modules_here()
        world = World.from_pretrained(self.world, device=self.device)
        check_world(world)
        if self.real:
            require_matplotlib()
        require_writable(self.out / "robots.json")
        made = {name: load_policy(name, world.spec, world.config.source.name) for name in self.policies}
        sources = _simulators(world, self.trust_source) if self.real else (None, None)
        try:
            report = evaluate_policies(
                world, made, self.evaluate, real=sources[0], real_blind=sources[1],
                tell=lambda line: print(line, flush=True),
            )  # fmt: skip
        finally:
            for source in sources:
                if source is not None:
                    source.close()
        say(f"\n{report.to_text()}")
        report.save(self.out)
        print(f"wrote {self.out}: robots.json{', robots.png' if self.real else ''}")


def _simulators(world: World, trust_source: bool) -> tuple[object, object]:
    """The simulator that the world was recorded from, and the same without frames, where it can do without."""
    from worldsim.envs.sources import options_of
    from worldsim.envs.sources.matching import matching_source

    source = world.config.source

    def make(**more: object) -> object:
        parameters = {**source.parameters, **more}
        return matching_source(
            source.name, source.frame_skip, world.spec, parameters=parameters, trust_source=trust_source
        )  # fmt: skip

    return make(), make(render=False) if "render" in options_of(source.name) else None


def robot(
    action: Annotated[Annotated[EvaluateCommand, tyro.conf.subcommand("evaluate")], tyro.conf.arg(name="")],
) -> None:
    """Judge robot policies in a world."""
    action.run()
