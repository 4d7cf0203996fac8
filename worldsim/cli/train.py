"""`worldsim train …`: a tokenizer, then the dynamics on its latents; `export` packs a world, `unpack` undoes it.

`decoder` gives a packed world a lighter decoder, `calibrate` corrects its endings.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from worldsim.cli.train_actions import ActionsCommand
from worldsim.cli.train_audio import AddAudioCommand, AudioCodecCommand, AudioCommand
from worldsim.data.clips import ClipConfig
from worldsim.data.episodes import Episodes, EpisodesMeta
from worldsim.data.events import EventSpec
from worldsim.errors import InvalidInput
from worldsim.io.locks import hold
from worldsim.models.heads import Reads
from worldsim.sampling.sampler import SamplingConfig
from worldsim.train.board import logging_to, require_tensorboard
from worldsim.train.decoder_task import DecoderLossConfig
from worldsim.train.dynamics_loss import LossConfig
from worldsim.train.loop import LoopConfig, Task, Trainer
from worldsim.train.tokenizer_task import TokenizerLossConfig, TokenizerTask
from worldsim.train.transfer import start_from

if TYPE_CHECKING:
    from worldsim.data.latents import LatentEpisodes
    from worldsim.train.dynamics_task import DynamicsTask


@dataclass(frozen=True)
class TokenizerCommand:
    """Train the autoencoder between frames and latents."""

    data: tuple[Path, ...]  # episode stores
    out: Path  # folder of the run; the other stages use the same one
    batch: int = 12  # pairs of successive frames
    channels: int = 16  # of a latent
    cameras: tuple[str, ...] = ("rgb",)  # recorded image streams that make a frame, one above the other
    decoder: str = "residual"  # subpixel: a third of the arithmetic, which is most of a step's
    decoder_widths: tuple[int, ...] = ()  # channels, one for each scale of the decoder; none: the usual ones
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    start: str = ""  # a finished world whose weights it begins with, where names and shapes agree
    resume: bool = False
    loop: Annotated[LoopConfig, tyro.conf.arg(name="")] = field(default_factory=LoopConfig)

    def run(self) -> None:
        """Build the task and train it."""
        from worldsim.models.decoders import usual_widths
        from worldsim.models.tokenizer import TokenizerConfig

        stores = open_stores(self.data)
        meta = stores[0].meta
        check_cameras(meta, self.cameras)
        height = meta.height * len(self.cameras)
        config = TokenizerConfig(
            height=height, width=meta.width, channels=self.channels, cameras=self.cameras, decoder=self.decoder,
            decoder_widths=self.decoder_widths or usual_widths(self.decoder),
        )  # fmt: skip
        task = TokenizerTask(stores, config, batch=self.batch, loss=self.loss, seed=self.loop.seed)
        begin(task, self.start, self.resume)
        fit(task, self.loop, self.out, self.resume)


@dataclass(frozen=True)
class DynamicsCommand:
    """Train the dynamics on the latents of the run's tokenizer."""

    data: tuple[Path, ...]  # episode stores; their latents are computed once and kept in the run's folder
    out: Path  # folder of the run, where the tokenizer was trained
    batch: int = 2  # clips
    clip: int = 32  # steps in a clip, and so of the history that the model can use
    patch: tuple[int, int] = (8, 1)  # latents (rows, columns) in a token
    history_blocks: int = 4  # of the network that reads the past
    denoiser_blocks: int = 2  # of the one that draws
    augment: tuple[str, ...] = ()  # learn from changed episodes, too, where the source declares it: mirror
    event: tuple[str, ...] = ()  # VARIABLE:falls, :rises or :nonzero: recorded events that come before endings
    period: int = 1  # steps from one stroke of an episode's clock to the next, where something comes by it; 1: none
    streams: tuple[str, ...] = ()  # recorded sensors to learn and dream: proprio, depth, …; a token is a task
    foreseen: tuple[str, ...] = ()  # of these, vectors predicted before the frame, which is drawn to fit them
    redraw: bool = False  # draw frames anew from what is foreseen, not as changes of the last frame
    action_tokens: int = 0  # next actions that are learned together with the frame, so that the world can act; 0: none
    numbers_data: tuple[
        Path, ...
    ] = ()  # more stores, whose frames are of no use: what is foreseen learns from these, too
    numbers_share: float = 0.2  # of the time, for learning what is foreseen before the frames
    conditions: tuple[str, ...] = ()  # modules that a step is conditioned on; none: as the streams ask for
    heads: tuple[str, ...] = ()  # modules that say what a step gives besides the frame; none: likewise
    head_reads: dict[str, Reads] = field(default_factory=dict)  # heads that read the new frame: ending both
    memories: tuple[str, ...] = ()  # what is remembered for longer than a clip: keyframes, recall, recurrent, map3d
    options: tyro.conf.Suppress[dict[str, dict[str, Any]]] = field(default_factory=dict)  # of modules, by name: recipes
    loss: LossConfig = field(default_factory=LossConfig)
    clips: ClipConfig = field(default_factory=ClipConfig)
    start: str = ""  # a finished world whose weights it begins with, where names and shapes agree
    resume: bool = False
    loop: Annotated[LoopConfig, tyro.conf.arg(name="")] = field(default_factory=LoopConfig)

    def run(self) -> None:
        """Cache the latents, build the task and train it."""
        from worldsim.data.latents import cache_latents, load_tokenizer
        from worldsim.models.dynamics import DynamicsConfig
        from worldsim.train.checkpoint import load_checkpoint, setting
        from worldsim.train.dynamics_task import DynamicsTask, modules_of

        events = [EventSpec.parse(text) for text in self.event]
        tokenizer = load_tokenizer(self.out, self.loop.device)
        clips = [
            cache_latents(
                tokenizer,
                store,
                self.out,
                self.loop.device,
                events=events,
                augmentation=augmentation,
                streams=self.streams,
            )
            for augmentation in (None, *self.augment)
            for store in open_stores(self.data)
        ]
        path = self.out / "dynamics.safetensors"
        kept: dict[str, Any] = {}
        if self.resume and path.exists():
            begun = load_checkpoint(path)[1]
            kept["reward_scale"] = setting(path, begun, "reward_scale", float)
            kept["begun"] = setting(path, begun, "model", DynamicsConfig)
            if "change_scale" in begun["config"]:  # a world does not keep it
                kept["changed"] = setting(path, begun, "change_scale", float)
        sizes: dict[str, Any] = {"batch": self.batch, "clip": self.clip, "patch": self.patch, "period": self.period}
        recipe: dict[str, Any] = {"loss": self.loss, "clips": self.clips, "seed": self.loop.seed}
        named = {kind: names for kind in ("conditions", "heads") if (names := getattr(self, kind))}
        recipe |= (
            modules_of(clips, self.foreseen, self.action_tokens)
            | named
            | {"head_reads": self.head_reads, "memories": self.memories}
        )
        recipe |= {
            "redraw": self.redraw,
            "history_blocks": self.history_blocks,
            "denoiser_blocks": self.denoiser_blocks,
            "action_tokens": self.action_tokens,
        }
        recipe |= {"foreseen": self.foreseen, "options": self.options, "cache": self.out / "contexts"}
        task = DynamicsTask(clips, tokenizer, **sizes, **recipe, **kept)
        begin(task, self.start, self.resume)
        loop = self.loop if path.exists() else self._numbers_first(task, clips)
        fit(task, loop, self.out, self.resume)

    def _numbers_first(self, task: DynamicsTask, clips: list[LatentEpisodes]) -> LoopConfig:
        """Learn what is foreseen before the frames, in a share of the time; what is left of it."""
        from worldsim.train.state_first import NumberEpisodes, learn_numbers, numbers_heads

        dynamics = task.model.dynamics
        if not numbers_heads(dynamics):
            return self.loop
        more = [NumberEpisodes.read(store, self.streams) for store in open_stores(self.numbers_data)]
        seconds = self.numbers_share * self.loop.hours * 3600
        losses = learn_numbers(
            dynamics, [*clips, *more], seconds=seconds, steps=self.loop.steps, seed=self.loop.seed
        )  # fmt: skip
        print("numbers: " + ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items()), flush=True)
        return replace(self.loop, hours=(1 - self.numbers_share) * self.loop.hours)


