"""`worldsim robot …`: judges robot policies in a learned world, tells how far to trust that, labels recordings."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from worldsim.cli.output import require_writable, say
from worldsim.errors import InvalidInput
from worldsim.policies.robot.evaluation import EvaluateConfig
from worldsim.world import World

if TYPE_CHECKING:
    from worldsim.envs.sources import Source

Flat = tyro.conf.arg(name="")  # options without a prefix


@dataclass(frozen=True)
class EvaluateCommand:
    """Success rates of policies in a world, task by task; with --real also in the simulator, and how well both agree.

    Leaves robots.json and, with --real, robots.png and in the folder `disagreements` videos of episodes that end
    differently in both, the real one on the left.
    """

    policies: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Policies: a data policy of the world's source (expert, biased:0.05), a cloned one's file, world:PATH,
    MODULE:CALLABLE, or lerobot:FOLDER."""
    world: str  # a shipped name, a local folder or a hub id
    out: Path  # folder for the figures and the plot
    real: bool = False  # play them in the simulator, too, from the same starts
    evaluate: Annotated[EvaluateConfig, Flat] = field(default_factory=EvaluateConfig)
    videos: int = 1  # with --real: episodes of each policy and task that are filmed
    trust_source: bool = False  # let the simulator be a Python module that the world's files name
    device: str = "auto"  # auto, cpu or cuda

    def run(self) -> None:
        """Play, print and write."""
        from worldsim.envs.sources import find_modules_here
        from worldsim.evaluate.plots import require_matplotlib
        from worldsim.policies.robot.evaluation import evaluate_policies
        from worldsim.policies.robot.films import film_disagreements
        from worldsim.policies.robot.protocol import load_policy
        from worldsim.policies.robot.rollouts import check_world

        if len(set(self.policies)) < len(self.policies):
            raise InvalidInput(f"policies are {', '.join(self.policies)}; name each once")
        if self.videos < 0:
            raise InvalidInput(f"videos is {self.videos}; give 0 or more")
        find_modules_here()
        world = World.from_pretrained(self.world, device=self.device)
        check_world(world)
        if self.real:
            require_matplotlib()
        require_writable(self.out / "robots.json")
        made = {name: load_policy(name, world.spec, world.config.source) for name in self.policies}
        sources: tuple[Source | None, ...] = (None, None)
        if self.real:
            sources = _simulators(world, self.trust_source)
        try:
            report = evaluate_policies(
                world, made, self.evaluate, real=sources[0], real_blind=sources[1],
                tell=lambda line: print(line, flush=True),
            )  # fmt: skip
            say(f"\n{report.to_text()}")
            report.save(self.out)
            films: list[Path] = []
            if sources[0] is not None and self.videos:
                films = film_disagreements(
                    world, sources[0], report.verdicts, self.out / "disagreements", first_seed=self.evaluate.seed,
                    most=self.videos,
                )  # fmt: skip
        finally:
            for source in sources:
                if source is not None:
                    source.close()
        also = (", robots.png" if self.real else "") + (f", {len(films)} videos in disagreements" if films else "")
        print(f"wrote {self.out}: robots.json{also}")


@dataclass(frozen=True)
class LabelCommand:
    """Tell the actions of recordings from their frames, by a world with action tokens or with the head `inverse`.

    Of an episode store, whose recorded actions say how well; of videos, as a table that `worldsim import` takes.
    """

    world: Annotated[str, tyro.conf.Positional]  # a shipped name, a local folder or a hub id
    data: Path | None = None  # an episode store, to be compared with its own actions
    videos: Path | None = None  # a folder of video files
    out: Path | None = None  # the table (CSV) of the videos' actions
    by: Literal["tokens", "head"] | None = None  # what tells them; by default action tokens, where there are any
    json: Path | None = None  # write the figures to this file
    device: str = "auto"  # auto, cpu or cuda

    def run(self) -> None:
        """Tell, print and write."""
        from worldsim.data.episodes import Episodes
        from worldsim.io.files import write_json
        from worldsim.policies.robot.labelling import check_labeller, label_episodes, tokens_of, write_labels

        if (self.data is None) == (self.videos is None) or (self.videos is None) != (self.out is None):
            raise InvalidInput("give --data STORE, or --videos FOLDER with --out TABLE.csv")
        for path in (self.json, self.out):
            if path is not None:
                require_writable(path)
        world = World.from_pretrained(self.world, device=self.device)
        alone = self.videos is not None  # videos have nothing but frames
        tokens = None if self.by == "head" else tokens_of(world, self.world, frames_alone=alone)
        if self.by == "tokens" and tokens is None:
            raise InvalidInput(
                f"world {self.world!r} has no action tokens that read such data; leave out --by, or train them "
                "(worldsim train actions)"
            )
        check_labeller(world, tokens)
        if self.videos is not None and self.out is not None:
            count = write_labels(world, self.videos, self.out, tokens)
            print(f"wrote {self.out}: the actions of {count} videos; go on with worldsim import")
        if self.data is not None:
            score = label_episodes(world, Episodes.open(self.data), tokens).score()
            say(", ".join(f"{name} {_figure(value)}" for name, value in score.items()))
            if self.json is not None:
                write_json(self.json, {"world": self.world, "data": str(self.data), **score})


