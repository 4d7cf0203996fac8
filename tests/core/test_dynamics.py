"""What the dynamics see of the past and of actions: in a clip at once, and step by step through the cache."""

import dataclasses

import pytest
import torch
from lively import SIZES, lively_dynamics

from worldsim.errors import InvalidInput
from worldsim.models.dynamics import ContextFeatures, Dynamics
from worldsim.models.layers import modulate
from worldsim.models.registry import StepInputs
from worldsim.sampling.sampler import empty_cache
from worldsim.state.tree import clone, put_rows, select_rows

OUTPUTS = ("tokens", "reward", "end_logit")


def make_clip(batch: int, steps: int, config=SIZES, seed: int = 0) -> list[torch.Tensor]:
    """Frames (B, T, C, h, w), the frames before them, actions, noise levels and ages (B, T)."""
    random = torch.Generator().manual_seed(seed)
    frames = torch.randn((batch, steps, config.channels, config.height, config.width), generator=random)
    return with_frames(frames, random, config)


def with_frames(frames: torch.Tensor, random: torch.Generator, config) -> list[torch.Tensor]:
    before = torch.cat([frames[:, :1], frames[:, :-1]], dim=1)
    shape = frames.shape[:2]
    if config.actions:
        actions = torch.randint(config.actions, shape, generator=random)
    else:
        actions = torch.rand((*shape, config.action_dim), generator=random)
    began = torch.randint(config.max_time, (shape[0], 1), generator=random)
    return [frames, before, actions, 0.3 * torch.rand(shape, generator=random), began + torch.arange(shape[1])]


