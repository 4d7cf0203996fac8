"""Cameras and vectors from a simulator to the observations of its world: recorded, learned, dreamed, observed."""

import dataclasses
import functools

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

from worldsim.cli.record import record
from worldsim.cli.train import check_cameras
from worldsim.data.episodes import Episodes
from worldsim.data.latents import cache_latents, load_tokenizer
from worldsim.envs import WorldEnv, WorldVectorEnv
from worldsim.errors import InvalidInput
from worldsim.io.weights import read_world
from worldsim.models.dynamics import DynamicsConfig
from worldsim.models.endings import EndingConfig
from worldsim.models.tokenizer import TokenizerConfig
from worldsim.train import dynamics_task
from worldsim.train.dynamics_task import DynamicsTask, modules_of
from worldsim.train.export import export_world
from worldsim.train.loop import LoopConfig, Trainer
from worldsim.train.tokenizer_task import TokenizerTask
from worldsim.world import World

BOUNDS = np.array([1.0, 1.0, 5.0], np.float32)
ENTRIES = ["pixels", "proprio"]


class Arm(gym.Env):
    """A dot that forces push about, seen by a camera from above, one from the side, and joints."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    action_space = gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 4.0], np.float32))
    observation_space = gym.spaces.Dict(
        proprio=gym.spaces.Box(-BOUNDS, BOUNDS), wrist=gym.spaces.Box(0, 255, (24, 40, 3), np.uint8)
    )
    render_mode = "rgb_array"

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.joints, self.steps = self.np_random.uniform(-1, 1, 3).astype(np.float32), 0
        return self._observation(), {}

    def step(self, action):
        move = np.array([0.1 * action[0], 0.1 * (action[1] - 2), 0.0], np.float32)
        self.joints = np.clip(self.joints + move, -BOUNDS, BOUNDS).astype(np.float32)
        self.steps += 1
        return self._observation(), float(self.joints[0]), False, self.steps == 20, {}

    def _observation(self):
        return {"proprio": self.joints.copy(), "wrist": self._view(self.joints[1])}

    def _view(self, place):
        frame = np.zeros((24, 40, 3), np.uint8)
        frame[:, int((place + 1) * 15)] = 255
        return frame

    def render(self):
        return self._view(self.joints[0])


def fit(task, out, steps=4):
    loop = LoopConfig(steps=steps, warmup=1, cooldown=0.0, ema=0.5, device="cpu")
    trainer = Trainer(task, loop, out, resume=False)
    trainer.run(lambda values, step: None, lambda frame, step: None)
    return trainer


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The store, the dynamics' task and the folder of a world that was trained for some steps."""
    folder = tmp_path_factory.mktemp("arm")
    record(Arm(), steps=60, out=folder / "data", policy="random", height=24, width=40, streams=True)
    store, run = Episodes.open(folder / "data"), folder / "run"
    check_cameras(store.meta, ("rgb", "wrist"))
    sizes = TokenizerConfig(
        height=48, width=40, channels=4, encoder_widths=(4, 4, 8), decoder_widths=(4, 4, 8), blocks=1,
        cameras=("rgb", "wrist"),
    )  # fmt: skip
    fit(TokenizerTask([store], sizes, batch=2), run)
    tokenizer = load_tokenizer(run, "cpu")
    clips = [cache_latents(tokenizer, store, run, "cpu", streams=("proprio",))]
    narrow = functools.partial(
        DynamicsConfig, dim=16, heads=2, mlp_ratio=2, history_blocks=1, denoiser_blocks=1, cond_dim=8, local=8
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamics_task, "DynamicsConfig", narrow)
        task = DynamicsTask(clips, tokenizer, batch=2, clip=6, patch=(6, 1), **modules_of(clips))
    fit(task, run)
    export_world("arm", [store], run, folder / "world", starts=4)
    return store, task, folder / "world"


@pytest.fixture
def world(made):
    """The world, without the endings that weights of so few steps see everywhere."""
    files = read_world(made[2])
    config = dataclasses.replace(files.config, endings=EndingConfig(shift=-1000.0))
    return World(dataclasses.replace(files, config=config), device="cpu")


def test_what_an_environment_observes_is_recorded_row_by_row(made):
    store = made[0]
    assert store.meta.streams["proprio"].kind == "vector" and store.meta.streams["wrist"].kind == "image"
    assert store.meta.streams["proprio"].high == tuple(BOUNDS.tolist())
    episode = store.episode(0)
    for rgb, wrist, joints in zip(episode["rgb"], episode["wrist"], episode["proprio"], strict=True):
        assert rgb[0, int((joints[0] + 1) * 15), 0] == wrist[0, int((joints[1] + 1) * 15), 0] == 255


