"""State first: numbers predicted by numbers, flags read off them, frames drawn to fit them."""

import dataclasses

import numpy as np
import point_robot
import pytest
import torch
from lively import STEERING, lively_dynamics, lively_files

from worldsim.envs.vector_env import WorldVectorEnv
from worldsim.errors import InvalidInput
from worldsim.io.starts import Starts
from worldsim.models.dynamics import CONDITIONS, HEADS, Dynamics, DynamicsConfig
from worldsim.models.registry import StepInputs
from worldsim.spec import StreamSpec
from worldsim.train.dynamics_task import modules_of
from worldsim.train.state_first import NumberEpisodes, learn_numbers
from worldsim.world import World

STREAMS = {
    "proprio": StreamSpec("vector", (3,), "float32"),
    "goal": StreamSpec("vector", (2,), "float32"),
    "task": StreamSpec("token", (), "int64", names=("push", "pull")),
    "success": StreamSpec("token", (), "bool", names=("not yet", "done")),
}
CONFIG = DynamicsConfig(
    channels=4, height=2, width=4, patch=(2, 1), actions=0, action_dim=2, between=0, dim=16, heads=2, mlp_ratio=2,
    history_blocks=1, denoiser_blocks=1, context_length=4, cond_dim=8, local=8, streams=STREAMS,
    conditions=(*CONDITIONS, "proprio", "proprio:goal", "task"), foreseen=("proprio",),
    output_heads=(*HEADS, "motion:proprio", "success"),
)  # fmt: skip


def clip(seed=0, steps=3):
    rng = torch.Generator().manual_seed(seed)
    latents = torch.randn(1, steps, 4, 2, 4, generator=rng)
    streams = {
        "proprio": torch.randn(1, steps, 3, generator=rng), "goal": torch.randn(1, steps, 2, generator=rng),
        "task": torch.zeros(1, steps, dtype=torch.int64), "success": torch.zeros(1, steps, dtype=torch.int64),
    }  # fmt: skip
    level, ages = torch.zeros(1, steps), torch.arange(steps)[None]
    return latents, torch.randn(1, steps, 2, generator=rng), level, ages, streams


def features_of(model, actions=None, **changed):
    latents, taken, level, ages, streams = clip()
    return model(latents, latents, taken if actions is None else actions, level, ages, {**streams, **changed})


def test_the_frame_is_drawn_under_what_the_state_will_be():
    model = lively_dynamics(config=CONFIG)
    seen = features_of(model)
    plain = lively_dynamics(config=dataclasses.replace(CONFIG, foreseen=()))
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if not n.startswith("foreseen.")})
    assert not torch.allclose(seen.cond, features_of(plain).cond)
    ahead = model.heads.sample(seen.heads)
    added = model.foreseen({n: v.flatten(0, 1) for n, v in clip()[4].items()}, ahead)
    assert torch.allclose(seen.cond, features_of(plain).cond + added)


def test_a_model_begins_as_if_nothing_were_foreseen():
    torch.manual_seed(0)
    model = Dynamics(CONFIG)
    before = features_of(model).cond
    model.foreseen = None
    assert torch.equal(before, features_of(model).cond)


def test_a_clip_is_drawn_to_fit_what_came_where_that_is_known():
    model = lively_dynamics(config=CONFIG)
    latents, actions, level, ages, streams = clip()
    foreseen = model.heads.sample(features_of(model).heads)
    again, off = (
        model(latents, latents, actions, level, ages, streams, {"proprio": foreseen["proprio"] + by}) for by in (0, 1)
    )
    assert torch.allclose(features_of(model).cond, again.cond) and not torch.allclose(again.cond, off.cond)
    assert torch.equal(again.heads["motion:proprio"], off.heads["motion:proprio"])


def test_a_frame_that_is_drawn_anew_hangs_on_numbers_and_not_on_the_last_frame():
    model = lively_dynamics(config=dataclasses.replace(CONFIG, redraw=True))
    latents, _, _, _, streams = clip()
    seen = features_of(model)
    noisy, t = torch.randn(3, 4, 2, 4), torch.zeros(3)

    def drawn(features, previous):
        return model.denoise(model.prepare(features, previous), noisy, t, t)

    given = drawn(seen, latents[0])
    assert torch.equal(given, drawn(seen, latents[0] + 1))
    assert torch.equal(seen.local, features_of(model, actions=None).local)
    moved = features_of(model, proprio=streams["proprio"] + 1)
    assert not torch.allclose(given, drawn(dataclasses.replace(seen, local=moved.local), latents[0]))


