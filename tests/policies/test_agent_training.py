"""Agents that are trained, saved, resumed, trained on and recorded with."""

import dataclasses
import errno
import json
import pickle
import runpy
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from game import COUNTER, counter_world
from safetensors import safe_open
from safetensors.torch import save_file
from stable_baselines3 import PPO

from worldsim.cli.main import main
from worldsim.cli.record import record
from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput
from worldsim.policies.agent import _old_digest, convert_agent, load_agent
from worldsim.policies.agent_envs import dream_envs, real_envs
from worldsim.policies.judge import Judge
from worldsim.policies.network import STEP_DISCOUNT
from worldsim.policies.observation import ObservationConfig
from worldsim.policies.training import Training
from worldsim.train.checkpoint import save_checkpoint
from worldsim.world import World

CONFIG = ObservationConfig(stack=2, hold=2)
EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = {"n_steps": 8, "batch_size": 16, "n_epochs": 1}


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "tiny"
    world.save_pretrained(path)
    return str(path)


def start(world, folder, out, config=CONFIG, make=dream_envs, **options):
    return Training(make(world, 2, config), config, world, folder, out, **{**SMALL, **options})


@pytest.fixture(scope="module")
def trained(world, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    start(world, folder, out).run(steps=32)
    return out


def test_training_goes_to_the_end_of_its_steps_and_is_judged_on_the_way(world, folder, tmp_path):
    judge = Judge(world, CONFIG, episodes=2)
    training = start(world, folder, tmp_path)
    before = [p.clone() for p in training.model.policy.parameters()]
    agent = training.run(steps=64, stages=2, measure=judge)
    assert agent.steps == training.model.num_timesteps == 64
    assert any((a != b).any() for a, b in zip(before, agent.policy.parameters(), strict=True))
    points = json.loads((tmp_path / "curve.json").read_text())["points"]
    assert [p["steps"] for p in points] == [16, 32, 48, 64]
    assert [sorted(p.get("scores", {})) for p in points] == [[], ["dream", "real"], [], []]
    assert list((tmp_path / "tensorboard").rglob("events*"))
    judge.close()


def test_the_learning_rate_falls_over_the_budget(world, folder, tmp_path, monkeypatch):
    rates, learn = [], PPO.train

    def train(model):
        learn(model)
        rates.append(model.policy.optimizer.param_groups[0]["lr"])

    monkeypatch.setattr(PPO, "train", train)
    start(world, folder, tmp_path, learning_rate=1e-3).run(steps=64)
    assert rates == pytest.approx([0.75e-3, 0.5e-3, 0.25e-3, 0.05e-3])
    start(world, folder, tmp_path, resume=True).run(steps=128)
    assert rates[4:] == pytest.approx([0.375e-3, 0.25e-3, 0.125e-3, 0.05e-3])


def test_an_agent_looks_as_far_ahead_whatever_it_holds_its_actions_for(world, folder, tmp_path):
    for hold in (1, 4):
        training = start(world, folder, tmp_path / str(hold), ObservationConfig(stack=2, hold=hold))
        assert training.model.gamma == training.envs.gamma == pytest.approx(STEP_DISCOUNT**hold)


def test_to_be_judged_is_no_training(world, folder, tmp_path):
    training = start(world, folder, tmp_path)
    training.run(minutes=0.02, stages=2, measure=lambda agent: time.sleep(3) or {})
    assert 0.019 <= training.points[-1]["minutes"] < 0.05


def test_training_goes_to_the_end_of_its_time(world, folder, tmp_path):
    training = start(world, folder, tmp_path)
    training.run(minutes=0.01)
    assert training.points[-1]["minutes"] >= 0.009 and (tmp_path / "agent.safetensors").exists()
    with pytest.raises(InvalidInput, match="one of the two"):
        training.run()


def test_a_resumed_run_goes_on(world, folder, tmp_path):
    start(world, folder, tmp_path).run(steps=32)
    with pytest.raises(InvalidInput, match="add --resume"):
        start(world, folder, tmp_path)
    training = start(world, folder, tmp_path, resume=True)
    assert training.envs.ret_rms.count > 30  # it knows the size of the rewards
    training.run(steps=64)
    assert [p["steps"] for p in training.points] == [16, 32, 48, 64]
    other = ObservationConfig(stack=1)
    with pytest.raises(InvalidInput, match="same options"):
        start(world, folder, tmp_path, other, resume=True)


@pytest.mark.parametrize("config", [CONFIG, ObservationConfig("pixels", height=40, width=40, stack=2)])
def test_a_saved_agent_is_the_same_agent(world, folder, tmp_path, config):
    start(world, folder, tmp_path, config).run(steps=16)
    agent = load_agent(tmp_path / "agent.safetensors")
    assert agent.observation == config and agent.world == folder
    model = start(world, folder, tmp_path, config, resume=True).model
    for envs in (dream_envs(world, 2, config), real_envs(world, 2, config)):
        seen = envs.reset()
        assert np.array_equal(agent.predict(seen, deterministic=True)[0], model.predict(seen, deterministic=True)[0])


def test_an_agent_trains_on_in_a_world_of_the_same_tokenizer_only(world, folder, trained, tmp_path):
    training = start(world, folder, tmp_path / "on", parent=trained / "agent.safetensors")
    old = load_agent(trained / "agent.safetensors").policy.state_dict()
    assert all((old[name] == value).all() for name, value in training.model.policy.state_dict().items())
    training.run(steps=16)
    assert training.points[0]["steps"] == 16
    with pytest.raises(InvalidInput, match="another tokenizer"):
        start(counter_world(1), folder, tmp_path / "other", parent=trained / "agent.safetensors")


def test_an_agent_knows_the_latents_whatever_decodes_them(world, trained):
    agent = load_agent(trained / "agent.safetensors")
    files = world._files
    decoder = {name: tensor + 1 for name, tensor in files.model.items() if name.startswith("tokenizer.decoder.")}
    repainted = World(dataclasses.replace(files, model={**files.model, **decoder}), device="cpu")
    agent.check_world(repainted)
    agent.tokenizer = _old_digest(world)  # as agents of 0.1.0 say it
    agent.check_world(world)
    with pytest.raises(InvalidInput, match="another tokenizer"):
        agent.check_world(repainted)


def test_a_full_disk_leaves_the_saved_agent_and_hides_no_earlier_error(world, folder, tmp_path, monkeypatch):
    training = start(world, folder, tmp_path)
    training.run(steps=16)
    before = (tmp_path / "agent.safetensors").read_bytes()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("worldsim.train.checkpoint.save_file", full)
    with pytest.raises(InvalidInput, match=r"agent\.safetensors' cannot be written .*No space.*free space"):
        training.run(steps=32)
    monkeypatch.setattr(PPO, "train", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        training.run(steps=48)
    assert (tmp_path / "agent.safetensors").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {
        "agent.safetensors",
        "rewards.json",
        "curve.json",
        "tensorboard",
    }


def test_an_agent_trains_in_the_real_game(world, folder, tmp_path):
    assert start(world, folder, tmp_path, make=real_envs).run(steps=16).steps == 16


def test_training_goes_on_with_the_optimizer_and_the_options_of_the_saved_agent(world, folder, tmp_path):
    before = start(world, folder, tmp_path, learning_rate=1e-3)
    before.run(steps=32)
    after = Training(dream_envs(world, 2, CONFIG), CONFIG, world, folder, tmp_path, resume=True)
    assert (after.model.learning_rate, after.model.n_steps, after.model.num_timesteps) == (1e-3, 8, 32)
    known, found = before.envs.ret_rms, after.envs.ret_rms
    assert (known.mean, known.var, known.count) == (found.mean, found.var, found.count)
    one, other = (training.model.policy.optimizer.state_dict()["state"] for training in (before, after))
    assert one.keys() == other.keys() and len(one) > 5
    assert all((one[i][name] == other[i][name]).all() for i in one for name in ("step", "exp_avg", "exp_avg_sq"))


def test_an_agent_without_its_optimizer_is_smaller_acts_alike_and_can_be_trained_on(world, folder, tmp_path):
    start(world, folder, tmp_path).run(steps=16)
    small = tmp_path / "small.safetensors"
    agent = load_agent(tmp_path / "agent.safetensors")
    agent.save(small, optimizer=False)
    assert small.stat().st_size < 0.5 * (tmp_path / "agent.safetensors").stat().st_size
    seen = np.random.default_rng(0).normal(size=(3, *agent.policy.observation_space.shape)).astype(np.float32)
    one, other = (known.predict(seen, deterministic=True)[0] for known in (agent, load_agent(small)))
    assert np.array_equal(one, other)
    (tmp_path / "on").mkdir()
    on = start(world, folder, tmp_path / "on", parent=small)
    on.run(steps=16)
    assert on.model.policy.optimizer.state_dict()["state"]


def altered(path, out, weights=(), **changes):
    """The agent with other values in its header, or with other weights than its checksum is of."""
    with safe_open(path, "pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    if weights:
        save_file({name: t + (name in weights) for name, t in tensors.items()}, out, metadata)
    else:
        save_checkpoint(out, tensors, json.loads(metadata["worldsim"]) | changes)


@pytest.mark.parametrize(
    ("weights", "changes"),
    [
        (["policy.action_net.bias"], {}),
        ([], {"agent_format": 2}),
        ([], {"kind": "tokenizer"}),
        ([], {"shape": [6, 4, 2]}),
        ([], {"shape": [1 << 20, 1 << 20, 1 << 20]}),
        ([], {"shape": "big"}),
        ([], {"actions": {"n": 9}}),
        ([], {"actions": None}),
        ([], {"observation": {"kind": "smells"}}),
        ([], {"observation": {"stack": [2]}}),
        ([], {"options": None}),
        ([], {"steps": "many"}),
    ],
    ids=str,
)
def test_an_agent_that_was_altered_is_named(trained, tmp_path, weights, changes):
    altered(trained / "agent.safetensors", tmp_path / "agent.safetensors")
    load_agent(tmp_path / "agent.safetensors")
    altered(trained / "agent.safetensors", tmp_path / "agent.safetensors", weights, **changes)
    with pytest.raises(InvalidInput, match=r"agent\.safetensors' cannot be read"):
        load_agent(tmp_path / "agent.safetensors")


def test_what_is_no_agent_is_named(tmp_path):
    for text in (b"", b"{}", b"PK"):
        (tmp_path / "agent.safetensors").write_bytes(text)
        with pytest.raises(InvalidInput, match=r"agent\.safetensors' cannot be read"):
            load_agent(tmp_path / "agent.safetensors")
    with pytest.raises(InvalidInput, match=r"end in \.safetensors"):
        load_agent(tmp_path / "agent")


class Code:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def old_agent(training, folder, out):
    """What Stable-Baselines3 saved for older versions, with code in it that leaves a trace."""
    training.model.code = Code(out / "ran")
    training.model.save(out / "agent.zip")
    del training.model.code
    facts = {"world": folder, "tokenizer": training.agent.tokenizer, "observation": dataclasses.asdict(CONFIG)}
    (out / "agent.json").write_text(json.dumps(facts), encoding="utf-8")
    (out / "rewards.pkl").write_bytes(pickle.dumps(training.envs))


def test_an_old_agent_runs_code_only_where_that_is_allowed(world, folder, tmp_path):
    training = start(world, folder, tmp_path / "new", learning_rate=1e-3)
    training.run(steps=32)
    old_agent(training, folder, tmp_path)
    old, new = tmp_path / "agent.zip", tmp_path / "agent.safetensors"
    for call in (
        lambda: load_agent(old),
        lambda: start(world, folder, tmp_path, resume=True),
        lambda: start(world, folder, tmp_path / "other", parent=old),
        lambda: record(COUNTER.name, steps=4, out=tmp_path / "a", policy=f"agent:{old}", height=16, width=32),
        lambda: convert_agent(old, new),
    ):
        with pytest.raises(InvalidInput, match="--allow-pickle"):
            call()
    assert not (tmp_path / "ran").exists() and not new.exists()
    main(["agent", "convert", str(old), str(new), "--allow-pickle"])
    assert (tmp_path / "ran").exists()
    seen = dream_envs(world, 2, CONFIG).reset()
    wanted = training.agent.predict(seen, deterministic=True)[0]
    assert np.array_equal(load_agent(new).predict(seen, deterministic=True)[0], wanted)
    (tmp_path / "curve.json").write_bytes((tmp_path / "new" / "curve.json").read_bytes())
    resumed, converted = (
        Training(dream_envs(world, 2, CONFIG), CONFIG, world, folder, out, resume=True).run(steps=64)
        for out in (tmp_path / "new", tmp_path)
    )
    pairs = zip(resumed.policy.parameters(), converted.policy.parameters(), strict=True)
    assert all((a == b).all() for a, b in pairs) and resumed.options == converted.options


def test_an_agent_records_data(trained, tmp_path):
    policy = f"agent:{trained / 'agent.safetensors'}"
    for name in ("a", "b"):
        record(COUNTER.name, steps=40, out=tmp_path / name, policy=policy, height=16, width=32)
    one, other = (Episodes.open(tmp_path / name).read("action", 0, 40) for name in ("a", "b"))
    assert np.array_equal(one, other) and len(set(one.tolist())) > 1
    for wrong, message in (
        ({"policy": f"agent:{tmp_path / 'none.safetensors'}"}, "cannot be read"),
        ({"source": "gym:CartPole-v1"}, "not 'gym:CartPole-v1'"),
    ):
        options = {"source": COUNTER.name, "policy": policy, **wrong}
        with pytest.raises(InvalidInput, match=message):
            record(options.pop("source"), steps=10, out=tmp_path / "c", **options)


def test_an_agent_that_records_sees_and_acts_as_in_its_environments(world, trained, monkeypatch):
    from worldsim.envs.sources.matching import matching_source
    from worldsim.policies import agent_data

    monkeypatch.setattr(agent_data, "MOST_ERRORS", 0.0)
    source = matching_source(COUNTER.name, 1, world.spec)
    policy = agent_data.AgentPolicy(source.spec, str(trained / "agent.safetensors"))
    seen = []
    predict = policy._agent.policy.predict
    policy._agent.policy.predict = lambda stacked, *rest: (seen.append(stacked.copy()), predict(stacked, *rest))[1]
    envs = real_envs(world, 1, CONFIG, seed=5)
    expected, done = [envs.reset().copy()], np.zeros(1, bool)
    policy.reset(np.random.default_rng(0))
    row = source.reset(int(np.random.SeedSequence([5, 0]).generate_state(1)[0]))
    taken = []
    while not row.done:
        taken.append(policy.act(row))
        row = source.step(taken[-1])
    for action in taken[::2]:
        observation, _, done, _ = envs.step(np.array([action - 1]))  # agents count actions from 0
        expected.append(observation.copy())
    assert done.all() and taken[:-1:2] == taken[1::2]
    assert np.array_equal(np.stack(seen), np.stack(expected[:-1]))


def test_the_example_trains_an_agent_and_evaluates_it(world, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(World, "from_pretrained", lambda name: world)
    monkeypatch.setattr(sys, "argv", ["train_in_dream.py", "--minutes", "0.001", "--out", str(tmp_path)])
    runpy.run_path(str(EXAMPLES / "train_in_dream.py"), run_name="__main__")
    assert "decisions episodes last" in capsys.readouterr().out
    assert load_agent(tmp_path / "agent.safetensors").observation.hold == 20
