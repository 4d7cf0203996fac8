"""A world that remembers places: trained with its memories, exported, stepped; what it keeps, saves and forks."""

import dataclasses

import numpy as np
import pytest
import torch
from exactness import Pair, assert_same
from places import KINDS, MODULES, latents_of, make_world, world_of
from small_training import FRAMES, brief, loss_of, narrow_dynamics_task, train

from worldsim.envs import WorldEnv, WorldVectorEnv
from worldsim.errors import InvalidInput
from worldsim.evaluate.revisits import Returns, find_ways, format_returns, measure_returns
from worldsim.memory.base import Context
from worldsim.models.dynamics import Dynamics
from worldsim.models.places import moved
from worldsim.speculation import Speculation
from worldsim.state.tree import clone, map_named
from worldsim.train.imperfect import drifted, erring, hidden


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("room"))


@pytest.fixture(scope="module")
def store(made):
    return made[0]


@pytest.fixture(scope="module", params=[(kind,) for kind in (*KINDS, "map3d")] + [KINDS], ids="+".join)
def world(made, request):
    if "map3d" in request.param:
        pytest.importorskip("open3d", reason='needs pip install "worldsim[spatial]"')
    with pytest.MonkeyPatch.context() as patched:  # bf16 rounds away what a memory changes after seconds of training
        patched.setattr("worldsim.world.autocast_dtype", lambda device: torch.float32)
        return world_of(made[2], request.param)


# -- training


def test_contexts_of_whole_episodes_are_computed_once_and_enter_the_clips(made, store):
    _, task, folder = made
    batch = task.batch(0, 0)
    assert batch["context.keyframes.guide"].shape[2:] == (FRAMES.channels, 2, 4)
    assert batch["context.keyframes.mask"][:, :-1].float().mean() > 0.6
    files = sorted((folder.parent / "contexts").glob("*/*.npy"))
    stamps = [file.stat().st_mtime_ns for file in files]
    with pytest.MonkeyPatch.context() as patch:
        latents = latents_of(store, folder.parent)
        narrow_dynamics_task([latents], patch, cache=folder.parent / "contexts", **MODULES)
    assert [file.stat().st_mtime_ns for file in files] == stamps and len(files) == 1
    last = np.load(files[0])[store.ends - 1, -1]
    assert not last.any()


def test_motion_is_learned_and_memories_with_weights_are_trained(store, tmp_path, monkeypatch):
    task = narrow_dynamics_task([latents_of(store, tmp_path)], monkeypatch, cache=tmp_path / "contexts", **MODULES)
    before = {n: p.clone() for n, p in task.model.dynamics.memories.named_parameters()}
    error = loss_of(task, batches=2, metric="pose")
    train(task, brief(25, lr=1e-2), tmp_path)
    assert loss_of(task, batches=2, metric="pose") < 0.8 * error
    same = {n for n, p in task.model.dynamics.memories.named_parameters() if torch.equal(p, before[n])}
    assert not same


def test_a_share_of_the_clips_is_learned_without_memories(made):
    model = made[1].model.dynamics
    features = model.forward(*(torch.zeros(2, 3, 4, 2, 4) for _ in range(2)), *_three_steps(), _streams())
    random = torch.Generator().manual_seed(0)
    given = (torch.zeros(2, 3, 4, 2, 4), *_actions_and_ages(), _streams())
    ahead = {n: v.flatten(0, 1) for n, v in _streams().items()}
    dropped = model.memories.recall_clip(features, *given, ahead, random, dropout=1.0).features
    kept = model.memories.recall_clip(features, *given, ahead, random, dropout=0.0).features
    assert torch.equal(dropped.tokens, features.tokens) and not torch.equal(kept.tokens, features.tokens)


