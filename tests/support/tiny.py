"""The smallest world and the smallest episode store: random weights, 16x32 frames, made in milliseconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from recordings import basic_streams

from worldsim.config import SourceConfig, WorldConfig
from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import Episodes, EpisodesMeta
from worldsim.io.starts import Starts
from worldsim.io.weights import WorldFiles
from worldsim.models.dynamics import Dynamics, DynamicsConfig
from worldsim.models.endings import EndingConfig
from worldsim.models.tokenizer import Tokenizer, TokenizerConfig
from worldsim.spec import ActionSpec, StreamSpec
from worldsim.world import World

ACTIONS = ActionSpec(n=3, meanings=("NOOP", "LEFT", "RIGHT"), keys=((), ("left",), ("right",)))
STARTS, CONTEXT = 4, 3


def tiny_files(
    seed: int = 0,
    *,
    source: str = "tiny",
    between: int = 1,
    max_episode_steps: int | None = 40,
    endings: EndingConfig | None = None,
) -> WorldFiles:
    """Config, random weights and random starts of a world with 16x32 frames and three actions."""
    tokenizer = TokenizerConfig(
        height=16, width=32, channels=4, encoder_widths=(4, 4, 8), decoder_widths=(4, 4, 8), blocks=1
    )
    dynamics = DynamicsConfig(
        channels=4, height=2, width=4, patch=(2, 1), actions=ACTIONS.n, between=between, dim=16, heads=2,
        mlp_ratio=2, history_blocks=1, denoiser_blocks=1, latent_decoder_blocks=1, context_length=8, cond_dim=8,
        local=8,
    )  # fmt: skip
    config = WorldConfig(
        name="tiny",
        source=SourceConfig(source, fps=17.5, frame_skip=2, max_episode_steps=max_episode_steps),
        actions=ACTIONS,
        tokenizer=tokenizer,
        dynamics=dynamics,
        endings=endings or EndingConfig(),
    )
    torch.manual_seed(seed)
    parts: dict[str, torch.nn.Module] = {"tokenizer": Tokenizer(tokenizer), "dynamics": Dynamics(dynamics)}
    weights = {f"{part}.{n}": t.detach().clone() for part, m in parts.items() for n, t in m.state_dict().items()}
    # The last layer starts at zero, which would make every dream stand still.
    for name in (n for n in weights if n.endswith(".latent_decoder.leave.weight")):
        weights[name] = torch.randn_like(weights[name]) * 0.05
    rng = np.random.default_rng(seed)
    latents = rng.standard_normal((STARTS, CONTEXT, 4, 2, 4), dtype=np.float32)
    taken, ages = rng.integers(0, ACTIONS.n, (STARTS, CONTEXT - 1)), np.array([0, 0, 5, 30])
    starts = Starts.pack(latents, taken, ages, beginnings=STARTS // 2)
    return WorldFiles(config, weights, starts.to_tensors(), "# tiny\n")


def tiny_world(seed: int = 0, **options: object) -> World:
    """The world of `tiny_files`, on the CPU; the options are those of `tiny_files`."""
    return World(tiny_files(seed, **options), device="cpu")  # type: ignore[arg-type]


def tiny_episodes(
    path: Path,
    *,
    lengths: tuple[int, ...] = (30, 25, 40),
    source: str = "tiny",
    between: int = 1,
    seed: int = 0,
    audio: int = 0,
    loudness: float = 1.0,
) -> Episodes:
    """A store that fits the tiny world: a dark room in which a bright ball moves as the actions say.

    With so many samples of `audio` a step the ball hums where it is, and a wall beeps when the ball touches it. Every
    episode but the last ends with `terminated`, the last one with `truncated`.
    """
    streams = basic_streams(16, 32)
    if between:
        streams["between"] = StreamSpec("image", (between, 16, 32, 3), "uint8")
    if audio:
        streams["audio"] = StreamSpec("audio", (audio, 2), "int16", per_step=audio)
    meta = EpisodesMeta(source, ACTIONS, streams, fps=17.5, frame_skip=2, policy="random", max_episode_steps=40)
    rng = np.random.default_rng(seed)
    with EpisodeWriter(path, meta) as writer:
        for index, length in enumerate(lengths):
            place = int(rng.integers(4, 28))
            for t in range(length):
                action = int(rng.integers(ACTIONS.n)) if t else 0
                before, place = place, int(np.clip(place + (0, -2, 2)[action], 2, 29))
                last, ends = t == length - 1, index < len(lengths) - 1
                row = {
                    "rgb": _room(place), "action": action, "reward": np.float32(t > 0),
                    "terminated": last and ends, "truncated": last and not ends,
                }  # fmt: skip
                if between:
                    row["between"] = np.stack([_room((before + place) // 2)] * between)
                if audio:
                    row["audio"] = (loudness * _hum(place, t, audio)).astype(np.int16)
                writer.append(row)
            writer.end_episode()
    return Episodes.open(path)


def _room(place: int) -> np.ndarray:
    """A brown room with a bright ball three pixels wide at column `place`, (16, 32, 3) uint8."""
    frame = np.full((16, 32, 3), (60, 45, 30), np.uint8)
    frame[10:] = (40, 40, 40)
    frame[6:9, place - 1 : place + 2] = (255, 230, 140)
    return frame


def _hum(place: int, step: int, samples: int) -> np.ndarray:
    """The sound of a step, (samples, 2) int16: a quiet hum, and a beep at the left or the right wall."""
    time = np.arange(step * samples, (step + 1) * samples)
    quiet, loud = np.array([32 - place, place]) * 20, np.array([place == 2, place == 29]) * 8000
    return (quiet * np.sin(time / 9)[:, None] + loud * np.sin(time)[:, None]).astype(np.int16)
