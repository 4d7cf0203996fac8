"""Your own torch model as a gymnasium environment: spec, reset, step and render are all that it takes.

The state is any nesting of dicts, lists and dataclasses whose tensors have the batch first. `python own_model.py`
"""

import numpy as np
import torch

from worldsim import ActionSpec, WorldSpec, WorldStep
from worldsim.envs import WorldEnv, WorldVectorEnv


class MyWorld:
    spec = WorldSpec("my-world", height=64, width=64, actions=ActionSpec(n=3), steps_per_second=20)

    def __init__(self):
        torch.manual_seed(0)
        self.net = torch.nn.Conv2d(3 + 1, 3, kernel_size=5, padding=2)  # frame and action in, change out

    def reset(self, seed, *, episode=None, frames=None, actions=None):
        starts = [np.random.default_rng([s, e]) for s, e in zip(seed, episode or [0] * len(seed), strict=True)]
        return {"frame": torch.stack([torch.from_numpy(g.random((3, 64, 64), np.float32)) for g in starts])}

    def step(self, state, actions):
        plane = torch.as_tensor(actions).float().view(-1, 1, 1, 1).expand(-1, 1, 64, 64)
        frame = (state["frame"] + 0.2 * self.net(torch.cat([state["frame"], plane], 1))).clamp(0, 1)
        state, reward = {"frame": frame}, frame.mean((1, 2, 3)).numpy()
        return state, WorldStep(self.render(state), reward, terminated=reward > 0.9)

    def render(self, state):
        return (state["frame"] * 255).byte().permute(0, 2, 3, 1).numpy()


if __name__ == "__main__":
    print("one:", WorldEnv(MyWorld(), max_episode_steps=100).reset(seed=0)[0].shape)
    envs = WorldVectorEnv(MyWorld(), num_envs=8, max_episode_steps=100)
    observations, infos = envs.reset(seed=0)
    for _ in range(200):
        observations, rewards, terminations, truncations, infos = envs.step(envs.action_space.sample())
    print("eight in one batch:", observations.shape, "episodes so far:", infos["episode_index"])
