import numpy as np
import pytest
from rolls import snapshot
from toy import CONTINUOUS, ToyWorld

from worldsim.envs import WorldEnv
from worldsim.errors import InvalidAction, InvalidInput


def test_an_episode_can_start_from_given_pictures():
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
        ({"frame": FRAMES}, "unknown reset options \\['frame'\\]"),
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


def test_a_world_is_told_the_age_of_given_pictures():
    env = WorldEnv(ToyWorld(ages=True))
    start = {"frames": FRAMES, "actions": [0, 0]}
    young, same, old = (env.reset(seed=0, options=start | age)[0] for age in ({}, {"age": 0}, {"age": 5}))
    assert np.array_equal(young, same) and not np.array_equal(young, old)
    for age in (-1, 1.5, True, "5"):
        with pytest.raises(InvalidInput, match="age"):
            env.reset(options=start | {"age": age})


@pytest.mark.parametrize("seed", [-1, 2**63, 1.0, "0", True])
def test_wrong_seeds_are_refused(seed):
    with pytest.raises(InvalidInput, match="seed"):
        WorldEnv(ToyWorld()).reset(seed=seed)
