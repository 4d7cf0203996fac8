"""Sources by name, and any gymnasium environment as one."""

import sys
import types
import typing

import counter_env
import gymnasium as gym
import numpy as np
import pytest
from sources import play, same

from worldsim.envs.sources import Source, make_source
from worldsim.errors import InvalidAction, InvalidInput, InvalidState, MissingDependency

TAKE_COVER, MY_WAY_HOME = "doom-take-cover", "doom-my-way-home"


def test_unknown_sources_and_options_are_named():
    with pytest.raises(InvalidInput, match=r"'doom-e1m1'.*car-racing, .*doom-take-cover, doom-my-way-home, .*gym:ID"):
        make_source("doom-e1m1")
    with pytest.raises(InvalidInput, match="does not take height"):
        make_source(TAKE_COVER, height=64)
    with pytest.raises(InvalidInput, match="does not take depth"):
        make_source("gym:CartPole-v1", depth=True)
    with pytest.raises(InvalidInput, match="gymnasium cannot make 'NoSuchGame-v0'"):
        make_source("gym:NoSuchGame-v0")


def test_a_gym_source_shows_the_rendered_frame_at_the_wanted_size(made):
    source = made(f"gym:{counter_env.DISCRETE}", height=6, width=12)
    assert isinstance(source, Source)
    assert (source.spec.height, source.spec.width, source.spec.fps) == (6, 12, 12.0)
    assert source.spec.max_episode_steps == 8 and (source.spec.actions.n, source.spec.actions.start) == (3, 1)
    rows = play(source, 0, [3, 3])
    assert rows[0].rgb.shape == (6, 12, 3) and rows[0].rgb.dtype == np.uint8
    assert [row.rgb[0, 0, 0] for row in rows] == [0, 3, 6]
    assert [row.reward for row in rows] == [0.0, 3.0, 6.0]
    assert np.array_equal(source.render(), rows[-1].rgb)


def test_frames_are_the_observation_where_that_is_an_image(made):
    seen, rendered = made(f"gym:{counter_env.IMAGES}", height=24, width=24), made(f"gym:{counter_env.DISCRETE}")
    assert seen.spec.parameters["frames"] == "observation" and "frames" not in rendered.spec.parameters
    row = seen.reset(0)
    as_rendered = made(f"gym:{counter_env.IMAGES}", height=24, width=24, frames="render")
    assert np.array_equal(row.rgb, 255 - as_rendered.reset(0).rgb) and np.array_equal(seen.render(), row.rgb)
    assert "frames" not in as_rendered.spec.parameters  # as in stores of before
    with pytest.raises(InvalidInput, match="no uint8 images"):
        make_source(f"gym:{counter_env.DISCRETE}", frames="observation")
    with pytest.raises(InvalidInput, match="frames is 'screen'"):
        make_source(f"gym:{counter_env.IMAGES}", frames="screen")


@pytest.mark.parametrize("skip", [2, 3])
def test_a_gym_step_may_hold_its_action_and_show_the_frames_inside(made, skip):
    fine, coarse = (
        made(f"gym:{counter_env.DISCRETE}"),
        made(f"gym:{counter_env.DISCRETE}", frame_skip=skip, between=True),
    )
    assert coarse.spec.fps == fine.spec.fps / skip and coarse.spec.max_episode_steps == -(-8 // skip)
    rows, held = [fine.reset(2)], [coarse.reset(2)]
    while not rows[-1].done:
        rows.append(fine.step(2))
    while not held[-1].done:
        held.append(coarse.step(2))
    total = sum(row.reward for row in rows)
    assert sum(row.reward for row in held) == total and held[-1].terminated == rows[-1].terminated
    ticks = [frame for row in held[1:] for frame in (*row.extras["between"], row.rgb)]
    assert all(np.array_equal(a, b.rgb) for a, b in zip(ticks, rows[1:], strict=False))
    assert np.array_equal(ticks[-1], rows[-1].rgb)


def test_a_gym_source_repeats_an_episode_and_knows_how_it_ends(made):
    source = made(f"gym:{counter_env.DISCRETE}")
    ends = []
    for seed in range(6):
        rows = play(source, seed, [1] * 20)
        assert same(rows, play(source, seed, [1] * 20))
        assert rows[-1].terminated != rows[-1].truncated or len(rows) == 9
        ends.append((rows[-1].terminated, rows[-1].truncated))
        with pytest.raises(InvalidState, match="reset"):
            source.step(1)
    assert (True, False) in ends and (False, True) in ends


def test_a_gym_source_takes_boxes_of_floats(made):
    source = made(f"gym:{counter_env.CONTINUOUS}")
    assert source.spec.actions.low == (-1.0, 0.0) and source.spec.actions.high == (1.0, 2.0)
    assert play(source, 0, [np.array([0.5, 2.0])])[-1].reward == 2.5
    with pytest.raises(InvalidAction, match="outside"):
        source.step(np.array([0.5, 2.5]))
    with pytest.raises(InvalidAction, match="outside"):
        source.step(np.array([np.nan, 0]))


def test_a_gym_source_takes_boxes_of_integers_as_they_are(made):
    source = made(f"gym:{counter_env.INTEGERS}")
    space = source.spec.actions.to_space()
    assert space == gym.spaces.Box(np.array([0, 2], np.int64), np.array([3, 9], np.int64), dtype=np.int64)
    assert play(source, 0, [np.array([1, 9])])[-1].reward == 10
    with pytest.raises(InvalidAction, match="give integers"):
        source.step(np.array([1.7, 9.0]))
    drawn = source.spec.actions.draw(np.random.default_rng(0), 500)
    assert drawn.dtype == np.int64 and [*drawn.min(0), *drawn.max(0)] == [0, 2, 3, 9]


class Viewed(gym.Env):
    """Renders into the context that is current, as Gymnasium's MuJoCo environments do."""

    observation_space, action_space = gym.spaces.Box(-1, 1, (1,)), gym.spaces.Discrete(2)
    metadata: typing.ClassVar = {"render_modes": ["rgb_array"]}
    render_mode = "rgb_array"
    current = None

    def __init__(self):
        self.mujoco_renderer = types.SimpleNamespace(viewer=None)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def render(self):
        if self.mujoco_renderer.viewer is None:
            self.mujoco_renderer.viewer = self
            self.make_context_current()
        return np.full((8, 8, 3), 255 if Viewed.current is self else 0, np.uint8)

    def make_context_current(self):
        Viewed.current = self


def test_two_simulators_in_one_process_each_render_their_own_frames():
    one, two = make_source(Viewed()), make_source(Viewed())
    rows = [source.reset(0) for source in (one, two)] + [source.step(0) for source in (one, two)]
    assert all((row.rgb == 255).all() for row in rows)


def test_an_environment_object_is_a_source_that_its_owner_closes():
    env = gym.make(counter_env.DISCRETE, render_mode="rgb_array")
    source, named = make_source(env, height=6, width=6), make_source(f"gym:{counter_env.DISCRETE}", height=6, width=6)
    assert source.spec == named.spec
    assert same(play(source, 3, [1, 2, 3]), play(named, 3, [1, 2, 3]))
    source.close()
    env.reset(seed=0)
    other = gym.make(counter_env.DISCRETE, render_mode="rgb_array", continuous=True)
    assert make_source(other).spec.parameters["env_kwargs"] == {"continuous": True}
    assert make_source(counter_env.CounterEnv("rgb_array")).spec.name == "env:counter_env.CounterEnv"


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (lambda: gym.make(counter_env.DISCRETE), "render mode None"),
        (lambda: 3, "a int is no source"),
    ],
)
def test_an_object_that_is_no_source_is_refused(env, message):
    with pytest.raises(InvalidInput, match=message):
        make_source(env())


