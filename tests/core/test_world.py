"""A world is a function of (weights, state, action, noise): the same again, whoever else is in the batch."""

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lively import lively_files, lively_world

from worldsim.errors import InvalidInput, InvalidState
from worldsim.models.tokenizer import to_frames
from worldsim.sampling.noise_shaping import NoiseShaping
from worldsim.sampling.sampler import SamplingConfig
from worldsim.spec import WorldProtocol
from worldsim.state.tree import clone, put_rows, select_rows, tree_map
from worldsim.state.tree_io import load_tree, save_tree
from worldsim.world import World, WorldState

HERE = Path(__file__).parent
LONG = 50  # steps: many times the window of 4


def actions_of(steps: int, batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 3, (steps, batch))


def play(world: World, state: WorldState, actions: np.ndarray) -> tuple[WorldState, list[bytes]]:
    """Step on; everything that each step gave, row by row: a list over steps and rows."""
    shown = []
    for taken in actions:
        state, step = world.step(state, taken)
        parts = [step.frame, step.reward, step.terminated, *(step.extras[k] for k in sorted(step.extras))]
        shown += [b"".join(part[row].tobytes() for part in parts) for row in range(len(taken))]
    return state, shown


def leaves(state: WorldState) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    tree_map(lambda leaf: found.append(leaf.clone()) or leaf, state)
    return found


def same(one: WorldState, other: WorldState) -> bool:
    return all(torch.equal(a, b) for a, b in zip(leaves(one), leaves(other), strict=True))


@pytest.fixture
def world(either_format):
    return lively_world()


def test_it_is_what_environments_ask_for(world):
    assert isinstance(world, WorldProtocol)
    assert (world.spec.height, world.spec.width, world.spec.frames_per_step) == (16, 32, 2)
    assert world.spec.steps_per_second == 17.5 and world.spec.actions.n == 3 and world.spec.max_episode_steps == 40


def test_the_same_seed_gives_the_same_bytes_in_another_instance(world):
    actions = actions_of(LONG, 2)
    one = play(world, world.reset(seed=[3, 4]), actions)[1]
    other_world = lively_world()
    assert play(other_world, other_world.reset(seed=[3, 4]), actions)[1] == one
    assert len(set(one)) == len(one)  # nothing stands still


@pytest.mark.parametrize("other", [{"seed": [5]}, {"seed": [3], "episode": [1]}])
def test_another_seed_or_episode_goes_another_way(world, other):
    frames = np.random.default_rng(0).integers(0, 256, (1, 1, 16, 32, 3), np.uint8)
    actions = actions_of(3, 1)
    one = play(world, world.reset(seed=[3], frames=frames), actions)[1]
    assert play(world, world.reset(**other, frames=frames), actions)[1][0] != one[0]