def test_a_frame_of_two_cameras_has_one_above_the_other(made):
    store = made[0]
    frames = store.frames(("rgb", "wrist"), 3, 5)
    assert np.array_equal(frames[:, :24], store.read("rgb", 3, 5))
    assert np.array_equal(frames[:, 24:], store.read("wrist", 3, 5))
    for cameras in ((), ("rgb", "rgb"), ("proprio",), ("nose",)):
        with pytest.raises(InvalidInput, match="cameras"):
            check_cameras(store.meta, cameras)


def test_actions_and_vectors_are_normalised_by_what_was_recorded(made, world):
    store, config = made[0], world.config.dynamics
    rows = np.delete(store.read("action", 0, store.num_steps), store.ends - store.lengths, axis=0)
    np.testing.assert_allclose(config.action_scale.mean, rows.mean(0), rtol=1e-4)
    np.testing.assert_allclose(
        config.scales["proprio"].std, store.read("proprio", 0, store.num_steps).std(0), rtol=1e-4
    )
    normal = world.dynamics.conditions["action"].normalise(torch.from_numpy(rows))
    assert normal.mean(0).abs().max() < 1e-4 and (normal.std(0) - 1).abs().max() < 0.05


def test_a_vector_is_learned(made):
    _, task, _ = made
    batch = task.batch(0, 0)
    loss, metrics = task.model(batch, 0, torch.Generator().manual_seed(0))
    other = batch | {"stream.proprio": batch["stream.proprio"] + 1}
    assert metrics["proprio"] > 0
    assert task.model(other, 0, torch.Generator().manual_seed(0))[0] != loss


def test_starts_carry_the_recorded_values_and_steps_the_dreamed_ones(made, world):
    store = made[0]
    state = world.reset([0, 1])
    recorded = store.read("proprio", 0, store.num_steps)
    assert all((recorded == row).all(1).any() for row in world.streams(state)["proprio"])
    before = world.streams(state)["proprio"]
    state, step = world.step(state, world.config.actions.lowest(2))
    after = world.streams(state)["proprio"]
    assert np.array_equal(step.extras["proprio"], after) and (np.abs(after) <= BOUNDS).all()
    assert (after != before).any() and not step.extras["non_finite"].any()


def test_a_value_conditions_the_next_step(world):
    state = world.reset([0])
    other = dataclasses.replace(world.reset([0]), heads={"proprio": state.heads["proprio"] + 0.5})
    nexts = [world.step(one, world.config.actions.lowest(1))[0].heads["proprio"] for one in (state, other)]
    assert not torch.equal(*nexts)


def test_given_frames_come_with_given_values(world):
    frames, joints = np.zeros((1, 1, 48, 40, 3), np.uint8), np.array([[[0.5, -0.5, 2.0]]], np.float32)
    state = world.reset([0], frames=frames, streams={"proprio": joints})
    assert np.array_equal(world.streams(state)["proprio"], joints[:, 0])
    usual = world.streams(world.reset([0], frames=frames))["proprio"]
    np.testing.assert_allclose(usual[0], world.config.dynamics.scales["proprio"].mean, rtol=1e-5)
    with pytest.raises(InvalidInput, match="shape"):
        world.reset([0], frames=frames, streams={"proprio": joints[0]})


