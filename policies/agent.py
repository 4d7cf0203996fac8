"""A trained agent on disk: Stable-Baselines3's .zip, and beside it what the agent sees and in which world."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import PPO

from worldsim.errors import InvalidInput
from worldsim.policies.observation import ObservationConfig
from worldsim.world import World


@dataclass
class Agent:
    """A PPO model with its interface; has the `predict` of Stable-Baselines3's agents."""

    model: PPO
    observation: ObservationConfig
    world: str  # shipped name, folder or hub id of the world that it was trained for
    tokenizer: str  # digest of that world's tokenizer: latents of another one would mean nothing to the agent

    @classmethod
    def of(cls, model: PPO, observation: ObservationConfig, world: World, name: str) -> Agent:
        """An agent for `world`, which `name` loads."""
        return cls(model, observation, name, tokenizer_digest(world))

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """An action for every row of stacked observations."""
        return self.model.predict(observation, state, episode_start, deterministic)

    def check_world(self, world: World) -> None:
        """Raise InvalidInput for a world whose latents are not those that the agent learned from."""
        if self.observation.kind == "latents" and tokenizer_digest(world) != self.tokenizer:
            raise InvalidInput(
                f"the agent reads latents of another tokenizer than that of world {world.config.name!r}; use world "
                f"{self.world!r} or one trained on from it, or train the agent anew"
            )

    def save(self, path: Path | str) -> None:
        """Write `path` (.zip) and a .json of the same name."""
        path = _checked(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.stem}.partial.zip")
        self.model.save(partial)
        facts = {"world": self.world, "tokenizer": self.tokenizer, "observation": dataclasses.asdict(self.observation)}
        path.with_suffix(".json").write_text(json.dumps(facts, indent=2) + "\n")
        os.replace(partial, path)


def load_agent(path: Path | str) -> Agent:
    """Read an agent that `Agent.save` wrote; raises InvalidInput if it cannot be read."""
    path = _checked(path)
    try:
        facts = json.loads(path.with_suffix(".json").read_text())
        observation = ObservationConfig(**facts["observation"])
        model = PPO.load(path, device="cpu")
        return Agent(model, observation, facts["world"], facts["tokenizer"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"agent {str(path)!r} cannot be read ({error}); give the .zip that training wrote, its .json beside it"
        ) from error


def tokenizer_digest(world: World) -> str:
    """A short name for the weights that make a world's latents, the same on machines that compute in other formats."""
    digest = hashlib.sha256()
    for tensor in world.tokenizer.state_dict().values():
        digest.update(tensor.detach().cpu().to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def _checked(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix != ".zip":
        raise InvalidInput(f"agent path {str(path)!r} does not end in .zip; give it that ending")
    return path