def test_the_same_seed_gives_the_same_bytes_in_another_process():
    code = (
        f"import sys; sys.path[:0] = {[str(HERE), str(HERE.parent / 'support')]}\n"
        "import torch; torch.set_num_threads(1)\n"
        "from test_world import *; print(fingerprint())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=200)
    assert found.stdout.strip() == fingerprint()


def fingerprint() -> str:
    world = lively_world()
    return hashlib.sha256(b"".join(play(world, world.reset(seed=[8, 9]), actions_of(20, 2))[1])).hexdigest()


def test_a_kept_state_can_be_played_on_from_again(world):
    state, _ = play(world, world.reset(seed=[0, 1]), actions_of(7, 2))
    kept, actions = clone(state), actions_of(LONG, 2, seed=1)
    _, first = play(world, state, actions)
    _, again = play(world, clone(kept), actions)
    assert again == first


def test_a_state_that_went_through_a_file_goes_on_the_same(world, tmp_path):
    state, _ = play(world, world.reset(seed=[0, 1]), actions_of(7, 2))
    save_tree(tmp_path / "state", state)
    read, actions = load_tree(tmp_path / "state", world.reset(seed=[5, 5])), actions_of(LONG, 2, seed=1)
    assert play(world, read, actions)[1] == play(world, state, actions)[1]


def test_forks_part_only_when_their_actions_do(world):
    state, _ = play(world, world.reset(seed=[0]), actions_of(7, 1))
    forks = select_rows(state, [0, 0, 0])
    forks, shown = play(world, forks, np.array([[1, 1, 2]]))
    assert shown[0] == shown[1] != shown[2]
    _, shown = play(world, forks, np.array([[0, 0, 0]]))
    assert shown[0] == shown[1] != shown[2]


def test_rows_that_change_places_show_nearly_the_same(float32):
    # Not to the bit: a product of matrices may round the last rows of a batch otherwise than the first.
    world, order = lively_world(), [2, 0, 1]
    state, _ = play(world, world.reset(seed=[0, 1, 2]), actions_of(6, 3))
    turned = select_rows(state, order)
    for taken in actions_of(3, 3, seed=1):
        state, step = world.step(state, taken)
        turned, other = world.step(turned, taken[order])
        assert np.abs(other.frame.astype(int) - step.frame[order]).max() <= 1
        np.testing.assert_allclose(other.reward, step.reward[order], atol=1e-4)
        np.testing.assert_allclose(world.latents(turned), world.latents(state)[order], atol=1e-3)


def test_a_row_does_not_depend_on_its_neighbours(world):
    actions, others = actions_of(LONG, 3), actions_of(LONG, 3, seed=1)
    others[:, 1] = actions[:, 1]
    one, other = world.reset(seed=[0, 1, 2]), world.reset(seed=[7, 1, 9])
    _, shown = play(world, one, actions[:5])
    _, elsewhere = play(world, other, others[:5])
    other = put_rows(play(world, world.reset(seed=[7, 1, 9]), others[:5])[0], [0], world.reset(seed=[4]))
    one = play(world, world.reset(seed=[0, 1, 2]), actions[:5])[0]
    _, later = play(world, one, actions[5:])
    _, later_elsewhere = play(world, other, others[5:])  # where the first row has started anew
    assert (shown + later)[1::3] == (elsewhere + later_elsewhere)[1::3]
    assert (shown + later)[0::3] != (elsewhere + later_elsewhere)[0::3]


def test_a_row_alone_shows_nearly_what_it_shows_in_a_batch(float32):
    world = lively_world()
    together = world.reset(seed=[0, 1, 2])
    alone = world.reset(seed=[1])
    for taken in actions_of(3, 3):
        together, step = world.step(together, taken)
        alone, single = world.step(alone, taken[1:2])
        assert np.abs(step.frame[1].astype(int) - single.frame[0]).max() <= 1
        np.testing.assert_allclose(step.reward[1:2], single.reward, atol=1e-4)


def test_a_start_does_not_depend_on_what_else_starts(world):
    assert same(select_rows(world.reset(seed=[5, 6, 7]), [1]), world.reset(seed=[6]))
    assert same(world.reset(seed=6), world.reset(seed=[6]))


def test_a_state_is_stepped_only_once(world):
    state = world.reset(seed=[0, 1])
    kept = clone(state)
    following, _ = world.step(state, np.array([0, 1]))
    untouched = clone(following)
    with pytest.raises(InvalidState, match="clone"):
        world.step(state, np.array([0, 1]))
    assert same(following, untouched)
    world.step(kept, np.array([0, 1]))


def test_what_a_step_gave_stays_as_it_was(world):
    state, step = world.step(world.reset(seed=[0, 1]), np.array([0, 1]))
    shown = [step.frame.copy(), step.reward.copy(), step.extras["between"].copy()]
    rendered = world.render(state)
    assert (rendered == step.frame).all()
    kept = clone(state)
    step.frame[:] = 0
    rendered[:] = 0
    assert (world.render(state) == shown[0]).all() and same(state, kept)
    _, following = world.step(state, np.array([0, 1]))
    assert (step.reward == shown[1]).all() and (step.extras["between"] == shown[2]).all()
    assert not (following.frame == shown[0]).all()


def test_shapes_and_types(world):
    state = world.reset(seed=[0, 1, 2])
    assert world.render(state).shape == (3, 16, 32, 3)
    state, step = world.step(state, np.array([0, 1, 2]))
    assert step.frame.shape == (3, 16, 32, 3) and step.frame.dtype == np.uint8
    assert step.reward.shape == (3,) and step.reward.dtype == np.float32
    assert step.terminated.shape == (3,) and step.terminated.dtype == bool
    assert step.extras["between"].shape == (3, 1, 16, 32, 3) and step.extras["between"].dtype == np.uint8
    assert step.extras["non_finite"].tolist() == [False] * 3
    probability = step.extras["termination_probability"]
    assert probability.shape == (3,) and probability.dtype == np.float32 and (probability >= 0).all()


def test_what_is_decoded_changes_nothing_else(world):
    states = {frames: world.reset(seed=[0, 1, 2]) for frames in ("all", "frame", "none")}
    for taken in actions_of(6, 3):
        steps = {}
        for decode in states:
            states[decode], steps[decode] = world.step(states[decode], taken, decode=decode)
        full = steps["all"]
        assert steps["none"].frame.shape == (3, 0, 0, 3) and "between" in full.extras
        for frames, step in steps.items():
            assert frames == "none" or step.frame.tobytes() == full.frame.tobytes()
            assert step.reward.tobytes() == full.reward.tobytes()
            assert step.terminated.tobytes() == full.terminated.tobytes()
            assert set(full.extras) - set(step.extras) == ({"between"} if frames != "all" else set())
            assert world.render(states[frames]).tobytes() == full.frame.tobytes()
            assert world.latents(states[frames]).tobytes() == world.latents(states["all"]).tobytes()


def test_another_choice_of_frames_is_refused_before_anything_changes(world):
    state = world.reset(seed=[0])
    with pytest.raises(InvalidInput, match="'frame'"):
        world.step(state, np.array([0]), decode="some")
    world.step(state, np.array([0]))


def test_latents_are_what_the_frame_is_decoded_from(world):
    state, step = world.step(world.reset(seed=[0, 1]), np.array([1, 2]), decode="frame")
    latents = world.latents(state)
    assert latents.shape == (2, *world.spec.latent_shape) and latents.dtype == np.float32
    decoded = to_frames(world.tokenizer.decode(torch.from_numpy(latents).to(world.dtype)))
    assert np.abs(decoded.numpy().astype(int) - step.frame).max() <= 1
    latents[:] = 0
    assert world.latents(state).any()


def test_frames_are_encoded_as_a_start_from_them_is(world):
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 32, 3), np.uint8)
    encoded = world.encode(frames)
    assert encoded.shape == (2, *world.spec.latent_shape) and encoded.dtype == np.float32
    for row, frame in enumerate(frames):
        start = world.latents(world.reset(seed=0, frames=frame[None, None]))[0]
        np.testing.assert_allclose(encoded[row], start, atol=0.05)
    with pytest.raises(InvalidInput, match="uint8"):
        world.encode(frames[:, :8])


