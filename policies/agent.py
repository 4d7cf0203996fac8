"""A trained agent on disk: one .safetensors file with its weights, what it sees and in which world; no pickle.

Stable-Baselines3's own .zip files are pickles, which run whatever code they hold. Only `convert_agent` reads them, and
only when told to.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import pickle
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from worldsim.errors import DamagedCheckpoint, InvalidInput
from worldsim.io.files import write_json
from worldsim.policies.baselines import Begun, Carried, Observed
from worldsim.policies.network import NUMBERS, make_policy
from worldsim.policies.observation import ObservationConfig
from worldsim.spec import ActionSpec
from worldsim.train.checkpoint import load_checkpoint, load_optimizer, optimizer_tensors, save_checkpoint
from worldsim.world import World

SUFFIX = ".safetensors"
KIND, FORMAT = "agent", 1
REWARDS = "rewards.json"  # beside an agent that is being trained: the scale of its rewards
OLD_REWARDS = "rewards.pkl"


@dataclass
class Agent:
    """An actor-critic with its interface; has the `predict` of Stable-Baselines3's agents."""

    policy: ActorCriticPolicy
    observation: ObservationConfig
    world: str  # shipped name, folder or hub id of the world that it was trained for
    tokenizer: str  # digest of that world's tokenizer: latents of another one would mean nothing to the agent
    options: dict[str, float] = field(default_factory=dict)  # of PPO, to train it on with
    steps: int = 0  # decisions that it has learned from

    @classmethod
    def of(cls, model: PPO, observation: ObservationConfig, world: World, name: str, options: dict[str, Any]) -> Agent:
        """An agent for `world`, which `name` loads; `options` are those that PPO trains it with."""
        return cls(model.policy, observation, name, tokenizer_digest(world), _numbers(options), model.num_timesteps)

    def predict(
        self, observation: Observed, state: Carried = None, episode_start: Begun = None, deterministic: bool = False
    ) -> tuple[np.ndarray, Carried]:
        """An action for every row of stacked observations."""
        return self.policy.predict(observation, state, episode_start, deterministic)

    def check_world(self, world: World) -> None:
        """Raise InvalidInput for a world whose latents are not those that the agent learned from."""
        if self.observation.kind == "latents" and self.tokenizer not in (tokenizer_digest(world), _old_digest(world)):
            raise InvalidInput(
                f"the agent reads latents of another tokenizer than that of world {world.config.name!r}; use world "
                f"{self.world!r} or one trained on from it, or train the agent anew"
            )

    def save(self, path: Path | str, *, optimizer: bool = True) -> None:
        """Write `path` (.safetensors), whole or not at all: weights, all fields, and the optimizer's state.

        Without that state the file is a third as large, and training starts from the weights alone. Raises InvalidInput
        where it cannot be written.
        """
        path = _checked(path)
        # Not the state_dict, which names the features that actor and critic share three times.
        tensors = {f"policy.{name}": weight.detach() for name, weight in self.policy.named_parameters()}
        if optimizer:
            tensors |= optimizer_tensors(self.policy.optimizer)
        meta = {
            "kind": KIND, "agent_format": FORMAT, "world": self.world, "tokenizer": self.tokenizer,
            "observation": dataclasses.asdict(self.observation), "options": self.options, "steps": self.steps,
            "shape": self.policy.observation_space.shape, "actions": _action_facts(self.policy.action_space),
        }  # fmt: skip
        try:
            save_checkpoint(path, tensors, meta)
        except InvalidInput as error:
            raise InvalidInput(
                f"agent {str(path)!r} cannot be written ({error.__cause__}); free space on that disk, or give another "
                "folder"
            ) from error


