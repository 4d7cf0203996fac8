"""The step loop and its state: every part has a place, and is carried, copied, saved, forked and spliced with it."""

import dataclasses

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode
from lively import lively_files, lively_world
from tiny import tiny_world

from worldsim.envs import EnvState, WorldEnv, WorldVectorEnv
from worldsim.errors import InvalidState
from worldsim.models.endings import EndingConfig
from worldsim.rollout import advance, finish, rewind, start
from worldsim.state.tree import clone, map_named, put_rows, select_rows
from worldsim.state.tree_io import load_tree, save_tree
from worldsim.world import World

ZEROS = [0, 0]


class Remembering(World):
    """A world whose state has a memory and a head that carries something, filled from the seed."""

    def reset(self, seed, **options):
        state = super().reset(seed, **options)
        mark = state.keys.seed.float()
        return dataclasses.replace(
            state,
            memory={"map": {"grid": mark[:, None].repeat(1, 5), "used": state.keys.seed.clone()}},
            heads={"proprio": mark[:, None].repeat(1, 2)},
        )


def remembering() -> Remembering:
    plain = tiny_world(endings=EndingConfig(shift=-20.0))
    return Remembering(plain._files, device="cpu")


def marks(state) -> list[float]:
    """The seed that each row's memory and head were filled from; they agree."""
    found = [state.memory["map"]["grid"][:, 0], state.memory["map"]["used"].float(), state.heads["proprio"][:, 1]]
    assert all(torch.equal(found[0], one) for one in found)
    return found[0].tolist()


def test_memory_and_heads_are_carried_through_steps_and_cut_and_spliced_with_the_state():
    world = remembering()
    state = world.reset(seed=[3, 5])
    state, _ = world.step(state, np.array([1, 2]))
    copy = clone(state)
    copy.memory["map"]["grid"][:] = 9
    copy.heads["proprio"][:] = 9
    assert marks(state) == [3, 5] and marks(select_rows(state, [1, 1, 0])) == [5, 5, 3]
    put_rows(state, [0], world.reset(seed=[8]))
    assert marks(state) == [8, 5]


def test_memory_and_heads_are_saved_restored_and_forked_with_the_environment(tmp_path):
    world = remembering()
    env = WorldEnv(world)
    env.reset(seed=4)
    env.step(1)
    env.save_state().save(tmp_path / "state")
    assert marks(env.fork(2)[1].save_state().tree) == [4]
    env.reset(seed=6)
    assert marks(env.save_state().tree) == [6]
    env.restore_state(EnvState.load(tmp_path / "state", world))
    assert marks(env.save_state().tree) == [4]


def test_memory_and_heads_of_a_row_begin_anew_with_its_episode():
    envs = WorldVectorEnv(remembering(), 3, autoreset_mode=AutoresetMode.DISABLED)
    envs.reset(seed=[10, 20, 30])
    envs.step(np.zeros(3, np.int64))
    mask = np.array([False, True, False])
    envs.reset(seed=[None, 77, None], options={"reset_mask": mask})
    assert [marks(state.tree) for state in envs.save_state()] == [[10], [77], [30]]


def test_every_part_of_the_state_has_its_place_and_survives_a_file(tmp_path):
    world = remembering()
    state, names = world.reset(seed=[1, 2]), []
    map_named(lambda name, leaf: names.append(name) or leaf, state)
    assert {name.split("/")[1] for name in names} == {"past", "cache", "keys", "memory", "heads"}
    save_tree(tmp_path / "s", state)
    assert marks(load_tree(tmp_path / "s", world.reset(seed=[5, 5]))) == [1, 2]


def test_given_frames_are_taken_as_they_are_and_drawn_ones_are_not():
    world = lively_world()
    random = torch.Generator().manual_seed(0)
    latents = torch.randn((2, 4, *world.spec.latent_shape), generator=random).to(world.dtype)
    actions = torch.tensor([[0, 1, 2], [2, 1, 0]])
    whole = start(world.engine, latents, actions, ages=ZEROS, seeds=[7, 8], episodes=ZEROS)
    state = start(world.engine, latents[:, :1], actions[:, :0], ages=ZEROS, seeds=[7, 8], episodes=ZEROS)
    for t in range(3):
        state, output = finish(advance(world.engine, state, actions[:, t], given=latents[:, t + 1]))
        assert torch.equal(output.latents[:, 0], latents[:, t + 1]) and output.frames is None
    for one, other in zip(whole.cache.keys, state.cache.keys, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(whole.past, state.past) and torch.equal(state.past[:, 1], latents[:, 2])
    _, drawn = finish(advance(world.engine, state, actions[:, 0]))
    assert drawn.latents.shape == (2, 2, *world.spec.latent_shape)


def test_what_is_said_of_a_step_does_not_depend_on_whether_its_frame_is_given():
    world = lively_world()
    state, action = world.reset(seed=[0, 1]), torch.tensor([1, 2])
    _, drawn = finish(advance(world.engine, clone(state), action))
    _, given = finish(advance(world.engine, state, action, given=torch.zeros_like(state.past[:, 0])))
    assert torch.equal(drawn.reward, given.reward) and torch.equal(drawn.end_logit, given.end_logit)


@pytest.mark.parametrize("reads", ["frame", "both"])
def test_what_heads_that_read_the_frame_say_depends_on_it_and_that_of_others_does_not(reads):
    world = World(lively_files(head_reads={"reward": reads}), device="cpu")
    state, action = world.reset(seed=[0, 1]), torch.tensor([1, 2])
    frames = [state.past[:, 0], torch.zeros_like(state.past[:, 0])]
    one, other = (finish(advance(world.engine, clone(state), action, given=frame))[1] for frame in frames)
    assert (one.reward != other.reward).all() and torch.equal(one.end_logit, other.end_logit)
    _, drawn = finish(advance(world.engine, clone(state), action))
    _, given = finish(advance(world.engine, state, action, given=drawn.latents[:, 0]))
    assert torch.equal(drawn.reward, given.reward)  # the same frame, whether it was drawn or given


def test_a_head_of_the_frame_alone_knows_nothing_of_the_history():
    world = World(lively_files(head_reads={"reward": "frame", "ending": "both"}), device="cpu")
    random, said = torch.Generator().manual_seed(0), []
    last, new = torch.randn((2, 1, *world.spec.latent_shape), generator=random).to(world.dtype)
    for first in (-20.0, 20.0):
        frames = torch.stack([torch.full_like(last, first), last], dim=1)
        state = start(world.engine, frames, torch.tensor([[1]]), ages=[0], seeds=[0], episodes=[0])
        said.append(finish(advance(world.engine, state, torch.tensor([1]), given=new))[1])
    assert torch.equal(said[0].reward, said[1].reward) and not torch.equal(said[0].end_logit, said[1].end_logit)


def test_a_spent_state_is_refused_until_it_is_rewound():
    world = lively_world()
    state, action = world.reset(seed=[0]), torch.tensor([1])
    _, first = finish(advance(world.engine, state, action))
    with pytest.raises(InvalidState, match="stepped already"):
        finish(advance(world.engine, state, action))
    rewind(state)
    _, again = finish(advance(world.engine, state, action))
    assert torch.equal(first.latents, again.latents)
