"""Heads that read the drawn frame: what the config says of them, what they learn, and that they are served exactly."""

import dataclasses

import numpy as np
import pytest
import torch
from exactness import Pair
from lively import SIZES, lively_dynamics, lively_files
from small_training import brief, fixed_tokenizer, latent_store, narrow_dynamics_task, train
from tiny import tiny_episodes

from worldsim.config import build
from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import Episodes
from worldsim.data.latents import cache_latents
from worldsim.envs import WorldEnv
from worldsim.errors import InvalidInput
from worldsim.evaluate.dreams import Dreams
from worldsim.evaluate.ending_head import outcomes_of_recorded
from worldsim.models.dynamics import HEADS, DynamicsConfig
from worldsim.models.heads import Head, heads
from worldsim.rollout import advance, finish, start
from worldsim.sampling.sampler import Eager, SamplingConfig
from worldsim.speculation import Speculation
from worldsim.state.tree import clone
from worldsim.train import export
from worldsim.train.dynamics_loss import LossConfig
from worldsim.world import World

BOTH = {"reward": "both", "ending": "both"}


@heads.register("flash")
class Flash(Head):
    """The reward, by default of the frame; it must not get what it does not read."""

    reads = "frame"

    def forward(self, features):
        read = "history" if features.frame is None else "frame" if features.tokens is None else "both"
        assert (features.frame is None) == (features.previous is None)
        self.asked = read
        return features.read[:, 0]

    def loss(self, out, targets):
        return (targets.counted * (out - targets.reward).square()).mean()

    def sample(self, out):
        return {"flash": out}


def test_heads_of_the_history_have_no_second_trunk():
    assert not lively_dynamics().heads.late and not any("heads.late" in name for name in lively_dynamics().state_dict())
    model = lively_dynamics(config=dataclasses.replace(SIZES, head_reads={"reward": "frame"}))
    assert set(model.heads.late) == {"frame"} and model.heads.last.weight.shape[0] == 2
    everything = dict.fromkeys(HEADS, "both")
    model = lively_dynamics(config=dataclasses.replace(SIZES, head_reads=everything))
    assert not any(name.startswith("heads.trunk") for name in model.state_dict())


@pytest.mark.parametrize(
    ("reads", "said"), [({"wind": "both"}, "wind"), ({"reward": "future"}, "future"), ({"reward": None}, "None")]
)
def test_what_no_head_reads_is_refused(reads, said):
    with pytest.raises(InvalidInput, match=said):
        dataclasses.replace(SIZES, head_reads=reads)


def test_what_heads_read_is_checked_when_a_config_is_read():
    assert build(DynamicsConfig, {"head_reads": BOTH}, "c").head_reads == BOTH
    with pytest.raises(InvalidInput, match="head_reads"):
        build(DynamicsConfig, {"head_reads": {"reward": "past"}}, "c")
    with pytest.raises(InvalidInput, match="head_reads"):
        build(DynamicsConfig, {"head_reads": ["reward"]}, "c")


@pytest.mark.parametrize(("named", "reads"), [({}, "frame"), ({"flash": "both"}, "both"), ({"flash": "history"},) * 2])
def test_a_head_reads_what_it_is_made_for_unless_the_config_says_otherwise(named, reads):
    reads = reads if isinstance(reads, str) else "history"
    model = lively_dynamics(config=dataclasses.replace(SIZES, output_heads=(*HEADS, "flash"), head_reads=named))
    z, actions, zeros = torch.zeros(1, 1, 4, 2, 4), torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 1)
    seen = model.forward(z, z, actions, zeros, zeros)
    inputs = type("Inputs", (), {})()
    said = seen.heads | model.heads.of_frame(z[0], z[0], seen.tokens, inputs)
    assert said.keys() == {*HEADS, "flash"} and model.heads.each["flash"].asked == reads


# -- learning


def flashing_store(path):
    """Rows whose reward only their own frame tells: a light that comes on by chance."""
    meta = dataclasses.replace(tiny_episodes(path / "like", lengths=(2,), between=0).meta)
    rng = np.random.default_rng(0)
    with EpisodeWriter(path / "flashing", meta) as writer:
        for _ in range(6):
            for t in range(40):
                lit = bool(rng.integers(2)) and t > 0
                frame = np.full((16, 32, 3), 220 if lit else 30, np.uint8)
                row = {"rgb": frame, "action": int(rng.integers(3)) if t else 0, "reward": np.float32(lit)}
                writer.append(row | {"terminated": False, "truncated": t == 39})
            writer.end_episode()
    return Episodes.open(path / "flashing")


def test_a_head_from_outside_learns_what_only_the_frame_tells(tmp_path, monkeypatch):
    store = flashing_store(tmp_path)
    recipe = {"heads": (*HEADS, "flash"), "head_reads": {"flash": "both"}, "loss": LossConfig(outcome_dropout=0.0)}
    tokenizer = fixed_tokenizer()
    tokenizer.log_rms.fill_(-4.5)  # so that the light is as large in latents as things are
    clips = [cache_latents(tokenizer, store, tmp_path, "cpu")]
    task = narrow_dynamics_task(clips, monkeypatch, batch=4, clip=8, **recipe)
    train(task, brief(110, cooldown=0.5), tmp_path)
    engine, clip, zeros = Eager(task.model.dynamics, SamplingConfig()), task.batch(10_000, 0), [0] * 4
    z, actions, errors = clip["latents"][:, :, 0].float(), clip["actions"], []
    state = start(engine, z[:, :1], actions[:, :0], ages=zeros, seeds=zeros, episodes=zeros)
    for t in range(1, z.shape[1]):
        state, output = finish(advance(engine, state, actions[:, t], given=z[:, t]))
        said = torch.stack([output.said["flash"], output.reward])  # (2, B)
        errors.append((said - clip["rewards"][:, t]).square()[:, clip["valid"][:, t]])
    flash, reward = torch.cat(errors, dim=1).mean(1).tolist()
    assert flash < 0.05 < 0.2 < reward  # 0.25: nothing known; measured in fp32: 0.02 and 0.24


