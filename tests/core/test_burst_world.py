"""Several steps of one action in one pass: another sampler over the same states, as reproducible as the other."""

import dataclasses

import numpy as np
import pytest
import torch
from exactness import assert_same
from gymnasium.utils.env_checker import check_env
from lively import randomise
from tiny import tiny_files, tiny_world

import worldsim.burst_world
import worldsim.engine
from worldsim.burst_world import BurstWorld
from worldsim.envs import WorldEnv
from worldsim.errors import DamagedWorld, InvalidAction, InvalidInput, InvalidState
from worldsim.holding import HeldStep
from worldsim.models.burst import Burst
from worldsim.spec import LatentWorld
from worldsim.tree import clone, put_rows, select_rows, tree_map
from worldsim.world import World

STEPS = 3


@pytest.fixture(scope="module")
def world():
    world = tiny_world(burst=STEPS, max_episode_steps=40)
    torch.manual_seed(0)
    for module in (world.dynamics, world.burst):
        randomise(module)
    return world


@pytest.fixture
def bursts(world):
    return BurstWorld(world)


def all_of(check, one, other):
    found = []
    tree_map(lambda a, b: found.append(check(a, b)), one, other)
    return bool(found) and all(found)


def same(one, other):
    return all_of(torch.equal, one, other)


def test_a_step_is_several_of_the_world(bursts, world):
    assert isinstance(bursts, LatentWorld)
    assert (bursts.spec.max_episode_steps, bursts.spec.pictures_per_step) == (14, 2 * STEPS)
    state, step = bursts.step(bursts.reset([3, 4]), np.array([1, 2]))
    assert state.time.tolist() == state.cache.time.tolist() == [2 + STEPS, 2 + STEPS]
    assert step.frame.shape == (2, 16, 32, 3) and step.extras["between"].shape == (2, 2 * STEPS - 1, 16, 32, 3)
    assert np.array_equal(step.frame, bursts.render(state))
    np.testing.assert_array_equal(bursts.latents(state), state.past[:, 0].float().numpy())
    assert world.step(state, np.array([0, 0]))[0].time.tolist() == [3 + STEPS] * 2  # the world itself goes on from it


def test_what_is_decoded_changes_nothing_else(bursts):
    states, steps = zip(
        *(bursts.step(bursts.reset([5, 6]), np.array([1, 0]), pictures=p) for p in ("all", "frame", "none")),
        strict=True,
    )
    assert same(states[0], states[1]) and same(states[0], states[2])
    assert np.array_equal(steps[0].frame, steps[1].frame) and steps[2].frame.shape == (2, 0, 0, 3)
    assert [("between" in step.extras) for step in steps] == [True, False, False]
    assert steps[0].reward.tolist() == steps[2].reward.tolist()


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(bursts):
    def play(seed):
        state, frames = bursts.reset([seed]), []
        for action in (0, 1, 2, 1):
            state, step = bursts.step(state, np.array([action]))
            frames.append(step.frame)
        return np.stack(frames)

    assert np.array_equal(play(7), play(7)) and not np.array_equal(play(7), play(8))


def test_a_kept_state_goes_on_the_same_and_forks_part_with_their_actions(bursts):
    state, _ = bursts.step(bursts.reset([1]), np.array([2]))
    kept = clone(state)
    ends = [bursts.step(clone(kept), np.array([action]))[0] for action in (0, 0, 1)]
    assert same(ends[0], ends[1]) and not same(ends[0], ends[2])


def test_a_row_does_not_depend_on_its_neighbours(bursts):
    state, _ = bursts.step(bursts.reset([1, 2, 3]), np.array([0, 1, 2]))
    other = clone(state)
    put_rows(other, [0, 2], bursts.step(bursts.reset([8, 9]), np.array([2, 2]))[0])
    one, two = bursts.step(state, np.array([1, 1, 1]))[0], bursts.step(other, np.array([0, 1, 2]))[0]
    assert same(select_rows(one, [1]), select_rows(two, [1])) and not same(select_rows(one, [0]), select_rows(two, [0]))


