"""Training action tokens on the latents of a finished world, whose weights stay as they are, and packing them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from worldsim.data.clips import STREAM
from worldsim.data.latents import LatentEpisodes
from worldsim.data.outcomes import outcomes, rows_left
from worldsim.errors import InvalidInput, check_bounds
from worldsim.io.folders import find_world
from worldsim.io.weights import read_world, write_world
from worldsim.models.acting import UNKNOWN
from worldsim.models.action_tokens import ActionTokens, ActionTokensConfig, Known
from worldsim.models.dynamics import DynamicsConfig
from worldsim.train.checkpoint import load_checkpoint, save_checkpoint, setting
from worldsim.world import World

FILE = "action-tokens.safetensors"  # in a world's folder
PACKED: dict[str, type] = {"kind": str, "config": dict}  # what the file says of itself
AVERAGE = "average.model."
DRAWS = 4  # noisy chunks that are learned from for everything that is known: the network that denoises is small
SHOWN = 48  # chunks of a preview


@dataclass(frozen=True)
class ActionsLossConfig:
    """What action tokens are trained on."""

    unknown: float = 0.4  # share of the rows in which nothing is known of the next frame
    clean: float = 0.3  # share in which it is known; in the others it is noisy
    blind: float = 0.25  # share in which no stream is known, as in videos
    any_outcome: float = 0.3  # share in which it is not known what comes of the actions
    frame_noise: float = 0.1  # most noise on the latents of frames
    noise_level: float = -0.5  # mean of the logit of the actions' level; its deviation is 1.2
    soon: int = 10  # steps within which success is soon

    def __post_init__(self) -> None:
        share = (0, 1)
        check_bounds(
            "actions loss", self, unknown=share, clean=share, blind=share, any_outcome=share, frame_noise=(0, 100),
            noise_level=(-20, 20), soon=(1, 10_000),
        )  # fmt: skip


class ActionsLoss(nn.Module):
    """Flow matching; called by the loop with (batch, step, generator, progress)."""

    def __init__(self, model: ActionTokens, config: ActionsLossConfig) -> None:
        super().__init__()
        self.model, self.config = model, config

    def forward(
        self, batch: dict[str, Tensor], step: int, generator: torch.Generator, progress: float = 0.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`latents` (F, 3, C, h, w) of the frame before, the frame and the next one, `actions` (F, chunk, A),
        `counted` (F, chunk), `outcome` (F,) and streams (F, ...) -> loss and metrics."""
        c, count, device = self.config, len(batch["latents"]), batch["latents"].device
        known = self._known(batch, generator)
        context = self.model.read(known)
        clean = self.model.normalise(batch["actions"]).flatten(1).expand(DRAWS, count, -1)  # (DRAWS, F, chunk * A)
        level = torch.randn(DRAWS, count, generator=generator, device=device) * 1.2 + c.noise_level
        level = torch.sigmoid(level)
        noise = torch.randn(clean.shape, generator=generator, device=device)
        noisy = torch.lerp(noise, clean, level[..., None])
        predicted = self.model.denoise(noisy, context.expand(DRAWS, *context.shape), level).float()
        size = self.model.action_dim
        error = (predicted - clean).square().unflatten(-1, (-1, size)).mean(-1)  # (DRAWS, F, chunk)
        counted = batch["counted"].float()
        loss = (error * counted).sum() / (DRAWS * counted.sum()).clamp_min(1)
        told, free = ((error[..., 0] * (known.next_level == at)).sum() for at in (1, 0))
        share = [DRAWS * (known.next_level == at).sum().clamp_min(1) for at in (1, 0)]
        return loss, {"inverse": (told / share[0]).detach(), "policy": (free / share[1]).detach()}

    def _known(self, batch: dict[str, Tensor], generator: torch.Generator) -> Known:
        c, latents = self.config, batch["latents"].float()
        count, device = len(latents), latents.device
        u = torch.rand((4, count), generator=generator, device=device)
        size = c.frame_noise * torch.rand((count, 1, 1, 1, 1), generator=generator, device=device)
        before, frame, after = (latents + size * torch.randn(latents.shape, generator=generator, device=device)).unbind(
            1
        )
        level = torch.where(u[0] < c.unknown, 0.0, torch.where(u[0] < c.unknown + c.clean, 1.0, u[1]))
        noise = torch.randn(after.shape, generator=generator, device=device)
        streams = {n.removeprefix(STREAM): values for n, values in batch.items() if n.startswith(STREAM)}
        return Known(
            frame, before, streams, u[2] >= c.blind, torch.lerp(noise, after, level[:, None, None, None]), level,
            torch.where(u[3] < c.any_outcome, UNKNOWN, batch["outcome"]),
        )  # fmt: skip


