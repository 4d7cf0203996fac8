"""A compiled world draws what it draws uncompiled, faster, and keeps every promise of states."""

import os
import pickle
import shutil
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import toy_memories  # noqa: F401
from exactness import Pair
from lively import lively_world
from tiny import tiny_world
from torch._inductor.exc import InductorError
from torch._subclasses.fake_tensor import FakeTensorMode

import worldsim.runtime.compiled
from worldsim.cli.main import main
from worldsim.envs import WorldEnv, WorldVectorEnv
from worldsim.errors import InvalidInput, MissingDependency
from worldsim.sampling.noise_shaping import NoiseShaping
from worldsim.sampling.sampler import Eager, SamplingConfig
from worldsim.speculation import Speculation
from worldsim.state.tree import clone, select_rows, tree_map
from worldsim.world import World

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler here")
WINDOW_TWICE = 9  # steps of a world that remembers four
HOT = SamplingConfig(temperature=1.5)
SHAPED = SamplingConfig(noise_shaping=NoiseShaping(0.3, rows=(0, 1)))  # that no option of the drawing goes untested


def lively(seed=0, **options):
    """`lively_world` with few blocks, since compiling takes long; two of the history, whose caches lie side by side.

    With heads of the frame and memories, which are not compiled and work on what is.
    """
    changes = {"head_reads": {"reward": "both", "event": "frame"}, "memories": ("first_frame", "mean")}
    return lively_world(seed, **changes, **options)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A folder for what is compiled, the same for all tests: compiling takes long."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(worldsim.runtime.compiled.CACHE, str(folder))
        patch.setattr("torch._inductor.config.aot_inductor.compile_wrapper_opt_level", "O0")  # what calls the kernels
        yield folder


@pytest.fixture(scope="module")
def uncompiled():
    return lively(sampling=SHAPED)


@pytest.fixture(scope="module")
def compiled(cache, uncompiled):
    return uncompiled.compiled(1)


def play(world, state, steps=WINDOW_TWICE, seed=0):
    """Step on; the last state, and the frames and rewards of every step."""
    shown = []
    for action in np.random.default_rng(seed).integers(0, 3, steps):
        state, step = world.step(state, np.full(len(state.keys.time), action))
        shown.append((step.frame.copy(), step.reward, step.extras["termination_probability"]))
    return state, shown


def identical(one, other):
    pairs = (pair for steps in zip(one, other, strict=True) for pair in zip(*steps, strict=True))
    return all(a.tobytes() == b.tobytes() for a, b in pairs)


@needs_compiler
def test_it_draws_what_it_draws_uncompiled_but_for_rounding(compiled, uncompiled):
    state = uncompiled.reset([3])
    for action in np.random.default_rng(0).integers(0, 3, WINDOW_TWICE):
        actions = np.array([action])
        _, other = compiled.step(clone(state), actions)
        state, step = uncompiled.step(state, actions)
        assert np.abs(step.frame.astype(int) - other.frame).mean() < 2
        assert other.reward == pytest.approx(step.reward, rel=0.1, abs=0.1)
        chances = (one.extras["termination_probability"] for one in (step, other))
        assert next(chances) == pytest.approx(next(chances), abs=0.05)


@needs_compiler
def test_memories_work_with_what_is_compiled(compiled, uncompiled):
    begun = uncompiled.reset([3]).memory["first_frame"]["frame"]
    state, _ = play(compiled, compiled.reset([3]))
    assert torch.equal(state.memory["first_frame"]["frame"], begun)
    other = clone(compiled.reset([3]))
    other.memory["first_frame"]["frame"] += 3.0
    assert not identical(play(compiled, other, steps=1)[1], play(compiled, compiled.reset([3]), steps=1)[1])


@needs_compiler
def test_the_world_that_it_was_compiled_from_stays_as_it_was(compiled, uncompiled):
    fresh = lively(sampling=SHAPED)
    assert identical(play(uncompiled, uncompiled.reset([2]))[1], play(fresh, fresh.reset([2]))[1])


@needs_compiler
def test_the_same_seed_gives_the_same_bytes_in_another_instance(compiled, cache):
    again = lively(sampling=SHAPED).compiled(1)
    assert identical(play(compiled, compiled.reset([5]))[1], play(again, again.reset([5]))[1])


@needs_compiler
def test_a_copied_state_goes_on_to_the_bit_however_it_lies_in_memory(compiled):
    state, _ = play(compiled, compiled.reset([1]))
    scattered = tree_map(lambda a: torch.stack([a, a], dim=-1)[..., 0], clone(state))
    assert not scattered.cache.keys[0].is_contiguous()
    gone_on = [play(compiled, s, seed=1)[1] for s in (clone(state), select_rows(state, [0]), scattered)]
    assert identical(gone_on[0], gone_on[1]) and identical(gone_on[0], gone_on[2])


@needs_compiler
def test_speculation_changes_nothing(compiled):
    options = {"max_episode_steps": 20, "render_mode": "rgb_array"}
    on = WorldEnv(compiled, speculate=Speculation(adapt=False), **options)
    off = WorldEnv(compiled, **options)
    Pair(on, off, 0).play(60, lambda rng: int(rng.integers(3) if rng.random() < 0.3 else 1))
    assert on.speculation_stats.hit_rate > 0
    on.close()


