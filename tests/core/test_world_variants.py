"""Worlds with other actions, images, and faults; and where a history comes from."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from lively import STEERING, lively_files, lively_world
from tiny import CONTEXT, tiny_world

from worldsim.envs import WorldEnv
from worldsim.errors import InvalidInput, InvalidState
from worldsim.io.starts import Starts
from worldsim.models.endings import EndingConfig
from worldsim.models.tokenizer import to_frames, to_images
from worldsim.sampling.sampler import SamplingConfig, step_noise
from worldsim.state.tree import clone, put_rows
from worldsim.world import World

QUIET = SamplingConfig(context_noise=0.0)


def random_frames(batch: int, count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, count, 16, 32, 3), np.uint8)


def steering(batch: int, seed: int = 0) -> np.ndarray:
    low, high = STEERING.low, STEERING.high
    return np.random.default_rng(seed).uniform(low, high, (batch, 2)).astype(np.float32)


def test_a_world_with_continuous_actions_obeys_them(either_format):
    world = lively_world(steering=True)
    state = world.reset(seed=[0, 0], frames=random_frames(1, 3).repeat(2, 0), actions=steering(2)[None].repeat(2, 0))
    kept = clone(state)
    taken = np.stack([STEERING.low, STEERING.high]).astype(np.float32)
    state, step = world.step(state, taken)
    assert (step.frame[0] != step.frame[1]).any() and step.reward[0] != step.reward[1]
    _, again = world.step(kept, taken.astype(np.float64))
    assert (again.frame == step.frame).all()
    world.step(state, steering(2, seed=1))


def test_a_world_with_continuous_actions_starts_from_recorded_ones(either_format):
    world = lively_world(steering=True)
    state, step = world.step(world.reset(seed=[0, 1, 2]), steering(3))
    assert step.frame.shape == (3, 16, 32, 3) and state.keys.time.tolist() == [3, 3, 3]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_copies_of_an_environment_go_on_bit_for_bit_and_deep_ones_share_the_weights(either_format, copied):
    env = WorldEnv(tiny_world(endings=EndingConfig(shift=-20.0)))
    env.reset(seed=0)
    env.step(1)
    other = copied(env)
    for action in (0, 2, 1):
        for one, same in zip(env.step(action), other.step(action), strict=True):
            assert data_equivalence(one, same, exact=True)
    assert (env.world.dynamics is other.world.dynamics) == (copied is copy.deepcopy)


def test_discrete_actions_are_obeyed(either_format):
    world = lively_world()
    _, step = world.step(world.reset(seed=[4, 4, 4]), np.array([0, 1, 2]))
    assert len({frame.tobytes() for frame in step.frame}) == 3 and len(set(step.reward.tolist())) == 3


@pytest.mark.parametrize("between", [0, 1, 3])
def test_a_step_makes_as_many_frames_as_the_world_says(either_format, between):
    world = lively_world(between=between)
    assert world.spec.frames_per_step == 1 + between
    _, step = world.step(world.reset(seed=[0, 1]), np.array([0, 1]))
    if between == 0:
        assert "between" not in step.extras
        return
    images = step.extras["between"]
    assert images.shape == (2, between, 16, 32, 3)
    assert len({p.tobytes() for p in [*images[0], step.frame[0]]}) == between + 1


def test_the_last_frame_of_a_step_is_the_one_that_is_remembered(float32):
    world = lively_world()
    state, step = world.step(world.reset(seed=[0]), np.array([1]))
    shown = to_frames(world.tokenizer.decode(state.past[:, 0])).numpy()
    assert (shown == step.frame).all() and (shown != step.extras["between"][:, 0]).any()


# -- where a history comes from


@pytest.mark.parametrize(("count", "began"), [(1, 0), (2, 7), (4, 0), (4, 11)])
def test_a_step_after_given_frames_sees_what_training_showed(float32, count, began):
    """The clip of frames and the actions between them, as the loss arranges it, ends in the same reward."""
    world = lively_world(sampling=QUIET)
    frames, actions = random_frames(1, count), np.random.default_rng(1).integers(0, 3, (1, count))
    state = world.reset(seed=[0], frames=frames, actions=actions[:, :-1], age=[began])
    assert state.keys.time.tolist() == [count - 1]
    _, step = world.step(state, actions[:, -1])
    with torch.no_grad():
        latents = world.tokenizer.encode(to_images(torch.from_numpy(frames[0])))[None]
        before = torch.cat([latents[:, :1], latents[:, :-1]], dim=1)
        ages = began + torch.arange(count)[None]
        out = world.dynamics.forward(latents, before, torch.from_numpy(actions), torch.zeros(1, count), ages)
    assert step.reward[0] == pytest.approx(out.reward[-1].item(), abs=2e-5)
    probability = torch.sigmoid(out.end_logit[-1]).item()
    assert step.extras["termination_probability"][0] == pytest.approx(probability, abs=1e-5)


@pytest.mark.parametrize("given", [1, 3])
def test_dreamed_frames_are_remembered_as_training_showed_recorded_ones(float32, given):
    world = lively_world(sampling=QUIET)
    frames, actions = random_frames(1, given), np.random.default_rng(1).integers(0, 3, (1, 4))
    state = world.reset(seed=[0], frames=frames, actions=actions[:, : given - 1])
    latents, rewards = [*world.tokenizer.encode(to_images(torch.from_numpy(frames[0])))], []
    for taken in actions[0, given - 1 :]:
        state, step = world.step(state, np.array([taken]))
        latents.append(state.past[0, 0])
        rewards.append(step.reward[0])
    clip = torch.stack(latents)[None, :4]
    before, ages = torch.cat([clip[:, :1], clip[:, :-1]], dim=1), torch.arange(4)[None]
    with torch.no_grad():
        out = world.dynamics.forward(clip, before, torch.from_numpy(actions), torch.zeros(1, 4), ages)
    np.testing.assert_allclose(rewards, out.reward[given - 1 :], atol=2e-5)


def test_each_step_has_noise_of_its_own(monkeypatch):
    asked = []

    def spy(dynamics, *key):
        asked.append([part.item() for part in key])
        return step_noise(dynamics, *key)

    monkeypatch.setattr("worldsim.rollout.step_noise", spy)
    world = lively_world()
    state = world.reset(seed=[7], episode=[2], frames=random_frames(1, 3), actions=np.zeros((1, 2), np.int64))
    for _ in range(3):
        state, _ = world.step(state, np.array([0]))
    assert asked == [[7, 2, time] for time in range(5)]  # two steps between the given frames, three of the dream


def test_every_given_frame_and_action_matters(float32):
    world = lively_world(sampling=QUIET)
    frames, actions = random_frames(1, 3), np.array([[0, 1]])

    def reward(frames: np.ndarray, actions: np.ndarray) -> float:
        state = world.reset(seed=[0], frames=frames, actions=actions)
        return float(world.step(state, np.array([2]))[1].reward[0])

    base = reward(frames, actions)
    for t in range(3):
        other = frames.copy()
        other[:, t] = 255 - other[:, t]
        assert reward(other, actions) != base
    assert reward(frames, np.array([[2, 1]])) != base != reward(frames, np.array([[0, 2]]))


def test_the_first_frame_is_the_last_given_one_as_the_tokenizer_shows_it(float32):
    world, frames = lively_world(), random_frames(2, 3)
    state = world.reset(seed=[0, 1], frames=frames, actions=np.zeros((2, 2), np.int64))
    shown = to_frames(world.tokenizer.decode(world.tokenizer.encode(to_images(torch.from_numpy(frames[:, -1])))))
    assert np.abs(world.render(state).astype(int) - shown.numpy()).max() <= 1


def test_the_start_is_chosen_by_seed_from_its_kind():
    world = lively_world()
    recorded = [start[-1] for start in world.starts.latents.float() * world.starts.scale]

    def start(seed: int, kind: str) -> int:
        last = world.reset(seed=seed, start=kind).past[0, 0].float()
        return min(range(4), key=lambda i: float((recorded[i] - last).abs().max()))

    assert {start(seed, "beginning") for seed in range(8)} == {0, 1}
    assert {start(seed, "anywhere") for seed in range(8)} == {2, 3}
    assert start(5, "anywhere") == start(5, "anywhere")


def test_a_start_is_as_old_as_where_it_was_recorded():
    world = lively_world()
    ages = {int(world.reset(seed=seed, start="anywhere").cache.ages) for seed in range(8)}
    assert ages == {age + CONTEXT - 1 for age in (5, 30)}
    assert world.reset(seed=0).cache.ages.tolist() == [CONTEXT - 1]


def test_a_kind_of_start_that_is_unknown_or_absent_is_refused():
    files = lively_files()
    only_beginnings = dataclasses.replace(Starts.from_tensors(files.starts), beginnings=4).to_tensors()
    world = World(dataclasses.replace(files, starts=only_beginnings), device="cpu")
    with pytest.raises(InvalidInput, match="'anywhere'"):
        world.reset(seed=0, start="anywhere")
    with pytest.raises(InvalidInput, match=r"'end' is unknown.*'beginning'"):
        world.reset(seed=0, start="end")


def test_starts_are_packed_within_a_step_of_their_scale(tmp_path):
    latents = np.random.default_rng(0).standard_normal((3, 2, 4, 2, 4), np.float32)
    starts = Starts.pack(latents, np.ones((3, 1), np.int64), np.array([0, 0, 9]), beginnings=2)
    read = Starts.from_tensors(starts.to_tensors())
    assert read.latents.dtype == torch.int8 and read.beginnings == 2 and read.scale == starts.scale
    assert read.ages.tolist() == [0, 0, 9]
    np.testing.assert_allclose(read.latents.float().numpy() * read.scale, latents, atol=0.51 * starts.scale)


# -- numbers that break down


@pytest.mark.parametrize("name", ["dynamics.latent_decoder.leave.bias", "dynamics.heads.last.bias"])
def test_numbers_that_are_not_finite_are_flagged(either_format, name):
    files = lively_files()
    files.model[name][0] = float("nan")  # in memory: a file with it is refused
    world = World(files, device="cpu")
    _, step = world.step(world.reset(seed=[0, 1]), np.array([0, 1]))
    assert step.extras["non_finite"].tolist() == [True, True]


def test_frames_that_are_decoded_from_numbers_that_are_not_finite_are_flagged(either_format):
    names = [name for name in lively_files().model if name.startswith("tokenizer.decoder")]
    for name in names[:: len(names) // 8]:
        files = lively_files()
        world = World(files, device="cpu")
        state = world.reset(seed=[0, 1])
        weight = dict(world.tokenizer.named_parameters())[name.removeprefix("tokenizer.")].data
        weight[(0,) * weight.dim()] = float("nan")
        with pytest.raises(InvalidState, match="not finite"):
            world.render(state)
        for decode in ("frame", "all"):
            assert world.step(clone(state), np.array([0, 1]), decode=decode)[1].extras["non_finite"].all(), name
        assert not world.step(state, np.array([0, 1]), decode="none")[1].extras["non_finite"].any()


def test_a_broken_encoder_begins_no_episode(either_format):
    world = lively_world()
    world.tokenizer.encoder[1].weight.data[0] = float("nan")
    with pytest.raises(InvalidState, match="not finite"):
        world.reset(seed=[0], frames=np.zeros((1, 1, 16, 32, 3), np.uint8))


def test_one_broken_row_is_flagged_alone_and_harms_no_other(either_format):
    world = lively_world()
    state, sound = world.reset(seed=[0, 1]), world.reset(seed=[0, 1])
    broken = clone(world.reset(seed=[1]))
    broken.past[:] = float("nan")
    put_rows(state, [1], broken)
    for _ in range(3):
        state, step = world.step(state, np.array([0, 1]))
        sound, expected = world.step(sound, np.array([0, 1]))
        assert step.extras["non_finite"].tolist() == [False, True]
        assert (step.frame[0] == expected.frame[0]).all() and step.reward[0] == expected.reward[0]
        assert not step.terminated[1]
    put_rows(state, [1], world.reset(seed=[1]))  # a reset heals the row
    assert world.step(state, np.array([0, 1]))[1].extras["non_finite"].tolist() == [False, False]
