"""Train an agent inside a learned world, then let it play the real game.

python examples/train_in_dream.py --minutes 20 --ending-cost 300 --change-cost 40 --baselines --out runs/agent
python examples/train_in_dream.py --real 400000 --out runs/agent-real    # the same PPO in the real game, 400,000 tics
python examples/train_in_dream.py --ending-cost 300 --shuffled-actions --out runs/agent-shuffled    # a wrong world
python examples/train_in_dream.py --quick --out runs/agent-quick    # two minutes, to see that all of it works
"""

import argparse
from dataclasses import replace
from pathlib import Path

from worldsim import World
from worldsim.evaluate.plots import require_matplotlib
from worldsim.evaluate.table import save_json
from worldsim.noise_shaping import NoiseShaping
from worldsim.policies.agent_envs import dream_envs, real_envs, tics_per_action
from worldsim.policies.ages import format_ages
from worldsim.policies.baselines import baselines
from worldsim.policies.change_cost import ChangeCost
from worldsim.policies.controls import ShuffledActions
from worldsim.policies.curves import format_stages, save_curves
from worldsim.policies.judge import Judge, format_table, pooled
from worldsim.policies.observation import ObservationConfig
from worldsim.policies.runs import format_runs
from worldsim.policies.training import Training
from worldsim.policies.video import record_video

QUICK = {"minutes": 1.0, "episodes": 4, "stages": 1, "num_envs": 16}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--world", default="doom-take-cover", help="a shipped name, a local folder or a hub id")
    add("--out", type=Path, required=True, help="folder for agents, curves, videos and results.json")
    add("--minutes", type=float, help="time to train each agent (default: 20)")
    add("--steps", type=int, help="decisions of the agent to train for, instead of --minutes")
    add("--real", type=int, metavar="TICS", help="train in the real game instead, for so many tics")
    add("--shuffled-actions", action="store_true", help="train in a world whose actions are shuffled at every step")
    add("--observation", choices=("latents", "pixels"), default="latents", help="what the agent sees")
    add("--stack", type=int, default=3, help="last observations that it sees together")
    add("--hold", type=int, default=20, help="steps of the world that it holds an action for")
    add("--num-envs", type=int, default=32, help="dreams in one batch")
    add("--start", default="anywhere", help="where dreams begin: anywhere in a recorded episode, or at its beginning")
    add("--dream-steps", type=int, default=400, help="steps of the world after which a dream is cut off in training")
    add("--temperature", type=float, help="of the noise in training: above 1 the dream is less predictable")
    add("--noise-shaping", type=float, help="rate in training: above the world's own, rare events come more often")
    add("--ending-cost", type=float, help="in training dreams do not end: the chance of an ending costs so much reward")
    add("--change-cost", type=float, help="in training an action that is not the one before costs so much reward")
    add("--compiled", action="store_true", help="compile the world's steps first, some minutes, once: faster dreams")
    add("--seed", type=int, default=0)
    add("--seeds", type=int, default=1, help="agents to train, with the seeds that follow")
    add("--stages", type=int, default=6, help="parts of the training between which the agent is judged")
    add("--episodes", type=int, default=100, help="to judge an agent by, in the dream and in the real game")
    add("--stochastic", action="store_true", help="judge agents that draw their actions, not the likeliest ones")
    add("--from-agent", type=Path, help="an agent (.safetensors) to train on, in a new world with the same tokenizer")
    add("--resume", action="store_true", help="go on after an interruption")
    add("--baselines", action="store_true", help="also judge random actions and constant ones")
    add("--real-tics", type=int, help="of the real game that the world was trained on, for the table")
    add("--no-real", action="store_true", help="leave the real game out, for worlds whose simulator is not here")
    add("--trust-source", action="store_true", help="let the real game be a Python module that the world's files name")
    add("--quick", action="store_true", help=f"in place of the longer defaults: {QUICK}")
    args = parser.parse_args()
    if args.quick:
        parser.set_defaults(**QUICK)
        args = parser.parse_args()
    for option in ("ending_cost", "noise_shaping", "temperature"):
        if args.real is not None and getattr(args, option) is not None:
            parser.error(f"--{option.replace('_', '-')} is of dreams; leave it out with --real")
    if args.real is not None and args.compiled:
        parser.error("--compiled is of dreams; leave it out with --real")
    if args.steps is None and args.minutes is None and args.real is None:
        args.minutes = 20.0
    return args


