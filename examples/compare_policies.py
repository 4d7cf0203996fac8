"""Does the dream tell which policies are better? Plays blind policies in the dream and in the real game.

python examples/compare_policies.py --out runs/policies
"""

import argparse
from pathlib import Path

from worldsim import World
from worldsim.evaluate.plots import require_matplotlib
from worldsim.evaluate.table import save_json
from worldsim.policies.agreement import agreement, save_scatter
from worldsim.policies.baselines import blind_policies
from worldsim.policies.judge import Judge, format_table
from worldsim.policies.observation import ObservationConfig


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="doom-take-cover", help="a shipped name, a local folder or a hub id")
    parser.add_argument("--out", type=Path, required=True, help="folder for the figures and the plot")
    parser.add_argument("--episodes", type=int, default=32, help="of each policy in either place")
    parser.add_argument("--periods", type=int, nargs="+", default=[20, 40, 60, 80], help="steps before turning round")
    help = "let the real game be a Python module that the world's files name"
    parser.add_argument("--trust-source", action="store_true", help=help)
    args = parser.parse_args()
    require_matplotlib()
    world = World.from_pretrained(args.world)
    # What blind policies see is of no use to them: latents cost the dream no decoding.
    observation = ObservationConfig(stack=1, hold=1)
    judge = Judge(world, observation, episodes=args.episodes, trust_source=args.trust_source)
    scores = {}
    for name, policy in blind_policies(world.spec.actions, args.periods).items():
        scores[name] = judge(policy)
        print(name + ": " + ", ".join(f"{place} {score}" for place, score in scores[name].items()), flush=True)
    judge.close()
    places = [[s[place].mean_tics for s in scores.values()] for place in ("dream", "real")]
    agreed = agreement(*places)
    print(format_table(scores, {}))
    print(", ".join(f"{name} {value:.2f}" for name, value in agreed.items()))
    save_scatter(args.out / "policies.png", scores)
    rows = {name: {place: score.to_json() for place, score in s.items()} for name, s in scores.items()}
    save_json(args.out / "policies.json", {"agreement": agreed, "policies": rows})


if __name__ == "__main__":
    main()
