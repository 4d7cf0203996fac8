"""MetaWorld as a source: seeds, tasks, streams, experts; what is refused."""

import importlib.util

import numpy as np
import pytest
from sources import play, same

from worldsim.cli.record import record_episodes
from worldsim.data.episodes import Episodes
from worldsim.envs.sources import make_source
from worldsim.envs.sources.base import SourceSpec, TimeStep
from worldsim.envs.sources.metaworld import ACTIONS, MetaWorld
from worldsim.errors import InvalidAction, InvalidInput, InvalidState, MissingDependency
from worldsim.policies.data import make_policy

pytestmark = [
    pytest.mark.simulator,
    pytest.mark.skipif(
        importlib.util.find_spec("metaworld") is None, reason='these tests need pip install "worldsim[metaworld]"'
    ),
]


@pytest.fixture(scope="module")
def source():
    made = make_source("metaworld", tasks=["reach-v3", "drawer-close-v3"], render=False)
    yield made
    made.close()


@pytest.fixture(scope="module")
def filmed():
    made = make_source("metaworld", tasks=["reach-v3"], height=32, width=48, max_episode_steps=3)
    try:
        made.reset(0)
    except MissingDependency as error:
        pytest.skip(f"MuJoCo cannot render here: {error}")
    yield made
    made.close()


def test_a_seed_names_an_episode_whatever_was_played_before(source):
    actions = ACTIONS.draw(np.random.default_rng(0), 4)
    first = play(source, 7, actions)
    play(source, 8, actions)
    assert same(first, play(source, 7, actions))
    goals = {tuple(source.reset(seed).extras["goal"].tolist()) for seed in range(6)}
    assert len(goals) == 6


def test_seeds_draw_tasks_and_a_chosen_task_stays(source):
    assert {int(source.reset(seed).extras["task"]) for seed in range(12)} == {0, 1}
    source.choose_task("drawer-close")
    assert {int(source.reset(seed).extras["task"]) for seed in range(4)} == {1}
    source.choose_task(None)
    with pytest.raises(InvalidInput, match="no task 'push'"):
        source.choose_task("push")


def test_an_episode_lasts_as_long_as_was_said_and_goals_stay(source):
    rows = play(source, 1, [np.zeros(4, np.float32)] * 99)
    assert len(rows) == 31 and rows[-1].truncated and not rows[-1].terminated
    assert all(np.array_equal(row.extras["goal"], rows[0].extras["goal"]) for row in rows)
    with pytest.raises(InvalidState, match="over"):
        source.step(np.zeros(4, np.float32))


def test_the_told_place_moves_by_the_action_and_the_hand_lags_behind_it(source):
    source.choose_task("reach")
    before = source.reset(2)
    row = source.step(np.array([0.5, 0.5, -0.25, 0.0], np.float32))
    moved = row.extras["command"] - before.extras["command"]  # 1 cm a tick and unit, for 8 ticks
    np.testing.assert_allclose(moved, [0.04, 0.04, -0.02], atol=1e-5)
    assert 0 < row.extras["proprio"][0] - before.extras["proprio"][0] < moved[0]
    again = source.step(np.zeros(4, np.float32))
    hand = (again.extras["proprio"] - row.extras["proprio"])[:3]
    assert row.extras["velocity"].shape == (6,) and np.dot(row.extras["velocity"][:3], hand) > 0


def test_the_expert_succeeds_and_one_without_strength_does_not(source):
    source.choose_task("reach")
    succeeded = {}
    for name in ("expert:1", "weak:0"):
        policy = make_policy(name, source.spec)
        policy.reset(np.random.default_rng(0))
        row = source.reset(3)
        while not row.done and not row.extras["success"]:
            row = source.step(policy.act(row))
        succeeded[name] = bool(row.extras["success"])
    source.choose_task(None)
    assert succeeded == {"expert:1": True, "weak:0": False}


def test_frames_repeat_and_show_the_hand_move(filmed):
    push = np.array([1, 0, 0, 0], np.float32)
    first = play(filmed, 2, [push] * 3)
    assert first[0].rgb.shape == (32, 48, 3) and (first[0].rgb != first[-1].rgb).any()
    assert same(first, play(filmed, 2, [push] * 3)) and np.array_equal(filmed.render(), first[-1].rgb)


def test_it_is_recorded_with_all_its_streams(tmp_path):
    options = {"tasks": ["reach-v3"], "render": False, "max_episode_steps": 5}
    record_episodes("metaworld", options, steps=12, out=tmp_path / "data", policy="mix")
    store = Episodes.open(tmp_path / "data")
    assert {"proprio", "command", "object", "velocity", "goal", "task", "success"} < set(store.streams) and len(
        store
    ) == 2
    assert make_source("metaworld", **store.meta.source_parameters).spec.max_episode_steps == 5


@pytest.mark.parametrize("action", [np.zeros(3), np.full(4, 2.0), np.full(4, np.nan), 1, np.array(["a"] * 4)])
def test_actions_that_are_none_are_refused(source, action):
    source.reset(0)
    with pytest.raises(InvalidAction, match="4 numbers from -1 to 1"):
        source.step(action)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tasks": ["fly-v3"]}, "no task 'fly-v3'; it has"),
        ({"tasks": []}, "name one or more"),
        ({"height": 0}, "0 x 64"),
        ({"frame_skip": 0}, "0 ticks"),
        ({"max_episode_steps": 100}, "at most 500 ticks"),
    ],
)
def test_options_that_make_no_source_are_refused(options, said):
    with pytest.raises(InvalidInput, match=said):
        MetaWorld(**options)


def test_a_camera_that_the_model_lacks_is_refused():
    with pytest.raises(InvalidInput, match=r"no camera 'nose'; give one of .*corner4"):
        make_source("metaworld", camera="nose").reset(0)


@pytest.mark.parametrize("name", ["expert:2", "delayed:0.5"])
def test_an_expert_with_a_number_that_it_does_not_take_is_refused(source, name):
    with pytest.raises(InvalidInput, match="number"):
        make_policy(name, source.spec)


def test_an_expert_of_another_game_is_refused():
    spec = SourceSpec("other", 8, 8, ACTIONS, 10.0)
    with pytest.raises(InvalidInput, match="experts move a hand"):
        make_policy("expert", spec)


@pytest.mark.parametrize("name", ["expert", "other-expert", "play", "fumble", "biased", "delayed", "weak", "absent"])
def test_every_family_acts_within_bounds_by_the_state_alone(source, name):
    row = source.reset(0)
    seen = TimeStep(rgb=np.zeros((1, 1, 3), np.uint8), extras=row.extras)
    policy = make_policy(name, source.spec)
    acts = []
    for _ in range(2):
        policy.reset(np.random.default_rng(1))
        acts.append(np.stack([policy.act(seen) for _ in range(5)]))
    assert np.array_equal(*acts) and np.abs(acts[0]).max() <= 1 and acts[0].dtype == np.float32


def test_what_fumbles_closes_its_gripper_beside_the_object(source):
    source.choose_task("reach")
    row, policy = source.reset(3), make_policy("fumble", source.spec)
    policy.reset(np.random.default_rng(0))
    beside = []
    for _ in range(30):
        action = policy.act(row)
        if (
            action[3] > 0.4
            and np.linalg.norm(hand := (row.extras["proprio"] - np.r_[row.extras["object"], 0])[:3]) < 0.1
        ):
            beside.append(np.linalg.norm(hand[:2]))
        row = source.step(action)
    source.choose_task(None)
    assert beside and min(beside) > 0.002 and max(beside) < 0.1
