"""A memory from outside the package: trained, exported, stepped, saved, restored, forked and guessed with the rest."""

import dataclasses
import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
from exactness import Pair, assert_same
from lively import SIZES, lively_dynamics, lively_files, lively_world
from small_training import brief, fixed_tokenizer, latent_store, narrow_dynamics_task, train
from tiny import tiny_episodes
from toy_memories import FirstFrame

from worldsim.envs import EnvState, WorldEnv, WorldVectorEnv
from worldsim.errors import InvalidInput
from worldsim.memory.base import Context, MemorySpec, Observed, PixelMemory, Query
from worldsim.models.dynamics import Dynamics
from worldsim.models.memories import memories
from worldsim.rollout import advance, finish, rewind, start
from worldsim.speculation import Speculation
from worldsim.state.tree import clone, map_named, select_rows
from worldsim.train import export
from worldsim.world import World


def world_with(*names, **changes):
    return World(lively_files(memories=names, **changes), device="cpu")


@pytest.fixture(scope="module")
def world():
    return world_with("first_frame", "mean")


def test_a_model_without_memories_has_no_trace_of_them():
    assert lively_dynamics().memories is None and lively_world().reset([0]).memory == {}
    assert not any("memories" in name for name in lively_dynamics().state_dict())


def test_a_memory_changes_nothing_before_it_has_learned():
    files = lively_files(memories=("first_frame", "mean"))
    plain, entries = lively_files(), "dynamics.memories.entries."
    new = {
        n: torch.zeros_like(t) if n.startswith(entries) else t for n, t in files.model.items() if n not in plain.model
    }
    fresh = World(dataclasses.replace(files, model=plain.model | new), device="cpu")
    steps = [w.step(w.reset([0, 1]), np.array([1, 2]))[1] for w in (fresh, World(plain, device="cpu"))]
    assert np.array_equal(steps[0].frame, steps[1].frame) and np.array_equal(steps[0].reward, steps[1].reward)
    begun = Dynamics(dataclasses.replace(SIZES, memories=("first_frame", "mean"))).memories.entries.state_dict()
    assert all(n.startswith("first_frame.features.") or (t == 0).all() for n, t in begun.items())


def test_what_is_drawn_depends_on_what_is_remembered(world):
    state = world.reset([0, 1])
    assert state.memory.keys() == {"first_frame", "mean"} and state.memory["first_frame"]["written"].all()
    other = clone(state)
    other.memory["first_frame"]["frame"][1] += 3.0
    one, two = (world.step(s, np.array([1, 1]))[1].frame for s in (state, other))
    assert np.array_equal(one[0], two[0]) and not np.array_equal(one[1], two[1])


def test_the_first_frame_stays_remembered_while_the_context_rolls_on(world):
    state = world.reset([3])
    first = world.starts.choose(3, 0, "beginning")[0][0]
    for _ in range(SIZES.context_length + 3):
        state, _ = world.step(state, np.array([1]))
    assert torch.equal(state.memory["first_frame"]["frame"][0], first.to(world.dtype).float())


def test_a_memory_is_asked_and_told_in_order():
    world = world_with("mean")
    mean = world.dynamics.memories.each["mean"]
    latents = torch.randn((2, 3, *world.spec.latent_shape), generator=torch.Generator().manual_seed(0)).to(world.dtype)
    actions = torch.tensor([[0, 1], [2, 0]])
    state = start(world.engine, latents, actions, ages=[5, 0], seeds=[0, 1], episodes=[0, 0])
    assert [o.actions is None for o in mean.observed] == [True, False, False] and len(mean.queries) == 2
    for t, observed in enumerate(mean.observed):
        assert torch.equal(observed.latents, latents[:, t]) and observed.episode_step.tolist() == [5 + t, t]
    for t, query in enumerate(mean.queries):
        assert torch.equal(query.latents, latents[:, t]) and torch.equal(query.actions, actions[:, t])
        assert query.episode_step.tolist() == [5 + t, t] and query.generator is None
        assert query.tokens.shape == (2, SIZES.tokens, SIZES.dim)
    state, output = finish(advance(world.engine, state, torch.tensor([1, 1])))
    assert torch.equal(mean.observed[-1].latents, output.latents[:, 0])


