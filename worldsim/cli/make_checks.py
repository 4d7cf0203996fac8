"""What is wrong with a recipe, told before anything is recorded: hours would be lost otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worldsim.data.episodes import Episodes
from worldsim.data.stream_cache import PLAIN_KINDS
from worldsim.errors import InvalidInput
from worldsim.io.folders import find_world
from worldsim.io.weights import read_world
from worldsim.models.conditions import conditions
from worldsim.models.decoders import usual_widths
from worldsim.models.dynamics import HEADS, DynamicsConfig, usual_conditions
from worldsim.models.heads import heads
from worldsim.models.memories import memories
from worldsim.models.state_heads import Foreseen
from worldsim.models.tokenizer import TokenizerConfig
from worldsim.spec import ActionSpec, StreamSpec
from worldsim.train.recipe import DataConfig, Recipe


@dataclass(frozen=True)
class Recorded:
    """What a recording will hold."""

    name: str
    height: int
    width: int
    actions: ActionSpec | None  # None: not known before it is imported
    fps: float | None
    streams: Mapping[str, StreamSpec]  # besides frames, actions, rewards and endings
    augmentations: Mapping[str, Any]


def check_recipe(recipe: Recipe) -> None:
    """Raise InvalidInput or MissingDependency for what cannot be made."""
    _check_libraries()
    if recipe.start:
        read_world(find_world(recipe.start))
    found = [_check_data(d, recipe) for d in (*recipe.data, *recipe.held_outs())]
    first = found[0]
    for other in found[1:]:
        for what in ("height", "width", "actions", "fps"):
            ours, theirs = getattr(first, what), getattr(other, what)
            if ours is not None and theirs is not None and ours != theirs:
                raise InvalidInput(
                    f"the recordings of {first.name} and {other.name} differ in {what} ({ours} and {theirs}); "
                    "make worlds of recordings of one kind"
                )
    _check_tokenizer(recipe, first)
    _check_dynamics(recipe, first)
    if recipe.audio is not None:
        _check_audio(recipe, found)


def _check_libraries() -> None:
    from worldsim.evaluate.metrics import require_libraries
    from worldsim.evaluate.plots import require_matplotlib
    from worldsim.train.board import require_tensorboard

    require_libraries()
    require_matplotlib()
    require_tensorboard()


def _check_data(d: DataConfig, recipe: Recipe) -> Recorded:
    if d.source:
        return _check_source(d)
    if d.store:
        meta = Episodes.open(d.store).meta
        return Recorded(
            meta.source, meta.height, meta.width, meta.actions, meta.fps, meta.streams, meta.augmentations or {}
        )
    for what, path in (("videos", d.videos), ("actions", d.actions)):
        if not Path(path).exists():
            raise InvalidInput(f"{what} {path!r} of the recipe do not exist; paths are relative to the recipe's folder")
    return Recorded(Path(d.videos).name, d.height, d.width, None, None, {}, {})


def _check_source(d: DataConfig) -> Recorded:
    """Make the simulator and the policy, and end it again."""
    from worldsim.cli.record import prepare

    source, _, unstored = prepare(d.source, d.policy, d.options)
    spec = source.spec
    source.close()
    extras = {name: stream for name, stream in spec.extras.items() if name not in unstored}
    return Recorded(spec.name, spec.height, spec.width, spec.actions, spec.fps, extras, spec.augmentations)


def _check_tokenizer(recipe: Recipe, recorded: Recorded) -> None:
    cameras = recipe.tokenizer.cameras
    frame = StreamSpec("image", (recorded.height, recorded.width, 3), "uint8")
    known = ["rgb", *(name for name, stream in recorded.streams.items() if stream == frame and name != "rgb")]
    missing = [name for name in cameras if name not in known]
    if missing:
        raise InvalidInput(
            f"tokenizer: cameras {', '.join(missing)} are not recorded by {recorded.name}; it gives {', '.join(known)}"
        )
    try:
        TokenizerConfig(
            recorded.height * len(cameras), recorded.width, recipe.tokenizer.channels, cameras=cameras,
            decoder=recipe.tokenizer.decoder,
            decoder_widths=recipe.tokenizer.decoder_widths or usual_widths(recipe.tokenizer.decoder),
        )  # fmt: skip
    except InvalidInput as error:
        raise InvalidInput(f"frames of {recorded.name}: {error}; set them in the options of [[data]]") from error


def _check_dynamics(recipe: Recipe, recorded: Recorded) -> None:
    c = recipe.dynamics
    usual = ("rgb", "action", "reward", "terminated", "truncated", "between")
    known = [name for name, stream in recorded.streams.items() if stream.kind in PLAIN_KINDS and name not in usual]
    missing = [name for name in c.streams if name not in known]
    if missing:
        there = f"; it gives {', '.join(known)}" if known else ", which gives none; options = { streams = true } may"
        raise InvalidInput(f"dynamics: streams {', '.join(missing)} are not recorded by {recorded.name}{there}")
    if unlearned := [name for name in c.foreseen if name not in c.streams]:
        raise InvalidInput(f"dynamics: foreseen {', '.join(unlearned)} are not among its streams; add them there")
    absent = [name for name in c.augment if name not in recorded.augmentations]
    if absent:
        raise InvalidInput(
            f"dynamics: {recorded.name} declares no augmentation {', '.join(absent)}; leave it out, or declare it in "
            "the source's spec"
        )
    if c.clip < 2:
        raise InvalidInput(f"dynamics: clip is {c.clip}; give at least 2")
    rows, columns = recorded.height * len(recipe.tokenizer.cameras) // 8, recorded.width // 8
    actions = recorded.actions  # None: a table's, which is read when it is imported
    sizes = (1, 0) if actions is None else (actions.n, len(actions.low))
    tokens = 0 if actions is None else c.action_tokens
    try:
        config = DynamicsConfig(
            recipe.tokenizer.channels, rows, columns, c.patch, *sizes,
            context_length=c.clip - 1, period=c.period, conditions=c.conditions or usual_conditions(tokens),
            output_heads=c.heads or HEADS, memories=c.memories, options=c.options,
            history_blocks=c.history_blocks, denoiser_blocks=c.denoiser_blocks, action_tokens=tokens,
            foreseen=c.foreseen, redraw=c.redraw,
            streams={name: recorded.streams[name] for name in c.streams},
        )  # fmt: skip
        conditions.build(config, c.conditions)
        heads.build(config, c.heads)
        memories.build(config, c.memories)
        if c.foreseen and c.heads:  # heads that are not given come with the streams
            Foreseen(config)
    except InvalidInput as error:
        raise InvalidInput(f"dynamics: {error}") from error


def _check_audio(recipe: Recipe, found: list[Recorded]) -> None:
    from worldsim.evaluate.hearing import require_mir_eval
    from worldsim.models.audio_codec import fitting_frames

    require_mir_eval()
    assert recipe.audio is not None
    formats = []
    for recorded in found:
        spec = recorded.streams.get("audio")
        if spec is None or spec.kind != "audio":
            raise InvalidInput(
                f"audio: {recorded.name} is recorded without sound; add options = {{ sound = true }} to its [[data]] "
                "where the simulator has any, or leave out [audio]"
            )
        formats.append((spec.shape[0] * (recorded.fps or 0), *spec.shape[1:]))
    for recorded, format in zip(found, formats, strict=True):
        if format != formats[0]:
            raise InvalidInput(
                f"audio: {found[0].name} and {recorded.name} have sound of {formats[0][0]:g} and {format[0]:g} samples "
                f"a second in {formats[0][1]} and {format[1]} channels; record them alike"
            )
    audio = found[0].streams["audio"]
    fitting_frames(audio.shape[0], recipe.audio.latents)
    absent = [name for name in recipe.audio.augment if name not in found[0].augmentations]
    if absent:
        raise InvalidInput(f"audio: {found[0].name} declares no augmentation {', '.join(absent)}; leave it out")
