"""Several simulators as one source: whose episode it is, whose numbers are where, what is refused."""

import numpy as np
import point_robot
import pytest
from point_robot import Chaser, PointRobot, dynamics_task_of
from small_training import brief, fixed_tokenizer, train
from sources import same

from worldsim.cli.record import record_episodes
from worldsim.data.episodes import Episodes
from worldsim.envs.sources import SourceSpec, TimeStep, make_source, register_source
from worldsim.envs.sources.matching import matching_source
from worldsim.errors import InvalidAction, InvalidInput, InvalidState
from worldsim.policies.data import make_policy
from worldsim.spec import ActionSpec, StreamSpec
from worldsim.train import export
from worldsim.train.state_first import learn_numbers
from worldsim.world import World


class Lift:
    """Another arm: one joint, no task, no success."""

    def __init__(self, *, height: int = 16, width: int = 32, fps: float = 10.0) -> None:
        self.spec = SourceSpec(
            "lift", height, width, ActionSpec(low=(0.5,), high=(2.0,)), fps=fps, max_episode_steps=6,
            extras={"proprio": StreamSpec("vector", (1,), "float32"), "load": StreamSpec("vector", (3,), "float32")},
        )  # fmt: skip

    def reset(self, seed):
        self._at, self._steps = np.float32(seed % 7), 0
        return self._row()

    def step(self, action):
        self._at, self._steps = np.float32(self._at + float(action[0])), self._steps + 1
        return self._row()

    def _row(self):
        extras = {"proprio": np.array([self._at], np.float32), "load": np.ones(3, np.float32)}
        return TimeStep(self.render(), 1.0, False, self._steps == 6, extras)

    def render(self):
        return np.full((16, 32, 3), 40, np.uint8)

    def close(self):
        pass


class Aimed(Chaser):
    """Plays what has a goal."""

    def __init__(self, spec, speed):
        if "goal" not in spec.extras:
            raise InvalidInput(f"{spec.name} has no goal")
        super().__init__(spec, speed)


class Arm(PointRobot):
    """The point robot with the sizes that joined sources are given."""

    def __init__(self, *, height: int = 16, width: int = 32) -> None:
        super().__init__()


register_source("lift", Lift)
register_source("arm", Arm, policies={"aimed": Aimed}, mix=("chaser",))
OPTIONS = {"sources": [{"source": "arm"}, {"source": "lift"}], "height": 16, "width": 32}


@pytest.fixture
def source():
    return make_source("joined", **OPTIONS)


def test_every_part_has_a_block_of_its_own(source):
    spec = source.spec
    assert spec.actions.low == (-1.0, -1.0, 0.5) and spec.actions.high == (1.0, 1.0, 2.0)
    shapes = {name: one.shape for name, one in spec.extras.items()}
    assert shapes == {"proprio": (3,), "goal": (2,), "load": (3,), "success": (), "task": ()}
    assert spec.extras["task"].names == ("left", "right", "lift") and spec.max_episode_steps == 12
    source.choose_task("lift")
    row = source.reset(3)
    assert row.extras["proprio"][:2].tolist() == [0, 0] and row.extras["load"].tolist() == [1, 1, 1]
    later = source.step(np.array([1.0, -1.0, 0.5]))
    assert later.extras["proprio"][2] == row.extras["proprio"][2] + 0.5 and int(later.extras["task"]) == 2
    assert not later.extras["success"] and np.array_equal(source.render(), later.rgb)
    source.choose_task("right")
    row = source.reset(3)
    assert row.extras["load"].tolist() == [0, 0, 0] and row.extras["proprio"][2] == 0 and int(row.extras["task"]) == 1


def test_a_seed_names_an_episode_and_all_parts_come(source):
    first = [source.reset(seed) for seed in range(12)]
    assert {source.layout.part_of(row) for row in first} == {0, 1}
    assert same(first[5:6], [source.reset(5)])


