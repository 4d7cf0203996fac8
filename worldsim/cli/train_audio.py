"""`worldsim train audio-codec`, `audio` and `add-audio`: sound for a world, learned after its frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from worldsim.train.audio_codec_task import AudioCodecLossConfig, AudioCodecTask
from worldsim.train.audio_task import AudioLossConfig, AudioTask, load_codec
from worldsim.train.loop import LoopConfig


@dataclass(frozen=True)
class AudioCodecCommand:
    """Train the autoencoder between the sound of a step and its latents."""

    data: tuple[Path, ...]  # episode stores, recorded with sound
    out: Path  # folder of the run; the other stages use the same one
    batch: int = 8  # clips
    clip: int = 13  # steps in a clip
    latents: int = 2  # a step
    dim: int = 48  # numbers of a latent
    width: int = 160  # of the layers
    loss: AudioCodecLossConfig = field(default_factory=AudioCodecLossConfig)
    start: str = ""  # a finished world whose weights it begins with, where names and shapes agree
    resume: bool = False
    loop: Annotated[LoopConfig, tyro.conf.arg(name="")] = field(default_factory=LoopConfig)

    def run(self) -> None:
        """Build the task and train it."""
        from worldsim.cli.train import begin, fit, open_stores

        task = AudioCodecTask(
            open_stores(self.data), batch=self.batch, clip=self.clip, latents=self.latents, dim=self.dim,
            width=self.width, loss=self.loss, seed=self.loop.seed,
        )  # fmt: skip
        begin(task, self.start, self.resume)
        fit(task, self.loop, self.out, self.resume)


@dataclass(frozen=True)
class AudioCommand:
    """Train the head that makes a world's sound of its frames, on the run's tokenizer and audio codec."""

    data: tuple[Path, ...]  # episode stores, recorded with sound
    out: Path  # folder of the run, where tokenizer and audio codec were trained
    batch: int = 16  # clips
    clip: int = 40  # steps in a clip
    augment: tuple[str, ...] = ()  # learn from changed episodes, too, where the source declares it: mirror
    draw_steps: int = 8  # in which the latents of a step's sound are drawn
    delay: int = 0  # steps by which the sound is late: made of so many more frames, it bounds what frames can tell
    loss: AudioLossConfig = field(default_factory=AudioLossConfig)
    start: str = ""  # a finished world whose weights it begins with, where names and shapes agree
    resume: bool = False
    loop: Annotated[LoopConfig, tyro.conf.arg(name="")] = field(default_factory=LoopConfig)

    def run(self) -> None:
        """Cache the latents of frames and sound, build the task and train it."""
        from worldsim.cli.train import begin, fit, open_stores
        from worldsim.data.latents import cache_latents, load_tokenizer
        from worldsim.data.sound import CodecEncoder, sound_format

        tokenizer, codec = load_tokenizer(self.out, self.loop.device), load_codec(self.out)
        stores = open_stores(self.data)
        sound_format(stores)
        encoders = {"audio": CodecEncoder(codec)}
        clips = [
            cache_latents(
                tokenizer, store, self.out, self.loop.device, augmentation=augmentation, streams=("audio",),
                encoders=encoders,
            )
            for augmentation in (None, *self.augment) for store in stores
        ]  # fmt: skip
        task = AudioTask(
            clips, tokenizer, codec, batch=self.batch, clip=self.clip, seed=self.loop.seed, loss=self.loss,
            sizes={"steps": self.draw_steps, "delay": self.delay},
        )  # fmt: skip
        begin(task, self.start, self.resume)
        fit(task, self.loop, self.out, self.resume)


@dataclass(frozen=True)
class AddAudioCommand:
    """Pack a finished world with the sound that was trained in a run; its frames stay the same to the bit."""

    world: Annotated[str, tyro.conf.Positional]  # a shipped name, a local folder or a hub id
    run_dir: Path  # folder of the run
    out: Path  # folder of the world with sound
    temperature: float = 1.0  # scale of the noise that sound is drawn from
    certainty: float = 4.0  # 1: levels of sound are drawn by their probability; above: what is probable comes
    candidates: int = 6  # sounds that are drawn for a step, of which the one is taken that is of its kind
    listens: bool = False  # whether the head hears its own last sound; trained briefly, it follows frames better deaf
    calibrate: Path | None = None  # episode store with sound, which dreams are to be as loud as

    def run(self) -> None:
        """Write the world."""
        from worldsim.train.add_audio import add_audio

        add_audio(
            self.world, self.run_dir, self.out, temperature=self.temperature, certainty=self.certainty,
            candidates=self.candidates, listens=self.listens, calibrate=self.calibrate,
        )  # fmt: skip
        print(f"wrote {self.out}")
