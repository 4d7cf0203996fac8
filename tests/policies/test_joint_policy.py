"""A world whose own denoiser has action tokens plays as a policy and labels recordings, without a network beside it."""

import numpy as np
import point_robot
import pytest
from small_training import brief, fixed_tokenizer, narrow, train

from worldsim.cli.main import main
from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput
from worldsim.io.media import save_video
from worldsim.models.acting import NOT_SOON
from worldsim.policies.robot.labelling import label_episodes, label_frames, tokens_of
from worldsim.policies.robot.protocol import chosen, load_policy, make_batch
from worldsim.policies.robot.world_policy import WorldPolicy
from worldsim.train import dynamics_task, export
from worldsim.train.checkpoint import load_checkpoint
from worldsim.world import World

CHUNK = 3
HEADS = ("reward", "ending", "event", "motion:proprio", "success", "inverse")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A state-first world with action tokens, of a few steps of training."""
    path = tmp_path_factory.mktemp("joint-policy")
    store = point_robot.recorded(path / "data", steps=60)
    task = point_robot.dynamics_task_of(store, path / "run", heads=HEADS, action_tokens=CHUNK, redraw=True)
    train(task, brief(4), path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "load_tokenizer", lambda run: fixed_tokenizer())
        export.export_world("point-robot", [store], path / "run", path / "world", starts=4)
    return path


def seen(policy, seed=0):
    rng = np.random.default_rng(seed)
    streams = {name: rng.uniform(-0.5, 0.5, (3, 2)).astype(np.float32) for name in ("proprio", "goal")}
    frames = rng.integers(0, 255, (3, 16, 32, 3), dtype=np.uint8)
    return make_batch(policy.world.spec, frames, streams, ["left", "right", "left"])


def test_a_world_plays_by_its_own_tokens_and_its_seeds_name_what_it_does(folder):
    policy = WorldPolicy(folder / "world", device="cpu")
    spec, batches = policy.world.spec, [seen(policy, seed) for seed in range(3)]

    def play(seeds):
        policy.seed(seeds)
        policy.reset()
        return np.stack([chosen(policy, batch, spec) for batch in batches])

    first = play([1, 2, 3])
    assert first.shape == (3, 3, 2) and np.array_equal(first, play([1, 2, 3]))
    assert not np.array_equal(first, play([4, 5, 6]))
    other = WorldPolicy(folder / "world", device="cpu", outcome=NOT_SOON)
    other.seed([1, 2, 3])
    assert not np.array_equal(first[0], chosen(other, batches[0], spec))


def test_a_look_at_the_chunk_leaves_the_policy_as_it_was(folder):
    policy, other = (WorldPolicy(folder / "world", device="cpu", act_steps=1) for _ in range(2))
    spec, batches = policy.world.spec, [seen(policy, seed) for seed in range(3)]
    for batch in batches:
        chunk = policy.predict_action_chunk(batch)
        assert chunk.shape == (3, CHUNK, 2)
        taken = chosen(policy, batch, spec)
        assert np.array_equal(taken, np.clip(chunk[:, 0].numpy(), -1, 1))
        assert np.array_equal(taken, chosen(other, batch, spec))


def test_a_policy_remembers_the_frames_before(folder):
    one, other = (WorldPolicy(folder / "world", device="cpu", act_steps=1) for _ in range(2))
    chosen(one, seen(one, 0), one.world.spec)
    chosen(other, seen(other, 1), other.world.spec)
    last = seen(one, 2)
    assert not np.array_equal(chosen(one, last, one.world.spec), chosen(other, last, other.world.spec))


def test_episodes_are_labelled_by_the_world_itself(folder):
    world, store = World.from_pretrained(folder / "world", device="cpu"), Episodes.open(folder / "data")
    tokens = tokens_of(world, folder / "world")
    assert tokens is world.dynamics
    labels, by_head = label_episodes(world, store, tokens), label_episodes(world, store)
    assert [len(one) for one in labels.told] == (store.lengths - 1).tolist()
    assert not np.allclose(labels.told[0], by_head.told[0]) and np.abs(np.concatenate(labels.told)).max() <= 1
    streams = {name: store.read(name, 0, 4) for name in ("proprio", "goal", "task")}
    alone = label_frames(world, store.read("rgb", 0, 4), tokens, streams)
    np.testing.assert_allclose(alone, labels.told[0][:3], atol=2e-2)
    later = {**streams, "proprio": np.concatenate([streams["proprio"][:3], streams["proprio"][3:] + 1])}
    assert np.array_equal(alone, label_frames(world, store.read("rgb", 0, 4), tokens, later))  # not told where it went


def test_the_commands_evaluate_and_label(folder, tmp_path, capsys):
    world, data = str(folder / "world"), str(folder / "data")
    main(["robot", "evaluate", f"world:{world}", "--world", world, "--out", str(tmp_path / "out"), "--episodes", "2",
          "--steps", "3", "--tasks", "left"])  # fmt: skip
    main(["robot", "label", world, "--data", data])
    (tmp_path / "videos").mkdir()
    save_video(tmp_path / "videos" / "a.mp4", list(Episodes.open(data).read("rgb", 0, 4)), fps=10)
    videos = ["--videos", str(tmp_path / "videos"), "--out", str(tmp_path / "actions.csv")]
    main(["robot", "label", world, *videos])  # videos have no streams: by the head
    said = capsys.readouterr().out
    assert f"| world:{world} | left |" in said and "r2 " in said and "1 videos" in said
    with pytest.raises(SystemExit):
        main(["robot", "label", world, *videos, "--by", "tokens"])
    assert "has no action tokens that read such data" in capsys.readouterr().err


def test_the_command_trains_it_and_goes_on(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("worldsim.data.latents.load_tokenizer", lambda *where: fixed_tokenizer())
    monkeypatch.setattr(dynamics_task, "DynamicsConfig", narrow)
    command = [
        "train", "dynamics", "--data", str(folder / "data"), "--out", str(tmp_path), "--streams", *point_robot.STREAMS,
        "--foreseen", "proprio", "--action-tokens", "2", "--patch", "2", "1", "--clip", "4", "--device", "cpu",
        "--optimizer", "adamw",
    ]  # fmt: skip
    main([*command, "--steps", "2"])
    main([*command, "--steps", "3", "--resume"])
    meta = load_checkpoint(tmp_path / "dynamics.safetensors")[1]
    assert meta["step"] == 3 and meta["config"]["model"]["action_tokens"] == 2
    assert meta["config"]["loss"]["action_known"] == 0.6


def test_what_is_missing_is_named(folder):
    world, store = World.from_pretrained(folder / "world", device="cpu"), Episodes.open(folder / "data")
    with pytest.raises(InvalidInput, match="reads proprio, goal, task besides frames"):
        label_frames(world, store.read("rgb", 0, 3), world.dynamics)
    with pytest.raises(InvalidInput, match="act_steps is 9; give 1 to 3"):
        WorldPolicy(folder / "world", device="cpu", act_steps=9)
    policy = load_policy(f"world:{folder / 'world'}", world.spec, world.config.source)()
    with pytest.raises(InvalidInput, match=r"no observation\.goal"):
        policy.select_action({n: v for n, v in seen(policy).items() if n != "observation.goal"})