@needs_compiler
def test_what_was_compiled_is_loaded_from_disk(compiled, cache, monkeypatch):
    def fail(*_):
        raise AssertionError("compiled again")

    monkeypatch.setattr(worldsim.runtime.compiled, "_compile", fail)
    before = set(cache.iterdir())
    lively(sampling=SHAPED).compiled(1)
    assert set(cache.iterdir()) == before and {path.suffix for path in before} == {".pt2"}
    for other in (lively(1, sampling=SHAPED), lively()):  # other weights, another sampling
        with pytest.raises(AssertionError, match="compiled again"):
            other.compiled(1)
    with pytest.raises(AssertionError, match="compiled again"):
        lively(sampling=SHAPED).compiled(2)


def not_a_library(path):
    """An archive that is whole and holds no code that could be loaded."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/data/aotinductor/model/model.so", b"nothing")


def encrypted(path):
    """An archive whose members are said to be encrypted, which zipfile answers with another error."""
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.rindex(b"PK\1\2") + 8] |= 1
    path.write_bytes(data)


@needs_compiler
@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-500]),
        lambda path: path.write_bytes(bytes(b ^ (i == 2000) for i, b in enumerate(path.read_bytes()))),
        lambda path: path.write_bytes(b""),
        not_a_library,
        encrypted,
    ],
)
def test_a_damaged_library_is_compiled_again(compiled, cache, monkeypatch, damage):
    path = sorted(cache.iterdir())[0]
    whole, asked = path.read_bytes(), []
    damage(path)

    def compile_again(eager, inputs, paths):
        asked.append(paths)
        path.write_bytes(whole)

    monkeypatch.setattr(worldsim.runtime.compiled, "_compile", compile_again)
    again = lively(sampling=SHAPED).compiled(1)
    assert len(asked) == 1
    assert identical(play(compiled, compiled.reset([6]))[1], play(again, again.reset([6]))[1])


@needs_compiler
def test_a_library_that_cannot_be_loaded_even_anew_is_named(compiled, cache, monkeypatch):
    path = sorted(cache.iterdir())[0]
    whole = path.read_bytes()
    not_a_library(path)
    monkeypatch.setattr(worldsim.runtime.compiled, "_compile", lambda *_: None)
    with pytest.raises(InvalidInput, match=r"cannot be loaded; set WORLDSIM_CACHE"):
        lively(sampling=SHAPED).compiled(1)
    path.write_bytes(whole)


@needs_compiler
def test_what_was_compiled_is_only_its_owners_to_change(compiled, cache, monkeypatch):
    library = sorted(cache.iterdir())[0]
    assert stat.S_IMODE(library.stat().st_mode) == 0o600
    for path in (library, cache):
        mode = stat.S_IMODE(path.stat().st_mode)
        for others in (stat.S_IWGRP, stat.S_IWOTH):
            path.chmod(mode | others)
            with pytest.raises(InvalidInput, match=r"can be written by other users.*chmod go-w"):
                lively(sampling=SHAPED).compiled(1)
        path.chmod(mode)
    lively(sampling=SHAPED).compiled(1)


def test_a_folder_of_another_user_is_refused(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    if os.getuid() == 0:  # whose folders are trusted
        os.chown(folder, 12345, -1)
    monkeypatch.setattr(os, "getuid", lambda: 54321)
    monkeypatch.setenv(worldsim.runtime.compiled.CACHE, str(folder))
    with pytest.raises(InvalidInput, match=r"belongs to another user.*WORLDSIM_CACHE"):
        lively(6).compiled(1)


def test_the_folder_is_made_for_its_owner_alone_and_the_compiler_works_in_another(tmp_path, monkeypatch):
    used = []

    def fail(*_, **__):
        used.append(Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]))
        raise InductorError(RuntimeError("no such instruction"), None)

    monkeypatch.setenv(worldsim.runtime.compiled.CACHE, str(tmp_path / "a" / "b"))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", fail)
    with pytest.raises(InvalidInput, match="no such instruction"):
        lively(7).compiled(1)
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == stat.S_IMODE(used[0].stat().st_mode) == 0o700
    assert "TORCHINDUCTOR_CACHE_DIR" not in os.environ


@needs_compiler
def test_a_library_that_forgets_to_write_is_noticed(uncompiled):
    history = worldsim.runtime.compiled.History(uncompiled.engine)
    state, actions = uncompiled.reset([0]), torch.zeros(1, dtype=torch.int64)
    cache, context = state.cache, torch.zeros_like(state.past)
    inputs = (state.past, actions, context, cache.keys, cache.values, cache.time, cache.written, cache.first)
    with torch.inference_mode():
        worldsim.runtime.compiled._check(history, history, inputs)
        with pytest.raises(InvalidInput, match="off by"):
            worldsim.runtime.compiled._check(
                history, lambda *given: history(*worldsim.runtime.compiled._copied(given)), inputs
            )


@needs_compiler
def test_a_library_that_computes_something_else_is_not_kept(compiled, cache, monkeypatch):
    before = sorted(cache.iterdir())
    another = next(path for path in before if "history" in path.name)

    def make(exported, *, package_path, inductor_configs):
        shutil.copy(another, package_path)

    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", make)
    with pytest.raises(InvalidInput, match=r"makes a step here that is off by \S+, where .*uncompiled"):
        lively(2, sampling=SHAPED).compiled(1)
    assert sorted(cache.iterdir()) == before


def test_without_a_compiler_it_says_how_to_get_one(tmp_path, monkeypatch):
    monkeypatch.setenv(worldsim.runtime.compiled.CACHE, str(tmp_path))
    without = torch._inductor.config.patch({"cpp.cxx": (None, "no-such-compiler")})
    with without, pytest.raises(MissingDependency, match=r"C\+\+ compiler.*apt-get install g\+\+"):
        lively(3).compiled(1)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(worldsim.runtime.compiled.CACHE, str(tmp_path / "file" / "folder"))
    with pytest.raises(InvalidInput, match=r"cannot keep compiled steps in .*file.*WORLDSIM_CACHE"):
        lively(4).compiled(1)


@needs_compiler
def test_it_travels_to_other_processes(compiled):
    copied = pickle.loads(pickle.dumps(compiled))
    assert identical(play(compiled, compiled.reset([4]))[1], play(copied, copied.reset([4]))[1])


def test_what_the_compiler_cannot_do_is_said(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise InductorError(RuntimeError("no such instruction"), None)

    monkeypatch.setenv(worldsim.runtime.compiled.CACHE, str(tmp_path))
    monkeypatch.setattr("torch._inductor.aoti_compile_and_package", fail)
    with pytest.raises(InvalidInput, match=r"cannot compile .*\(.*no such instruction.*\); leave .* uncompiled"):
        lively(5).compiled(1)
    assert list(tmp_path.iterdir()) == []


def test_a_world_is_drawn_otherwise_by_the_engine_that_it_has(cache):
    world = lively()
    assert isinstance(world.with_sampling(HOT).engine, Eager)
    assert isinstance(world.compiled().with_sampling(HOT).engine, worldsim.runtime.compiled.Compiled)
    assert isinstance(world.engine, Eager)


def recorded(monkeypatch):
    """What `torch.compile` was told; it traces as for a GPU, and nothing is made for this processor."""
    told, compile_it = [], torch.compile

    def record(half, *, mode, **options):
        told.append((type(half).__name__, mode))
        return compile_it(half, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", record)
    return told


def test_on_cuda_the_halves_are_fused_in_this_process(monkeypatch, tmp_path):
    told = recorded(monkeypatch)
    monkeypatch.setenv(worldsim.runtime.compiled.CACHE, str(tmp_path))
    engine = tiny_world().compiled().engine
    with FakeTensorMode():
        engine._load((torch.empty(1, 2, device="cuda"),))
    assert told == [("History", "reduce-overhead"), ("Drawing", "reduce-overhead")]
    assert list(tmp_path.iterdir()) == []


def test_what_is_fused_for_cuda_is_traced_whole_and_changes_what_it_should(monkeypatch, uncompiled):
    """All of it that a processor can show: one graph without breaks, the same numbers, the cache written."""
    recorded(monkeypatch)
    eager, state = uncompiled.engine, uncompiled.reset([0])
    cache, actions, context = state.cache, torch.zeros(1, dtype=torch.int64), torch.zeros_like(state.past)
    inputs = (state.past, actions, context, cache.keys, cache.values, cache.time, cache.written, cache.first)
    with torch.no_grad():
        to_draw = worldsim.runtime.compiled._first_to_draw(eager, inputs)
        halves = (worldsim.runtime.compiled.History(eager), inputs), (worldsim.runtime.compiled.Drawing(eager), to_draw)
        for half, given in halves:
            worldsim.runtime.compiled._check(half, worldsim.runtime.compiled._fused(half), given)


@pytest.fixture
def asked(monkeypatch):
    """For how many worlds `World.compiled` was asked; nothing is compiled."""
    numbers = []
    monkeypatch.setattr(World, "compiled", lambda self, *given: numbers.append(given) or self)
    return numbers


def test_environments_compile_for_as_many_worlds_as_they_step(asked):
    world = tiny_world()
    WorldEnv(world, compiled=True)
    WorldVectorEnv(world, 3, compiled=True)
    WorldEnv(world)
    assert asked == [(1,), (3,)]


@pytest.mark.parametrize(
    ("command", "numbers"),
    [
        (("rollout", "--steps", "1"), (1,)),
        (("bench", "--num-envs", "1", "--steps", "1"), ()),
    ],
)
def test_commands_compile_when_they_are_told_to(asked, tmp_path, command, numbers):
    tiny_world().save_pretrained(tmp_path / "tiny")
    name, *options = command
    out = ("--out", str(tmp_path / "clip.mp4")) if name == "rollout" else ()
    for told in ((), ("--compiled",)):
        main([name, str(tmp_path / "tiny"), *options, *out, *told])
        assert bool(asked) == bool(told)
    assert asked[0] == numbers
