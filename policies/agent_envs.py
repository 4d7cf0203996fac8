"""The environments that agents train and are judged in: a world's dream and the real game, with one interface."""

from __future__ import annotations

from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecMonitor

from worldsim.envs.held import HeldWorld, in_bursts
from worldsim.envs.sb3 import WorldVecEnv
from worldsim.envs.soft_endings import SoftEndings
from worldsim.envs.source_env import SourceEnv
from worldsim.envs.sources.matching import matching_source
from worldsim.envs.worlds import DEFAULT_START, TimeLimit, load_world
from worldsim.holding import held_steps
from worldsim.policies.observation import ObservationConfig, SeenBy, stacked
from worldsim.spec import WorldProtocol
from worldsim.world import World


def dream_envs(
    world: WorldProtocol,
    num_envs: int,
    observation: ObservationConfig,
    *,
    max_episode_steps: TimeLimit = "world",
    start: str = DEFAULT_START,
    temperature: float | None = None,
    ending_cost: float | None = None,
    bursts: bool = False,
    seed: int = 0,
    between: bool = False,
) -> VecEnv:
    """`num_envs` dreams in one batch, seeds `seed`, `seed` + 1, …; returns and lengths are in the infos ("episode").

    `max_episode_steps` counts steps of the world, each action being held for `observation.hold` of them. `between`
    puts the pictures before the last one of a step into the infos, for videos. With `ending_cost` dreams do not end but
    by that limit: the chance of an ending costs so much reward instead (`SoftEndings`). With `bursts` the world draws
    several steps of a held action in one pass, which is faster and a sampler of its own (`BurstWorld`); raises
    InvalidInput where it cannot, or where `hold` is no multiple of their number.
    """
    drawn, hold = load_world(world, start=start, temperature=temperature), observation.hold
    if bursts:
        drawn, hold = in_bursts(drawn, hold)
    if ending_cost is not None:
        drawn = SoftEndings(drawn, ending_cost)
    if isinstance(max_episode_steps, int):
        max_episode_steps = held_steps(max_episode_steps, observation.hold)
    envs: VecEnv = WorldVecEnv(
        HeldWorld(drawn, hold),
        num_envs,
        observation=observation.kind,
        between=between,
        start=start,
        max_episode_steps=max_episode_steps,
        render_mode="rgb_array",
    )
    envs.seed(seed)
    envs = VecMonitor(envs)
    if observation.kind == "pixels":
        envs = SeenBy(envs, observation.space(world.spec), observation.see(None))
    return stacked(envs, observation)


def real_envs(
    world: World,
    num_envs: int,
    observation: ObservationConfig,
    *,
    seed: int = 0,
    between: bool = False,
    trust_source: bool = False,
) -> VecEnv:
    """`num_envs` of the real game that `world` was recorded from: same actions, clock, time limit, observations.

    Raises MissingDependency where the simulator is not installed, InvalidInput where it does not fit the world, or is
    in a module of Python that the world's files name, which is imported only with `trust_source`.
    """
    config = world.config.source

    def make() -> SourceEnv:
        source = matching_source(config.name, config.frame_skip, world.spec, trust_source=trust_source)
        return SourceEnv(source, hold=observation.hold, between=between)

    envs: VecEnv = DummyVecEnv([make] * num_envs)
    envs.seed(seed)
    envs = SeenBy(VecMonitor(envs), observation.space(world.spec), observation.see(world))
    return stacked(envs, observation)


def tics_per_action(world: World, observation: ObservationConfig) -> int:
    """Ticks of the simulator that one action of an agent lasts."""
    return world.config.source.frame_skip * observation.hold
