"""Train an agent inside a world and evaluate it there, in Python; `worldsim agent train` does this and much more.

python examples/train_in_dream.py --minutes 20 --out runs/agent
"""

import argparse
from pathlib import Path

from worldsim import World
from worldsim.policies.agent_envs import dream_envs
from worldsim.policies.evaluate import evaluate
from worldsim.policies.observation import ObservationConfig
from worldsim.policies.training import Training

NAME = "doom-take-cover"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the agent")
    parser.add_argument("--minutes", type=float, default=1.0, help="time to train it")
    args = parser.parse_args()

    world, observation = World.from_pretrained(NAME), ObservationConfig(kind="latents", stack=3, hold=20)
    envs = dream_envs(world, 32, observation, max_episode_steps=400, start="anywhere", ending_cost=300)
    agent = Training(envs, observation, world, NAME, args.out).run(minutes=args.minutes)

    envs = dream_envs(world, 8, observation)  # or `real_envs`, the real game
    score = evaluate(agent, envs, 8, hold=observation.hold)
    print(f"after {agent.steps} decisions episodes last {score} steps; saved as {args.out / 'agent.safetensors'}")


if __name__ == "__main__":
    main()
