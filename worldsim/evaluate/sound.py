"""What `worldsim eval` measures of a world with sound: its codec, and what its frames, real and dreamed, sound like."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput
from worldsim.evaluate.data import Span, choose_spans
from worldsim.evaluate.dreams import encode
from worldsim.evaluate.hearing import compare, decibels, flux, loudness, require_mir_eval
from worldsim.evaluate.probes import Probe, ProbeContext, ProbeResult
from worldsim.io.text import table
from worldsim.models.audio import AudioHead
from worldsim.models.audio_codec import to_float
from worldsim.models.carried import Drawn
from worldsim.models.registry import StepInputs
from worldsim.rollout import advance, finish, start
from worldsim.sampling.noise import normal
from worldsim.train.audio_codec_task import AudioCodecLossConfig, si_sdr, spectral_loss, spectrogram
from worldsim.world import AUDIO_HEAD, World

SHARES = (0.01, 0.05)  # of the steps, whose onsets are the strongest ones
SPANS, STEPS = 48, 100  # that are listened to
NEAR = 16  # steps of a dream that still have to do with the recording
LONG = 10_500  # steps of a dream, whose loudness is to stay
LONG_WORLDS = 2
TILES = 12  # columns of the figure


@dataclass(frozen=True)
class Heard:
    """Recorded spans and their frames."""

    sound: np.ndarray  # (N, T, S, C) float32 in [-1, 1], of the steps to all rows but the first
    latents: Tensor  # (N, T + 1, 1 + between, C, h, w)
    actions: np.ndarray  # (N, T + 1, ...)
    ages: np.ndarray  # (N,)
    frames: np.ndarray  # (N, T + 1, H, W, 3) uint8


class SoundProbe(Probe):
    """Sound beside the recorded one, with two baselines: the sound of another span, and silence."""

    name = "sound"

    def check(self, context: ProbeContext) -> None:
        """Raise InvalidInput for episodes without sound, or with sound of another format."""
        require_mir_eval()
        c = context.world.config.audio
        assert c is not None
        spec = context.episodes.meta.streams.get("audio")
        if spec is None or spec.shape != (c.codec.samples, c.codec.channels):
            found = "no sound" if spec is None else f"sound of shape {spec.shape} a step"
            raise InvalidInput(
                f"episode store {context.episodes.path} has {found}; the world's is "
                f"{(c.codec.samples, c.codec.channels)}: record it again with --sound"
            )

    def measure(self, context: ProbeContext) -> ProbeResult:
        """As `Probe.measure`."""
        world, quick, seed = context.world.with_audio(), context.effort.quick, context.effort.seed
        spans, steps = (4, 20) if quick else (SPANS, STEPS)
        heard = listen_to(world, context.episodes, spans, steps, seed)
        real, rate = heard.sound, float(world.spec.audio_rate)
        sound = world.config.audio
        assert sound is not None
        late = min(sound.delay, real.shape[1] - 1)  # steps by which what is made comes after what was recorded
        made, dreamed = sound_of_frames(world, heard, seed)[:, late:], dream_sound(world, heard, steps, seed)[:, late:]
        real = real[:, : made.shape[1]]
        near = min(NEAR, real.shape[1])
        figures: dict[str, Any] = {
            "spans": len(real), "steps": real.shape[1], "delay": sound.delay, "codec": measure_codec(world, real),
            "real_frames": compare(real, made, SHARES, rate),
            "dreamed_frames": compare(real, dreamed, SHARES, rate),
            "dreamed_frames_near": compare(real[:, :near], dreamed[:, :near], SHARES, rate) | {"steps": near},
            "another_span": compare(real, np.roll(real, 1, axis=0), SHARES, rate),
            "silence": compare(real, np.zeros_like(real), SHARES, rate),
            "long_dream": measure_long(world, heard, 60 if quick else LONG, seed),
        }  # fmt: skip
        sheet = save_tiles(dataclasses.replace(heard, sound=real), made, int(flux(real, rate).max(1).argmax()), world)
        return ProbeResult(figures, _text(figures), {"heard": sheet}, [lambda axes: _envelopes(axes, real, made)])


def listen_to(world: World, store: Episodes, count: int, steps: int, seed: int) -> Heard:
    """Spans of the store, or shorter ones where no episode is that long."""
    longest = int(store.lengths.max()) - 2
    spans: list[Span] = choose_spans(store, count, min(steps, longest) + 1, seed)
    audio = np.stack([store.read("audio", s.start + 1, s.stop) for s in spans])
    frames = np.stack([store.read("rgb", s.start, s.stop) for s in spans])
    latents = encode(world, frames)[:, :, None]
    if world.config.dynamics.between:
        between = np.stack([store.read("between", s.start, s.stop) for s in spans])
        latents = torch.cat([latents, encode(world, between)], dim=2)
    actions = np.stack([store.read("action", s.start, s.stop) for s in spans])
    sound = to_float(torch.from_numpy(audio)).numpy()
    return Heard(sound, latents, actions, np.array([s.age for s in spans]), frames)


def sound_of_frames(world: World, heard: Heard, seed: int) -> np.ndarray:
    """What the head makes of real frames, from silence on: (N, T, S, C)."""
    return made_of_frames(world, heard, seed)[0]


@torch.inference_mode()
def made_of_frames(world: World, heard: Heard, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As `sound_of_frames`, and the kind of each step's sound (N, T)."""
    head = world.engine.carried[AUDIO_HEAD]
    rows = len(heard.sound)
    carried, made, kinds = head.empty(rows), [], []
    actions = torch.as_tensor(heard.actions, device=world.device)
    seeds = list(range(seed, seed + rows))
    for t in range(1, heard.latents.shape[1]):
        ages = torch.as_tensor(heard.ages + t - 1, device=world.device)
        inputs = StepInputs(actions[:, t], torch.zeros(rows, device=world.device), ages)
        noise = normal(seeds, [0] * rows, [t] * rows, head.noise_stream, head.noise_shape)
        drawn = Drawn(heard.latents[:, t], heard.latents[:, t - 1, 0], inputs)
        carried, sound = head.step(carried, drawn, torch.from_numpy(noise).to(world.device))
        made.append(to_float(sound).cpu().numpy())
        kinds.append(carried["heard"]["kind"].cpu().numpy())
    return np.stack(made, axis=1), np.stack(kinds, axis=1)


