"""A tiny recipe, the making of its world, and how that is killed at moments of its work.

    python making.py RECIPE OUT SEEN

kills a making at each of `MOMENTS`, goes on after each, and keeps in SEEN/MOMENT what was there then.
"""

import contextlib
import functools
import importlib
import os
import shutil
import signal
import sys
from pathlib import Path
from unittest import mock

import ball_env
from small_training import narrow

RECIPE = """
name = "ball"

[[data]]
source = "gym:worldsim-tests/Ball-v0"
steps = 400
policy = "persistent"
options = { height = 16, width = 32 }

[[held_out]]
source = "gym:worldsim-tests/Ball-v0"
steps = 240
seed = 9
policy = "persistent"
options = { height = 16, width = 32 }

[tokenizer]
hours = 0.5
channels = 4

[dynamics]
hours = 0.7
clip = 8
patch = [2, 1]

[export]
starts = 4

[evaluate]
clips = 4
horizons = [1, 8]
drift_steps = 20
drift_worlds = 2
"""

STEPS = 6  # of each training, however slow the machine is

# What takes long to import and is imported late.
IMPORTED = (
    "worldsim.cli.make", "worldsim.cli.eval", "worldsim.evaluate.plots", "scipy.stats", "scipy.ndimage",
    "torchmetrics.functional.image", "torch._dynamo", "torch.utils.tensorboard",
)  # fmt: skip

# What is called at each moment, and how often it may be called before the power fails.
MOMENTS = {
    "recording": ("worldsim.data.episode_writer.EpisodeWriter.append", 150),
    "holding-out": ("worldsim.data.episode_writer.EpisodeWriter.append", 420),
    "recorded": ("worldsim.cli.train.TokenizerCommand.run", 0),
    "tokenizer": ("worldsim.train.tokenizer_task.TokenizerLoss.forward", 2),
    "dynamics": ("worldsim.train.dynamics_loss.DynamicsLoss.forward", 2),
    "export": ("worldsim.train.export.write_world", 0),
    "calibrate": ("shutil.copytree", 0),
    "evaluate": ("worldsim.evaluate.sheets.save_sheets", 0),
    "card": ("worldsim.train.card.write_card", 0),
}


@contextlib.contextmanager
def measuring_little():
    """With an action probe of few steps, which else takes long where a few clips are measured."""
    from worldsim.evaluate import effort

    with mock.patch.object(effort, "Effort", functools.partial(effort.Effort, probe_steps=50)):
        yield


def making(recipe, out, *options):
    """Run `worldsim make` here, with a small network and frequent checkpoints."""
    from worldsim.cli.main import main
    from worldsim.train import dynamics_task, loop

    importlib.import_module("worldsim.cli.train_audio")  # commands keep the LoopConfig that they are imported with
    usual = loop.LoopConfig

    def brief(hours, **given):
        print(f"{hours:.6f} h left", flush=True)
        return usual(hours=hours, steps=STEPS, save_minutes=1e-4, **given)

    with (
        mock.patch.object(dynamics_task, "DynamicsConfig", narrow),
        mock.patch.object(loop, "LoopConfig", brief),
        measuring_little(),
    ):
        main(["make", str(recipe), "--out", str(out), "--device", "cpu", *options])


def die_at(moment):
    """Let the power fail at that moment."""
    where, left = MOMENTS[moment]
    target, _, name = where.rpartition(".")
    owner = _resolve(target)
    usual = getattr(owner, name)
    calls = iter(range(left))

    def die(*args, **kwargs):
        if next(calls, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(*args, **kwargs)

    setattr(owner, name, die)


def _resolve(dotted):
    try:
        return importlib.import_module(dotted)
    except ImportError:
        module, _, name = dotted.rpartition(".")
        return getattr(importlib.import_module(module), name)


def kill_at_every_moment(recipe, out, seen):
    """Children of this process, which has imported all that takes long, make and die, one after the other."""
    for name in IMPORTED:
        importlib.import_module(name)
    os.fsync = lambda descriptor: None  # it is the process that dies, not the machine
    for moment in MOMENTS:
        kept = seen / moment
        kept.mkdir(parents=True)
        sys.stdout.flush()
        child = os.fork()
        if not child:
            os.dup2(os.open(kept / "said", os.O_WRONLY | os.O_CREAT), 1)
            die_at(moment)
            making(recipe, out)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, moment
        for file in (out / "state.json", *(out / "run").glob("*.json")):
            shutil.copy(file, kept)


if __name__ == "__main__":
    assert ball_env.DISCRETE
    kill_at_every_moment(*map(Path, sys.argv[1:]))