@pytest.mark.parametrize("before", [0, 4, 20])  # steps: the ring is empty, and full
def test_what_was_drawn_is_remembered_and_judged_as_step_by_step(monkeypatch, float32, before):
    world = tiny_world(burst=STEPS, max_episode_steps=None)
    for module in (world.dynamics, world.burst):
        randomise(module)
    world.dynamics.history[0].time.bias.data[:, world.config.dynamics.window - STEPS :] = -100.0  # what a ring loses
    state = world.reset([0, 1])
    for i in range(before):
        state, _ = world.step(state, np.array([i % 3, 1]))
    drawn, plain = [], worldsim.engine.draw

    def draw(*args):
        drawn.append(plain(*args))
        return drawn[-1]

    monkeypatch.setattr(worldsim.engine, "draw", draw)
    actions, held = np.array([1, 2]), HeldStep(2)
    one = clone(state)
    for _ in range(STEPS):
        one, step = world.step(one, actions, pictures="none")
        held.add(step)
    latents = torch.stack([d.latents for d in drawn], dim=1)
    monkeypatch.setattr(worldsim.burst_world, "draw_burst", lambda *args: latents)
    other, step = BurstWorld(world).step(state, actions, pictures="none")
    assert all_of(lambda a, b: torch.allclose(a.float(), b.float(), atol=1e-4), one, other)
    expected = held.outcome([])
    np.testing.assert_allclose(step.reward, expected.reward, rtol=1e-4)
    np.testing.assert_allclose(
        step.extras["termination_probability"], expected.extras["termination_probability"], rtol=1e-4
    )
    assert step.terminated.tolist() == expected.terminated.tolist()


def test_pictures_come_in_the_order_of_time(bursts, monkeypatch):
    """The frame of each step after those between it and the last one."""
    c = bursts.world.config.tokenizer
    order = torch.tensor([1.0, 0.0, 3.0, 2.0, 5.0, 4.0])  # a step draws its frame first
    shape = (1, STEPS, 2, c.channels, c.latent_height, c.latent_width)
    latents = order.view(1, STEPS, 2, 1, 1, 1).expand(shape).flatten(2, 3).to(bursts.world.dtype)
    monkeypatch.setattr(worldsim.burst_world, "draw_burst", lambda *args: latents)
    monkeypatch.setattr(
        bursts.world, "decode", lambda z: (z[:, :, 0, 0, 0].float().numpy(), np.ones(len(z), bool)), raising=True
    )
    _, step = bursts.step(bursts.reset([0]), np.array([0]))
    assert [*step.extras["between"][0].tolist(), step.frame[0].tolist()] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda b: BurstWorld(tiny_world()), InvalidInput),
        (lambda b: b.step(b.reset([0]), np.array([3])), InvalidAction),
        (lambda b: b.step(b.reset([0]), np.array([0]), pictures="some"), InvalidInput),
        (lambda b: Burst(b.world.config.dynamics, 2), InvalidInput),
        (lambda b: Burst(b.world.config.dynamics, b.world.config.dynamics.window + 2), InvalidInput),
        (lambda b: dataclasses.replace(b.world.config, burst=-1), InvalidInput),
    ],
)
def test_what_cannot_be_is_refused(bursts, call, error):
    with pytest.raises(error):
        call(bursts)


def test_a_state_is_stepped_only_once(bursts):
    state = bursts.reset([0])
    bursts.step(state, np.array([0]))
    with pytest.raises(InvalidState):
        bursts.step(state, np.array([0]))


def test_more_noise_is_drawn_from_with_another_sampling(bursts):
    hot = bursts.with_sampling(temperature=2.0)
    one, two = (b.step(b.reset([0]), np.array([0]))[0].past for b in (bursts, hot))
    assert not torch.equal(one, two) and hot.burst is bursts.burst


def test_a_saved_world_draws_the_same_bursts(tmp_path):
    files = tiny_files(burst=STEPS)
    World(files, device="cpu").save_pretrained(tmp_path / "world")
    again = BurstWorld(World.from_pretrained(tmp_path / "world", device="cpu"))
    ends = [b.step(b.reset([0]), np.array([1]))[0] for b in (BurstWorld(World(files, device="cpu")), again)]
    assert same(*ends)
    with pytest.raises(DamagedWorld, match="for Burst"):
        World(dataclasses.replace(tiny_files(), config=files.config), device="cpu")


def test_bursts_are_a_gymnasium_world_and_the_same_with_guesses_and_without():
    world = BurstWorld(tiny_world(burst=STEPS))
    check_env(WorldEnv(world), skip_render_check=True)
    on, off = (WorldEnv(world, between=True, speculate=speculate) for speculate in (True, None))
    assert_same(on.reset(seed=1), off.reset(seed=1))
    for step in range(80):
        one, other = (env.step([0, 1, 1, 1, 2][step // 7 % 5]) for env in (on, off))
        assert_same(one, other)
        if one[2] or one[3]:
            assert_same(on.reset(), off.reset())
    on.close()