def test_sampling_changes_in_a_copy_that_shares_the_weights(world):
    wanted = SamplingConfig(steps=3, temperature=0.0, noise_shaping=NoiseShaping(0.5))
    other = world.with_sampling(wanted)
    assert other.dynamics is world.dynamics and other.spec == world.spec
    assert other.sampling == other.config.sampling == wanted
    assert (world.config.sampling.temperature, world.config.sampling.steps) == (1.0, 2)
    rows = (0, world.config.dynamics.height + 1)
    with pytest.raises(InvalidInput, match="has rows"):
        world.with_sampling(SamplingConfig(noise_shaping=NoiseShaping(rows=rows)))
    actions = actions_of(3, 2)
    assert play(other, other.reset(seed=[3, 4]), actions)[1] != play(world, world.reset(seed=[3, 4]), actions)[1]


def test_a_long_run_needs_no_more_memory(world):
    state, _ = play(world, world.reset(seed=[0]), actions_of(1, 1))
    before = [t.data_ptr() for t in (*state.cache.keys, *state.cache.values)]
    sizes = [t.shape for t in leaves(state)]
    state, _ = play(world, state, actions_of(LONG, 1))
    assert [t.data_ptr() for t in (*state.cache.keys, *state.cache.values)] == before
    assert [t.shape for t in leaves(state)] == sizes


def test_a_saved_world_is_the_same_world(world, tmp_path):
    world.save_pretrained(tmp_path / "copy")
    read = World.from_pretrained(tmp_path / "copy", device="cpu")
    read.save_pretrained(tmp_path / "copy of the copy")
    read = World.from_pretrained(str(tmp_path / "copy of the copy"), device="cpu")
    assert read.config.dynamics == world.config.dynamics and read.card == world.card
    actions = actions_of(10, 2)
    assert play(read, read.reset(seed=[3, 4]), actions)[1] == play(world, world.reset(seed=[3, 4]), actions)[1]


def test_stepping_needs_no_global_generator_and_leaves_it_alone(world):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    play(world, world.reset(seed=[0]), actions_of(2, 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_rewards_are_in_the_units_of_the_game(float32):
    one, other = World(lively_files(), device="cpu"), World(lively_files(reward_scale=2.5), device="cpu")
    _, step = one.step(one.reset(seed=[0, 1]), np.array([1, 2]))
    _, scaled = other.step(other.reset(seed=[0, 1]), np.array([1, 2]))
    assert (step.reward != 0).all()
    np.testing.assert_allclose(scaled.reward, 2.5 * step.reward, rtol=1e-6)


@pytest.mark.parametrize("logit", [-4.0, 0.0, 4.0])
def test_endings_come_as_often_as_their_probability_says(float32, logit):
    files = lively_files()
    files.model["dynamics.heads.last.weight"][1] = 0
    files.model["dynamics.heads.last.bias"][1] = logit
    world = World(files, device="cpu")
    state, ended = world.reset(seed=list(range(40))), []
    for taken in actions_of(20, 40):
        state, step = world.step(state, taken)
        ended.append(step.terminated)
    expected = 1 / (1 + np.exp(-logit))
    np.testing.assert_allclose(step.extras["termination_probability"], expected, rtol=1e-4)
    assert np.mean(ended) == pytest.approx(expected, abs=0.05)
