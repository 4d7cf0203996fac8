"""A world that acts: action tokens tell what was done, say what to do, and play as a policy."""

import dataclasses

import numpy as np
import point_robot
import pytest
import torch
from small_training import brief, loss_of, train

from worldsim.cli.main import main
from worldsim.data.episodes import Episodes
from worldsim.data.latents import cache_latents
from worldsim.errors import InvalidInput
from worldsim.models.acting import NOT_SOON, SOON, UNKNOWN
from worldsim.models.action_tokens import ActionTokensConfig
from worldsim.policies.robot.labelling import label_episodes, tokens_of
from worldsim.policies.robot.protocol import chosen, load_policy, make_batch
from worldsim.policies.robot.world_policy import WorldPolicy
from worldsim.train.actions_task import FILE, ActionsTask, load_actions, pack_actions, weights_of
from worldsim.world import World

STREAMS = ("proprio", "goal", "task")
SMALL = ActionTokensConfig(chunk=3, streams=STREAMS, channels=16, width=64, hidden=64)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A world, its recordings, and a run that trained action tokens for some seconds."""
    path = tmp_path_factory.mktemp("acts")
    point_robot.trained_world(path, steps=5)
    world, store = World.from_pretrained(path / "world", device="cpu"), Episodes.open(path / "data")
    clips = cache_latents(world.tokenizer.float(), store, path / "acting", "cpu", streams=(*STREAMS, "success"))
    rng = np.random.default_rng(
        0
    )  # frames in which actions can be seen; those of a tokenizer without training hide them
    lengths = np.diff(clips.ends, prepend=0)
    moved = np.cumsum(np.einsum("ta,achw->tchw", clips.actions, rng.normal(size=(2, *clips.latents.shape[2:]))), axis=0)
    clips = dataclasses.replace(
        clips, latents=(moved - np.repeat(moved[clips.ends - lengths], lengths, 0))[:, None].astype(np.float16)
    )
    task = ActionsTask([clips], World.from_pretrained(path / "world", device="cpu"), SMALL)
    before = loss_of(task)
    train(task, brief(150, lr=2e-3), path / "acting")
    pack_actions(path / "world", path / "acting", path / "acting" / "world")
    return path, task, before


def test_training_tells_actions_and_keeps_the_world(made):
    path, task, before = made
    assert loss_of(task) < 0.75 * before
    old, new = (path / "world", path / "acting" / "world")
    assert (old / "model.safetensors").read_bytes() == (new / "model.safetensors").read_bytes()
    assert weights_of(World.from_pretrained(old, device="cpu")) == weights_of(World.from_pretrained(new, device="cpu"))


def test_the_next_frame_tells_what_was_done(made):
    path, task, _ = made
    told, free = (loss_of(task, metric=name) for name in ("inverse", "policy"))
    assert told < 0.6 * free
    world, store = World.from_pretrained(path / "world", device="cpu"), Episodes.open(path / "data")
    labels = label_episodes(world, store, tokens_of(world, path / "acting" / "world"))
    assert [len(one) for one in labels.told] == (store.lengths - 1).tolist()
    assert np.abs(labels.told[0]).max() <= 1


def test_what_comes_of_actions_is_counted_within_an_episode(made):
    _, task, _ = made
    store, outcome = task.stores[0], task._outcomes[0]
    success, soon = store.streams["success"].astype(bool), task.model.config.soon
    for end, length in zip(store.ends.tolist()[:8], store.store.lengths.tolist()[:8], strict=True):
        for row in range(end - length, end):
            assert (outcome[row] == SOON) == success[row + 1 : min(row + soon + 1, end)].any()
    assert set(outcome.tolist()) <= {NOT_SOON, SOON}


def test_a_world_plays_as_a_policy_and_its_seeds_name_what_it_does(made):
    path, _, _ = made
    policy = WorldPolicy(path / "acting" / "world", device="cpu", act_steps=2)
    spec, rng = policy.world.spec, np.random.default_rng(0)
    streams = {"proprio": np.zeros((3, 2), np.float32), "goal": np.full((3, 2), 0.5, np.float32)}
    batch = make_batch(spec, rng.integers(0, 255, (3, 16, 32, 3), dtype=np.uint8), streams, ["left", "right", "left"])

    def play():
        policy.seed([1, 2, 3])
        policy.reset()
        return np.stack([chosen(policy, batch, spec) for _ in range(3)])

    first = play()
    assert first.shape == (3, 3, 2) and np.array_equal(first, play())
    assert policy.predict_action_chunk(batch).shape == (3, 3, 2)
    other = WorldPolicy(path / "acting" / "world", device="cpu", outcome=UNKNOWN)
    other.seed([1, 2, 3])
    assert not np.array_equal(first[0], chosen(other, batch, spec))
    policy.reset()
    with pytest.raises(InvalidInput, match="no task 'up'"):
        policy.select_action({**batch, "task": ["up"] * 3})
    with pytest.raises(InvalidInput, match=r"no observation\.goal"):
        policy.select_action({name: value for name, value in batch.items() if name != "observation.goal"})


def test_the_commands_train_evaluate_and_label(made, tmp_path, capsys, monkeypatch):
    path, _, _ = made
    monkeypatch.setattr("worldsim.models.action_tokens.ActionTokensConfig", lambda **c: dataclasses.replace(SMALL, **c))
    main(["train", "actions", str(path / "world"), "--data", str(path / "data"), "--out", str(tmp_path / "run"),
          "--streams", *STREAMS, "--steps", "2", "--device", "cpu"])  # fmt: skip
    acting = tmp_path / "run" / "world"
    main(["robot", "evaluate", f"world:{acting}", "--world", str(acting), "--out", str(tmp_path / "out"),
          "--episodes", "2", "--steps", "3", "--tasks", "left"])  # fmt: skip
    main(["robot", "label", str(acting), "--data", str(path / "data")])
    said = capsys.readouterr().out
    assert f"| world:{acting} | left |" in said and "r2 " in said


def test_what_cannot_act_is_refused(made, tmp_path):
    path, _, _ = made
    world = World.from_pretrained(path / "world", device="cpu")
    with pytest.raises(InvalidInput, match=f"no {FILE}.*worldsim train actions"):
        load_policy(f"world:{path / 'world'}", world.spec, world.config.source)
    with pytest.raises(InvalidInput, match="act_steps is 9; give 1 to 3"):
        WorldPolicy(path / "acting" / "world", device="cpu", act_steps=9)
    with pytest.raises(InvalidInput, match="discrete actions"):
        ActionsTask([], World.from_pretrained("doom-take-cover", device="cpu"), SMALL)
    with pytest.raises(InvalidInput, match="no vector or token 'nose'; it has"):
        ActionsTask([], world, dataclasses.replace(SMALL, streams=("nose",)))
    with torch.no_grad():
        next(world.tokenizer.encoder.parameters()).add_(1)
    with pytest.raises(InvalidInput, match="latents of another world"):
        load_actions(world, path / "acting" / "world")