def in_parallel(model: Dynamics, clip: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        out = model.forward(*clip)
    return {name: getattr(out, name).unflatten(0, clip[0].shape[:2]) for name in OUTPUTS}


def step_by_step(model: Dynamics, clip: list[torch.Tensor], cache=None) -> dict[str, torch.Tensor]:
    steps = clip[0].shape[1]
    cache = cache or empty_cache(model, clip[4][:, 0])
    with torch.no_grad():
        outs = [model.forward_cached(*(part[:, t] for part in clip[:4]), cache) for t in range(steps)]
    return {name: torch.stack([getattr(out, name) for out in outs], dim=1) for name in OUTPUTS}


def change(old: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """The largest change of each step, (B, T)."""
    return (new - old).abs().reshape(*old.shape[:2], -1).amax(-1)


@pytest.fixture
def model():
    return lively_dynamics()


RUNS = pytest.mark.parametrize("run", [in_parallel, step_by_step])


@RUNS
@pytest.mark.parametrize("t", [0, 2, 4])
def test_an_action_conditions_the_frame_it_leads_to_and_later_ones_only(model, run, t):
    clip = make_clip(2, 5)
    old = run(model, clip)
    clip[2] = clip[2].clone()
    clip[2][:, t] = (clip[2][:, t] + 1) % SIZES.actions
    new = run(model, clip)
    for name in OUTPUTS:
        changed = change(old[name], new[name])
        assert (changed[:, :t] == 0).all(), name
        assert (changed[:, t:] > 1e-7).all(), name


@RUNS
@pytest.mark.parametrize("t", [0, 2, 4])
def test_a_frame_conditions_what_follows_it_only(model, run, t):
    random = torch.Generator().manual_seed(1)
    frames = make_clip(2, 5)[0]
    clip = with_frames(frames, random, SIZES)
    old = run(model, clip)
    frames = frames.clone()
    frames[:, t] += 1.0
    new = run(model, [frames, torch.cat([frames[:, :1], frames[:, :-1]], dim=1), *clip[2:]])
    for name in OUTPUTS:
        changed = change(old[name], new[name])
        assert (changed[:, :t] == 0).all(), name  # entry t of a clip says what comes after frame t
        assert (changed[:, t:] > 1e-7).all(), name


@pytest.mark.parametrize("part", range(5), ids=["previous", "before", "action", "level", "age"])
def test_every_input_matters(model, part):
    clip = make_clip(1, 1)
    old = in_parallel(model, clip)
    clip[part] = {2: (clip[2] + 1) % 3, 4: clip[4] + 1}.get(part, clip[part] + 0.5)
    new = in_parallel(model, clip)
    assert all((new[name] - old[name]).abs().max() > 1e-5 for name in OUTPUTS)


@pytest.mark.parametrize(("other", "same"), [(SIZES.max_time + 1, True), (SIZES.max_time - 1, False)])
def test_an_age_tells_how_late_it_is_up_to_the_oldest(model, other, same):
    clip = make_clip(1, 1)
    outs = []
    for ages in (torch.tensor([[SIZES.max_time]]), torch.tensor([[other]])):
        outs.append(in_parallel(model, [*clip[:4], ages])["tokens"])
    assert torch.equal(*outs) == same


@pytest.mark.parametrize("steps", [1, SIZES.context_length, SIZES.context_length + 1])
@pytest.mark.parametrize("continuous", [False, True])
def test_stepping_through_the_cache_equals_the_whole_clip_at_once(steps, continuous):
    sizes = dataclasses.replace(SIZES, actions=0, action_dim=2) if continuous else SIZES
    model = lively_dynamics(config=sizes)
    clip = make_clip(3, steps, sizes)
    whole, stepped = in_parallel(model, clip), step_by_step(model, clip)
    for name in OUTPUTS:
        torch.testing.assert_close(stepped[name], whole[name], rtol=1e-4, atol=1e-5)


def explicitly(model: Dynamics, clip: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Attention over the first step and the last `window` steps, spelled out, without a ring."""
    steps, window = clip[0].shape[1], model.config.context_length
    past: list[list[tuple[torch.Tensor, torch.Tensor]]] = [[] for _ in model.history]
    outs: list[ContextFeatures] = []
    for t in range(steps):
        inputs = StepInputs(*(part[:, t] for part in clip[2:]))
        local, x, cond = model._enter(clip[0][:, t], clip[1][:, t], inputs)
        for block, mods, seen in zip(model.history, model.history_mods(cond), past, strict=True):
            x = x + mods[2] * block.space(modulate(x, mods[0], mods[1]))
            q, k, v = block.time.project(modulate(x, mods[3], mods[4]))  # (B, N, H, C)
            seen.append((k, v))
            steps_seen = sorted({0, *range(max(0, t - window + 1), t + 1)})
            keys, values = (torch.stack([seen[s][i] for s in steps_seen]) for i in (0, 1))  # (S, B, N, H, C)
            bias = torch.stack([block.time.bias[:, min(t - s, window)] for s in steps_seen])  # (S, H)
            logits = torch.einsum("bnhc,sbnhc->sbnh", q, keys) + bias[:, None, None, :]
            y = torch.einsum("sbnh,sbnhc->bnhc", torch.softmax(logits, dim=0), values)
            x = x + mods[5] * block.time.out(y.flatten(2))
            x = x + mods[8] * block.mlp(modulate(x, mods[6], mods[7]))
        outs.append(model._leave(local, x, cond, inputs))
    return {name: torch.stack([getattr(out, name) for out in outs], dim=1).detach() for name in OUTPUTS}


def test_a_full_ring_attends_to_the_first_step_and_the_last_window_of_steps(model):
    clip = make_clip(2, 4 * SIZES.context_length + 1)
    stepped, reference = step_by_step(model, clip), explicitly(model, clip)
    for name in OUTPUTS:
        assert stepped[name].isfinite().all()
        torch.testing.assert_close(stepped[name], reference[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("t", "matters"), [(0, True), (1, False), (6, False), (8, True)])
def test_the_first_step_is_never_forgotten_and_one_beyond_the_window_is(t, matters):
    model = lively_dynamics(config=dataclasses.replace(SIZES, history_blocks=1))  # more blocks reach further back
    clip = make_clip(1, 2 * SIZES.context_length + 3)
    old = step_by_step(model, clip)["tokens"]
    clip[2][:, t] = (clip[2][:, t] + 1) % SIZES.actions
    assert (change(old, step_by_step(model, clip)["tokens"])[:, -1] > 1e-5).all() == matters


def test_worlds_of_one_batch_with_different_clocks_do_not_influence_each_other(model):
    histories = [make_clip(1, steps, seed=steps) for steps in (1, 3, 11)]
    caches = [empty_cache(model, history[4][:, 0]) for history in histories]
    for history, cache in zip(histories, caches, strict=True):
        step_by_step(model, history, cache)
    together = select_rows(caches[0], [0, 0, 0])
    for row, cache in enumerate(caches):
        put_rows(together, [row], cache)
    future = make_clip(3, 7, seed=5)
    joint = step_by_step(model, future, together)
    for row, cache in enumerate(caches):
        alone = step_by_step(model, [part[row : row + 1] for part in future], cache)
        for name in OUTPUTS:
            torch.testing.assert_close(joint[name][row : row + 1], alone[name], rtol=1e-4, atol=1e-5)


def test_a_world_that_restarts_leaves_no_trace_of_its_past(model):
    future = make_clip(2, 6, seed=2)
    cache = empty_cache(model, torch.zeros(2))
    step_by_step(model, make_clip(2, 9), cache)
    put_rows(cache, [1], empty_cache(model, future[4][1:, 0]))
    going_on = clone(cache)
    joint = step_by_step(model, future, cache)
    fresh = step_by_step(model, [part[1:] for part in future])
    torch.testing.assert_close(joint["tokens"][1:], fresh["tokens"], rtol=1e-4, atol=1e-5)
    old = step_by_step(model, [part[:1] for part in future], select_rows(going_on, [0]))
    torch.testing.assert_close(joint["tokens"][:1], old["tokens"], rtol=1e-4, atol=1e-5)


# -- drawing


def drawing(config=SIZES, seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    grid = (config.height, config.width)
    return {
        "previous": torch.randn((2, config.channels, *grid), generator=random),
        "noisy": torch.randn((2, config.drawn_channels, *grid), generator=random),
        "t": torch.tensor([0.0, 0.5]),
        "size": torch.tensor([0.0, 0.25]),
    }


@torch.no_grad()
def drawn_by(model: Dynamics, previous: torch.Tensor, seed: int = 0, **inputs: torch.Tensor) -> torch.Tensor:
    seen = model.forward(*make_clip(2, 1, model.config, seed))
    return model.denoise(model.prepare(seen, previous), **inputs)


@pytest.mark.parametrize("part", ["previous", "noisy", "t", "size"])
def test_the_drawing_depends_on_each_of_its_inputs(model, part):
    inputs = drawing()
    old = drawn_by(model, **inputs)
    inputs[part] = inputs[part] + 0.25
    new = drawn_by(model, **inputs)
    assert ((new - old).abs().amax((1, 2, 3)) > 1e-4).all()


def test_the_drawing_depends_on_the_history(model):
    one, other = (drawn_by(model, seed=seed, **drawing()) for seed in (0, 1))
    assert ((one - other).abs().amax((1, 2, 3)) > 1e-4).all()


@pytest.mark.parametrize("between", [0, 1, 2])
def test_an_untrained_model_repeats_the_previous_frame(between):
    config = dataclasses.replace(SIZES, between=between)
    model, inputs = Dynamics(config), drawing(config)
    drawn = drawn_by(model, **inputs)
    assert torch.equal(drawn, inputs["previous"].repeat(1, 1 + between, 1, 1))


def test_tokens_hold_their_patch_of_the_grid():
    config = dataclasses.replace(SIZES, height=4, width=6, patch=(2, 3))
    model = Dynamics(config)
    grid = torch.randn(3, 5, 4, 6)
    tokens = model.to_tokens(grid)
    assert tokens.shape == (3, config.tokens, 5 * 6)
    assert torch.equal(model.to_grid(tokens), grid)
    assert torch.equal(tokens[:, 1].sort().values, grid[:, :, :2, 3:].flatten(1).sort().values)


@pytest.mark.parametrize("patch", [(3, 1), (1, 3)])
def test_a_patch_that_does_not_divide_the_grid_is_refused(patch):
    with pytest.raises(InvalidInput, match="does not divide"):
        dataclasses.replace(SIZES, patch=patch)
