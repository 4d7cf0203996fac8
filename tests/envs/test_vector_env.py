import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from rolls import assert_same, roll
from toy import CONTINUOUS, DISCRETE, ToyWorld

from worldsim.envs import WorldEnv, WorldVectorEnv
from worldsim.errors import InvalidAction, InvalidInput, InvalidState
from worldsim.state.tree import clone

MODES = list(AutoresetMode)
FRAMES = np.arange(3 * 16 * 16 * 3, dtype=np.uint8).reshape(3, 16, 16, 3)


def a_pair(mode, n=4, **kwargs):
    """The batch, and gymnasium's own vector environment over as many single ones."""
    kwargs = {"end": 0.15, "limit": 12, **kwargs}
    singles = SyncVectorEnv([lambda: WorldEnv(ToyWorld(**kwargs))] * n, autoreset_mode=mode)
    return WorldVectorEnv(ToyWorld(**kwargs), n, autoreset_mode=mode), singles


@pytest.mark.parametrize("actions", [DISCRETE, CONTINUOUS])
@pytest.mark.parametrize("between", [0, 2])
@pytest.mark.parametrize("mode", MODES)
def test_the_batch_does_what_gymnasiums_vector_environment_does(mode, between, actions):
    ours, theirs = a_pair(mode, between=between, actions=actions)
    assert ours.observation_space == theirs.observation_space and ours.action_space == theirs.action_space
    assert ours.single_observation_space == theirs.single_observation_space
    assert ours.metadata["autoreset_mode"] is mode
    assert_same(ours.reset(seed=3), theirs.reset(seed=3))
    ours.action_space.seed(0)
    chosen = [ours.action_space.sample() for _ in range(40)]
    pairs = list(zip(roll(ours, chosen), roll(theirs, chosen), strict=True))
    for one, other in pairs:
        assert_same(one, other)
    assert any(one[2].any() for one, _ in pairs if len(one) == 5)
    assert any(one[3].any() for one, _ in pairs if len(one) == 5)
    assert_same(ours.reset(), theirs.reset())
    assert_same(ours.reset(seed=[9, None, 1, None]), theirs.reset(seed=[9, None, 1, None]))


@pytest.mark.parametrize("mode", MODES)
def test_broken_numbers_end_rows_as_in_single_environments(mode):
    ours, theirs = a_pair(mode, end=0.0, non_finite_at=3)
    assert_same(ours.reset(seed=0), theirs.reset(seed=0))
    actions = np.zeros((8, 4), np.int64)
    results = roll(ours, actions)
    for one, other in zip(results, roll(theirs, actions), strict=True):
        assert_same(one, other)
    assert results[2][3].all()


@pytest.mark.parametrize("options", [{}, {"frames": FRAMES, "actions": [0, 1]}])
@pytest.mark.parametrize("mode", MODES)
def test_a_reset_mask_resets_only_its_rows(mode, options):
    ours, theirs = a_pair(mode, end=0.0)
    assert_same(ours.reset(seed=0, options=options), theirs.reset(seed=0, options=options))
    actions = np.array([0, 1, 2, 1])
    assert_same(ours.step(actions), theirs.step(actions))
    mask = np.array([True, False, True, False])
    given = {**options, "reset_mask": mask}
    result = ours.reset(seed=[5, 6, None, None], options=given)
    assert set(given) == {*options, "reset_mask"}
    assert_same(result, theirs.reset(seed=[5, 6, None, None], options=dict(given)))
    assert result[1]["_step"].tolist() == mask.tolist()
    assert_same(ours.step(actions), theirs.step(actions))


def test_each_row_may_start_from_frames_of_its_own():
    envs = WorldVectorEnv(ToyWorld(ages=True), 2)
    each = {"frames": np.stack([FRAMES, FRAMES[::-1]]), "actions": [[0, 1], [2, 2]], "age": np.array([3, 70])}
    observations, _ = envs.reset(seed=[0, 1], options=each)
    for row in range(2):
        own = {name: values[row] for name, values in each.items()}
        assert np.array_equal(observations[row], WorldEnv(ToyWorld(ages=True)).reset(seed=row, options=own)[0])
    for name in each:
        with pytest.raises(InvalidInput, match=f"'{name}'.* for 2 environments"):
            envs.reset(options=each | {name: each[name][:1]})


def test_a_step_is_one_call_of_the_world():
    envs, _ = a_pair(AutoresetMode.NEXT_STEP, n=5)
    envs.reset(seed=0)
    roll(envs, np.zeros((20, 5), np.int64))
    assert set(envs.world.batches) == {5} and len(envs.world.batches) <= 20


def test_a_row_does_not_depend_on_its_neighbours():
    alone = WorldVectorEnv(ToyWorld(end=0.1), 1)
    among = WorldVectorEnv(ToyWorld(end=0.1), 3)
    alone.reset(seed=[8])
    among.reset(seed=[3, 8, None])
    rng = np.random.default_rng(0)
    for _ in range(40):
        actions = rng.integers(3, size=3)
        one, many = alone.step(actions[1:2]), among.step(actions)
        for a, b in zip(one[:4], many[:4], strict=True):
            assert np.array_equal(a[0], b[1])


