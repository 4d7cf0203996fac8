"""A tiny gymnasium environment that is recorded in no time: a ball moves as the actions say until it meets a wall."""

import gymnasium as gym
import numpy as np

HEIGHT, WIDTH = 16, 32
LONGEST = 40


class BallEnv(gym.Env):
    """The reward is the way to the right; an episode ends at the right wall, and after `LONGEST` steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(0.0, float(WIDTH), (1,), np.float32)

    def __init__(self, render_mode=None, continuous=False):
        self.render_mode = render_mode
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32) if continuous else gym.spaces.Discrete(3)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = float(self.np_random.integers(6, 20))
        return self._observed(), {}

    def step(self, action):
        move = 3 * float(np.sum(action)) if isinstance(self.action_space, gym.spaces.Box) else (0, -2, 3)[int(action)]
        before, self.place = self.place, float(np.clip(self.place + move, 2, WIDTH - 3))
        if self.place <= 2:  # never long at rest
            self.place = 16.0
        return self._observed(), self.place - before, self.place >= WIDTH - 3, False, {}

    def _observed(self):
        return np.array([self.place], np.float32)

    def render(self):
        frame = np.full((HEIGHT, WIDTH, 3), (60, 45, 30), np.uint8)
        place = round(self.place)
        frame[6:9, place - 1 : place + 2] = (255, 230, 140)
        return frame


DISCRETE, CONTINUOUS = "worldsim-tests/Ball-v0", "worldsim-tests/BallBox-v0"
for name, kwargs in ((DISCRETE, {}), (CONTINUOUS, {"continuous": True})):
    if name not in gym.registry:
        gym.register(name, BallEnv, max_episode_steps=LONGEST, kwargs=kwargs)