class ActionsTask:
    """Everything the loop needs to train action tokens on the latents of a world."""

    kind = "action-tokens"

    def __init__(
        self, stores: Sequence[LatentEpisodes], world: World, config: ActionTokensConfig,
        *, batch: int = 64, success: str = "success", seed: int = 0, loss: ActionsLossConfig | None = None,
    ) -> None:  # fmt: skip
        """`stores` have the latents of the world's tokenizer, the streams that `config` names, and `success`.

        Raises InvalidInput for a world of discrete actions, and for streams that it does not have.
        """
        check_actor(world, config.streams)
        self.stores, self.settings, self.count, self.seed = list(stores), config, batch, seed
        self._world = weights_of(world)
        torch.manual_seed(seed)  # the initial weights only
        self.model = ActionsLoss(ActionTokens(config, world.config.dynamics), loss or ActionsLossConfig())
        self.frames_per_batch = batch
        self._rows = [np.flatnonzero(rows_left(store) > 0) for store in self.stores]
        self._outcomes = [outcomes(store, success, self.model.config.soon) for store in self.stores]

    def config(self) -> dict[str, Any]:
        """What a resumed run must share."""
        return {
            "model": asdict(self.settings) | {"streams": list(self.settings.streams)}, "batch": self.count,
            "seed": self.seed, "world": self._world, "loss": asdict(self.model.config),
        }  # fmt: skip

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        """Rows from anywhere; a pure function of (seed, step, rank)."""
        rng = np.random.default_rng([self.seed, step, rank])
        sizes = np.array([len(rows) for rows in self._rows])
        picks = rng.choice(len(sizes), self.count, p=sizes / sizes.sum())
        parts = [
            self._part(i, rng.choice(self._rows[i], n)) for i in range(len(sizes)) if (n := int((picks == i).sum()))
        ]
        return {name: torch.from_numpy(np.concatenate([part[name] for part in parts])) for name in parts[0]}

    def _part(self, index: int, rows: np.ndarray) -> dict[str, np.ndarray]:
        store, chunk = self.stores[index], np.arange(1, self.settings.chunk + 1)
        episode = np.searchsorted(store.ends, rows, side="right")
        first, last = np.concatenate([[0], store.ends])[episode], store.ends[episode] - 1
        led = np.minimum(rows[:, None] + chunk, last[:, None])  # rows that the actions led to
        around = np.stack([np.maximum(rows - 1, first), rows, rows + 1], axis=1)
        return {
            "latents": store.latents[around, 0], "actions": store.actions[led],
            "counted": rows[:, None] + chunk <= last[:, None], "outcome": self._outcomes[index][rows],
            **{f"{STREAM}{name}": store.streams[name][rows] for name in self.settings.streams},
        }  # fmt: skip

    def measure(self, averaged: nn.Module) -> None:
        """Nothing: all that it knows is learned."""

    def preview(self, averaged: nn.Module) -> np.ndarray:
        """Recorded actions above those that are told from frames, in shades of grey; a column a row of the data."""
        assert isinstance(averaged, ActionsLoss)
        model, batch = averaged.model, self.batch(0, 0)
        device = next(model.parameters()).device
        rows = {name: values[:SHOWN].to(device) for name, values in batch.items()}
        before, frame, after = rows["latents"].float().unbind(1)
        streams = {name: rows[f"{STREAM}{name}"] for name in self.settings.streams}
        ones = torch.ones(len(frame), device=device)
        known = Known(frame, before, streams, ones > 0, after, ones, rows["outcome"] * 0)
        told = model.draw(known, torch.zeros(len(frame), model.numbers_drawn, device=device))[:, 0]
        both = torch.cat([model.normalise(rows["actions"][:, 0]), model.normalise(told)], dim=1).T  # (2 * A, F)
        grey = (127.5 + 60 * both).clamp(0, 255).to(torch.uint8).cpu().numpy()
        return np.repeat(np.repeat(np.repeat(grey, 12, 0), 12, 1)[..., None], 3, axis=2)


def check_actor(world: World, streams: Sequence[str] = ()) -> None:
    """Raise InvalidInput for a world whose actions cannot be denoised, or that lacks these streams."""
    if world.spec.actions.discrete:
        raise InvalidInput(f"world {world.spec.name!r} has discrete actions; action tokens are of continuous ones")
    for name in streams:
        if name not in world.spec.streams or world.spec.streams[name].kind not in ("vector", "token"):
            known = [n for n, spec in world.spec.streams.items() if spec.kind in ("vector", "token")]
            raise InvalidInput(
                f"world {world.spec.name!r} has no vector or token {name!r}; it has {', '.join(known) or 'none'}"
            )


def weights_of(world: World) -> str:
    """A short name for the encoder that makes a world's latents: action tokens read those."""
    digest = hashlib.sha256()
    for name, tensor in sorted(world.tokenizer.state_dict().items()):
        if not name.startswith("decoder."):
            digest.update(tensor.detach().cpu().to(torch.bfloat16).float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]


def pack_actions(world: str | Path, run: Path, out: Path) -> None:
    """Write the world with the action tokens that were trained in `run`, in bf16; all else stays as it is."""
    tensors, meta = load_checkpoint(run / f"{ActionsTask.kind}.safetensors")
    config = meta["config"]
    folder = find_world(world)
    if folder.resolve() != out.resolve():
        write_world(out, read_world(folder))
    packed = {n.removeprefix(AVERAGE): t.to(torch.bfloat16) for n, t in tensors.items() if n.startswith(AVERAGE)}
    said = {"kind": ActionsTask.kind, "config": {name: config[name] for name in ("model", "world")}}
    save_checkpoint(out / FILE, packed, said)


def load_actions(world: World, folder: Path) -> ActionTokens:
    """The action tokens in a world's folder; raises InvalidInput where there are none, or of another world."""
    path = folder / FILE
    if not path.exists():
        raise InvalidInput(
            f"world {str(folder)!r} has no {FILE}, so it cannot act; train it with `worldsim train actions {folder}`"
        )
    tensors, meta = load_checkpoint(path, PACKED)
    if meta["config"].get("world") != weights_of(world):
        raise InvalidInput(f"{path} was trained on latents of another world; train it on those of this one")
    config: DynamicsConfig = world.config.dynamics
    model = ActionTokens(setting(path, meta, "model", ActionTokensConfig), config)
    try:
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True)
    except RuntimeError as error:
        raise InvalidInput(f"{path} does not fit its own settings ({' '.join(str(error).split())})") from error
    return model.to(world.device).eval().requires_grad_(False)