def load_agent(path: Path | str) -> Agent:
    """Read an agent that `Agent.save` wrote; runs no code of the file's. Raises InvalidInput if it cannot be read."""
    path = _checked(path)
    try:
        tensors, meta = load_checkpoint(path, {"kind": str, "agent_format": int})
        if (meta.get("kind"), meta.get("agent_format")) != (KIND, FORMAT):
            raise ValueError(f"it holds a {meta.get('kind')} of format {meta.get('agent_format')}")
        return _build(tensors, meta)
    except (DamagedCheckpoint, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise InvalidInput(
            f"agent {str(path)!r} cannot be read ({error.__cause__ or error}); give the {SUFFIX} file that training "
            "wrote"
        ) from error


def convert_agent(old: Path, new: Path, *, allow_pickle: bool = False) -> Agent:
    """Write an agent that older versions saved in the present format; returns it. Running the file's code is its price.

    Beside the .zip lies its .json; a rewards.pkl there becomes a rewards.json beside the new .safetensors file. Raises
    InvalidInput without `allow_pickle`, and if the agent cannot be read or written.
    """
    new = _checked(new)
    if not allow_pickle:
        raise InvalidInput(f"reading {str(old)!r} can run code that it holds; if you trust it, add --allow-pickle")
    try:
        facts = json.loads(old.with_suffix(".json").read_text(encoding="utf-8"))
        observation = ObservationConfig(**facts["observation"])
        model = PPO.load(old, device="cpu")
        options = _numbers({**vars(model), "clip_range": vars(model)["clip_range"](1.0)})
        agent = Agent(model.policy, observation, facts["world"], facts["tokenizer"], options, model.num_timesteps)
        rewards = old.with_name(OLD_REWARDS)
        scale = reward_scale(pickle.loads(rewards.read_bytes())) if rewards.exists() else None  # noqa: S301
    except Exception as error:  # what a pickle raises is up to the pickle
        raise InvalidInput(
            f"old agent {str(old)!r} cannot be read ({error}); give the .zip that training wrote, its .json beside it"
        ) from error
    if scale is not None:
        write_json(new.with_name(REWARDS), scale)
    agent.save(new)
    return agent


def reward_scale(envs: Any) -> dict[str, float]:
    """The running statistics with which a VecNormalize scales rewards."""
    found = envs.ret_rms
    return {"mean": float(found.mean), "var": float(found.var), "count": float(found.count)}


def tokenizer_digest(world: World) -> str:
    """A short name for the weights that make a world's latents, the same on machines that compute in other formats.

    Those of the encoder: a world may be given another decoder (`worldsim train decoder`).
    """
    return _digest(tensor for name, tensor in world.tokenizer.state_dict().items() if not name.startswith("decoder."))


def _old_digest(world: World) -> str:
    """What agents were saved with that are older than other decoders."""
    return _digest(world.tokenizer.state_dict().values())


def _digest(tensors: Iterable[Tensor]) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.detach().cpu().to(torch.bfloat16).contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()[:16]


def _build(tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> Agent:
    """The agent of a file; raises ValueError, KeyError or TypeError where its parts do not fit each other."""
    weights = {name.removeprefix("policy."): t for name, t in tensors.items() if name.startswith("policy.")}
    facts = meta["observation"]
    if not all(value is None or isinstance(value, int | str) for value in facts.values()):
        raise ValueError(f"its observation is {facts}")
    observation = ObservationConfig(**facts)
    shape = tuple(meta["shape"])
    # Any network has more weights than an observation has numbers: a file does not ask for more memory than it takes.
    sound = len(shape) == 3 and all(isinstance(n, int) and n > 0 for n in shape)
    if not sound or math.prod(shape) > sum(t.numel() for t in weights.values()):
        raise ValueError(f"its observations have shape {shape}")
    actions = ActionSpec(**meta["actions"]).to_space()
    with torch.device("meta"):
        wanted = {name: tuple(p.shape) for name, p in make_policy(observation, shape, actions).named_parameters()}
    if wanted != {name: tuple(t.shape) for name, t in weights.items()}:
        raise ValueError("its weights are not those of its network")
    policy = make_policy(observation, shape, actions)
    policy.load_state_dict(weights, strict=False)
    load_optimizer(policy.optimizer, tensors)
    named = str(meta["world"]), str(meta["tokenizer"])
    return Agent(policy, observation, *named, _numbers(meta["options"]), int(meta["steps"]))


def _numbers(options: Mapping[str, Any]) -> dict[str, float]:
    """Those of PPO's options that a file can hold; a schedule is to be given anew."""
    return {name: options[name] for name in NUMBERS if isinstance(options.get(name), int | float)}


def _action_facts(space: gym.spaces.Space[Any]) -> dict[str, Any]:
    """The fields of the ActionSpec that has this space."""
    if isinstance(space, gym.spaces.Discrete):
        return {"n": int(space.n)}
    assert isinstance(space, gym.spaces.Box)
    return {"low": space.low.tolist(), "high": space.high.tolist()}


def _checked(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix == ".zip":
        raise InvalidInput(
            f"agent {str(path)!r} is of an older format, which can run code when it is read; if you trust it, convert "
            f"it with `worldsim agent convert {path} {path.with_suffix(SUFFIX)} --allow-pickle`"
        )
    if path.suffix != SUFFIX:
        raise InvalidInput(f"agent path {str(path)!r} does not end in {SUFFIX}; give it that ending")
    return path