def test_each_part_is_played_by_what_suits_it_and_recorded(source, tmp_path):
    policy = make_policy("mix", source.spec)
    for task, block in (("left", slice(2, 3)), ("lift", slice(0, 2))):
        source.choose_task(task)
        policy.reset(np.random.default_rng(0))
        row, actions = source.reset(1), []
        while not row.done:
            actions.append(policy.act(row))
            row = source.step(actions[-1])
        others = np.stack(actions)[:, block]
        assert (
            others == np.clip(0, *(np.array(b)[block] for b in (source.spec.actions.low, source.spec.actions.high)))
        ).all()
    record_episodes("joined", OPTIONS, steps=60, out=tmp_path / "data", seed=0)
    meta = Episodes.open(tmp_path / "data").meta
    assert meta.source == "joined" and meta.streams["task"].names == ("left", "right", "lift")


def test_a_policy_of_one_part_plays_it_and_the_others_are_played_by_what_suits_them(source):
    aimed, own = make_policy("aimed:0.5", source.spec), make_policy("chaser:0.5", PointRobot().spec)
    source.choose_task("left")
    row = source.reset(1)
    for policy in (aimed, own):
        policy.reset(np.random.default_rng(0))
    assert np.array_equal(aimed.act(row)[:2], own.act(source.layout.inside(row, 0)))
    source.choose_task("lift")
    assert 0.5 <= aimed.act(source.reset(1))[2] <= 2.0
    with pytest.raises(InvalidInput, match="no joined source can play it"):
        make_policy("sweep", source.spec)


def test_two_arms_are_learned_and_served_by_one_world(tmp_path, monkeypatch):
    record_episodes("joined", OPTIONS, steps=200, out=tmp_path / "data", seed=0)
    store = Episodes.open(tmp_path / "data")
    monkeypatch.setattr(point_robot, "STREAMS", ("proprio", "goal", "load", "task", "success"))
    task = dynamics_task_of(store, tmp_path / "run")
    learn_numbers(task.model.dynamics, task._clips.stores, seconds=1, steps=120, longest=2)
    train(task, brief(1), tmp_path / "run")
    monkeypatch.setattr(export, "load_tokenizer", lambda run: fixed_tokenizer())
    export.export_world("two-arms", [store], tmp_path / "run", tmp_path / "world", starts=4)
    world = World.from_pretrained(tmp_path / "world", device="cpu")
    real = matching_source(
        "joined", 1, world.spec, parameters=world.config.source.parameters
    )  # what `--real` plays beside it
    real.choose_task("lift")
    row = real.reset(2)
    streams = {name: np.asarray(values)[None, None] for name, values in row.extras.items()}
    state = world.reset([0], frames=row.rgb[None, None], streams=streams)
    state, step = world.step(state, np.array([[0.0, 0.0, 2.0]], np.float32))
    moved = step.extras["proprio"][0] - row.extras["proprio"]
    assert abs(moved[2] - 2.0) < 0.5 and np.abs(moved[:2]).max() < 0.2


@pytest.mark.parametrize(
    ("sources", "said"),
    [
        ([{"source": "arm"}], "two or more"),
        ([{"name": "arm"}, {"source": "lift"}], "two or more"),
        ([{"source": "arm"}, {"source": "gym:evil:Thing-v0"}], "cannot be joined"),
        ([{"source": "arm"}, {"source": "lift", "fps": 5.0}], "steps a second"),
        ([{"source": "arm"}, {"source": "arm"}], "same name"),
        ([{"source": "arm"}, {"source": "gym:CartPole-v1"}], "no box of floats"),
    ],
)
def test_what_does_not_fit_is_refused(sources, said):
    with pytest.raises(InvalidInput, match=said):
        make_source("joined", sources=sources, height=16, width=32)


def test_wrong_steps_are_refused(source):
    with pytest.raises(InvalidState):
        source.step(np.zeros(3))
    source.reset(0)
    with pytest.raises(InvalidAction, match="no 3 numbers"):
        source.step(np.zeros(2))
    with pytest.raises(InvalidInput, match="no task 'up'"):
        source.choose_task("up")
