"""Training works: a tiny world, trained for half a minute, foresees what actions do to a bar that it has not seen move.

Recorded, trained and exported by the same code as any world, with small networks and fewer steps.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import pytest
from small_training import brief, train

from worldsim.cli.record import record
from worldsim.data.episodes import Episodes
from worldsim.data.latents import cache_latents, load_tokenizer
from worldsim.models.dynamics import DynamicsConfig
from worldsim.models.tokenizer import TokenizerConfig
from worldsim.train import dynamics_task
from worldsim.train.dynamics_task import DynamicsTask
from worldsim.train.export import export_world
from worldsim.train.tokenizer_task import TokenizerTask
from worldsim.world import World

SIZE, BAR = 32, 4  # pixels; a step moves the bar by its width, and it comes back in on the other side
CONTEXT, AHEAD = 4, 8  # recorded frames before a dream, steps of the dream
BEST = 40.0  # dB, what no frame counts more than: else the copies that happen to be right would decide
CLEARLY = 6.0  # dB, in the mean over clips; measured: 17 and 22 above copying, 20 and 28 above other actions
MOVES = np.array([0, -1, 1])

pytestmark = pytest.mark.timeout(900)  # half a minute of one core, which busy machines stretch


class BarEnv(gym.Env):
    """A bright bar before a still background goes left or right as the actions say; at the left edge it earns 1."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, render_mode=None):
        self.render_mode = render_mode
        self.observation_space = gym.spaces.Box(0, 1, (1,))
        self.action_space = gym.spaces.Discrete(3)
        tiles = np.random.default_rng(0).integers(0, 90, (4, 4, 3), np.uint8)
        self.background = tiles.repeat(SIZE // 4, axis=0).repeat(SIZE // 4, axis=1)

    def get_action_meanings(self):
        return ["NOOP", "LEFT", "RIGHT"]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(SIZE // BAR))
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.place = (self.place + MOVES[action]) % (SIZE // BAR)
        return np.zeros(1, np.float32), float(self.place == 0), False, False, {}

    def render(self):
        frame = self.background.copy()
        frame[:, self.place * BAR : (self.place + 1) * BAR] = (250, 230, 140)
        return frame


NAME = "worldsim-tests/Bar-v0"
if NAME not in gym.registry:
    gym.register(NAME, BarEnv, max_episode_steps=40)


@dataclass(frozen=True)
class Outcome:
    """What came of N clips: frames (N, AHEAD, H, W, 3) uint8 and rewards (N, AHEAD)."""

    real: np.ndarray
    dreamed: np.ndarray
    misled: np.ndarray  # dreamed with the actions of another clip
    copied: np.ndarray  # (N, H, W, 3), the last frame of the context
    real_rewards: np.ndarray
    rewards: np.ndarray


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learning")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WORLDSIM_BF16", "0")  # the same numbers on every processor, but for rounding
        record(f"gym:{NAME}", steps=2000, out=folder / "train", seed=0, policy="random", height=SIZE, width=SIZE)
        record(f"gym:{NAME}", steps=1000, out=folder / "held-out", seed=1, policy="random", height=SIZE, width=SIZE)
        world = trained_world(Episodes.open(folder / "train"), folder, patched)
        return dream_along(world, Episodes.open(folder / "held-out"))


def trained_world(store, folder, patched):
    run = folder / "run"
    loop = {"warmup": 20, "cooldown": 0.5, "ema": 0.98}
    sizes = TokenizerConfig(SIZE, SIZE, 8, encoder_widths=(16, 16, 32), decoder_widths=(16, 16, 32), blocks=1)
    train(TokenizerTask([store], sizes, batch=8), brief(300, **loop), run)
    small = functools.partial(
        DynamicsConfig, dim=64, heads=2, mlp_ratio=2, history_blocks=2, denoiser_blocks=1, cond_dim=32, local=32,
        latent_decoder_blocks=1,
    )  # fmt: skip
    patched.setattr(dynamics_task, "DynamicsConfig", small)
    tokenizer = load_tokenizer(run, "cpu")
    latents = cache_latents(tokenizer, store, run, "cpu")
    train(DynamicsTask([latents], tokenizer, batch=8, clip=10, patch=(4, 1)), brief(250, **loop), run)
    export_world("bar", [store], run, folder / "world", starts=8)
    return World.from_pretrained(folder / "world", device="cpu")


def dream_along(world, store):
    """Two clips of every held-out episode, dreamed with their own actions and with those of another episode."""
    firsts, offsets = (store.ends - store.lengths).repeat(2), np.tile([0, 20], len(store))
    rows = (firsts + offsets)[:, None] + np.arange(CONTEXT + AHEAD)
    frames, actions, rewards = (store.read(name, 0, store.num_steps)[rows] for name in ("rgb", "action", "reward"))
    ahead = actions[:, CONTEXT:]

    def dream(taken):
        start = {"frames": frames[:, :CONTEXT], "actions": actions[:, 1:CONTEXT], "age": offsets}
        state, steps = world.reset(seed=range(len(rows)), **start), []
        for t in range(AHEAD):
            state, step = world.step(state, taken[:, t])
            steps.append((step.frame, step.reward))
        return [np.stack(values, axis=1) for values in zip(*steps, strict=True)]

    dreamed, foretold = dream(ahead)
    misled, _ = dream(np.roll(ahead, 2, axis=0))
    real = frames[:, CONTEXT:]
    return Outcome(real, dreamed, misled, frames[:, CONTEXT - 1], rewards[:, CONTEXT:], foretold)


def likeness(one, other):
    """The mean over clips (N, H, W, 3) uint8 of the PSNR in dB, of at most BEST a clip."""
    error = np.square(one.astype(np.float64) - other).mean((1, 2, 3)) / 255**2
    return float(np.minimum(-10 * np.log10(np.maximum(error, 1e-12)), BEST).mean())


@pytest.mark.parametrize("step", [1, AHEAD])
def test_a_trained_world_foresees_better_than_the_last_frame_does(outcome, step):
    real = outcome.real[:, step - 1]
    assert likeness(real, outcome.dreamed[:, step - 1]) > likeness(real, outcome.copied) + CLEARLY


@pytest.mark.parametrize("step", [1, AHEAD])
def test_a_trained_world_obeys_its_actions(outcome, step):
    real = outcome.real[:, step - 1]
    assert likeness(real, outcome.dreamed[:, step - 1]) > likeness(real, outcome.misled[:, step - 1]) + CLEARLY


def test_a_trained_world_knows_what_is_rewarded(outcome):
    error = np.square(outcome.rewards - outcome.real_rewards).mean()
    assert error < 0.2 * outcome.real_rewards.var()
