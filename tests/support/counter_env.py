"""A tiny gymnasium environment to record: its frame shows the sum of the actions."""

import gymnasium as gym
import numpy as np


class CounterEnv(gym.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012

    def __init__(self, render_mode=None, continuous=False, integers=False, reward=None, frame=None, images=False):
        self.render_mode = render_mode
        self.images = images
        self.observation_space = gym.spaces.Box(0, 255, (24, 24, 3), np.uint8) if images else gym.spaces.Box(0, 1, (1,))
        box = gym.spaces.Box(np.array([-1, 0], np.float32), np.array([1, 2], np.float32))
        self.action_space = box if continuous else gym.spaces.Discrete(3, start=1)
        if integers:
            self.action_space = gym.spaces.Box(np.array([0, 2]), np.array([3, 9]), dtype=np.int64)
        self.reward, self.frame = reward, frame  # in the second step, and always, instead of what the actions make

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.total, self.left = 0, 0.0, int(self.np_random.integers(4, 12))
        return self._observed(), {}

    def step(self, action):
        self.total += float(np.sum(action))
        self.left -= 1
        self.steps += 1
        reward = self.reward if self.reward is not None and self.steps == 2 else self.total
        return self._observed(), reward, self.left == 0, False, {}

    def _observed(self):
        return 255 - self.render() if self.images else np.zeros(1, np.float32)

    def render(self):
        if self.frame is not None:
            return self.frame[0]
        frame = np.zeros((24, 24, 3), np.uint8)
        frame[:12] = int(self.total) % 250
        frame[12:] = self.left
        return frame


KINDS = {"": {}, "Box": {"continuous": True}, "Integers": {"integers": True}, "Images": {"images": True}}
DISCRETE, CONTINUOUS, INTEGERS, IMAGES = (f"worldsim-tests/Counter{kind}-v0" for kind in KINDS)
for name, kwargs in zip((DISCRETE, CONTINUOUS, INTEGERS, IMAGES), KINDS.values(), strict=True):
    if name not in gym.registry:
        gym.register(name, CounterEnv, max_episode_steps=8, kwargs=kwargs)
