"""Action tokens in the denoiser: what sees an action and what does not, in the network and in worlds that dream."""

import dataclasses

import numpy as np
import pytest
import torch
from exactness import Pair, assert_same
from lively import SIZES, STEERING, lively_dynamics, lively_world

from worldsim.config import WorldConfig, build
from worldsim.envs import WorldEnv
from worldsim.errors import InvalidInput
from worldsim.models.acting import NOT_SOON, SOON, UNKNOWN
from worldsim.models.dynamics import CONDITIONS, HEADS, DynamicsConfig, usual_conditions
from worldsim.sampling.acting import acting_step, imagine, infer_actions
from worldsim.sampling.sampler import SamplingConfig, context_step, draw, empty_cache, step_noise
from worldsim.spec import StreamSpec
from worldsim.speculation import Speculation
from worldsim.state.tree import clone

CHUNK = 3
ACTS = {"actions": 0, "action_dim": 2, "action_tokens": CHUNK, "conditions": usual_conditions(CHUNK)}
ENDLESS = {**ACTS, "output_heads": ("reward",)}
CONFIG = dataclasses.replace(SIZES, **ACTS)
PLACE = StreamSpec("vector", (3,), "float32")
STATE_FIRST = dataclasses.replace(
    CONFIG, streams={"proprio": PLACE}, conditions=(*CONFIG.conditions, "proprio"), foreseen=("proprio",), redraw=True,
    output_heads=(*HEADS, "motion:proprio"),
)  # fmt: skip
SAMPLING = SamplingConfig(steps=2)
ROWS = 4


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def step(model, actions, known=None):
    """The history of one step by actions (F, 2), and its cache."""
    past, cache = random(ROWS, 2, 4, 2, 4), empty_cache(model, torch.zeros(ROWS, dtype=torch.int64))
    streams = {"proprio": random(ROWS, 3, seed=1)} if model.config.streams else {}
    context = random(ROWS, 2, 4, 2, 4, seed=2)
    if known is False:
        return acting_step(model, SAMPLING, past, cache, context, streams), cache, past
    return context_step(model, SAMPLING, past, actions, cache, context, streams), cache, past


def drawn(model, actions):
    features, _, past = step(model, actions)
    keys = torch.arange(ROWS), torch.zeros(ROWS, dtype=torch.int64), torch.zeros(ROWS, dtype=torch.int64)
    return draw(model, SAMPLING, past, features, step_noise(model, *keys))


@pytest.mark.parametrize("config", [CONFIG, STATE_FIRST])
def test_the_history_does_not_see_the_action_and_the_frame_does(config):
    model, here, there = lively_dynamics(config=config), random(ROWS, 2, seed=3), random(ROWS, 2, seed=4)
    (one, cache, _), (other, cache_other, _) = step(model, here), step(model, there)
    assert torch.equal(one.tokens, other.tokens)
    kept = zip(cache.keys + cache.values, cache_other.keys + cache_other.values, strict=True)
    assert all(torch.equal(a, b) for a, b in kept)
    assert not torch.allclose(drawn(model, here), drawn(model, there))


def test_a_step_whose_action_is_not_known_gives_nothing_of_it_away():
    model = lively_dynamics(config=STATE_FIRST)
    unknown, cache, _ = step(model, None, known=False)
    known, cache_known, _ = step(model, random(ROWS, 2, seed=3))
    assert all(torch.equal(a, b) for a, b in zip(cache.keys, cache_known.keys, strict=True))
    assert not torch.allclose(known.cond, unknown.cond) and not torch.allclose(known.local, unknown.local)
    z, actions, level, ages = random(1, 3, 4, 2, 4), random(1, 3, 2), torch.zeros(1, 3), torch.arange(3)[None]
    here = torch.tensor([True, False, False])
    streams, ahead = {"proprio": random(1, 3, 3)}, {"proprio": random(3, 3, seed=5)}
    one = model(z, z, actions, level, ages, streams, ahead, here)
    other = model(z, z, actions + 1, level, ages, streams, {"proprio": ahead["proprio"] + 1}, here)
    for part in ("cond", "local"):
        same = [torch.equal(a, b) for a, b in zip(getattr(one, part), getattr(other, part), strict=True)]
        assert same == [False, True, True]


def test_what_stands_for_an_unknown_action_does_not_matter():
    model = lively_dynamics(config=CONFIG)
    chunk, frames = model.acting.taken(random(ROWS, 2)), random(2, ROWS, 4, 2, 4)
    assert chunk.level.tolist() == [[1.0, 0.0, 0.0]] * ROWS and chunk.outcome.tolist() == [UNKNOWN] * ROWS
    other = dataclasses.replace(chunk, actions=chunk.actions + random(ROWS, CHUNK, 2) * (chunk.level[..., None] == 0))
    assert all(
        torch.equal(a, b) for a, b in zip(model.acting(chunk, *frames), model.acting(other, *frames), strict=True)
    )
    moved = dataclasses.replace(chunk, actions=chunk.actions + 1)
    assert not any(
        torch.equal(a, b) for a, b in zip(model.acting(chunk, *frames), model.acting(moved, *frames), strict=True)
    )


