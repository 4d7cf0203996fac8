"""Fork at a crossroads, walk both ways, return in both; then paste a picture on a remembered wall and come back to it.

python examples/remember_a_place.py WORLD --out returned.png    WORLD remembers places (doom-maze, a folder of your own)
"""

import argparse

import numpy as np
import torch

import worldsim
from worldsim.envs import WorldEnv
from worldsim.io.media import contact_sheet, save_image


def turn(env, name, steps):
    """Turn by that action for so many steps; the last frame."""
    action = env.get_action_meanings().index(name)
    return [env.step(action)[0] for _ in range(steps)][-1]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("world", help="a world with the memory keyframes")
    parser.add_argument("--steps", type=int, default=20, help="steps of each way, there and back")
    parser.add_argument("--turns", nargs=2, default=["TURN_LEFT", "TURN_RIGHT"], help="actions that undo each other")
    parser.add_argument("--out", default="returned.png", help="image to write, a row for each way")
    args = parser.parse_args()
    world = worldsim.World.from_pretrained(args.world)
    env = WorldEnv(world, render_mode="rgb_array", max_episode_steps=None)
    first, _ = env.reset(seed=0)

    rows = []
    one, other = args.turns
    for way, future in zip(((one, other), (other, one)), env.fork(2), strict=True):
        away, back = (turn(future, name, args.steps) for name in way)
        rows.append(np.stack([first, away, back]))
    common = np.square(rows[0][2].astype(float) - rows[1][2]).mean()
    print(f"the view after both returns differs by {10 * np.log10(255**2 / max(common, 1e-9)):.1f} dB PSNR")

    state, kept = env.save_state(), world.dynamics.memories.each["keyframes"]
    camera, here = kept.camera, {name: values[0].float() for name, values in state.tree.heads.items()}
    alpha = torch.zeros(camera.height, camera.width)
    alpha[camera.height // 3 : -camera.height // 3, camera.width // 3 : -camera.width // 3] = 1
    picture = torch.tensor([1.0, 0.0, 1.0])[:, None, None] * alpha  # magenta, where alpha is 1
    tree = state.tree.memory["keyframes"]
    state.tree.memory["keyframes"] = kept.paste(tree, here["pose"], here["depth"], picture, alpha)
    env.restore_state(state)
    rows.append(np.stack([first, turn(env, one, args.steps), turn(env, other, args.steps)]))
    save_image(args.out, contact_sheet(rows))


if __name__ == "__main__":
    main()