def test_rows_being_reset_ignore_their_action():
    envs = WorldVectorEnv(ToyWorld(end=0.0, limit=1), 2)
    envs.reset(seed=0)
    envs.step([0, 0])
    assert envs.step([99, -1])[1].tolist() == [0.0, 0.0]
    assert envs.world.batches == [2]
    envs = WorldVectorEnv(ToyWorld(CONTINUOUS, limit=1), 1)
    envs.reset(seed=0)
    envs.step([[0, 0]])
    envs.step([[np.nan, 9]])


@pytest.mark.parametrize("actions", [[0, 3], [0], [0, 1, 2], [[0, 1]], [0.0, 1.0], [True, False], 0, None, [0, None]])
def test_wrong_actions_are_refused_and_change_nothing(actions):
    envs = WorldVectorEnv(ToyWorld(), 2)
    envs.reset(seed=0)
    before = envs.save_state()
    with pytest.raises(InvalidAction):
        envs.step(actions)
    assert [s.step for s in envs.save_state()] == [0, 0] and envs.world.batches == []
    assert all(torch.equal(a.tree.position, b.tree.position) for a, b in zip(before, envs.save_state(), strict=True))


def test_the_message_names_the_row():
    envs = WorldVectorEnv(ToyWorld(CONTINUOUS), 2)
    envs.reset(seed=0)
    with pytest.raises(InvalidAction, match=r"action of row 1 .*finite"):
        envs.step(np.array([[0, 0], [0, np.nan]]))
    with pytest.raises(InvalidAction, match=r"action of row 0 .*stay within"):
        envs.step(np.array([[0, 2], [0, 0]]))


def test_ended_rows_that_nobody_resets_are_named():
    envs = WorldVectorEnv(ToyWorld(end=0.5), 4, autoreset_mode="Disabled")
    with pytest.raises(InvalidState, match="has not been reset"):
        envs.step([0] * 4)
    envs.reset(seed=0)
    ended = []
    while not ended:
        ended = np.flatnonzero(envs.step([0] * 4)[2]).tolist()
    steps = len(envs.world.batches)
    with pytest.raises(InvalidState, match=str(ended).replace("[", "\\[")):
        envs.step([0] * 4)
    assert len(envs.world.batches) == steps


@pytest.mark.parametrize(
    ("mask", "what"),
    [
        (np.zeros(2, bool), "marks no environment"),
        (np.ones(3, bool), "bool \\(3,\\)"),
        (np.ones(2), "float64"),
        ([True, False], "list"),
    ],
)
def test_a_wrong_reset_mask_is_refused(mask, what):
    envs = WorldVectorEnv(ToyWorld(), 2)
    envs.reset(seed=0)
    with pytest.raises(InvalidInput, match=what):
        envs.reset(options={"reset_mask": mask})


def test_some_rows_cannot_be_reset_before_all_were():
    envs = WorldVectorEnv(ToyWorld(), 2)
    with pytest.raises(InvalidState):
        envs.reset(options={"reset_mask": np.array([True, False])})
    envs.reset(options={"reset_mask": np.array([True, True])})


@pytest.mark.parametrize(
    "kwargs", [{"num_envs": 0}, {"num_envs": True}, {"autoreset_mode": "x"}, {"render_mode": "human"}]
)
def test_wrong_arguments_are_refused(kwargs):
    with pytest.raises(InvalidInput):
        WorldVectorEnv(ToyWorld(), **{"num_envs": 2, **kwargs})


def test_wrong_seeds_are_refused():
    envs = WorldVectorEnv(ToyWorld(), 2)
    for seed in ([1], [1, -1], -1, 1.0):
        with pytest.raises(InvalidInput, match="seed"):
            envs.reset(seed=seed)


def test_never_seeded_rows_draw_different_seeds():
    envs = WorldVectorEnv(ToyWorld(), 3)
    seeds = envs.reset()[1]["seed"]
    assert len(set(seeds.tolist())) == 3


@pytest.mark.parametrize("mode", MODES[:2])
def test_saved_states_go_on_bit_for_bit(mode):
    envs, _ = a_pair(mode)
    envs.render_mode = "rgb_array"
    envs.reset(seed=1)
    rng = np.random.default_rng(0)
    roll(envs, rng.integers(3, size=(5, 4)))
    states, frames = envs.save_state(), envs.render()
    actions = rng.integers(3, size=(30, 4))
    first = roll(envs, actions)
    fresh = WorldVectorEnv(envs.world, 4, autoreset_mode=mode, render_mode="rgb_array")
    for other in (envs, fresh):
        other.restore_state(states)
        assert all(np.array_equal(a, b) for a, b in zip(other.render(), frames, strict=True))
        for one, two in zip(first, roll(other, actions), strict=True):
            assert_same(one, two)


