import numpy as np
import pytest

from worldsim.data.episodes import StreamSpec
from worldsim.envs.sources import make_source
from worldsim.envs.sources.base import SourceSpec, TimeStep
from worldsim.envs.sources.doom_scenarios import source_spec
from worldsim.envs.sources.doom_take_cover import fireball_ahead
from worldsim.envs.sources.registry import POLICIES, SOURCES, mix_of, register_policy, register_source
from worldsim.errors import InvalidInput
from worldsim.policies.data import Mix, make_policy, policy_needs
from worldsim.spec import ActionSpec

OFF = dict.fromkeys(("between", "depth", "pose", "sound", "labels"), False)
TAKE_COVER = source_spec("take_cover", 2, **OFF)
MY_WAY_HOME = source_spec("my_way_home", 2, **OFF | {"depth": True, "pose": True})
ROBOT = SourceSpec("gym:Robot", 8, 8, ActionSpec(low=(-1.0, 0.0), high=(1.0, 3.0)), 10.0)


def take_cover_row(place=384.0):
    return TimeStep(np.zeros((64, 128, 3), np.uint8), extras={"variables": np.array([100, place], np.float32)})


def room_row(ahead=500.0, pose=(0, 0, 0, 0)):
    depth = np.full((96, 128), ahead, np.float32)
    extras = {"depth": depth, "pose": np.array(pose, np.float32), "variables": np.zeros(2, np.float32)}
    return TimeStep(np.zeros((96, 128, 3), np.uint8), extras=extras)


def run(policy, row, steps=200, seed=0):
    policy.reset(np.random.default_rng(seed))
    return [policy.act(row) for _ in range(steps)]


@pytest.mark.parametrize("spec", [TAKE_COVER, MY_WAY_HOME], ids=lambda spec: spec.name)
def test_every_policy_of_a_mix_acts_and_follows_its_generator(spec):
    row = take_cover_row() if spec is TAKE_COVER else room_row()
    for name in (*mix_of(spec.name), "mix"):
        policy = make_policy(name, spec)
        actions = run(policy, row)
        assert all(0 <= action < spec.actions.n for action in actions), name
        assert actions == run(policy, row) == run(make_policy(name, spec), row), name
        assert any(actions != run(policy, row, seed=seed) for seed in range(1, 5)), name


def test_random_actions_fill_the_space():
    assert set(run(make_policy("random", TAKE_COVER), take_cover_row())) == {0, 1, 2}
    actions = np.array(run(make_policy("random", ROBOT), TimeStep(np.zeros((8, 8, 3), np.uint8))))
    assert actions.dtype == np.float32 and (actions.min(0) < [-0.9, 0.2]).all()
    assert (actions.max(0) > [0.9, 2.8]).all() and (actions <= [1, 3]).all()


def test_persistent_actions_are_held_about_ten_steps():
    actions = np.array(run(make_policy("persistent", MY_WAY_HOME), room_row(), steps=4000))
    changes = np.count_nonzero(np.diff(actions)) / 4000
    assert 0.06 < changes < 0.12


def test_a_sweep_runs_to_both_sides_and_stays():
    actions = run(make_policy("sweep", TAKE_COVER), take_cover_row(), steps=600)
    assert min(actions.count(action) for action in range(3)) > 40


@pytest.mark.parametrize(("place", "action"), [(20.0, 1), (750.0, 2)])
def test_dodging_turns_at_the_walls(place, action):
    actions = run(make_policy("dodge", TAKE_COVER), take_cover_row(place))
    assert actions.count(action) > 120  # the rest are its errors


def test_a_near_fireball_is_ahead_on_its_side_only():
    frame = np.zeros((64, 128, 3), np.uint8)
    frame[20:36, 74:86] = (255, 220, 120)
    assert fireball_ahead(frame, right=True, near=12)
    assert not fireball_ahead(frame, right=False, near=12)
    assert not fireball_ahead(frame, right=True, near=20)
    assert not fireball_ahead(np.zeros_like(frame), right=True, near=1)
    assert not fireball_ahead(np.full_like(frame, 128), right=True, near=1)  # grey is no fire


def test_wandering_turns_at_a_wall_and_walks_in_the_open():
    names = MY_WAY_HOME.actions.meanings
    at_wall = [names[a] for a in run(make_policy("wander", MY_WAY_HOME), room_row(ahead=22.5), steps=40)]
    assert set(at_wall) <= {"TURN_LEFT", "TURN_RIGHT"} and len(set(at_wall)) == 1
    in_open = [names[a] for a in run(make_policy("wander", MY_WAY_HOME), room_row(), steps=300)]
    assert in_open.count("FORWARD") > 100