def test_keyword_arguments_reach_the_environment(made):
    source = made(f"gym:{counter_env.DISCRETE}", env_kwargs={"continuous": True})
    assert source.spec.actions.low == (-1.0, 0.0)
    assert source.spec.parameters["env_kwargs"] == {"continuous": True}
    with pytest.raises(InvalidInput, match="cannot be made with env kwargs"):
        make_source(f"gym:{counter_env.DISCRETE}", env_kwargs={"level": 3})


class Named(counter_env.CounterEnv):
    """Names its three actions."""

    def get_action_meanings(self):
        return ["NOOP", "LEFT", "RIGHT"]


class Fewer(gym.ActionWrapper):
    """Offers two of the actions."""

    def __init__(self, env):
        super().__init__(env)
        self.action_space = gym.spaces.Discrete(2)

    def action(self, action):
        return (1, 3)[action]


class Swapped(gym.ActionWrapper):
    """The same space, with the actions in another order."""

    def action(self, action):
        return 4 - action


class Renamed(Swapped):
    """As `Swapped`, and knows the names."""

    def get_action_meanings(self):
        return ["RIGHT", "LEFT", "NOOP"]


@pytest.mark.parametrize(
    ("wrap", "meanings"),
    [
        (lambda env: env, ("NOOP", "LEFT", "RIGHT")),
        (lambda env: gym.wrappers.TimeLimit(env, 9), ("NOOP", "LEFT", "RIGHT")),
        (Fewer, ()),
        (Swapped, ()),
        (Renamed, ("RIGHT", "LEFT", "NOOP")),
        (lambda env: gym.wrappers.TimeLimit(Renamed(env), 9), ("RIGHT", "LEFT", "NOOP")),
    ],
)
def test_actions_have_names_only_where_these_are_of_the_actions_that_are_taken(wrap, meanings):
    actions = make_source(wrap(Named("rgb_array"))).spec.actions
    assert actions.meanings == meanings
    assert bool(actions.keys) == bool(meanings)


@pytest.mark.parametrize("action", [4, 0, 0.5, "left", None, np.array([1])])
def test_a_discrete_action_that_is_none_is_refused(made, action):
    source = made(f"gym:{counter_env.DISCRETE}")
    source.reset(0)
    with pytest.raises(InvalidAction, match="1 to 3"):
        source.step(action)


def test_stepping_or_showing_before_a_reset_is_refused(made):
    source = made(f"gym:{counter_env.DISCRETE}")
    with pytest.raises(InvalidState, match="reset"):
        source.step(1)
    with pytest.raises(InvalidState, match="reset"):
        source.render()


def test_a_simulator_that_is_not_installed_is_named(monkeypatch):
    for module, name, fix in (
        ("vizdoom", TAKE_COVER, r"worldsim\[doom\]"),
        ("ale_py", "gym:ALE/Pong-v5", "ale-py"),
    ):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(MissingDependency, match=fix):
            make_source(name)


@pytest.mark.simulator
def test_an_atari_game_is_a_source(made):
    source = made("gym:ALE/Pong-v5", height=80, width=64)
    assert source.spec.fps == 15.0  # 60 frames a second, 4 a step
    assert source.spec.actions.meanings[:4] == ("NOOP", "FIRE", "RIGHT", "LEFT")
    assert source.spec.actions.keys[4] == ("right", "space")
    actions = np.random.default_rng(0).integers(6, size=60).tolist()
    rows = play(source, 3, actions)
    assert rows[-1].rgb.shape == (80, 64, 3) and not np.array_equal(rows[20].rgb, rows[60].rgb)
    assert same(rows, play(source, 3, actions))