def test_environments_begin_with_the_values_that_are_given_with_frames(world):
    frames, joints = np.zeros((2, 48, 40, 3), np.uint8), np.array([[0.0, 0.0, 1.0], [0.5, -0.5, 2.0]], np.float32)
    start = {"frames": frames, "actions": world.config.actions.lowest(1), "streams": {"proprio": joints.tolist()}}
    env, envs = (make(world, observation=ENTRIES) for make in (WorldEnv, lambda w, **o: WorldVectorEnv(w, 2, **o)))
    assert np.array_equal(env.reset(seed=0, options=start)[0]["proprio"], joints[1])
    assert np.array_equal(envs.reset(seed=0, options=start)[0]["proprio"], np.stack([joints[1]] * 2))
    other = start | {"streams": {"proprio": -joints}}
    each = {name: np.stack([start[name], other[name]]) for name in ("frames", "actions")}
    each["streams"] = {"proprio": np.stack([joints, -joints])}
    assert np.array_equal(envs.reset(seed=0, options=each)[0]["proprio"], np.stack([joints[1], -joints[1]]))
    sb3 = pytest.importorskip("worldsim.envs.sb3").WorldVecEnv(world, 2, observation=ENTRIES)
    sb3.set_options([start, other])
    assert np.array_equal(sb3.reset()["proprio"], np.stack([joints[1], -joints[1]]))
    with pytest.raises(InvalidInput, match=r"'proprio'\] is not for 2"):
        envs.reset(options=each | {"streams": {"proprio": joints[None]}})


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        (np.zeros((1, 3)), "pass a dict"),
        ({"pose": np.zeros((1, 3))}, "'pose'; the streams of world 'arm' are 'proprio'"),
        ({"proprio": np.zeros(3)}, "pass finite numbers \\(1, 3\\)"),
        ({"proprio": np.full((1, 3), np.nan)}, "finite"),
        ({"proprio": np.full((1, 3), 7.0)}, "bounds"),
        ({"proprio": [[0, 0, "x"]]}, "numbers"),
    ],
    ids=str,
)
def test_wrong_values_of_streams_are_refused_and_change_nothing(world, streams, said):
    env, frames = WorldEnv(world, observation=ENTRIES), np.zeros((1, 48, 40, 3), np.uint8)
    env.reset(seed=0)
    before = env.save_state().tree.heads["proprio"]
    with pytest.raises(InvalidInput, match=said):
        env.reset(options={"frames": frames, "streams": streams})
    with pytest.raises(InvalidInput, match=said):
        WorldVectorEnv(world, 3).reset(options={"frames": frames, "streams": streams})
    with pytest.raises(InvalidInput):  # as one start a row
        WorldVectorEnv(world, 3).reset(options={"frames": np.stack([frames] * 3), "streams": streams})
    with pytest.raises(InvalidInput, match="without options"):
        env.reset(options={"streams": streams})
    assert torch.equal(env.save_state().tree.heads["proprio"], before)


@pytest.mark.filterwarnings("error", "ignore:.*symmetric and normalized")
def test_the_checkers_find_nothing_in_a_dict_of_observations(world, dummy_display):
    sb3 = pytest.importorskip("stable_baselines3.common.env_checker")
    env = WorldEnv(world, observation=ENTRIES, render_mode="rgb_array")
    check_env(env, skip_render_check=True)
    sb3.check_env(env, skip_render_check=True)
    assert list(env.observation_space) == ENTRIES


def test_environments_of_one_and_of_many_show_the_same(world):
    env, envs = WorldEnv(world, observation=ENTRIES), WorldVectorEnv(world, 2, observation=ENTRIES)
    one, many = env.reset(seed=3)[0], envs.reset(seed=[3, 4])[0]
    for _ in range(3):
        assert env.observation_space.contains(one) and envs.observation_space.contains(many)
        np.testing.assert_allclose(one["proprio"], many["proprio"][0], atol=1e-4)
        one, many = env.step(env.action_space.low)[0], envs.step(envs.action_space.low)[0]
    saved = env.save_state()
    ahead = env.step(env.action_space.high)[0]
    env.restore_state(saved)
    again = env.step(env.action_space.high)[0]
    assert all(np.array_equal(ahead[name], again[name]) for name in ENTRIES)


def test_what_is_not_observed_is_in_the_info(world):
    env = WorldEnv(world)
    env.reset(seed=0)
    info = env.step(env.action_space.low)[4]
    assert info["proprio"].shape == (3,)


def test_each_camera_can_be_observed(world):
    env = WorldEnv(world, observation=["rgb", "wrist", "pixels"])
    observation = env.reset(seed=0)[0]
    assert np.array_equal(np.concatenate([observation["rgb"], observation["wrist"]]), observation["pixels"])
    with pytest.raises(InvalidInput, match="'wrist'"):
        WorldEnv(world, observation=["nose"])
    with pytest.raises(InvalidInput, match="each once"):
        WorldEnv(world, observation=["rgb", "rgb"])


def test_stable_baselines_gets_dicts(world):
    sb3 = pytest.importorskip("worldsim.envs.sb3")
    envs = sb3.WorldVecEnv(world, 2, observation=ENTRIES, max_episode_steps=1)
    envs.reset()
    observations, _, dones, infos = envs.step(np.tile(envs.action_space.low, (2, 1)))
    assert observations["proprio"].shape == (2, 3) and dones.all()
    assert infos[0]["terminal_observation"].keys() == set(ENTRIES)
    assert (infos[0]["terminal_observation"]["proprio"] != observations["proprio"][0]).any()