def test_spinning_turns_round_on_the_spot():
    names = MY_WAY_HOME.actions.meanings
    actions = [names[a] for a in run(make_policy("spin", MY_WAY_HOME), room_row(), steps=20)]
    assert set(actions) in ({"TURN_LEFT"}, {"TURN_RIGHT"})


def walk(policy, steps, seed=0):
    """Play in an endless field with Doom's speeds; poses (T, 3): x, y, yaw."""
    names = MY_WAY_HOME.actions.meanings
    policy.reset(np.random.default_rng(seed))
    x = y = yaw = 0.0
    poses = []
    for _ in range(steps):
        poses.append((x, y, yaw))
        name = names[policy.act(room_row(pose=(x, y, 0, yaw)))]
        yaw += np.deg2rad(7) * (("LEFT" in name) - ("RIGHT" in name)) * ("STRAFE" not in name)
        if "FORWARD" in name:
            x, y = x + 14 * np.cos(yaw), y + 14 * np.sin(yaw)
    return np.array(poses)


def test_returning_goes_out_and_comes_back():
    for seed in range(4):
        away = np.hypot(*walk(make_policy("return", MY_WAY_HOME), 800, seed)[:, :2].T)
        farthest = int(away[:400].argmax())
        assert away[farthest] > 200 and away[farthest:].min() < 80


def test_a_mix_draws_each_of_its_policies():
    mix = make_policy("mix", TAKE_COVER)
    assert isinstance(mix, Mix)
    drawn = set()
    for seed in range(60):
        mix.reset(np.random.default_rng(seed))
        drawn.add(mix.current)
    assert drawn == set(mix_of(TAKE_COVER.name))


def test_what_a_policy_looks_at_is_known_beforehand():
    assert policy_needs("return", "doom-my-way-home") == {"depth", "pose"}
    assert policy_needs("mix", "doom-my-way-home") == {"depth", "pose"}
    assert policy_needs("mix", "gym:CartPole-v1") == frozenset()


def test_a_policy_that_does_not_suit_the_source_is_refused():
    with pytest.raises(InvalidInput, match="unknown policy 'clever'; the policies are mix, random"):
        make_policy("clever", TAKE_COVER)
    with pytest.raises(InvalidInput, match="needs depth, which 'doom-take-cover' does not give"):
        make_policy("wander", TAKE_COVER)
    with pytest.raises(InvalidInput, match="LEFT, RIGHT, which 'doom-my-way-home' lacks"):
        make_policy("sweep", MY_WAY_HOME)
    assert set(POLICIES) >= {part for entry in SOURCES.values() for part in entry.mix}


class Alternate:
    """A data policy from outside of the package."""

    needs = frozenset({"sonar"})

    def __init__(self, spec):
        self.n = spec.actions.n

    def reset(self, rng):
        self.last = 0

    def act(self, row):
        self.last = (self.last + 1) % self.n
        return self.last


def test_a_source_from_outside_brings_its_policies(monkeypatch):
    monkeypatch.setitem(SOURCES, "tank", None)  # both tables are as they were, afterwards
    monkeypatch.setitem(POLICIES, "alternate", None)
    spec = SourceSpec("tank", 8, 8, ActionSpec(n=3), 10.0, extras={"sonar": StreamSpec("vector", (1,), "float32")})
    register_source("tank", lambda *, beeps=1: (spec, beeps), policies={"alternate": Alternate}, mix=("alternate",))
    assert make_source("tank", beeps=4) == (spec, 4)
    with pytest.raises(InvalidInput, match="'tank' does not take depth; it takes beeps"):
        make_source("tank", depth=True)
    assert policy_needs("mix", "tank") == {"sonar"}
    row = TimeStep(np.zeros((8, 8, 3), np.uint8))
    for name in ("alternate", "mix"):
        assert run(make_policy(name, spec), row, steps=4) == [1, 2, 0, 1]
    with pytest.raises(InvalidInput, match="needs sonar"):
        make_policy("alternate", TAKE_COVER)


def test_a_policy_can_be_registered_by_its_place_alone(monkeypatch):
    monkeypatch.setitem(POLICIES, "held", None)
    register_policy("held", "worldsim.policies.data_policy:PersistentRandom")
    row = take_cover_row()
    assert run(make_policy("held", TAKE_COVER), row) == run(make_policy("persistent", TAKE_COVER), row)


@pytest.mark.parametrize(("spec", "rest"), [(TAKE_COVER, 0), (ROBOT, [0.0, 0.0])], ids=["keys", "box"])
def test_pauses_does_nothing_for_longer_than_a_world_looks_back(spec, rest):
    actions = np.array(run(make_policy("pauses", spec), None, steps=4000))
    still = np.array([np.array_equal(action, rest) for action in actions])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], still, [False]]).astype(int)))
    spells = edges[1::2] - edges[::2]
    assert 0.4 < still.mean() < 0.8 and (spells > 31).sum() > 10