def test_a_step_with_memory_names_its_stage(world):
    stages = world.stages(world.reset([0]), np.array([1]))
    assert list(stages) == ["history", "memory", "drawing", "heads", "decoding"]


# -- exactness


def test_a_step_that_is_undone_leaves_the_memory_as_it_was(world):
    state = world.reset([0])
    before = clone(state.memory)
    taken = [world.step(state, np.array([1]))[1]]
    map_named(lambda name, a, b: torch.testing.assert_close(a, b, rtol=0, atol=0) or a, state.memory, before)
    rewind(state)
    taken.append(world.step(state, np.array([1]))[1])
    assert np.array_equal(taken[0].frame, taken[1].frame)


@pytest.mark.parametrize("names", [("first_frame", "mean"), ("pixels",)], ids="-".join)
def test_saved_restored_forked_and_guessed_steps_are_the_same_to_the_bit(names, tmp_path):
    world = world_with(*names, head_reads={"reward": "both"})
    options = {"render_mode": "rgb_array", "max_episode_steps": 40}
    on, off = WorldEnv(world, speculate=Speculation(adapt=False), **options), WorldEnv(world, **options)
    Pair(on, off, 0).play(80, lambda rng: int(rng.integers(3) if rng.random() < 0.3 else 1))
    assert on.speculation_stats.hit_rate > 0
    on.close()
    off.reset(seed=5)
    off.step(2)
    off.save_state().save(tmp_path / "state")
    ahead = [off.step(a) for a in (1, 2, 1)]
    loaded = WorldEnv(World(world._files, device="cpu"), **options)
    loaded.restore_state(EnvState.load(tmp_path / "state", loaded.world))
    fork = loaded.fork(1)[0]
    for env in (loaded, fork):
        assert_same([env.step(a) for a in (1, 2, 1)], ahead)


def test_rows_of_a_batch_have_their_own_memories(world):
    envs = WorldVectorEnv(world, 3, autoreset_mode=gym.vector.AutoresetMode.DISABLED)
    envs.reset(seed=[1, 2, 3])
    envs.step(np.array([1, 1, 1]))
    before = [state.tree.memory for state in envs.save_state()]
    envs.reset(seed=[None, 9, None], options={"reset_mask": np.array([False, True, False])})
    after = [state.tree.memory for state in envs.save_state()]
    frames = [(b["first_frame"]["frame"], a["first_frame"]["frame"]) for b, a in zip(before, after, strict=True)]
    assert [torch.equal(*pair) for pair in frames] == [True, False, True]
    state = world.reset([1, 2])
    assert torch.equal(select_rows(state, [1]).memory["mean"], world.reset([2]).memory["mean"])


# -- what is refused


class Wrong(FirstFrame):
    change = staticmethod(lambda tree: tree)

    def write(self, tree, observed):
        return self.change(super().write(tree, observed))


@memories.register("growing")
class Growing(Wrong):
    change = staticmethod(lambda tree: tree | {"frame": torch.cat([tree["frame"], tree["frame"]], dim=1)})


@memories.register("forgetful")
class Forgetful(Wrong):
    change = staticmethod(lambda tree: {"frame": tree["frame"]})


@memories.register("coarser")
class Coarser(Wrong):
    change = staticmethod(lambda tree: tree | {"frame": tree["frame"].bfloat16()})


@memories.register("narrow")
class Narrow(FirstFrame):
    def read(self, tree, query):
        return Context(guide=tree["frame"][:, :1])


@memories.register("counting")
class Counting(FirstFrame):
    def empty(self, batch):
        return super().empty(batch) | {"count": 0}


