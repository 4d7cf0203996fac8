"""One moment, many futures: play into a world, fork it, and try every action from the very same state.

python examples/fork_a_world.py --out futures.png
"""

import argparse

import gymnasium as gym
import numpy as np

from worldsim.media import contact_sheet, save_picture


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="worldsim:worldsim/DoomTakeCover-v0", help="a registered world")
    parser.add_argument("--steps", type=int, default=40, help="steps before the fork, and in every future")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="futures.png", help="picture to write, one row a future")
    args = parser.parse_args()

    env = gym.make(args.env, render_mode="rgb_array").unwrapped
    env.action_space.seed(args.seed)
    _, info = env.reset(seed=args.seed)
    for _ in range(args.steps):
        _, _, terminated, truncated, info = env.step(env.action_space.sample())
        if terminated or truncated:
            _, info = env.reset()
    print(f"forking at step {info['step']} of episode {info['episode_index']}")

    rows = []
    for action, future in enumerate(env.fork(env.action_space.n)):
        pictures, total, ended = [future.render()], 0.0, False
        while not ended and len(pictures) <= args.steps:
            picture, reward, terminated, truncated, _ = future.step(action)
            pictures.append(picture)
            total, ended = total + reward, terminated or truncated
        name = (future.get_action_meanings() or [""] * (action + 1))[action]
        print(f"always action {action} {name}: {len(pictures) - 1} steps, reward {total:.2f}")
        rows.append(np.stack([pictures[min(i, len(pictures) - 1)] for i in range(0, args.steps + 1, 5)]))
    save_picture(args.out, contact_sheet(rows))
    print(f"wrote {args.out}: one row an action, a picture every 5 steps")


if __name__ == "__main__":
    main()
