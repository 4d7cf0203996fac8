"""A tiny world that remembers places: trained for some steps on walks in a painted room."""

import dataclasses

import pytest
from lively import enliven
from posed_room import FOCAL, posed_episodes
from small_training import brief, fixed_tokenizer, narrow_dynamics_task, train

from worldsim.data.latents import cache_latents
from worldsim.io.weights import read_world
from worldsim.models.dynamics import CONDITIONS, Dynamics
from worldsim.models.endings import EndingConfig
from worldsim.train import export
from worldsim.world import World

KINDS = ("keyframes", "recall", "recurrent")
STREAMS = ("pose", "motion", "depth")
MODULES = {
    "conditions": (*CONDITIONS, "proprio:motion"), "heads": ("reward", "ending", "pose", "depth"), "memories": KINDS,
    "options": {
        "keyframes": {"focal": list(FOCAL), "capacity": 6}, "recall": {"capacity": 4, "every": 2, "recent": 4},
        "recurrent": {"width": 8},
    },
}  # fmt: skip


def latents_of(store, run):
    return cache_latents(fixed_tokenizer(), store, run, "cpu", streams=STREAMS)


def make_world(folder):
    """The store, the task that trained the world, and its folder."""
    store, run = posed_episodes(folder / "data"), folder / "run"
    with pytest.MonkeyPatch.context() as patch:
        task = narrow_dynamics_task([latents_of(store, run)], patch, cache=run / "contexts", **MODULES)
        train(task, brief(6), run)
        patch.setattr(export, "load_tokenizer", lambda run: fixed_tokenizer())
        export.export_world("room", [store], run, run / "world", starts=4)
    return store, task, run / "world"


def world_of(folder, memories=KINDS):
    """The world with some of its memories, none of its weights zero, without endings."""
    files = read_world(folder)
    known = {**files.config.dynamics.options, "map3d": {"focal": list(FOCAL), "capacity": 24, "voxel": 10.0}}
    options = {name: one for name, one in known.items() if name in memories}
    dynamics = dataclasses.replace(files.config.dynamics, memories=memories, options=options)
    config = dataclasses.replace(files.config, endings=EndingConfig(shift=-1000.0), dynamics=dynamics)
    fresh = {f"dynamics.{n}": t for n, t in Dynamics(dynamics).state_dict().items()}  # of kinds that were not trained
    model = {
        n: files.model.get(n, t) for n, t in ({**files.model, **fresh}).items() if n in fresh or "dynamics" not in n
    }
    return World(dataclasses.replace(files, config=config, model=enliven(model)), device="cpu")