def test_states_move_between_single_environments_and_rows():
    env = WorldEnv(ToyWorld())
    env.reset(seed=2)
    env.step(1)
    envs = WorldVectorEnv(env.world, 3)
    envs.restore_state([env.save_state()] * 3)
    observations = envs.step([0, 1, 2])[0]
    for row, fork in enumerate(env.fork(3)):
        assert np.array_equal(fork.step(row)[0], observations[row])
    env.restore_state(envs.save_state()[2])
    assert np.array_equal(env.step(0)[0], envs.step([0, 0, 0])[0][2])
    with pytest.raises(InvalidInput, match="for 3 environments"):
        envs.restore_state([env.save_state()])


def test_worlds_that_run_in_inference_mode_are_served_too():
    class Inference(ToyWorld):
        @torch.inference_mode()
        def reset(self, seed, **kwargs):
            return clone(super().reset(seed, **kwargs))

        @torch.inference_mode()
        def step(self, state, actions):
            return super().step(clone(state), actions)

    plain, served = WorldVectorEnv(ToyWorld(end=0.2), 3), WorldVectorEnv(Inference(end=0.2), 3)
    assert_same(plain.reset(seed=0), served.reset(seed=0))
    for one, other in zip(*(roll(e, np.zeros((20, 3), np.int64)) for e in (plain, served)), strict=True):
        assert_same(one, other)
    served.restore_state(served.save_state())


def test_no_graph_grows_behind_a_world_that_tracks_gradients():
    class Tracking(ToyWorld):
        weight = torch.ones(1, requires_grad=True)

        def step(self, state, actions):
            state.position = state.position * self.weight
            return super().step(state, actions)

    envs = WorldVectorEnv(Tracking(), 2)
    envs.reset(seed=0)
    envs.step([0, 0])
    assert not envs.save_state()[0].tree.position.requires_grad


def test_results_are_arrays_of_their_own():
    envs = WorldVectorEnv(ToyWorld(end=0.5), 4, autoreset_mode="SameStep", render_mode="rgb_array")
    kept = [envs.reset(seed=0)[0]]
    for _ in range(4):
        observations, *_, infos = envs.step([0] * 4)
        kept += [observations, *(o for o in infos.get("final_obs", []) if o is not None), *envs.render()]
    assert not any(np.shares_memory(a, b) for i, a in enumerate(kept) for b in kept[:i])


def test_gymnasiums_statistics_wrapper_works():
    envs = RecordEpisodeStatistics(WorldVectorEnv(ToyWorld(end=0.3), 3))
    envs.reset(seed=0)
    lengths = [infos["episode"]["l"] for *_, infos in roll(envs, np.zeros((9, 3), np.int64)) if "episode" in infos]
    assert lengths


ROW_NAMES = (
    "render", "save_state", "get_action_meanings", "get_keys_to_action", "action_space", "observation_space",
    "max_episode_steps", "_max_episode_steps", "render_mode", "spec", "speculation_stats",
)  # fmt: skip


def test_rows_answer_as_the_environments_of_gymnasiums_vector_environment():
    ours = WorldVectorEnv(ToyWorld(limit=7), 3, render_mode="rgb_array")
    theirs = SyncVectorEnv([lambda: WorldEnv(ToyWorld(limit=7), render_mode="rgb_array")] * 3)
    for envs in (ours, theirs):
        envs.reset(seed=0)
        envs.step([0, 1, 2])
    for name in ROW_NAMES:
        one, other = ours.call(name), theirs.call(name)
        if name == "save_state":
            one, other = (
                [dataclasses.replace(s, tree=s.tree.position.tolist()) for s in states] for states in (one, other)
            )
        assert len(one) == 3 and type(ours.call(name)) is tuple
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True)), name
        assert name.startswith(("render", "save", "get")) or ours.get_attr(name) == theirs.get_attr(name)
    for envs in (ours, theirs):
        for missing in ("task_description", "task"):  # LeRobot asks for these
            with pytest.raises(AttributeError, match=missing):
                envs.call(missing)
    for method in ("step", "reset", "close", "restore_state", "call"):
        with pytest.raises(AttributeError, match=f"no method '{method}'"):
            ours.call(method)


def test_attributes_are_set_in_all_rows_or_in_none():
    envs = WorldVectorEnv(ToyWorld(), 2)
    for name, given in (("max_episode_steps", 5), ("_max_episode_steps", [2, 2])):
        envs.set_attr(name, given)
        assert envs.get_attr(name) == envs.get_attr("max_episode_steps") == (np.max(given),) * 2
    for wrong, message in (([2, 3], "is shared by all"), ([2], "1 values .* for 2 environments")):
        with pytest.raises(InvalidInput, match=message):
            envs.set_attr("max_episode_steps", wrong)
    envs.reset(seed=0)
    assert [envs.step([0, 0])[3].tolist() for _ in range(2)] == [[False, False], [True, True]]


def test_rendering_without_a_mode_warns():
    envs = WorldVectorEnv(ToyWorld(), 2)
    with pytest.raises(InvalidState):
        envs.render()
    envs.reset(seed=0)
    with pytest.warns(UserWarning, match="render"):
        assert envs.render() is None
    with pytest.warns(UserWarning, match="render"):
        assert envs.call("render") == (None, None)
    assert isinstance(envs, gym.vector.VectorEnv) and envs.get_action_meanings()[1] == "LEFT"