@memories.register("alike")
class Alike(FirstFrame):
    def empty(self, batch):
        return super().empty(1)


@pytest.mark.parametrize(
    ("name", "said"),
    [("growing", "/frame.*keep the shapes"), ("forgetful", "nothing at '/written'"), ("coarser", "bfloat16"),
     ("narrow", "guide of shape"), ("counting", "counting/count"), ("alike", "no tensor \\(2, ...\\)")],
)  # fmt: skip
def test_a_memory_of_no_fixed_capacity_or_of_other_sizes_is_refused(name, said):
    with pytest.raises(InvalidInput, match=said):
        world = world_with(name)
        world.dynamics.memories.empty(2)
        world.step(world.reset([0]), np.array([1]))


def test_names_and_specs_are_checked():
    with pytest.raises(InvalidInput, match="memory 'maps' is unknown"):
        dataclasses.replace(SIZES, memories=("maps",))
    memories.register("idle")(
        type("Idle", (FirstFrame,), {"spec": property(lambda self: MemorySpec(), lambda *a: None)})
    )
    with pytest.raises(InvalidInput, match="idle"):
        world_with("idle")


# -- training


def test_a_memory_is_trained_exported_and_stepped(tmp_path, monkeypatch):
    store = tiny_episodes(tmp_path / "data", lengths=(30, 25, 40))
    make = functools.partial(narrow_dynamics_task, memories=("first_frame", "mean", "pixels"))
    task = make([latent_store(store, tmp_path)], monkeypatch)
    mean = task.model.dynamics.memories.each["mean"]
    before = {n: p.clone() for n, p in task.model.dynamics.memories.named_parameters()}
    train(task, brief(12), tmp_path)
    train(make([latent_store(store, tmp_path)], monkeypatch), brief(14), tmp_path, resume=True)
    moved = {n for n, p in task.model.dynamics.memories.named_parameters() if not torch.equal(p, before[n])}
    assert moved == before.keys() and mean.queries[0].generator is not None
    monkeypatch.setattr(export, "load_tokenizer", lambda run: fixed_tokenizer())
    export.export_world("remembers", [store], tmp_path, tmp_path / "world", starts=4)
    world = World.from_pretrained(tmp_path / "world", device="cpu")
    assert world.config.dynamics.memories == ("first_frame", "mean", "pixels")
    env = WorldEnv(world)
    env.reset(seed=0)
    assert not env.step(1)[4]["non_finite"] and isinstance(world.dynamics.memories.each["pixels"], PixelMemory)


def test_training_reads_and_writes_what_a_dream_does():
    """A clip at once says of every step what stepping through its frames does."""
    model = lively_dynamics(config=dataclasses.replace(SIZES, memories=("first_frame", "mean")))
    random = torch.Generator().manual_seed(0)
    frames = torch.randn((2, 4, 4, 2, 4), generator=random)
    actions, ages = torch.randint(3, (2, 4), generator=random), torch.arange(4).expand(2, 4)
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    with torch.no_grad():
        seen = model.forward(frames, before, actions, torch.zeros(2, 4), ages)
        clip = model.memories.recall_clip(seen, frames, actions, ages, {}, {}, random).features
        trees = model.memories.write(model.memories.empty(2), Observed(frames[:, 0], {}, None, ages[:, 0]))
        for t in range(4):
            at = dataclasses.replace(seen, **{n: getattr(seen, n)[t::4] for n in ("tokens", "local", "cond", "ages")})
            query = Query(frames[:, t], actions[:, t], ages[:, t], {}, {}, at.tokens)
            one = model.memories.recall(trees, at, query).features
            for name in ("tokens", "local", "cond"):
                torch.testing.assert_close(getattr(one, name), getattr(clip, name)[t::4])
            assert not torch.equal(one.cond, at.cond) and not torch.equal(one.local, at.local)
            if t < 3:
                trees = model.memories.write(trees, Observed(frames[:, t + 1], {}, actions[:, t], ages[:, t + 1]))