def test_frames_that_are_drawn_anew_begin_as_the_mean_of_the_data(tmp_path):
    store = point_robot.recorded(tmp_path / "data", steps=60)
    task = point_robot.dynamics_task_of(store, tmp_path / "run", redraw=True, denoiser_blocks=1)
    dynamics, mean = task.model.dynamics, task._clips.stores[0].latents[:, 0].astype(np.float32).mean(0)
    assert task.settings.denoiser_blocks == 1
    np.testing.assert_allclose(dynamics.redrawn.background.detach(), mean, atol=1e-5)


def test_the_success_head_reads_the_state_as_it_will_be():
    model = lively_dynamics(config=CONFIG)
    latents, actions, level, ages, streams = clip()
    seen = features_of(model)
    inputs = StepInputs(actions[0], level[0], ages[0], {name: values[0] for name, values in streams.items()})

    def said(ahead):
        return model.heads.of_frame(latents[0], latents[0], seen.tokens, inputs, ahead=ahead)["success"]

    foreseen = model.heads.sample(seen.heads)
    elsewhere = {"proprio": foreseen["proprio"] + 1}
    assert not torch.allclose(said(foreseen), said(elsewhere))
    flag = model.heads.sample({"success": torch.tensor([-1.0, 0.5])})["success"]
    assert flag.tolist() == [0, 1] and flag.dtype == torch.int64


def test_gradients_of_the_frame_do_not_reach_the_heads_that_foresee():
    model = lively_dynamics(config=CONFIG).requires_grad_(True)
    features_of(model).cond.sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.heads.parameters())
    assert any(p.grad is not None and p.grad.any() for p in model.foreseen.parameters())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"foreseen": ("goal",)}, "no head predicts"),
        ({"foreseen": ("task",)}, "no head predicts"),
        ({"output_heads": (*HEADS, "motion:proprio", "success:task")}, "single boolean"),
        ({"actions": 3, "action_dim": 0}, "continuous"),
        ({"foreseen": (), "redraw": True}, "foreseen names nothing"),
    ],
)
def test_what_cannot_be_foreseen_is_refused(change, said):
    with pytest.raises(InvalidInput, match=said):
        lively_dynamics(config=dataclasses.replace(CONFIG, **change))


def test_what_stays_the_same_in_an_episode_is_a_condition_and_no_head(tmp_path):
    store = point_robot.recorded(tmp_path / "data", steps=60)
    task = point_robot.dynamics_task_of(store, tmp_path / "run")
    assert "motion:proprio" in task.settings.output_heads and "success" in task.settings.output_heads
    assert "proprio:goal" in task.settings.conditions and "task" in task.settings.conditions
    assert not any("goal" in head for head in task.settings.output_heads)
    assert "task:success" not in task.settings.conditions
    assert "proprio" in modules_of(task._clips.stores)["heads"]  # without being foreseen it is as it always was


@pytest.mark.parametrize("redraw", [False, True])
def test_a_dream_carries_what_it_foresees_and_says_its_success(redraw):
    named = ("streams", "conditions", "foreseen", "output_heads")
    files = lively_files(steering=True, redraw=redraw, **{name: getattr(CONFIG, name) for name in named})
    old = Starts.from_tensors(files.starts)
    count, frames = old.latents.shape[:2]
    streams = {
        "proprio": torch.randn(count, frames, 3), "goal": torch.randn(count, frames, 2),
        "task": torch.ones(count, frames, dtype=torch.int64), "success": torch.zeros(count, frames, dtype=torch.bool),
    }  # fmt: skip
    starts = dataclasses.replace(old, streams=streams).to_tensors()
    world = World(dataclasses.replace(files, starts=starts), device="cpu")
    state = world.reset([0, 1])
    goal = world.streams(state)["goal"]
    seen = []
    for _ in range(6):
        state, step = world.step(state, STEERING.draw(np.random.default_rng(0), 2))
        seen.append(step.extras["success"])
        assert np.array_equal(step.extras["goal"], goal) and (step.extras["task"] == 1).all()
        assert np.array_equal(step.extras["proprio"], world.streams(state)["proprio"])
    assert seen[0].dtype == bool and seen[0].shape == (2,)


def test_numbers_are_learned_before_frames(tmp_path):
    store = point_robot.recorded(tmp_path / "data", steps=200)
    task = point_robot.dynamics_task_of(store, tmp_path / "run")
    dynamics = task.model.dynamics
    frames = {n: t.clone() for n, t in dynamics.state_dict().items() if ".network." not in n}
    begun = learn_numbers(dynamics, task._clips.stores, seconds=1, steps=1)
    learned = learn_numbers(dynamics, task._clips.stores, seconds=1, steps=60, longest=3)
    assert learned["motion:proprio"] < 0.3 * begun["motion:proprio"] and learned["success"] < 0.6 * begun["success"]
    assert all(torch.equal(t, dynamics.state_dict()[n]) for n, t in frames.items())


