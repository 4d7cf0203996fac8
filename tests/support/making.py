"""`worldsim make` of a tiny recipe in seconds, also as a process that kills itself at a chosen moment.

    python making.py RECIPE OUT [MOMENT]

with MOMENT one of `MOMENTS`: as if the power failed there.
"""

import os
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


def making(recipe, out, *options):
    """Run `worldsim make` here, with a small network and frequent checkpoints."""
    from worldsim.cli.main import main
    from worldsim.train import dynamics_task, loop

    usual = loop.LoopConfig

    def brief(hours, **given):
        print(f"{hours:.6f} h left", flush=True)
        return usual(hours=hours, steps=STEPS, save_minutes=1e-4, **given)

    with (
        mock.patch.object(dynamics_task, "DynamicsConfig", narrow),
        mock.patch.object(loop, "LoopConfig", brief),
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
    from importlib import import_module

    try:
        return import_module(dotted)
    except ImportError:
        module, _, name = dotted.rpartition(".")
        return getattr(import_module(module), name)


if __name__ == "__main__":
    assert ball_env.DISCRETE
    if len(sys.argv) > 3:
        die_at(sys.argv[3])
    making(Path(sys.argv[1]), Path(sys.argv[2]))