@torch.inference_mode()
def dream_sound(world: World, heard: Heard, steps: int, seed: int, actions: np.ndarray | None = None) -> np.ndarray:
    """The sound of dreams from the first frames on, with the recorded actions or others (N, T, ...): (N, T, S, C)."""
    rows, taken = len(heard.latents), heard.actions[:, 1:] if actions is None else actions
    usual = {name: values[:, None] for name, values in world.usual_streams(rows).items()}
    nothing = torch.as_tensor(heard.actions[:, :0])
    state = start(
        world.engine, heard.latents[:, :1, 0], nothing, ages=torch.as_tensor(heard.ages),
        seeds=range(seed, seed + rows), episodes=[0] * rows, streams=usual,
    )  # fmt: skip
    made = []
    for t in range(min(steps, taken.shape[1])):
        action = torch.as_tensor(np.ascontiguousarray(taken[:, t]), device=world.device)
        state, output = finish(advance(world.engine, state, action))
        made.append(to_float(output.said[AUDIO_HEAD]).cpu().numpy())
    return np.stack(made, axis=1)


@torch.inference_mode()
def measure_codec(world: World, real: np.ndarray) -> dict[str, float]:
    """SI-SDR in dB, and distances of spectrograms, of recorded sound through the codec alone."""
    head = world.engine.carried[AUDIO_HEAD]
    assert isinstance(head, AudioHead)
    sound = torch.from_numpy(real).flatten(1, 2).to(world.device)
    decoded = head.codec.decode(head.codec.encode(sound)[0])[0]
    level = head.config.codec.level
    magnitude, logs = spectral_loss(decoded / level, sound / level, AudioCodecLossConfig().windows)
    return {
        "si_sdr_db": float(si_sdr(decoded / level, sound / level)),
        "stft": float(magnitude),
        "log_stft": float(logs),
    }