def sampling_in_training(world, args):
    """The world's sampling, with the temperature and the rate of noise shaping that are asked for."""
    changes = {}
    if args.temperature is not None:
        changes["temperature"] = args.temperature
    if args.noise_shaping is not None:
        shaping = world.sampling.noise_shaping or NoiseShaping()
        changes["noise_shaping"] = replace(shaping, rate=args.noise_shaping)
    return replace(world.sampling, **changes)


def train(args, world, drawn, observation, judge, seed, out):
    """One agent, its scores in the dream and in the real game, and the points of its curve."""
    seed = 1000 * seed  # the rows of a batch take the seeds that follow
    if args.real is None:
        options = {"max_episode_steps": args.dream_steps, "start": args.start, "ending_cost": args.ending_cost}
        envs = dream_envs(drawn, args.num_envs, observation, seed=seed, **options)
        budget = {"steps": args.steps} if args.steps is not None else {"minutes": args.minutes}
    else:
        envs = real_envs(world, min(args.num_envs, 8), observation, seed=seed, trust_source=args.trust_source)
        budget = {"steps": args.real // tics_per_action(world, observation)}
    if args.change_cost is not None:
        envs = ChangeCost(envs, args.change_cost)
    if args.shuffled_actions:
        envs = ShuffledActions(envs, seed=seed)

    def measure(policy, episodes=None):
        return judge(policy, episodes, deterministic=not args.stochastic)

    kept = {"seed": seed, "resume": args.resume, "parent": args.from_agent}
    training = Training(envs, observation, world, args.world, out, **kept)
    agent = training.run(**budget, stages=args.stages, measure=lambda agent: measure(agent, min(16, args.episodes)))
    envs.close()
    scores = measure(agent)
    training.note(scores)
    return agent, scores, training.points


def film(args, world, observation, agent, out):
    """A video of the agent in the dream, and one in the real game."""
    pace = world.spec.steps_per_second  # a step of the real game shows one picture, a dreamed one all of them
    envs = dream_envs(world, 1, observation, between=True)
    record_video(agent, envs, out / "dream.mp4", decisions=300, fps=pace * world.spec.pictures_per_step)
    if not args.no_real:
        envs = real_envs(world, 1, observation, between=True, trust_source=args.trust_source)
        record_video(agent, envs, out / "real.mp4", decisions=300, fps=pace)
        envs.close()


def main():
    args = arguments()
    require_matplotlib()
    world = World.from_pretrained(args.world)
    observation = ObservationConfig(kind=args.observation, stack=args.stack, hold=args.hold)
    drawn = world.with_sampling(sampling_in_training(world, args))
    if args.compiled:
        world, drawn = world.compiled(), drawn.compiled(args.num_envs)
    options = {"trained_in": drawn} if drawn.config != world.config else {}
    options |= {"trust_source": args.trust_source}
    judge = Judge(world, observation, episodes=args.episodes, real=not args.no_real, **options)
    rows, curves, learned = {}, {}, {}
    for seed in range(args.seed, args.seed + args.seeds):
        out = args.out / f"seed-{seed}"
        agent, rows[f"seed {seed}"], curves[f"seed {seed}"] = train(args, world, drawn, observation, judge, seed, out)
        learned[f"seed {seed}"] = args.real_tics if args.real is None else args.real
        film(args, world, observation, agent, out)
    means = pooled(list(rows.values()))
    if args.baselines:
        for name, policy in baselines(world.spec.actions, hold=args.hold).items():
            rows[name] = judge(policy)
    judge.close()

    print(format_table(rows, learned))
    for name in curves:
        print(f"\n{name}, stage by stage:\n{format_stages(curves[name])}")
        ages = {place: score.ages for place, score in rows[name].items()}
        print(f"\n{name}, by the age of the game:\n{format_ages(ages)}")
        runs = {place: score.runs for place, score in rows[name].items()}
        print(f"\n{name}, by how long it has kept up an action:\n{format_runs(runs)}")
    print("mean survival of the trained agents, tics: " + ", ".join(f"{k} {v:.0f}" for k, v in means.items()))
    place = "dream" if args.no_real else "real"
    levels = {name: scores[place].mean for name, scores in rows.items() if name not in curves}
    save_curves(args.out / "curves.png", curves, levels)
    scores = {name: {k: score.to_json() for k, score in row.items()} for name, row in rows.items()}
    options = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
    save_json(args.out / "results.json", {"options": options, "mean_tics": means, "agents": scores})
    print(f"wrote {args.out}: agents, videos, curves.png, results.json")


if __name__ == "__main__":
    main()
