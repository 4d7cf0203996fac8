"""One moment, many futures: play into a world, fork it, and try every action from the very same state.

python examples/fork_a_world.py --out futures.png
"""

import argparse

import gymnasium as gym
import numpy as np

from worldsim.io.media import contact_sheet, save_image


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="steps before the fork, and in every future")
    parser.add_argument("--out", default="futures.png", help="image to write, one row a future")
    args = parser.parse_args()

    env = gym.make("worldsim:worldsim/DoomTakeCover-v0", render_mode="rgb_array").unwrapped
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(args.steps):
        _, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            env.reset()

    rows = []
    for action, future in enumerate(env.fork(env.action_space.n)):
        frames, total, ended = [future.render()], 0.0, False
        while not ended and len(frames) <= args.steps:
            frame, reward, terminated, truncated, _ = future.step(action)
            frames, total, ended = [*frames, frame], total + reward, terminated or truncated
        print(f"always {future.get_action_meanings()[action]}: {len(frames) - 1} steps, reward {total:.2f}")
        rows.append(np.stack([frames[min(i, len(frames) - 1)] for i in range(0, args.steps + 1, 5)]))
    save_image(args.out, contact_sheet(rows))


if __name__ == "__main__":
    main()