def with_heads(heads, **options):
    config = dataclasses.replace(CONFIG, output_heads=(*CONFIG.output_heads, *heads), options=options)
    return lively_dynamics(config=config), config


def test_numbers_stay_in_float32_and_no_frame_teaches_them():
    model, _ = with_heads(["spread:proprio"], **{"motion:proprio": {"hidden": 32, "history": False}})
    half = model.to(torch.bfloat16)
    heads = half.heads.each
    for name in ("motion:proprio", "success", "spread:proprio"):
        assert all(p.dtype == torch.float32 for p in heads[name].own_parameters())
    assert heads["motion:proprio"].network[0].out_features == 32 and not heads["motion:proprio"].gate.requires_grad
    seen = features_of(model.float().requires_grad_(True))
    latents, actions, level, ages, streams = clip()
    inputs = StepInputs(actions[0], level[0], ages[0], {name: values[0] for name, values in streams.items()})
    said = seen.heads | model.heads.of_frame(latents[0], latents[0], seen.tokens, inputs, ahead={})
    sum(values.sum() for values in said.values()).backward()
    for name in ("motion:proprio", "success", "spread:proprio"):
        assert all(p.grad is None for p in model.heads.each[name].own_parameters())


def test_the_spread_of_an_ensemble_tells_what_was_seen_from_the_rest(tmp_path):
    store = point_robot.recorded(tmp_path / "data", steps=150)
    names = ("reward", "motion:proprio", "success", "spread:proprio")
    task = point_robot.dynamics_task_of(store, tmp_path / "run", heads=names)
    learn_numbers(task.model.dynamics, task._clips.stores, seconds=1, steps=150, longest=1)
    head, clips = task.model.dynamics.heads.each["spread:proprio"], task._clips.stores[0]
    streams = {name: torch.from_numpy(values[:100]) for name, values in clips.streams.items()}
    actions = torch.from_numpy(clips.actions[1:101])
    seen = head.sample(head.foresee(streams, actions))
    far = head.sample(head.foresee({**streams, "proprio": streams["proprio"] + 4.0}, actions))
    assert far["uncertainty"].median() > 4 * seen["uncertainty"].median()
    assert far["unfamiliar"].float().mean() > 0.9 and seen["unfamiliar"].float().mean() < 0.05


def test_the_info_of_a_step_says_how_sure_it_is():
    named = {name: getattr(CONFIG, name) for name in ("streams", "conditions", "foreseen")}
    files = lively_files(steering=True, output_heads=(*CONFIG.output_heads, "spread:proprio"), **named)
    old = Starts.from_tensors(files.starts)
    shape = old.latents.shape[:2]
    streams = {
        "proprio": torch.randn(*shape, 3), "goal": torch.randn(*shape, 2),
        "task": torch.ones(shape, dtype=torch.int64), "success": torch.zeros(shape, dtype=torch.bool),
    }  # fmt: skip
    world = World(
        dataclasses.replace(files, starts=dataclasses.replace(old, streams=streams).to_tensors()), device="cpu"
    )
    envs = WorldVectorEnv(world, 2)
    envs.reset(seed=0)
    infos = envs.step(envs.action_space.sample())[4]
    assert infos["uncertainty"].shape == (2,) and (infos["uncertainty"] > 0).all() and infos["unfamiliar"].dtype == bool
    assert "uncertainty" not in world.spec.streams and infos["proprio"].shape == (2, 3)


@pytest.mark.parametrize(
    ("heads", "options", "said"),
    [
        (["spread:proprio"], {"spread:proprio": {"members": 1}}, "members"),
        (["spread:task"], {}, "a vector and continuous"),
        ([], {"motion:proprio": {"width": 3}}, "it takes hidden, history"),
    ],
)
def test_options_that_make_no_sense_are_refused(heads, options, said):
    with pytest.raises(InvalidInput, match=said):
        with_heads(heads, **options)


def test_recordings_without_frames_teach_numbers(tmp_path):
    store = point_robot.recorded(tmp_path / "data", steps=40)
    more = NumberEpisodes.read(point_robot.recorded(tmp_path / "more", steps=60, seed=1), point_robot.STREAMS)
    task = point_robot.dynamics_task_of(store, tmp_path / "run")
    few = learn_numbers(task.model.dynamics, [*task._clips.stores, more], seconds=1, steps=5, longest=2)
    assert more.actions.shape == (len(more.streams["proprio"]), 2) and few["motion:proprio"] > 0
