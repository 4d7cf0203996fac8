"""One network learns what actions do and which were done: a dot that moves as the actions say, in half a minute."""

import functools
from dataclasses import dataclass

import numpy as np
import point_robot
import pytest
import torch
from moving_dot import SHAPE, dots
from small_training import PATCH, brief, fixed_tokenizer, loss_of, narrow, train

from worldsim.data.clips import AHEAD, EXISTS, OUTCOME
from worldsim.errors import InvalidInput
from worldsim.models.acting import NOT_SOON, SOON, UNKNOWN
from worldsim.models.dynamics import Dynamics
from worldsim.sampling.acting import infer_actions
from worldsim.sampling.sampler import SamplingConfig, StepNoise, draw
from worldsim.train import dynamics_task
from worldsim.train.dynamics_loss import LossConfig
from worldsim.train.dynamics_task import DynamicsTask, modules_of
from worldsim.train.joint_loss import draw_joint

CHUNK, STEPS = 2, 6

pytestmark = pytest.mark.timeout(900)  # half a minute of one core, which busy machines stretch


def task_of(store, run, streams=(), **options):
    clips = [dots(store, run, fixed_tokenizer(), streams)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamics_task, "DynamicsConfig", functools.partial(narrow, dim=32))
        modules = modules_of(clips, options.get("foreseen", ()), CHUNK)
        return DynamicsTask(
            clips, fixed_tokenizer(), batch=16, clip=STEPS, patch=PATCH, action_tokens=CHUNK, **modules, **options
        )


@dataclass(frozen=True)
class HeldOut:
    """The first steps of episodes that were not trained on, F in all."""

    dynamics: Dynamics
    last: torch.Tensor  # (B, T, C, h, w)
    new: torch.Tensor  # (F, C, h, w)
    actions: torch.Tensor  # (F, A)

    def features(self, actions, known):
        """What the history says, F = B * T."""
        batch, steps = self.last.shape[:2]
        before = torch.cat([self.last[:, :1], self.last[:, :-1]], dim=1)
        level, ages = torch.zeros(batch, steps), torch.arange(steps).expand(batch, steps)
        return self.dynamics(self.last, before, actions.unflatten(0, (batch, steps)), level, ages, known=known)

    def told(self):
        """The actions (F, A), told of the frames."""
        nothing = torch.zeros(len(self.actions), dtype=torch.bool)
        seen = self.features(self.dynamics.acting.usual(len(nothing)), nothing)
        noise = torch.zeros(len(nothing), CHUNK, self.actions.shape[1])
        return infer_actions(self.dynamics, seen, self.last.flatten(0, 1), self.new, noise)[:, 0]

    def drawn(self, actions):
        """The frames (F, C, h, w) that these actions lead to."""
        noise = torch.randn(self.new.shape, generator=torch.Generator().manual_seed(0))
        past = self.last.flatten(0, 1)[:, None].expand(-1, 2, *SHAPE)
        features = self.features(actions, None)
        return draw(self.dynamics, SamplingConfig(steps=1), past, features, StepNoise(noise, noise, noise))


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    path = tmp_path_factory.mktemp("joint")
    task = task_of(point_robot.recorded(path / "data", steps=1500), path / "run", loss=LossConfig(own_frames_after=1.0))
    train(task, brief(250, warmup=20, cooldown=0.5, ema=0.95), path / "run")
    clips = dots(point_robot.recorded(path / "held-out", steps=300, seed=9), path / "run", fixed_tokenizer(), ())
    rows = (clips.ends - clips.store.lengths)[:, None] + np.arange(STEPS + 1)
    latents, actions = torch.from_numpy(clips.latents[rows, 0]).float(), torch.from_numpy(clips.actions[rows])
    model = task.model.dynamics.eval().requires_grad_(False)
    return HeldOut(model, latents[:, :-1], latents[:, 1:].flatten(0, 1), actions[:, 1:].flatten(0, 1))


def test_actions_are_told_of_frames(learned):
    told = learned.told()
    for one, true in zip(told.T, learned.actions.T, strict=True):
        assert np.corrcoef(one, true)[0, 1] > 0.6  # measured: 0.95 after 400 steps
    shuffled = learned.actions.roll(1, 0)
    assert (told - learned.actions).square().mean() < 0.5 * (told - shuffled).square().mean()


def test_the_simulator_obeys_the_action(learned):
    error, other, copied = (
        (frame - learned.new).square().mean()
        for frame in (
            learned.drawn(learned.actions), learned.drawn(learned.actions.roll(1, 0)), learned.last.flatten(0, 1)
        )
    )  # fmt: skip
    assert error < 0.4 * other and error < 0.4 * copied  # measured: 0.014, 0.41 and 0.27 after 400 steps


def test_what_is_known_of_a_frame_is_drawn_in_the_shares_of_the_recipe(tmp_path):
    config = LossConfig(action_known=0.5, frame_known=0.3, any_outcome=0.0)
    streams = point_robot.STREAMS
    task = task_of(point_robot.recorded(tmp_path / "data", steps=60), tmp_path / "run", streams, loss=config)
    batch, acting = task.batch(0, 0), task.model.dynamics.acting
    assert batch[AHEAD].shape == (16, STEPS + 1, CHUNK, 2) and set(batch[OUTCOME].flatten().tolist()) <= {
        NOT_SOON,
        SOON,
    }
    following = batch[EXISTS][:, :-2, 0] & (batch["valid"][:, 1:-1])
    assert torch.equal(batch[AHEAD][:, :-2, 0][following], batch["actions"][:, 1:-1][following])
    there, level = torch.ones(16 * STEPS), torch.full((16 * STEPS,), 0.5)
    there[0] = 0
    joints = [
        draw_joint(acting, config, batch, there, level, torch.Generator().manual_seed(seed)) for seed in range(40)
    ]
    told, shown = (torch.stack([getattr(j, name) for j in joints]).float().mean() for name in ("told", "shown"))
    assert told == pytest.approx(0.5, abs=0.05) and shown == pytest.approx(0.3, abs=0.05)
    for joint in joints:
        both = ~joint.told & ~joint.shown
        assert joint.told[0] and not (joint.told & joint.shown).any()
        assert (joint.counted[joint.told] == 0).all() and (joint.chunk.level[joint.told][:, 0] == 1).all()
        assert (joint.chunk.outcome[~both] == UNKNOWN).all() and (joint.chunk.outcome[both] != UNKNOWN).all()


def test_actions_beyond_an_episode_are_not_learned(tmp_path):
    task = task_of(point_robot.recorded(tmp_path / "data", steps=60), tmp_path / "run")
    store, clips = task._clips.stores[0], task._clips
    end = int(store.ends[0])
    last = clips._actions_ahead(0, np.arange(end - 3, end), end)
    assert last[EXISTS].tolist() == [[True, True], [True, False], [False, False]]
    np.testing.assert_array_equal(last[AHEAD][0], store.actions[end - 2 : end])


def test_a_state_first_world_learns_it_too(tmp_path):
    store = point_robot.recorded(tmp_path / "data", steps=100)
    task = task_of(store, tmp_path / "run", point_robot.STREAMS, foreseen=("proprio",), redraw=True)
    assert "action" not in task.settings.conditions
    before = loss_of(task, metric="actions")
    train(task, brief(12), tmp_path / "run")
    assert loss_of(task, metric="actions") < before
    flag = task.model.dynamics.foreseen.unforeseen
    assert flag is not None and flag.abs().max() > 0


def test_shares_that_are_more_than_all_are_refused():
    with pytest.raises(InvalidInput, match="at most 1 together"):
        LossConfig(action_known=0.8, frame_known=0.3)
