import numpy as np
import pytest
from rolls import assert_same, snapshot
from toy import CONTINUOUS, ToyWorld

from worldsim.envs import WorldEnv, WorldVectorEnv
from worldsim.errors import InvalidAction, InvalidInput


def test_an_episode_can_start_from_given_frames():
    env = WorldEnv(ToyWorld())
    frames = np.full((3, 16, 16, 3), 40, np.uint8)
    plain = env.reset(seed=0)[0]
    started = env.reset(seed=0, options={"frames": frames, "actions": [0, 1]})[0]
    again = env.reset(seed=0, options={"frames": frames, "actions": np.array([0, 1])})[0]
    assert np.array_equal(started, again) and not np.array_equal(started, plain)
    env.reset(options={"frames": frames[:1]})
    env = WorldEnv(ToyWorld(CONTINUOUS))
    env.reset(options={"frames": frames, "actions": np.zeros((2, 2))})
    env.reset(options={"frames": frames[:1]})


FRAMES = np.zeros((3, 16, 16, 3), np.uint8)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ([("frames", FRAMES)], "pass a dict"),
        ({"actions": [0]}, "without options\\['frames'\\]"),
        ({"age": 5}, "without options\\['frames'\\]"),
        ({"frames": FRAMES, "actions": [0, 0], "age": 5}, "not told how late"),
        ({"frames": FRAMES}, "pass the 2 actions"),
        ({"frames": FRAMES[:0]}, "at least one"),
        ({"frames": FRAMES.astype(np.float32), "actions": [0, 0]}, "float32"),
        ({"frames": FRAMES[:, :8], "actions": [0, 0]}, "pass uint8 \\(T, 16, 16, 3\\)"),
        ({"frames": FRAMES[0], "actions": []}, "pass uint8"),
        ({"frames": FRAMES, "actions": [0]}, "shape \\(1,\\) instead of \\(2,\\)"),
        ({"frames": FRAMES, "actions": [0, 9]}, "row 1 is 9"),
        ({"frames": FRAMES, "actions": [0.0, 1.0]}, "dtype float64"),
    ],
)
def test_wrong_reset_options_are_refused_and_change_nothing(options, what):
    env = WorldEnv(ToyWorld())
    env.reset(seed=1)
    before = snapshot(env)
    with pytest.raises((InvalidInput, InvalidAction), match=what):
        env.reset(seed=2, options=options)
    assert snapshot(env) == before


@pytest.mark.parametrize("make", [WorldEnv, WorldVectorEnv])
def test_unknown_reset_options_are_ignored_with_one_warning_each(make):
    plain, given = (make(ToyWorld()).reset(seed=1, options=o) for o in ({}, {})), make(ToyWorld())
    with pytest.warns(UserWarning) as told:
        results = [given.reset(seed=1, options={"lerobot_new_rollout": True, "frame": FRAMES}) for _ in range(2)]
    assert_same([r[:2] for r in results], list(plain))
    messages = [str(one.message) for one in told]
    assert len(messages) == 2
    assert "'lerobot_new_rollout' is ignored; this environment knows 'frames', 'actions', 'age'" in messages[0]
    assert "'frame' is ignored; did you mean 'frames'?" in messages[1]


def test_a_world_is_told_the_age_of_given_frames():
    env = WorldEnv(ToyWorld(ages=True))
    start = {"frames": FRAMES, "actions": [0, 0]}
    young, same, old = (env.reset(seed=0, options=start | age)[0] for age in ({}, {"age": 0}, {"age": 5}))
    assert np.array_equal(young, same) and not np.array_equal(young, old)
    for age in (-1, 1.5, True, "5"):
        with pytest.raises(InvalidInput, match="age"):
            env.reset(options=start | {"age": age})


@pytest.mark.parametrize("seed", [-1, np.int64(-1), 1.0, "0", True])
def test_wrong_seeds_are_refused(seed):
    with pytest.raises(InvalidInput, match="seed"):
        WorldEnv(ToyWorld()).reset(seed=seed)


@pytest.mark.parametrize("seed", [2**63, np.uint64(2**64 - 1), 2**200])
def test_every_integer_is_a_seed_and_the_reported_one_begins_the_same_episode(seed):
    env = WorldEnv(ToyWorld())
    observation, info = env.reset(seed=seed)
    assert_same([env.reset(seed=info["seed"])], [(observation, info)])
    assert info["seed"] < 2**63 and not np.array_equal(env.reset(seed=int(seed) & (2**63 - 1))[0], observation)


def test_the_seeds_of_rows_may_cross_the_largest_that_is_reported_as_it_is():
    infos = WorldVectorEnv(ToyWorld(), 3).reset(seed=2**63 - 2)[1]
    apart = [WorldEnv(ToyWorld()).reset(seed=2**63 - 2 + row)[1]["seed"] for row in range(3)]
    assert infos["seed"].tolist() == apart and apart[:2] == [2**63 - 2, 2**63 - 1] and len(set(apart)) == 3