def measure_long(world: World, heard: Heard, steps: int, seed: int) -> dict[str, float]:
    """Loudness of the last tenth of a long dream over that of the first, in dB; actions are held as a key is."""
    rng = np.random.default_rng(seed)
    few = Heard(heard.sound[:LONG_WORLDS], heard.latents[:LONG_WORLDS], heard.actions[:LONG_WORLDS],
                heard.ages[:LONG_WORLDS], heard.frames[:LONG_WORLDS])  # fmt: skip
    held = [world.spec.actions.draw(rng) for _ in range(-(-steps // 10))]
    actions = np.repeat(np.stack(held), 10, axis=0)[None, :steps].repeat(len(few.latents), axis=0)
    loud = loudness(dream_sound(world, few, steps, seed, actions))  # (N, T)
    part = max(steps // 10, 1)
    first, last = (float(np.sqrt(np.square(a).mean())) for a in (loud[:, :part], loud[:, -part:]))
    return {"steps": steps, "worlds": len(loud), "last_over_first_db": decibels(last / max(first, 1e-12))}


def save_tiles(heard: Heard, made: np.ndarray, span: int, world: World) -> list[np.ndarray]:
    """Rows of tiles of a frame's size: frames, and below them waveform and spectrogram, real and made."""
    real, frames = heard.sound[span], heard.frames[span]
    steps = len(real)
    centre = int(flux(heard.sound[span : span + 1], world.spec.audio_rate)[0].argmax())
    width = min(2, max(steps // TILES, 1))  # steps in a tile
    first = int(np.clip(centre - TILES * width // 2, 0, max(steps - TILES * width, 0)))
    columns = [slice(first + i * width, first + (i + 1) * width) for i in range(min(TILES, steps // width))]
    rows = [np.stack([frames[part.stop] for part in columns])]
    for sound in (real, made[span]):
        pieces = [sound[part].reshape(-1, sound.shape[-1]) for part in columns]
        rows.append(np.stack([_waveform(piece, frames.shape[1:3]) for piece in pieces]))
        rows.append(np.stack([_spectrogram(piece, frames.shape[1:3], world) for piece in pieces]))
    return rows


def _waveform(sound: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Sound (N, C) as a tile (H, W, 3): from the lowest to the highest sample of each column, both channels' mean."""
    height, width = size
    mono = sound.mean(-1)
    edges = np.linspace(0, len(mono), width + 1).astype(int)
    tile = np.full((height, width, 3), 255, np.uint8)
    for x, (a, b) in enumerate(pairwise(edges)):
        part = mono[a : max(b, a + 1)]
        if len(part):
            low, high = ((1 - np.clip(2 * v, -1, 1)) / 2 * (height - 1) for v in (part.max(), part.min()))
            tile[int(low) : int(high) + 1, x] = (40, 80, 160)
    return tile


def _spectrogram(sound: np.ndarray, size: tuple[int, int], world: World) -> np.ndarray:
    assert world.config.audio is not None
    picture = Image.fromarray(spectrogram(sound, world.config.audio.codec.level, window=256))
    return np.asarray(picture.resize((size[1], size[0])))


def _envelopes(axes: Any, real: np.ndarray, made: np.ndarray) -> None:
    """Loudness of the steps of one span."""
    for label, sound in (("recorded", real), ("from its frames", made)):
        axes.plot(loudness(sound[:1])[0], label=label)
    axes.set(title="loudness of a span", xlabel="step", ylabel="RMS")
    axes.legend()


def _text(figures: dict[str, Any]) -> str:
    """The tables of the printed report."""
    codec, long = figures["codec"], figures["long_dream"]
    rows = []
    for name in ("real_frames", "dreamed_frames_near", "dreamed_frames", "another_span", "silence"):
        row = figures[name]
        onsets = [row[f"onsets_{share:g}"] for share in SHARES]
        rows.append([
            name.replace("_", " "), *(f"{one['f1']:.2f}" for one in onsets),
            *(f"{one['rate_ratio']:.2f}" for one in onsets), f"{row['loudness_db']:+.1f}",
            f"{row['envelope_correlation']:.2f}", f"{row['mel_distance']:.1f}", f"{row['clicks']:.2f}",
        ])  # fmt: skip
    titles = (
        "sound of", *(f"F1, strongest {share:.0%}" for share in SHARES),
        *(f"onsets/real, {share:.0%}" for share in SHARES), "loudness, dB", "envelope r", "mel distance", "clicks",
    )  # fmt: skip
    real = figures["real_frames"]
    return "\n".join([
        f"sound      codec SI-SDR {codec['si_sdr_db']:.1f} dB, STFT distance {codec['stft']:.2f}; "
        f"{figures['spans']} spans of {figures['steps']} steps, silent steps {real['silent_share']:.1%} "
        f"(real {real['real_silent_share']:.1%}), clicks of the recording {real['real_clicks']:.2f}",
        f"           {long['steps']} steps of dream: last tenth over first {long['last_over_first_db']:+.1f} dB",
        "",
        table(titles, rows),
    ])  # fmt: skip