def test_frames_that_were_not_recorded_are_drawn_for_heads(tmp_path, monkeypatch):
    """Of a step that ends an episode the recorded frame may be anything: no head may learn the ending from it."""
    task = narrow_dynamics_task(
        [latent_store(tiny_episodes(tmp_path / "data"), tmp_path)], monkeypatch, head_reads=BOTH
    )
    loss, batch = task.model, next(b for b in (task.batch(i, 0) for i in range(99)) if b["terminated"].any())
    last = batch["terminated"][..., None, None, None, None]
    other = batch | {"latents": torch.where(last, batch["latents"] + 50, batch["latents"])}
    for share in (0.0, 1.0):
        loss.config = dataclasses.replace(loss.config, drawn_frames=share)
        results = [loss(b, 0, torch.Generator().manual_seed(0))[1]["ending"] for b in (batch, other)]
        assert results[0] == pytest.approx(results[1].item(), rel=1e-3)


# -- serving


def test_reward_and_ending_of_both_are_trained_exported_and_stepped_in_an_environment(tmp_path, monkeypatch):
    store = tiny_episodes(tmp_path / "data", lengths=(30, 25, 40))
    task = narrow_dynamics_task([latent_store(store, tmp_path)], monkeypatch, head_reads=BOTH)
    train(task, brief(3), tmp_path)
    again = narrow_dynamics_task([latent_store(store, tmp_path)], monkeypatch, head_reads=BOTH)
    train(again, brief(5), tmp_path, resume=True)
    monkeypatch.setattr(export, "load_tokenizer", lambda run: fixed_tokenizer())
    export.export_world("both", [store], tmp_path, tmp_path / "world", starts=4)
    world = World.from_pretrained(tmp_path / "world", device="cpu")
    assert world.config.dynamics.head_reads == BOTH and world.dynamics.heads.of["both"] == ["reward", "ending"]
    env = WorldEnv(world, max_episode_steps=5)
    env.reset(seed=0)
    _, reward, _, _, info = env.step(1)
    assert np.isfinite(reward) and 0 < info["termination_probability"] < 1 and not info["non_finite"]


def test_a_state_keeps_its_layout_whatever_heads_sample():
    world = World(lively_files(output_heads=(*HEADS, "flash")), device="cpu")
    state = world.reset([0])
    _, output = finish(advance(world.engine, state, torch.tensor([1])))
    # no stream of the config, so nothing that the next step begins with
    assert output.said.keys() == {"flash"} and not output.streams
    env = WorldEnv(world)
    env.reset(seed=0)
    env.step(1)
    env.restore_state(env.save_state())
    env.reset(seed=0, options={"frames": np.zeros((1, 16, 32, 3), np.uint8)})
    assert env.save_state().tree.heads == {}


def test_speculation_and_forks_are_exact():
    world = World(lively_files(head_reads=BOTH), device="cpu")
    options = {"render_mode": "rgb_array", "max_episode_steps": 60}
    on, off = WorldEnv(world, speculate=Speculation(adapt=False), **options), WorldEnv(world, **options)
    Pair(on, off, 0).play(60, lambda rng: int(rng.integers(3) if rng.random() < 0.3 else 1))
    assert on.speculation_stats.hit_rate > 0
    on.close()


def test_another_sampling_draws_other_frames_of_which_heads_say_other_things():
    world = World(lively_files(head_reads=BOTH), device="cpu")
    hot = world.with_sampling(dataclasses.replace(world.sampling, temperature=3.0))
    one, other = (w.step(w.reset([0]), np.array([1]))[1] for w in (world, hot))
    assert one.reward != other.reward
    plain = World(lively_files(), device="cpu")
    same = [w.step(w.reset([0]), np.array([1]))[1].reward for w in (plain, plain.with_sampling(hot.sampling))]
    assert same[0] == same[1]


def test_endings_are_judged_by_drawn_frames_when_a_world_is_calibrated(tmp_path):
    world = World(lively_files(head_reads=BOTH), device="cpu")
    store = tiny_episodes(tmp_path / "data", lengths=(6, 5))
    first, last = outcomes_of_recorded(world, store).probability, world.encode(store.read("rgb", 0, 3))
    dreams = Dreams(world, torch.from_numpy(last[:1])[None], np.zeros((1, 0), np.int64), np.zeros(1, np.int64), [0])
    before = clone(dreams._state)
    step = dreams.observe(torch.from_numpy(last[1:2]).to(world.dtype), store.read("action", 1, 2))
    said = step.extras["termination_probability"]
    _, drawn = finish(advance(world.engine, before, torch.from_numpy(store.read("action", 1, 2))))
    assert said == torch.sigmoid(drawn.end_logit).numpy() and len(first) == 2
    assert torch.equal(dreams._state.past[:, 0].float(), torch.from_numpy(last[1:2]).to(world.dtype).float())