def test_heads_of_the_history_read_the_new_frame_and_the_action_where_it_does_not_see_it():
    model = lively_dynamics(config=STATE_FIRST)
    assert model.heads.of == {"history": ["motion:proprio"], "frame": [], "both": list(HEADS)}
    assert set(lively_dynamics().heads.of["history"]) == set(HEADS)
    world = lively_world(steering=True, **ACTS)
    actions = STEERING.draw(np.random.default_rng(0), 2)
    rewards = []
    for taken in (actions, actions[:, ::-1].copy()):
        state = world.reset([0, 1])
        rewards.append(world.step(state, np.clip(taken, STEERING.low, STEERING.high).astype(np.float32))[1].reward)
    assert (rewards[0] != rewards[1]).all()


@pytest.mark.parametrize("between", [0, 1])
def test_actions_are_told_of_frames_and_drawn_with_them(between):
    model = lively_dynamics(config=dataclasses.replace(CONFIG, between=between))
    seen, _, past = step(model, None, known=False)
    frame, noise = random(ROWS, 4, 2, 4, seed=6), random(ROWS, CHUNK, 2, seed=7)
    told = infer_actions(model, seen, past[:, 0], frame, noise)
    assert told.shape == (ROWS, CHUNK, 2)
    assert torch.equal(told, infer_actions(model, seen, past[:, 0], frame, 2 * noise))  # a single step: the mean
    assert not torch.allclose(told, infer_actions(model, seen, past[:, 0], frame + 1, noise))
    assert not torch.allclose(told, infer_actions(model, seen, past[:, 0], frame, noise, steps=3))
    draws = random(ROWS, model.config.drawn_channels, 2, 4, seed=8)
    made = [imagine(model, SAMPLING, seen, past[:, 0], draws, noise, outcome=o) for o in (SOON, SOON, NOT_SOON)]
    assert made[0].frame.shape == draws.shape and made[0].actions.shape == (ROWS, CHUNK, 2)
    assert torch.equal(made[0].frame, made[1].frame) and torch.equal(made[0].actions, made[1].actions)
    assert not torch.allclose(made[0].actions, made[2].actions)
    alone = imagine(model, SAMPLING, rows(seen, 1), past[:1, 0], draws[:1], noise[:1])
    torch.testing.assert_close(alone.actions, made[0].actions[:1], atol=1e-5, rtol=1e-4)


def rows(features, count):
    parts = {n: getattr(features, n)[:count] for n in ("tokens", "local", "cond", "ages", "actions")}
    return dataclasses.replace(features, heads={n: v[:count] for n, v in features.heads.items()}, **parts)


def test_dreams_go_on_bit_for_bit_from_a_saved_state():
    env = WorldEnv(lively_world(steering=True, **ENDLESS))
    env.reset(seed=1)
    actions = [STEERING.draw(np.random.default_rng(i), 1)[0] for i in range(8)]
    for action in actions[:3]:
        env.step(action)
    saved, fork = env.save_state(), env.fork(1)[0]
    first = [env.step(action) for action in actions[3:]]
    env.restore_state(saved)
    assert_same(first, [env.step(action) for action in actions[3:]])
    assert_same(first, [fork.step(action) for action in actions[3:]])


def test_dreams_are_the_same_with_speculation():
    world = lively_world(steering=True, **ENDLESS)
    held = [STEERING.draw(np.random.default_rng(i), 1)[0] for i in range(3)]
    on = WorldEnv(world, speculate=Speculation(adapt=False), render_mode="rgb_array")
    last = [0]

    def often_the_same(rng):
        last[0] = int(rng.integers(3)) if rng.random() < 0.3 else last[0]
        return held[last[0]]

    Pair(on, WorldEnv(world, render_mode="rgb_array"), 0).play(30, often_the_same)
    assert on.speculation_stats.hit_rate > 0
    on.close()


def test_a_row_of_a_batch_is_what_it_is_alone():
    world, actions = lively_world(steering=True, **ACTS), STEERING.draw(np.random.default_rng(0), 2)
    state = world.reset([3, 4])
    _, both = world.step(clone(state), actions)
    _, one = world.step(world.reset([4]), actions[1:])
    assert np.abs(both.frame[1].astype(int) - one.frame[0]).max() <= 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conditions": CONDITIONS}, "action_tokens is 3 and conditions have 'action'; the history must not see"),
        ({"actions": 3, "action_dim": 0}, "actions are discrete"),
        ({"denoiser_blocks": 0}, "denoiser_blocks is 0; give at least 1"),
        ({"memories": ("recurrent",)}, "one or the other"),
        ({"action_tokens": 65}, "action_tokens"),
    ],
)
def test_what_cannot_have_action_tokens_is_refused(change, said):
    with pytest.raises(InvalidInput, match=said):
        dataclasses.replace(CONFIG, **change)


def test_what_is_foreseen_needs_a_head_that_knows_the_action():
    config = dataclasses.replace(STATE_FIRST, output_heads=(*HEADS, "proprio"))
    with pytest.raises(InvalidInput, match="give it the head motion:proprio"):
        lively_dynamics(config=config)


def test_a_config_without_the_field_has_no_action_tokens():
    values = dataclasses.asdict(SIZES)
    del values["action_tokens"]
    assert build(DynamicsConfig, values, "config").action_tokens == 0
    assert "acting" not in "".join(lively_dynamics().state_dict())
    assert WorldConfig.__dataclass_fields__["format_version"].default == 8
