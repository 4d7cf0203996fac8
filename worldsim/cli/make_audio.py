"""The stages of `worldsim make` that give a world sound, where the recipe has a table [audio]."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from worldsim.cli.make_stage import Stage

if TYPE_CHECKING:
    from worldsim.cli.make import Making

SOUNDING = "sounding"  # folder of the world with sound, in that of the making


def audio_stages(
    making: Making, recorded: tuple[str, ...], apart: tuple[str, ...], packed: str
) -> tuple[list[Stage], list[Stage]]:
    """The codec's stage, which needs recordings alone, and those that come after the world is `packed`.

    On recordings that are held `apart` the sound is calibrated.
    """
    from worldsim.cli.train_audio import AudioCodecCommand, AudioCommand

    c, run, start, begun = making.recipe.audio, making.out / "run", making.recipe.start, making.recipe.begun_with()
    if c is None:
        return [], []

    def codec(resume: bool) -> dict[str, Any]:
        return making.train(
            "audio-codec", c.codec_hours, c.lr, c.cooldown,
            lambda loop, go_on: AudioCodecCommand(
                data=tuple(making.train_data), out=run, latents=c.latents, dim=c.dim, loss=c.codec_loss, start=start,
                resume=go_on, loop=loop,
            ),
        )  # fmt: skip

    def head(resume: bool) -> dict[str, Any]:
        return making.train(
            "audio", c.hours, c.lr, c.cooldown,
            lambda loop, go_on: AudioCommand(
                data=tuple(making.train_data), out=run, augment=c.augment, draw_steps=c.draw_steps, loss=c.loss,
                start=start, resume=go_on, loop=loop,
            ),
        )  # fmt: skip

    def add(resume: bool) -> dict[str, Any]:
        from worldsim.data.episodes import Episodes
        from worldsim.train.add_audio import add_audio

        heard = (path for path in making.held_out if "audio" in Episodes.open(path).meta.streams)
        add_audio(making.silent_world(), run, making.out / SOUNDING, calibrate=next(heard, None))
        return {}

    all_of_it = asdict(c)
    of_codec = {name: all_of_it[name] for name in ("lr", "cooldown", "latents", "dim", "codec_loss")}
    rest = {name: value for name, value in all_of_it.items() if name not in ("codec_hours", "hours", "codec_loss")}
    made = "run/audio-codec.safetensors", "run/audio.safetensors"
    return [Stage("audio-codec", [of_codec, *begun], recorded, codec, made[:1], c.codec_hours)], [
        Stage("audio", [rest, *begun], ("tokenizer", "audio-codec"), head, made[1:], c.hours),
        Stage("add-audio", [], (packed, "audio", *apart), add, (SOUNDING,)),
    ]