@dataclass(frozen=True)
class DecoderCommand:
    """Train a lighter decoder on the latents of a finished world, and write the world with it to the folder OUT/world.

    No dynamics are trained anew: the latents, and so rewards and endings, stay the same.
    """

    world: Annotated[str, tyro.conf.Positional]  # a shipped name, a local folder or a hub id
    data: tuple[Path, ...]  # episode stores; their latents are computed once and kept in the run's folder
    out: Path  # folder of the run
    widths: tuple[int, int] = (64, 112)  # channels at 1/4 and 1/8 of the frame
    batch: int = 4  # pairs of successive frames: many small steps
    loss: DecoderLossConfig = field(default_factory=DecoderLossConfig)
    resume: bool = False
    loop: Annotated[LoopConfig, tyro.conf.arg(name="")] = field(
        default_factory=lambda: LoopConfig(optimizer="muon", lr=6e-4, cooldown=0.95)
    )

    def run(self) -> None:
        """Cache the latents, train, and pack the world."""
        from worldsim.data.latents import cache_latents
        from worldsim.train.decoder_task import DecoderTask, export_decoder, lighter
        from worldsim.world import World

        world = World.from_pretrained(self.world, device=self.loop.device)
        tokenizer = world.tokenizer.float()  # as its weights are bf16, of which float32 holds all
        config = lighter(tokenizer.config, self.widths)
        stores = open_stores(self.data)
        check_cameras(stores[0].meta, config.cameras)
        found = (stores[0].meta.height * len(config.cameras), stores[0].meta.width)
        if found != (config.height, config.width):
            raise InvalidInput(
                f"episode store {self.data[0]} makes frames of {found[0]}x{found[1]}, world {self.world!r} has "
                f"{config.height}x{config.width}; record its source with the world's settings"
            )
        clips = [cache_latents(tokenizer, store, self.out, self.loop.device) for store in stores]
        task = DecoderTask(clips, tokenizer, config, batch=self.batch, loss=self.loss, seed=self.loop.seed)
        if tokenizer.config.decoder == config.decoder and not self.resume:  # such as one of other widths
            print(start_from(task.model, self.world, "tokenizer."), file=sys.stderr)
        if fit(task, self.loop, self.out, self.resume).rank == 0:
            export_decoder(self.world, self.out, self.out / "world")
            print(f"wrote {self.out / 'world'}")