@dataclass(frozen=True)
class CloneCommand:
    """Clone what was done in recordings: a small policy that sees frames, `observation.state` and the task."""

    data: Annotated[tuple[Path, ...], tyro.conf.Positional]  # episode stores, of a simulator or of a world
    out: Path  # file of the policy, .safetensors
    episodes: int | None = None  # learn from the first so many; None: all
    tasks: tuple[str, ...] = ()  # names; none: all
    seconds: float = 60.0  # of training
    steps: int | None = None  # of training, instead
    seed: int = 0

    def run(self) -> None:
        """Read, train and write."""
        from worldsim.data.episodes import Episodes
        from worldsim.policies.robot.cloning import clone, read_shown
        from worldsim.policies.robot.protocol import CLONED

        if self.out.suffix != CLONED or not self.seconds > 0 or (self.steps is not None and self.steps < 1):
            raise InvalidInput(
                f"out is {self.out}, seconds {self.seconds} and steps {self.steps}; give a file that ends in {CLONED}, "
                "and more than 0 of the others"
            )
        require_writable(self.out)
        shown = read_shown([Episodes.open(path) for path in self.data], self.episodes, self.tasks)
        losses: list[float] = []
        policy = clone(
            shown, seconds=self.seconds, steps=self.steps, seed=self.seed, tell=lambda _, loss: losses.append(loss)
        )
        policy.save(self.out)
        last = sum(losses[-20:]) / len(losses[-20:])
        print(f"wrote {self.out}: {len(shown.images)} frames, {len(losses)} steps of training, loss {last:.4f}")


@dataclass(frozen=True)
class DreamCommand:
    """Play a policy in a world and write its episodes as a store, for `worldsim robot clone` and all that reads one."""

    policy: Annotated[str, tyro.conf.Positional]  # as of evaluate
    world: str  # a shipped name, a local folder or a hub id
    out: Path  # folder of the store; must be empty or absent
    episodes: int = 100  # tasks in turn
    steps: int | None = None  # of an episode; None: the recorded simulator's limit
    tasks: tuple[str, ...] = ()  # names; none: all of the world's
    seed: int = 0  # of the first episode of each task; the others have the next ones
    device: str = "auto"  # auto, cpu or cuda

    def run(self) -> None:
        """Play and write."""
        from worldsim.envs.sources import find_modules_here
        from worldsim.policies.robot.dreaming import dream_store
        from worldsim.policies.robot.protocol import load_policy

        find_modules_here()
        world = World.from_pretrained(self.world, device=self.device)
        steps = self.steps or world.spec.max_episode_steps
        if self.episodes < 1 or steps is None or steps < 1 or self.seed < 0:
            raise InvalidInput(f"episodes is {self.episodes}, steps {steps} and seed {self.seed}; give 1, 1, 0 or more")
        store = dream_store(
            world, load_policy(self.policy, world.spec, world.config.source), self.out, episodes=self.episodes,
            steps=steps, seed=self.seed, tasks=self.tasks, policy=self.policy,
        )  # fmt: skip
        print(f"dreamed {len(store)} episodes, {store.num_steps} steps in {self.out}")


@dataclass(frozen=True)
class ExportCommand:
    """Write an episode store as a LeRobot data set (format v3.0), its frames as PNG, so that nothing is lost."""

    store: Annotated[Path, tyro.conf.Positional]  # an episode store
    out: Path  # folder of the data set; must be empty or absent

    def run(self) -> None:
        """Read and write."""
        from worldsim.data.episodes import Episodes
        from worldsim.data.lerobot_dataset import export_lerobot

        store = Episodes.open(self.store)
        left = export_lerobot(store, self.out)
        lacks = f"; LeRobot has no place for {', '.join(left)}" if left else ""
        print(f"wrote {self.out}: {len(store)} episodes, {store.num_steps} frames{lacks}")


@dataclass(frozen=True)
class ImportCommand:
    """Make an episode store of a LeRobot data set (format v3.0, with images or videos)."""

    dataset: Annotated[Path, tyro.conf.Positional]  # its folder, with meta/info.json
    out: Path  # folder of the store; must be empty or absent
    camera: str | None = None  # the feature that becomes the frame; needed where there are several
    height: int | None = None  # of the frames; as they are without it
    width: int | None = None

    def run(self) -> None:
        """Read and write."""
        from worldsim.data.lerobot_dataset import import_lerobot

        store = import_lerobot(self.dataset, self.out, camera=self.camera, height=self.height, width=self.width)
        others = sorted(set(store.streams) - {"rgb", "action", "reward", "terminated", "truncated"})
        print(f"imported {len(store)} episodes, {store.num_steps} steps into {self.out}; streams {', '.join(others)}")


def _figure(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_figure, value)) + "]"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _simulators(world: World, trust_source: bool) -> tuple[Source, Source | None]:
    """The simulator that the world was recorded from, and the same without frames, where it can do without."""
    from worldsim.envs.sources import options_of
    from worldsim.envs.sources.matching import matching_source

    source = world.config.source

    def make(**more: object) -> Source:
        parameters = {**source.parameters, **more}
        return matching_source(
            source.name, source.frame_skip, world.spec, parameters=parameters, trust_source=trust_source
        )  # fmt: skip

    return make(), make(render=False) if "render" in options_of(source.name) else None


def robot(
    action: Annotated[
        Annotated[EvaluateCommand, tyro.conf.subcommand("evaluate")]
        | Annotated[LabelCommand, tyro.conf.subcommand("label")]
        | Annotated[CloneCommand, tyro.conf.subcommand("clone")]
        | Annotated[DreamCommand, tyro.conf.subcommand("dream")]
        | Annotated[ExportCommand, tyro.conf.subcommand("export")]
        | Annotated[ImportCommand, tyro.conf.subcommand("import")],
        tyro.conf.arg(name=""),
    ],
) -> None:
    """Judge robot policies in a world, clone them, tell the actions of recordings, exchange data sets with LeRobot."""
    action.run()
