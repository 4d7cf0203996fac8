"""Worlds have the action space of the environment they were recorded from: its first action, its integers."""

import dataclasses
import json
from pathlib import Path

import counter_env
import gymnasium as gym
import numpy as np
import pytest
import torch
from toy import ToyWorld

from worldsim.actions import check_action, check_actions
from worldsim.cli.record import record
from worldsim.data.episodes import Episodes
from worldsim.envs.play.keys import ActionKeys
from worldsim.envs.sources.matching import matching_source
from worldsim.envs.world_env import WorldEnv
from worldsim.errors import InvalidAction, InvalidInput
from worldsim.models.dynamics import Dynamics, DynamicsConfig
from worldsim.models.registry import StepInputs
from worldsim.models.tokenizer import Tokenizer, TokenizerConfig
from worldsim.spec import ActionSpec
from worldsim.train.checkpoint import save_checkpoint
from worldsim.train.export import export_world
from worldsim.world import World

LATER = ActionSpec(n=3, start=-1, meanings=("LEFT", "NOOP", "RIGHT"), keys=(("left",), (), ("right",)))
WHOLE = ActionSpec(low=(0.0, 2.0), high=(3.0, 9.0), box_dtype="int32")
GAMES = [counter_env.DISCRETE, counter_env.INTEGERS, counter_env.CONTINUOUS]


def untrained_world(store: Episodes, run: Path, out: Path) -> World:
    """The world that a recording leads to, with random weights."""
    actions = store.meta.actions
    torch.manual_seed(0)
    grid = TokenizerConfig(height=16, width=32, channels=4, encoder_widths=(4,) * 3, decoder_widths=(4,) * 3, blocks=1)
    sizes = DynamicsConfig(
        channels=4, height=2, width=4, patch=(2, 1), actions=actions.n, action_dim=len(actions.low), between=0, dim=16,
        heads=2, mlp_ratio=2, history_blocks=1, denoiser_blocks=1, context_length=4, cond_dim=8, local=8,
        action_start=actions.start,
    )  # fmt: skip
    for kind, model, config in (("tokenizer", Tokenizer(grid), grid), ("dynamics", Dynamics(sizes), sizes)):
        tensors = {f"average.{kind}.{name}": t for name, t in model.state_dict().items()}
        settings = json.loads(json.dumps(dataclasses.asdict(config)))
        meta = {"kind": kind, "step": 0, "config": {"model": settings, "reward_scale": 1.0}}
        save_checkpoint(run / f"{kind}.safetensors", tensors, meta)
    export_world("counter", [store], run, out, starts=4)
    return World.from_pretrained(str(out), device="cpu")


@pytest.mark.parametrize("game", GAMES)
def test_a_world_has_the_action_space_of_its_recorded_game(game, tmp_path):
    record(f"gym:{game}", steps=40, out=tmp_path / "s", height=16, width=32)
    world = untrained_world(Episodes.open(tmp_path / "s"), tmp_path / "run", tmp_path / "world")
    env = gym.make("worldsim:worldsim/DoomTakeCover-v0", world=str(tmp_path / "world"), device="cpu")
    assert env.action_space == gym.make(game).action_space
    env.action_space.seed(0)
    for seed in range(8):
        env.reset(seed=seed)
        env.step(env.action_space.sample())  # an untrained world may end at once
    source = matching_source(f"gym:{game}", 1, world.spec)
    source.reset(0)
    source.step(env.action_space.sample())


def test_the_first_action_is_counted_from_in_one_place_only():
    sizes = DynamicsConfig(channels=4, height=2, width=4, patch=(2, 1), between=0, dim=16, heads=2, cond_dim=8, local=8)
    plain, later = Dynamics(sizes), Dynamics(dataclasses.replace(sizes, action_start=-1))
    later.load_state_dict(plain.state_dict())
    frames = torch.randn(3, 4, 2, 4)
    given = {"level": torch.zeros(3), "ages": torch.zeros(3, dtype=torch.int64)}
    one = plain._enter(frames, frames, StepInputs(torch.tensor([0, 1, 2]), **given))
    other = later._enter(frames, frames, StepInputs(torch.tensor([-1, 0, 1]), **given))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_actions_are_checked_against_their_own_space():
    assert check_action(LATER, -1).tolist() == [-1] and check_action(WHOLE, [3, 2]).dtype == np.int64
    for spec, action, message in (
        (LATER, 2, "pass an integer from -1 to 1"),
        (LATER, 0.0, "pass an integer from -1 to 1"),
        (WHOLE, [0.0, 2.0], "pass an array of integers"),
        (WHOLE, [0, 1], "stay within low"),
    ):
        with pytest.raises(InvalidAction, match=message):
            check_action(spec, action)
    ignored = np.array([True, False])
    assert check_actions(LATER, np.array([9, 1]), 2, ignored).tolist() == [-1, 1]


def test_drawn_lowest_and_played_actions_are_of_the_space():
    for spec in (LATER, WHOLE, ActionSpec(low=(-1.0,), high=(0.5,))):
        rng = np.random.default_rng(0)
        for action in (*spec.draw(rng, 50), spec.draw(rng), *spec.lowest(2), ActionKeys(spec).action(())[0]):
            check_action(spec, action)
    assert ActionKeys(LATER).action(("left",)).tolist() == [-1]
    assert ActionKeys(LATER).action(()).tolist() == [0]


def test_stable_baselines_counts_from_zero_whatever_the_first_action_is():
    pytest.importorskip("stable_baselines3")
    from worldsim.envs.sb3 import WorldVecEnv

    envs, env = WorldVecEnv(ToyWorld(LATER), 2), WorldEnv(ToyWorld(LATER))
    assert envs.action_space == gym.spaces.Discrete(3) and env.action_space == gym.spaces.Discrete(3, start=-1)
    envs.reset()
    envs.step(np.array([0, 2]))
    with pytest.raises(InvalidAction, match="is 2; pass an integer from -1 to 1"):
        envs.step(np.array([0, 3]))


def test_a_space_that_is_none_is_refused():
    with pytest.raises(InvalidInput, match="box_dtype of the actions is 'bool'"):
        ActionSpec(low=(0.0,), high=(1.0,), box_dtype="bool")
