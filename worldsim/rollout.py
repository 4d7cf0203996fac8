"""The only step loop: `start` and `advance`, functions of (weights, state, action) over an explicit `WorldState`.

A step has these stages, in this order:

    history    reads the last frames and the action; its keys and values go into the cache
    memory     reads what is remembered for longer; only in worlds that have a memory
    drawing    denoises the new frame's latents; skipped where the frame is given
    heads      reward and ending; a head may read the history's features, the new frame, or both. Then heads that carry
               something of their own, such as sound. Memories are written
    decoding   latents to pixels, for those who want pixels

Environments, the window, evaluation, calibration and the samples of training all step through here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from worldsim.errors import InvalidInput, InvalidState
from worldsim.memory.base import Observed, Query
from worldsim.models.carried import Drawn
from worldsim.models.dynamics import ContextFeatures, Dynamics
from worldsim.models.layers import KVCache
from worldsim.models.memories import Held, Memories, Recalled, keep
from worldsim.models.registry import StepInputs, Streams
from worldsim.runtime.ambient import isolated, refuse_if_forked
from worldsim.sampling.noise import normal
from worldsim.sampling.sampler import Engine, empty_cache, step_noise
from worldsim.spec import Decoding, Stages, WorldProtocol, WorldSpec, WorldStep
from worldsim.state.tree import clone

Result = TypeVar("Result")
Frames = tuple[np.ndarray, np.ndarray]  # (B, K, H, W, 3) uint8, and whether all their numbers were finite (B,) bool
Decode = Callable[[Tensor], Frames]  # from latents (B, 1 + between, C, h, w)


@dataclass
class Keys:
    """What the noise of a step is a function of, (B,) int64 each."""

    seed: Tensor
    episode: Tensor  # resets since the seed was given
    time: Tensor  # steps of the history, the context of the start included


@dataclass
class WorldState:
    """Everything a batch of B worlds is between steps: a tree (`worldsim.state.tree`) of tensors, the batch first."""

    past: Tensor  # (B, 2, C, h, w) latents of the last frame and of the one before
    cache: KVCache  # the history's keys and values
    keys: Keys
    memory: dict[str, Any] = field(default_factory=dict)  # one tree a kind of memory, by its name
    heads: dict[str, Any] = field(default_factory=dict)  # (B, ...), streams' values at the last frame; trees of heads


@dataclass(frozen=True)
class StepOutput:
    """What one step gives besides the state, before it is put into the units of the world."""

    latents: Tensor  # (B, 1 + between, C, h, w) as drawn, the new frame first; (B, 1, C, h, w) where it was given
    reward: Tensor  # (B,), in units of the reward scale
    end_logit: Tensor  # (B,)
    streams: Streams  # new values of the streams that heads predict, (B, ...); empty where there are none
    frames: Frames | None  # None where nothing was decoded
    said: Streams = field(default_factory=dict)  # (B, ...) what else heads say that is for the info of a step


# Yields the name of each stage before it begins, and returns the new state and what the step gives.
Advancing = Generator[str, None, tuple[WorldState, StepOutput]]


@isolated
def start(
    engine: Engine, latents: Tensor, actions: Tensor,
    *, ages: Sequence[int] | Tensor, seeds: Sequence[int], episodes: Sequence[int], streams: Streams | None = None,
) -> WorldState:  # fmt: skip
    """B worlds that have read a context: latents (B, T, C, h, w), T >= 1, and the actions (B, T - 1, ...) between them.

    `ages` (B,) are steps from the beginning of the episode to the first frame, `streams` (B, T, ...) what other sensors
    gave with the frames; of those with one row, (B, 1, ...), only the first is known, and heads say the others. What is
    read off a frame alone, such as depth, may be missing altogether. Memories are written with every frame.
    """
    weight = engine.dynamics.position
    latents, actions = latents.to(weight.device, weight.dtype), actions.to(weight.device)
    seed, episode = (torch.tensor(list(of), dtype=torch.int64, device=weight.device) for of in (seeds, episodes))
    past = torch.stack([latents[:, 0], latents[:, 0]], dim=1)
    cache = empty_cache(engine.dynamics, torch.as_tensor(ages))
    known = {name: values.to(weight.device) for name, values in (streams or {}).items()}
    at = [{n: v[:, t].clone() for n, v in known.items() if t < v.shape[1]} for t in range(latents.shape[1])]
    at[0] = engine.dynamics.heads.read_off(latents[:, 0]) | at[0]
    memories, memory = engine.dynamics.memories, {}
    if memories is not None:
        first = Observed(latents[:, 0], at[0], None, cache.ages)
        memory = memories.write(memories.empty(len(seed)), first)
    carried = {name: head.empty(len(seed)) for name, head in engine.carried.items()}
    state = WorldState(past, cache, Keys(seed, episode, torch.zeros_like(seed)), memory, at[0] | carried)
    for t in range(actions.shape[1]):
        state, _ = finish(advance(engine, state, actions[:, t], given=latents[:, t + 1], streams=at[t + 1]))
    return state


@isolated
def advance(
    engine: Engine, state: WorldState, actions: Tensor,
    *, given: Tensor | None = None, streams: Streams | None = None, decode: Decode | None = None,
) -> Advancing:  # fmt: skip
    """One step of every world by an action, (B,) int64 or (B, A), in stages.

    `given` (B, C, h, w) are the next frame's latents where they are known: nothing is drawn then. `streams` (B, ...)
    are values of sensors at that frame, which count instead of what heads predict, as where the true pose is known.
    `decode` makes pixels of the step's latents. The given state's memory is reused for the new one. Whoever does not
    want the step any more leaves it at a stage, and may `rewind` the state. Raises InvalidState for a state that was
    stepped before.
    """
    refuse_if_forked()
    if not torch.equal(state.keys.time, state.cache.time):
        raise InvalidState(
            "this state was stepped already and its memory reused; step a worldsim.state.tree.clone of it"
        )
    keys, past, dynamics = state.keys, state.past, engine.dynamics
    noise = step_noise(dynamics, keys.seed, keys.episode, keys.time)
    yield "history"
    history = engine.context_step(past, actions, state.cache, noise.context, state.heads)
    held: Held = []
    base = past[:, 0]
    if dynamics.memories is not None and engine.eager.sampling.memory:
        yield "memory"
        ahead = dynamics.heads.sample(history.heads) | (streams or {})
        recalled = recall(dynamics.memories, state, history, actions, ahead)
        history, base, held = recalled.features, recalled.base, recalled.held
    if given is None:
        yield "drawing"
        drawn = engine.draw(torch.stack([base, past[:, 1]], dim=1), history, noise)  # (B, (1 + between) * C, h, w)
        latents = drawn.unflatten(1, (-1, dynamics.config.channels))  # (B, 1 + between, C, h, w)
        if held:
            latents = torch.cat([keep(latents[:, 0], held)[:, None], latents[:, 1:]], dim=1)
    else:
        latents = given[:, None]  # (B, 1, C, h, w)
    yield "heads"
    outcome = predict_outcomes(dynamics, history, latents[:, 0], past[:, 0], actions, state.heads, streams)
    sampled = dynamics.heads.sample(outcome.heads) | (streams or {})
    carried = {name: sampled.get(name, values) for name, values in state.heads.items()}  # what was there at the start
    inputs = StepInputs(actions, torch.zeros_like(history.ages, dtype=torch.float32), history.ages, state.heads)
    trees, said = carry(engine, state, latents, inputs)
    carried |= trees
    said |= {name: values for name, values in sampled.items() if name not in state.heads}  # what is no stream
    memory = state.memory
    if dynamics.memories is not None:
        observed = Observed(latents[:, 0], {**carried, **sampled}, actions, history.ages + 1)
        memory = dynamics.memories.write(memory, observed)
    new = WorldState(
        torch.stack([latents[:, 0], past[:, 0]], dim=1), state.cache,
        Keys(keys.seed, keys.episode, keys.time + 1), memory, carried,
    )  # fmt: skip
    frames = None
    if decode is not None:
        yield "decoding"
        frames = decode(latents)
    streams = {name: values for name, values in sampled.items() if name in state.heads}
    return new, StepOutput(latents, outcome.reward, outcome.end_logit, streams, frames, said)


def recall(
    memories: Memories, state: WorldState, history: ContextFeatures, actions: Tensor, predicted: Streams
) -> Recalled:
    """What memories say of a step; `predicted` are the streams that its heads foresee."""
    query = Query(state.past[:, 0], actions, history.ages, state.heads, predicted, history.tokens)
    return memories.recall(state.memory, history, query)


def predict_outcomes(
    dynamics: Dynamics, history: ContextFeatures, frame: Tensor, previous: Tensor, actions: Tensor, streams: Streams,
    given: Streams | None = None,
) -> ContextFeatures:  # fmt: skip
    """The history's output with what all heads say of a step, now that its frame (B, C, h, w) is there.

    Heads that read the history alone were computed with it. `previous` and `streams` are of the frame before, `given`
    are values of streams at the new frame that are known, where others are as the history's heads foresee them.
    """
    if not dynamics.heads.late:
        return history
    level = torch.zeros_like(history.ages, dtype=torch.float32)  # the frames that heads read have no noise
    inputs = StepInputs(actions, level, history.ages, streams)
    ahead = dynamics.heads.sample(history.heads) | (given or {})
    said = dynamics.heads.of_frame(frame, previous, history.tokens, inputs, ahead=ahead)
    return replace(history, heads=history.heads | said)


def carry(engine: Engine, state: WorldState, latents: Tensor, inputs: StepInputs) -> tuple[dict[str, Any], Streams]:
    """What the heads that carry something say of a step (B, 1 + between, C, h, w), and what they carry on."""
    trees: dict[str, Any] = {}
    said: Streams = {}
    keys = (state.keys.seed.tolist(), state.keys.episode.tolist(), state.keys.time.tolist())
    for name, head in engine.carried.items():
        drawn = Drawn(latents, state.past[:, 0], inputs)
        noise = torch.as_tensor(normal(*keys, head.noise_stream, head.noise_shape)).to(latents.device)
        trees[name], said[name] = head.step(state.heads[name], drawn, noise)
    return trees, said


def finish(stages: Generator[str, None, Result]) -> Result:
    """Go through all stages; what the step gives."""
    while True:
        try:
            next(stages)
        except StopIteration as done:
            return done.value


def stages_of(world: WorldProtocol, state: Any, actions: np.ndarray, **options: Any) -> Stages:
    """The stages of a step of any world; without a method `stages` (`StagedWorld`) there is a single one."""
    staged = getattr(world, "stages", None)
    if staged is not None:
        return (yield from staged(state, actions, **options))
    return world.step(state, actions, **options)


def step_world(
    world: WorldProtocol, state: Any, actions: np.ndarray, decode: Decoding = "all"
) -> tuple[Any, WorldStep]:
    """`world.step`, with the shapes of its answer checked: a wrong one would surface far from here.

    A world without latents decodes all frames, whatever is asked for.
    """
    return finish(step_stages(world, state, actions, decode))


@torch.no_grad()
def step_stages(world: WorldProtocol, state: Any, actions: np.ndarray, decode: Decoding = "all") -> Stages:
    """The stages of `step_world`. The state may be stepped again, should the step be interrupted or not be wanted."""
    rewind = getattr(world, "rewind", None)
    if rewind is not None:
        rewind(state)
    else:
        state = clone(state)  # the world may write into what it is given
    if world.spec.latent_shape is None:
        decode = "all"
        state, result = yield from stages_of(world, state, actions)
    else:
        state, result = yield from stages_of(world, state, actions, decode=decode)
    rows = len(actions)
    if decode != "none":
        check_frames(world.spec, "frame", result.frame, rows)
    for name in ("reward", "terminated"):
        shape = np.shape(getattr(result, name))
        if shape != (rows,):
            raise InvalidInput(f"world {world.spec.name!r} gave {name} of shape {shape}; return ({rows},)")
    return state, result


def check_frames(spec: WorldSpec, name: str, frames: np.ndarray, rows: int) -> None:
    """Raise InvalidInput for frames of a world that are not (rows, H, W, 3) uint8."""
    shape, dtype = np.shape(frames), getattr(frames, "dtype", type(frames).__name__)
    want = (rows, spec.height, spec.width, 3)
    if shape != want or dtype != np.uint8:
        raise InvalidInput(f"world {spec.name!r} gave {name} {dtype} {shape}; return numpy uint8 {want}")


def rewind(state: WorldState) -> None:
    """Take `state`, the last one that was stepped, for the current one again: that step counts as not taken.

    A step overwrites only what has left the context by then, so nothing is lost; what had been made of it is void.
    """
    state.cache.time = state.keys.time.clone()
