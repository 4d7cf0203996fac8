"""A recipe: how one world is made, from recordings to its card, in one file (`recipe.toml`).

Every field has a default but the name and what is recorded. `worldsim make recipe.toml` runs it.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from worldsim.config import build, check_world_name
from worldsim.data.clips import ClipConfig
from worldsim.data.events import EventSpec
from worldsim.errors import InvalidInput, check_bounds
from worldsim.sampling.sampler import SamplingConfig
from worldsim.train.audio_codec_task import AudioCodecLossConfig
from worldsim.train.audio_task import AudioLossConfig
from worldsim.train.dynamics_loss import LossConfig
from worldsim.train.tokenizer_task import TokenizerLossConfig

HELD_OUT_SEED = 3000  # added to the seed of a recording for the one that is held out
HELD_OUT_SHARE = 0.1  # of a recording's steps, and of the episodes of recordings of one's own


@dataclass(frozen=True)
class DataConfig:
    """One recording: of a simulator (`source`), or made elsewhere (`store`, or `videos` with `actions`)."""

    source: str = ""  # a source as `worldsim record` takes it: car-racing, gym:ALE/Pong-v5
    steps: int = 20_000  # to record
    seed: int = 0  # of the recording: other seeds give other episodes
    policy: str = "mix"  # data policy, as of `worldsim record`
    options: dict[str, Any] = field(default_factory=dict)  # of the source: height, width, frame_skip, env_kwargs, ...
    numbers_only: bool = False  # its frames are of no use: only what is foreseen before the frames learns from it
    store: str = ""  # folder of an episode store that exists
    videos: str = ""  # folder of video files, each an episode
    actions: str = ""  # their table of actions (CSV), as of `worldsim import`
    height: int = 64  # of the frames of videos
    width: int = 64  # both sides are multiples of 8

    def __post_init__(self) -> None:
        if sum(map(bool, (self.source, self.store, self.videos))) != 1:
            raise InvalidInput("give one of source, store and videos")
        if self.videos and not self.actions:
            raise InvalidInput(f"videos {self.videos!r} have no actions; give their table, actions = 'actions.csv'")
        if self.steps < 1 or self.seed < 0:
            raise InvalidInput(f"steps is {self.steps} and seed is {self.seed}; give at least 1 and 0")


@dataclass(frozen=True)
class TokenizerStage:
    """Training of the tokenizer."""

    hours: float = 0.5  # of training, on this machine
    lr: float = 1.2e-3  # learning rate
    cooldown: float = 0.2  # last share of the training, over which the learning rate falls to zero
    batch: int = 6  # pairs of successive frames
    channels: int = 16  # of a latent
    cameras: tuple[str, ...] = ("rgb",)  # recorded image streams that make a frame, one above the other
    decoder: str = "residual"  # subpixel: a third of the arithmetic, which is most of a step's
    decoder_widths: tuple[int, ...] = ()  # channels, one for each scale of the decoder; none: the usual ones
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)  # weights of its parts


@dataclass(frozen=True)
class DynamicsStage:
    """Training of the dynamics."""

    hours: float = 1.5  # of training, on this machine
    lr: float = 1e-3  # learning rate
    cooldown: float = 0.3  # last share of the training, over which the learning rate falls to zero
    batch: int = 2  # clips
    clip: int = 32  # steps in a clip, and so of the context that the model can use
    patch: tuple[int, int] = (2, 2)  # latents (rows, columns) in a token
    history_blocks: int = 4  # of the network that reads the past
    denoiser_blocks: int = 2  # of the one that draws
    augment: tuple[str, ...] = ()  # augmentations that the source declares, such as mirror
    event: tuple[str, ...] = ()  # VARIABLE:falls, :rises or :nonzero: recorded events that come before endings
    period: int = 1  # steps of an episode's clock, where something comes by it; 1: none
    streams: tuple[str, ...] = ()  # recorded sensors to learn and predict: proprio, depth, …; a token is a task
    foreseen: tuple[str, ...] = ()  # of these, vectors predicted before the frame, which is drawn to fit them
    redraw: bool = False  # draw frames anew from what is foreseen, not as changes of the last frame
    action_tokens: int = 0  # next actions that are learned together with the frame, so that the world can act; 0: none
    numbers_share: float = 0.2  # of the hours, for learning what is foreseen before the frames
    conditions: tuple[str, ...] = ()  # modules that a step is conditioned on; none: as the streams ask for
    heads: tuple[str, ...] = ()  # modules that say what a step gives besides the frame; none: as the streams ask for
    memories: tuple[str, ...] = ()  # what is remembered for longer than a clip: keyframes, recall, recurrent, map3d
    options: dict[str, Any] = field(default_factory=dict)  # of these modules, by name, a table each
    loss: LossConfig = field(default_factory=LossConfig)  # weights of its parts, and noise
    clips: ClipConfig = field(default_factory=ClipConfig)  # which clips are drawn how often


@dataclass(frozen=True)
class AudioStage:
    """Training of the sound: of its codec, then of the head that makes it of frames. All of [[data]] has sound then."""

    codec_hours: float = 0.5  # of training, on this machine
    hours: float = 0.5  # of training the head
    lr: float = 1.5e-3  # learning rate of both
    cooldown: float = 0.3  # last share of each training, over which the learning rate falls to zero
    latents: int = 2  # a step
    dim: int = 48  # numbers of a latent
    augment: tuple[str, ...] = ()  # augmentations that the source declares, such as mirror, for the head
    draw_steps: int = 8  # in which the latents of a step's sound are drawn
    codec_loss: AudioCodecLossConfig = field(default_factory=AudioCodecLossConfig)  # weights of its parts
    loss: AudioLossConfig = field(default_factory=AudioLossConfig)  # what is put on the clips of the head


@dataclass(frozen=True)
class ExportStage:
    """What is packed as a world."""

    starts: int = 128  # recorded starts, half of them beginnings of episodes
    context: int = 3  # frames of a start: a world with memories knows from the beginning what they show
    sampling: SamplingConfig = field(default_factory=lambda: SamplingConfig(steps=1))  # how frames are drawn

    def __post_init__(self) -> None:
        check_bounds("export", self, starts=(1, 1_000_000), context=(1, 100_000))


@dataclass(frozen=True)
class EvaluateStage:
    """What is measured on held-out episodes."""

    clips: int = 64  # clips of each horizon
    horizons: tuple[int, ...] = (1, 8, 16, 32)  # steps
    drift_steps: int = 1000  # of the long rollouts
    drift_worlds: int = 8


@dataclass(frozen=True)
class CardStage:
    """What the card says besides the figures."""

    title: str = ""  # the name, if empty
    text: str = ""  # Markdown: what the world is, and what its recordings are allowed for


@dataclass(frozen=True)
class Recipe:
    """All of it."""

    name: str  # of the world: some-world becomes worldsim/SomeWorld-v0
    data: tuple[DataConfig, ...]  # what it is trained on, [[data]]; all recorded alike
    held_out: tuple[DataConfig, ...] = ()  # never trained on, [[held_out]]; without it a tenth more of each is recorded
    seed: int = 0  # of the weights and of what is drawn in training
    start: str = ""  # a finished world whose weights all training begins with, where names and shapes agree
    tokenizer: TokenizerStage = field(default_factory=TokenizerStage)  # the autoencoder of frames
    dynamics: DynamicsStage = field(default_factory=DynamicsStage)  # what predicts the next frame
    audio: AudioStage | None = None  # what makes the sound of a frame; without it the world is silent
    export: ExportStage = field(default_factory=ExportStage)  # the world's folder
    calibrate: bool = True  # fit endings and rewards to held-out episodes, where there are endings
    evaluate: EvaluateStage = field(default_factory=EvaluateStage)  # the figures of the report and the card
    card: CardStage = field(default_factory=CardStage)  # README.md of the world

    def __post_init__(self) -> None:
        check_world_name(self.name)
        if all(d.numbers_only for d in self.data):
            raise InvalidInput("a recipe without [[data]] that has frames makes nothing; say what to record")
        for text in self.dynamics.event:
            EventSpec.parse(text)
        stages = [("tokenizer", self.tokenizer.hours), ("dynamics", self.dynamics.hours)]
        if self.audio is not None:
            stages += [("audio: codec", self.audio.codec_hours), ("audio", self.audio.hours)]
        for stage, hours in stages:
            if not 0 < hours < 10_000:
                raise InvalidInput(f"{stage}: hours is {hours}; give more than 0")

    def scaled(self, scale: float) -> Recipe:
        """The recipe of a trial: steps to record, hours and clips times `scale`, but never too few to go on with."""
        if not 0 < scale <= 1:
            raise InvalidInput(f"--scale is {scale}; give more than 0 and at most 1")
        if scale == 1:
            return self

        def less(data: tuple[DataConfig, ...]) -> tuple[DataConfig, ...]:
            fewest = [min(d.steps, 60 if d.numbers_only else 400) for d in data]
            few = [max(round(d.steps * scale), least) for d, least in zip(data, fewest, strict=True)]
            return tuple(dataclasses.replace(d, steps=steps) for d, steps in zip(data, few, strict=True))

        e = self.evaluate
        evaluate = dataclasses.replace(
            e, clips=max(round(e.clips * scale), min(e.clips, 16)),
            drift_steps=max(round(e.drift_steps * scale), 20), drift_worlds=min(e.drift_worlds, 2),
        )  # fmt: skip
        a = self.audio
        audio = a and dataclasses.replace(a, codec_hours=a.codec_hours * scale, hours=a.hours * scale)
        return dataclasses.replace(
            self, data=less(self.data), held_out=less(self.held_outs()), evaluate=evaluate, audio=audio,
            tokenizer=dataclasses.replace(self.tokenizer, hours=self.tokenizer.hours * scale),
            dynamics=dataclasses.replace(self.dynamics, hours=self.dynamics.hours * scale),
        )  # fmt: skip

    @property
    def training_hours(self) -> float:
        """Of all networks."""
        audio = 0.0 if self.audio is None else self.audio.codec_hours + self.audio.hours
        return self.tokenizer.hours + self.dynamics.hours + audio

    def begun_with(self) -> tuple[Any, ...]:
        """What the first weights of all networks follow from."""
        return (self.seed, self.start) if self.start else (self.seed,)

    def held_outs(self) -> tuple[DataConfig, ...]:
        """What is recorded and never trained on; recordings of one's own are split instead."""
        return self.held_out or tuple(
            dataclasses.replace(d, seed=d.seed + HELD_OUT_SEED, steps=max(round(d.steps * HELD_OUT_SHARE), 1))
            for d in self.data
            if d.source and not d.numbers_only
        )


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; relative paths in it are relative to its folder. Raises InvalidInput."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(
            f"recipe {path} cannot be read ({error.strerror}); give a file such as recipe.toml"
        ) from error
    except ValueError as error:
        raise InvalidInput(f"recipe {path} is no TOML ({error}); mend that line") from error
    recipe: Recipe = build(Recipe, values, f"recipe {path}")
    folder = path.parent

    def placed(data: tuple[DataConfig, ...]) -> tuple[DataConfig, ...]:
        names = ("store", "videos", "actions")
        given: list[dict[str, Any]] = [{n: str(folder / path) for n in names if (path := getattr(d, n))} for d in data]
        return tuple(dataclasses.replace(d, **paths) for d, paths in zip(data, given, strict=True))

    beside = folder / recipe.start
    start = str(beside) if recipe.start and beside.is_dir() else recipe.start  # else a shipped name or a hub id
    return dataclasses.replace(recipe, data=placed(recipe.data), held_out=placed(recipe.held_out), start=start)
