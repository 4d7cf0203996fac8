"""Train an agent inside a world: Stable-Baselines3's PPO on frames, one batched model call a step.

python examples/ppo_quick.py --steps 2000
"""

import argparse

from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecMonitor

from worldsim.envs.sb3 import WorldVecEnv


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="doom-take-cover", help="a shipped name, a local folder or a hub id")
    parser.add_argument("--steps", type=int, default=2_000, help="environment steps to learn from")
    parser.add_argument("--num-envs", type=int, default=8)
    parser.add_argument("--max-episode-steps", type=int, default=200, help="episodes are cut off here")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default=None, help="where to save the agent (.zip)")
    args = parser.parse_args()

    envs = VecMonitor(WorldVecEnv(args.world, args.num_envs, max_episode_steps=args.max_episode_steps))
    model = PPO("CnnPolicy", envs, n_steps=64, batch_size=128, n_epochs=2, seed=args.seed, verbose=1)
    model.learn(args.steps)
    mean, spread = evaluate_policy(model, envs, n_eval_episodes=args.num_envs, deterministic=False)
    print(f"after {model.num_timesteps} steps: reward {mean:.1f} +- {spread:.1f} an episode")
    if args.out:
        model.save(args.out)


if __name__ == "__main__":
    main()