@dataclass(frozen=True)
class CalibrateCommand:
    """Make what a finished world says of endings fit episodes that it was not trained on, and write it."""

    world: Annotated[str, tyro.conf.Positional]  # a shipped name, a local folder or a hub id
    data: tuple[Path, ...]  # episode stores
    out: Path  # folder of the corrected world
    device: str = "auto"  # auto, cpu or cuda

    def run(self) -> None:
        """Fit, write the world and print how well it foresees endings, before and after."""
        from worldsim.train.calibration import calibrate_world

        fitted = calibrate_world(self.world, self.data, self.out, device=self.device)
        print(
            f"{fitted['endings']} endings in {fitted['steps']:,} steps; log-loss a step "
            f"{fitted['log_loss_before']:.4f}, calibrated {fitted['log_loss']:.4f} (floor {fitted['floor']:.5f}, "
            f"ceiling {fitted['ceiling']:.2f}, shift {fitted['shift']:+.2f}); rewards times "
            f"{fitted['reward_slope']:.2f}, {fitted['reward_shift']:+.3g}\nwrote {self.out}"
        )


@dataclass(frozen=True)
class ExportCommand:
    """Pack the run's tokenizer and dynamics, with starts from the data, as a world folder."""

    name: str  # of the world
    data: tuple[Path, ...]  # episode stores to take the starts from
    run_dir: Path  # folder of the run
    out: Path  # folder of the world
    starts: int = 128
    context: int = 3  # frames of a start: a world with memories knows from the beginning what they show
    sampling: SamplingConfig = field(default_factory=SamplingConfig)  # how the world is drawn unless told otherwise

    def run(self) -> None:
        """Write config, weights and starts."""
        from worldsim.train.export import export_world

        stores = open_stores(self.data)
        export_world(
            self.name, stores, self.run_dir, self.out,
            starts=self.starts, context=self.context, sampling=self.sampling,
        )  # fmt: skip
        print(f"wrote {self.out}")


@dataclass(frozen=True)
class UnpackCommand:
    """Make a run of a finished world, to train it on with `--resume`, with more time or other data."""

    world: Annotated[str, tyro.conf.Positional]  # a shipped name, a local folder or a hub id
    out: Path  # folder of the new run
    sound: bool = False  # also that of the world, for `add-audio`

    def run(self) -> None:
        """Write the checkpoints."""
        from worldsim.train.unpack import unpack_world

        unpack_world(self.world, self.out, sound=self.sound)
        print(f"wrote {self.out}; go on with worldsim train dynamics --resume --out {self.out} --data ...")