def test_a_share_of_the_clips_is_learned_with_one_memory_alone(made):
    memories, dropout = made[1].model.dynamics.memories, 0.2
    chance = torch.tensor([0.1, 0.21, 0.3, 0.39, 0.5])  # none, the first, second and third alone, all
    kept = torch.stack([memories._kept(index, chance, dropout) for index in range(len(KINDS))])
    assert kept.int().T.tolist() == [[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]


def test_what_no_memory_knows_counts_more_and_past_and_guides_are_blurred_in_some_clips(made, monkeypatch):
    task = made[1]
    batch, plain = task.batch(0, 0), task.model.config
    seen, drawn = [], []
    drew, recalled = task.model._draw, task.model._context_features

    def note(context, given, *others):
        seen.append((context, given.recalled["keyframes"].guide))
        return recalled(context, given, *others)

    def draw(canvas, target, t, generator):
        drawn.append(target)
        return drew(canvas, target, t, generator)

    monkeypatch.setattr(task.model, "_context_features", note)
    monkeypatch.setattr(task.model, "_draw", draw)
    losses = []
    for config in ({}, {"blur": 1.0}, {"unseen": 5.0}):
        monkeypatch.setattr(task.model, "config", dataclasses.replace(plain, **config))
        losses.append(task.model(batch, 0, torch.Generator().manual_seed(0))[1]["frame"])
    assert not torch.equal(seen[0][0], seen[1][0]) and not torch.equal(seen[0][1], seen[1][1])
    assert torch.equal(seen[0][0], seen[2][0]) and torch.equal(drawn[0], drawn[1]) and losses[2] > losses[0]


def test_guides_lack_bands_of_columns_and_err_as_own_frames_do():
    random, guide = torch.Generator().manual_seed(0), torch.zeros(6, 4, 2, 8)
    recalled = {"keyframes": Context(guide, torch.ones(6, 1, 2, 8)), "recall": Context(tokens=torch.zeros(6, 2, 3))}
    some = hidden(recalled, 1.0, random)
    mask = some["keyframes"].mask
    assert torch.equal(mask[:, :, :1].expand_as(mask), mask) and 0 < mask.mean() < 1
    assert some["recall"] is recalled["recall"] and torch.equal(
        hidden(recalled, 0.0, random)["keyframes"].mask, mask * 0 + 1
    )
    errors = torch.arange(6.0).view(2, 3, 1, 1, 1).expand(2, 3, 4, 2, 8)
    wrong = erring(recalled, errors, 1.0, random)["keyframes"].guide
    assert sorted(wrong[:3, 0, 0, 0].tolist()) == [0, 1, 2] and sorted(wrong[3:, 0, 0, 0].tolist()) == [3, 4, 5]
    assert torch.equal(erring(recalled, errors, 0.0, random)["keyframes"].guide, guide)


def test_errors_of_own_frames_add_up_along_a_clip_that_drifts():
    random, frames = torch.Generator().manual_seed(0), torch.zeros(64, 5, 4, 1, 1)
    errors = torch.full_like(frames, 0.1)
    astray = drifted(frames + errors, errors, 1.0, random)[:, :, 0, 0, 0]
    steps = astray.diff(dim=1)
    assert torch.allclose(astray[:, 0], torch.tensor(0.1)) and torch.allclose(steps, steps[:, :1].expand_as(steps))
    assert steps.min() >= 0 and 0.08 < steps.max() < 0.1
    assert torch.equal(drifted(frames + errors, errors, 0.0, random), frames + errors)
    far = drifted(frames, 50 * torch.ones_like(frames), 1.0, random)
    assert far.norm(dim=2).max() <= 2.0  # of four channels, as latents of RMS 1 are


def test_a_frame_is_drawn_as_a_change_of_the_guide_where_that_is_known(made):
    """A model that has learned nothing yet shows what is remembered, and the last frame where nothing is."""
    options = {"keyframes": {"focal": [0.5, 0.8], "base": True}}
    sizes = dataclasses.replace(made[1].model.dynamics.config, memories=("keyframes",), options=options)
    model, random = Dynamics(sizes), torch.Generator().manual_seed(0)
    shape = (sizes.channels, sizes.height, sizes.width)
    frames, guide = torch.randn((2, 3, *shape), generator=random), torch.randn((6, *shape), generator=random)
    mask = (torch.rand((6, 1, *shape[1:]), generator=random) < 0.5).float()
    known = {"keyframes": Context(guide, mask)}
    streams = _streams()
    seen = model.forward(frames, frames, *_three_steps(), streams)
    ahead = {n: v.flatten(0, 1) for n, v in streams.items()}
    recalled = model.memories.recall_clip(seen, frames, *_actions_and_ages(), streams, ahead, random, known=known)
    level = torch.zeros(6)
    drawn = model.denoise(model.prepare(recalled.features, recalled.base), torch.randn(6, *shape), level, level)
    torch.testing.assert_close(drawn, torch.where(mask > 0, guide, frames.flatten(0, 1)))
    off = {"keyframes": {"focal": [0.5, 0.8]}}
    plain = Dynamics(dataclasses.replace(sizes, options=off))
    same = plain.memories.recall_clip(seen, frames, *_actions_and_ages(), streams, ahead, random, known=known)
    assert torch.equal(same.base, frames.flatten(0, 1))


def _actions_and_ages():
    return torch.zeros(2, 3, dtype=torch.int64), torch.arange(3).expand(2, 3)


def _three_steps():
    actions, ages = _actions_and_ages()
    return actions, torch.zeros(2, 3), ages


def _streams():
    return {"pose": torch.zeros(2, 3, 4), "motion": torch.zeros(2, 3, 3), "depth": torch.full((2, 3, 16, 32), 50.0)}


# -- dreams


def test_poses_follow_from_motions():
    pose = moved(torch.tensor([[1.0, 2.0, 3.0, np.pi / 2]]), torch.tensor([[10.0, 1.0, 0.5]]))
    torch.testing.assert_close(pose, torch.tensor([[0.0, 12.0, 3.0, np.pi / 2 + 0.5]]))


def test_a_step_depends_on_what_is_remembered_unless_memory_is_off(world):
    off = world.with_sampling(dataclasses.replace(world.sampling, memory=False))
    state = world.reset([0, 1])
    for _ in range(6):
        state, _ = world.step(state, np.array([1, 1]))

    def other(name, leaf):
        if leaf.dtype == torch.uint8:  # a tokenizer trained for seconds hardly tells its own frames apart
            return torch.full_like(leaf, 255) * (torch.arange(leaf.shape[-1]) // 8 % 2).to(torch.uint8)
        return leaf.flip(1) + 1 if leaf.dtype == torch.float32 and "pose" not in name else leaf

    changed = dataclasses.replace(clone(state), memory=map_named(other, clone(state).memory))
    if "recall" in state.memory:  # whose latents are float16
        changed.memory["recall"]["latents"] += 1
    # Latents, since a network trained for seconds may change a frame by less than a step of uint8.
    drawn = {w: [w.latents(w.step(clone(s), np.array([2, 2]))[0]) for s in (state, changed)] for w in (world, off)}
    assert not np.array_equal(*drawn[world]) and np.array_equal(*drawn[off])
    written = off.step(clone(state), np.array([2, 2]))[0].memory
    assert any(not torch.equal(a, b) for a, b in zip(_leaves(written), _leaves(state.memory), strict=True))


def _leaves(tree):
    found = []
    map_named(lambda name, leaf: found.append(leaf) or leaf, tree)
    return found


def test_states_do_not_grow_and_are_saved_restored_and_forked_to_the_bit(world, tmp_path):
    env = WorldEnv(world, max_episode_steps=None)
    env.reset(seed=0)
    shapes = [leaf.shape for leaf in _leaves(env.save_state().tree.memory)]
    for t in range(14):  # beyond the capacities
        env.step(t % 3)
    assert [leaf.shape for leaf in _leaves(env.save_state().tree.memory)] == shapes
    saved = env.save_state()
    saved.save(tmp_path / "state.safetensors")
    fork = env.fork(1)[0]
    first = [env.step(a)[0] for a in (1, 1, 0, 2)]
    env.restore_state(type(saved).load(tmp_path / "state.safetensors", world))
    assert_same([env.step(a)[0] for a in (1, 1, 0, 2)], first)
    assert_same([fork.step(a)[0] for a in (1, 1, 0, 2)], first)


def test_guessed_steps_give_the_same_bytes(world):
    render = {"render_mode": "rgb_array"}
    pair = Pair(WorldEnv(world, speculate=Speculation(), **render), WorldEnv(world, **render), seed=0)
    pair.do(lambda env: env.reset(seed=1))
    for _ in range(24):  # round, until all slots are taken
        pair.do(lambda env: env.step(1))
    memory = pair.off.save_state().tree.memory
    full = {"keyframes": 6, "map3d": 24, "recall": 4}
    for name, tree in memory.items():
        assert name not in full or int(tree["count"]) >= full[name]
    saved = pair.on.save_state(), pair.off.save_state()
    pair.play(25, lambda rng: int(rng.integers(3)))
    pair.on.restore_state(saved[0])
    pair.off.restore_state(saved[1])
    for _ in range(6):
        action = int(pair.rng.integers(3))
        pair.do(lambda env, action=action: env.step(action))
    assert pair.on.speculation_stats.hit_rate > 0
    pair.on.close()


def test_a_world_in_a_batch_is_the_world_alone(world):
    envs = WorldVectorEnv(world, 3)
    envs.reset(seed=[5, 6, 7])
    rows = [envs.step(np.array([1, 2, 0]))[0] for _ in range(8)]
    alone = WorldEnv(world)
    alone.reset(seed=6)
    for many in rows:
        np.testing.assert_allclose(alone.step(2)[0].astype(int), many[1].astype(int), atol=2)


def test_given_frames_need_no_poses(made, store):
    world = world_of(made[2])
    assert world.starts.streams.keys() == {"pose", "motion"}  # depth is read off them
    frames, actions = store.read("rgb", 0, 5)[None], store.read("action", 1, 5)[None]
    one = world.reset([0], frames=frames, actions=actions)
    assert one.memory["keyframes"]["step"].max() == 4 and one.heads["pose"].abs().max() > 0
    told = world.reset([0], frames=frames, actions=actions, streams={"pose": store.read("pose", 0, 5)[None]})
    assert np.array_equal(world.streams(told)["pose"][0], store.read("pose", 4, 5)[0])


# -- the benchmark


def test_returns_are_found_where_a_way_leads_off_and_back(store):
    sizes = Returns(gaps=(24,), clips=3, context=6, near=20.0, turn=0.6)
    ways = find_ways(store, 24, sizes)
    assert 1 <= len(ways) <= 3
    for way in ways:
        poses = store.read("pose", way.first, way.first + way.back + 1)
        turn = np.abs((poses[:6, 3] - poses[-1, 3] + np.pi) % (2 * np.pi) - np.pi)
        assert ((np.linalg.norm(poses[:6, :2] - poses[-1, :2], axis=1) < 20) & (turn < 0.6)).any()


def test_memory_on_and_off_are_measured_along_recorded_ways(made, store):
    sizes = Returns(gaps=(24,), clips=2, context=6, near=20.0, turn=0.6)
    report, sheet = measure_returns(world_of(made[2]), store, sizes)
    figures = report["returns"]["24"]
    assert {"memory, true pose", "memory, own pose", "no memory", "tokenizer"} <= figures.keys()
    assert figures["memory, true pose"]["psnr"] != figures["no memory"]["psnr"]
    assert figures["memory, own pose"]["ms a step"] > 0 and figures["memory, own pose"]["MB"] > 0
    assert "24 steps" in format_returns(report) and sheet[0].shape[1:] == (16, 32, 3)
    with pytest.raises(InvalidInput, match="comes back"):
        measure_returns(world_of(made[2]), store, dataclasses.replace(sizes, gaps=(1000,)))


def test_each_kind_is_measured_alone(made, store):
    sizes = Returns(gaps=(24,), clips=1, context=6, near=20.0, turn=0.6, kinds=True)
    world = world_of(made[2])
    report, _ = measure_returns(world, store, sizes)
    figures = report["returns"]["24"]
    alone = {kind: figures[f"{kind} alone"] for kind in KINDS}
    assert sum(one["MB"] for one in alone.values()) == pytest.approx(figures["memory, own pose"]["MB"])
    assert len({one["psnr"] for one in alone.values()}) == len(KINDS)


def test_a_world_with_some_of_its_memories_is_one_of_its_own(made):
    world = world_of(made[2])
    one, none = world.with_memories("recall"), world.with_memories()
    assert one.reset([0]).memory.keys() == {"recall"} and not none.reset([0]).memory
    assert one.spec.weights != world.spec.weights and world.reset([0]).memory.keys() == set(KINDS)
    with pytest.raises(InvalidInput, match="has no memory 'map3d'"):
        world.with_memories("map3d")
