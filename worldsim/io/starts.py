"""Recorded starts that ship with a world: a few frames' latents and the actions between them, packed to int8."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from worldsim.actions import check_actions
from worldsim.errors import DamagedWorld, InvalidAction, InvalidInput
from worldsim.sampling import noise
from worldsim.spec import ActionSpec, StreamSpec

STREAM = "stream."  # before the name of a stream in the file
KINDS = ("beginning", "anywhere")


@dataclass(frozen=True)
class Starts:
    """S starts of T frames each; the first `beginnings` are the beginnings of episodes."""

    latents: Tensor  # (S, T, C, h, w) int8
    scale: float  # int8 -> latent
    actions: Tensor  # (S, T-1) int64 or (S, T-1, A) float32
    ages: Tensor  # (S,) int64, of the first frame: steps since the beginning of its episode
    beginnings: int
    streams: dict[str, Tensor] = field(default_factory=dict)  # (S, T, ...), what other sensors gave, as recorded

    @classmethod
    def pack(
        cls, latents: np.ndarray, actions: np.ndarray, ages: np.ndarray, beginnings: int,
        streams: Mapping[str, np.ndarray] | None = None,
    ) -> Starts:  # fmt: skip
        """From float latents (S, T, C, h, w); the rest as above."""
        scale = float(np.abs(latents).max()) / 127
        packed = torch.from_numpy(np.round(latents / scale).astype(np.int8))
        others = {name: torch.from_numpy(values) for name, values in (streams or {}).items()}
        return cls(packed, scale, torch.from_numpy(actions), torch.from_numpy(ages), beginnings, others)

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Starts:
        """From the tensors of `starts.safetensors`; raises DamagedWorld."""
        try:
            scale, beginnings = float(tensors["scale"]), int(tensors["beginnings"])
            latents, actions, ages = tensors["latents"], tensors["actions"], tensors["ages"]
        except KeyError as error:
            raise DamagedWorld(f"starts.safetensors lacks {error}; restore the world's folder") from error
        except (ValueError, RuntimeError) as error:  # of a tensor that is no single number
            raise DamagedWorld(f"starts.safetensors is damaged ({error}); restore the world's folder") from error
        kinds = (latents.dtype, ages.dtype) == (torch.int8, torch.int64)
        if not kinds or latents.dim() != 5 or actions.dim() < 2 or not 0 <= scale < float("inf"):
            raise DamagedWorld(
                f"starts.safetensors holds {latents.dtype} latents of shape {tuple(latents.shape)} and scale {scale}, "
                f"actions of shape {tuple(actions.shape)}, {ages.dtype} ages; restore the world's folder"
            )
        streams = {name.removeprefix(STREAM): t for name, t in tensors.items() if name.startswith(STREAM)}
        return cls(latents, scale, actions, ages, beginnings, streams)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of starts that are there."""
        counts = (self.beginnings, len(self.latents) - self.beginnings)
        return tuple(kind for kind, count in zip(KINDS, counts, strict=True) if count)

    def check(
        self, grid: tuple[int, int, int], spec: ActionSpec, streams: Mapping[str, StreamSpec] | None = None,
        read_off: Collection[str] = (),
    ) -> None:  # fmt: skip
        """Raise DamagedWorld unless the starts are of latents (C, h, w), actions and streams that the world has.

        Streams that are `read_off` frames may be missing.
        """
        starts, frames = self.latents.shape[:2]
        wanted = (starts, frames - 1) if spec.discrete else (starts, frames - 1, len(spec.low))
        fits = self.latents.shape[2:] == grid and self.actions.shape == wanted and 0 <= self.beginnings <= starts
        fits = fits and self.ages.shape == (starts,) and bool((self.ages >= 0).all())
        shapes = {name: (starts, frames, *one.shape) for name, one in (streams or {}).items()}
        shapes = {name: shape for name, shape in shapes.items() if name in self.streams or name not in read_off}
        fits = fits and shapes == {name: tuple(values.shape) for name, values in self.streams.items()}
        try:
            check_actions(spec, self.actions.flatten(0, 1).numpy(), starts * (frames - 1))
        except InvalidAction:
            fits = False
        if not fits:
            raise DamagedWorld(
                f"starts.safetensors does not fit config.json (latents {tuple(self.latents.shape)}, actions "
                f"{tuple(self.actions.shape)}, ages {tuple(self.ages.shape)}, {self.beginnings} beginnings); restore "
                "the world's folder"
            )

    def to_tensors(self) -> dict[str, Tensor]:
        """The tensors of `starts.safetensors`."""
        return {
            "latents": self.latents, "scale": torch.tensor(self.scale, dtype=torch.float64),
            "actions": self.actions, "ages": self.ages, "beginnings": torch.tensor(self.beginnings),
            **{f"{STREAM}{name}": values for name, values in self.streams.items()},
        }  # fmt: skip

    def choose(self, seed: int, episode: int, kind: str) -> tuple[Tensor, np.ndarray, int, dict[str, Tensor]]:
        """The start of an episode: latents (T, C, h, w) float32, actions between (T-1, ...), age, streams (T, ...)."""
        if kind not in KINDS:
            raise InvalidInput(f"start {kind!r} is unknown; use one of {', '.join(map(repr, KINDS))}")
        first, last = (0, self.beginnings) if kind == "beginning" else (self.beginnings, len(self.latents))
        if first == last:
            raise InvalidInput(f"this world ships no start of kind {kind!r}; use another, or give frames of your own")
        index = int(noise.generator(seed, episode, 0, noise.STREAM_START).integers(first, last))
        streams = {name: values[index] for name, values in self.streams.items()}
        return self.latents[index].float() * self.scale, self.actions[index].numpy(), int(self.ages[index]), streams