def train(
    stage: Annotated[
        Annotated[TokenizerCommand, tyro.conf.subcommand("tokenizer")]
        | Annotated[DynamicsCommand, tyro.conf.subcommand("dynamics")]
        | Annotated[AudioCodecCommand, tyro.conf.subcommand("audio-codec")]
        | Annotated[AudioCommand, tyro.conf.subcommand("audio")]
        | Annotated[AddAudioCommand, tyro.conf.subcommand("add-audio")]
        | Annotated[ActionsCommand, tyro.conf.subcommand("actions")]
        | Annotated[DecoderCommand, tyro.conf.subcommand("decoder")]
        | Annotated[CalibrateCommand, tyro.conf.subcommand("calibrate")]
        | Annotated[ExportCommand, tyro.conf.subcommand("export")]
        | Annotated[UnpackCommand, tyro.conf.subcommand("unpack")],
        tyro.conf.arg(name=""),
    ],
) -> None:
    """Train one stage of a world, export a finished run, or make a run of a finished world."""
    stage.run()


def open_stores(paths: tuple[Path, ...]) -> list[Episodes]:
    """Open the stores and check that they were recorded alike and hold no numbers that teach nothing."""
    stores = [Episodes.open(path) for path in paths]
    for store, path in zip(stores, paths, strict=True):
        if store.num_steps < 2:
            raise InvalidInput(f"episode store {path} holds no finished episode; record more steps")
        store.check_numbers()
        for name in ("source", "fps", "frame_skip", "actions", "pixel_aspect", "height", "width"):
            if getattr(store.meta, name) != getattr(stores[0].meta, name):
                raise InvalidInput(
                    f"episode stores {paths[0]} and {path} differ in {name}; train on stores of one kind"
                )
        if store.meta.streams.get("between") != stores[0].meta.streams.get("between"):
            raise InvalidInput(f"episode stores {paths[0]} and {path} differ in between; train on stores of one kind")
    return stores


def check_cameras(meta: EpisodesMeta, cameras: tuple[str, ...]) -> None:
    """Raise InvalidInput unless the cameras are recorded image streams of one size, and alone where there is more."""
    of_size = [name for name, spec in meta.streams.items() if spec == meta.streams["rgb"]]
    if not cameras or not set(cameras) <= set(of_size) or len(set(cameras)) < len(cameras):
        raise InvalidInput(f"cameras {', '.join(cameras)} make no frame; name some of {', '.join(of_size)}, each once")
    if cameras != ("rgb",) and "between" in meta.streams:
        raise InvalidInput("frames between steps are recorded of one camera; record without --between for several")


def begin(task: Task, start: str, resume: bool) -> None:
    """Give a task the weights of the world `start` to begin with, unless none is named or it goes on with its own."""
    if start and not resume:
        print(start_from(task.model, start), file=sys.stderr)


def fit(task: Task, config: LoopConfig, out: Path, resume: bool) -> Trainer:
    """Train with TensorBoard scalars and frames; returns what trained, and raises what ended it before its time."""
    trainer = Trainer(task, config, out, resume=resume)
    board: Any = None  # only the first process logs

    def log(values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            board.add_scalar(f"{task.kind}/{name}", value, step)

    def show(frame: Any, step: int) -> None:
        from worldsim.io.media import save_image

        board.add_image(f"{task.kind}/sample", frame, step, dataformats="HWC")
        save_image(out / f"{task.kind}.png", frame)

    with logging_to(out / "tensorboard"), contextlib.ExitStack() as stack:
        if trainer.rank == 0:
            busy = f"{out} is being trained in by another process; wait for it, or give another --out"
            stack.enter_context(hold(out / f".{task.kind}.lock", busy))
            board = stack.enter_context(open_board(out / "tensorboard" / task.kind))
        try:
            trainer.run(log, show)
        except KeyboardInterrupt:
            print(f"stopped at step {trainer.step}, saved in {out}; go on with --resume", file=sys.stderr)
            raise
    return trainer


@contextlib.contextmanager
def open_board(folder: Path) -> Iterator[Any]:
    """A TensorBoard writer, which is closed at the end; where the block failed, its error is the one that is raised."""
    board = require_tensorboard()(str(folder))
    try:
        yield board
    except BaseException:
        with contextlib.suppress(OSError):
            board.close()
        raise
    board.close()
