"""The entry point: `worldsim COMMAND …`, each command a typed dataclass that tyro turns into options."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

import tyro

from worldsim.cli.output import survive_any_locale
from worldsim.errors import WorldsimError
from worldsim.io.text import printable
from worldsim.train.interrupts import Interrupted, signals_raise

# command -> (module, function, one line of help); a module is imported only when its command runs, so that
# `worldsim info` works on a machine without pygame or simulators.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "make": ("worldsim.cli.make", "make", "make a world as a recipe says: record, train, pack, measure"),
    "record": ("worldsim.cli.record", "record", "play a real simulator with a data policy and write episodes"),
    "import": ("worldsim.cli.import_videos", "import_videos", "make episodes of video files and a table of actions"),
    "train": ("worldsim.cli.train", "train", "train a tokenizer or the dynamics: time-budgeted, resumable"),
    "rollout": ("worldsim.cli.rollout", "rollout", "run a world without a display: video, contact sheet, frame rate"),
    "play": ("worldsim.cli.play", "play", "open a window and play inside a world"),
    "agent": ("worldsim.cli.agent", "agent", "train agents in a world, evaluate, film and compare them"),
    "robot": ("worldsim.cli.robot", "robot", "judge robot policies in a world, and by the real simulator"),
    "eval": ("worldsim.cli.eval", "evaluate", "measure a world against episodes it was not trained on"),
    "bench": ("worldsim.cli.bench", "bench", "steps a second, latency, share of the machine's matmul peak"),
    "worlds": ("worldsim.cli.worlds", "worlds", "list the worlds that ship, with their cards"),
    "info": ("worldsim.cli.info", "info", "a doctor: versions, devices, optional parts and how to get them"),
}


def usage() -> str:
    """The text of `worldsim --help`."""
    lines = [f"  {name:9s}{text}" for name, (_, _, text) in COMMANDS.items()]
    return "usage: worldsim COMMAND [OPTIONS]    (worldsim COMMAND --help)\n\n" + "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run one command; a worldsim error becomes one line on stderr and exit status 2, a signal 128 and its number."""
    survive_any_locale()
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return
    if args[0] not in COMMANDS:
        print(f"worldsim: unknown command {args[0]!r}; the commands are {', '.join(COMMANDS)}", file=sys.stderr)
        raise SystemExit(2)
    module, function, _ = COMMANDS[args[0]]
    try:
        with signals_raise():
            command: Any = getattr(importlib.import_module(module), function)
            tyro.cli(command, args=args[1:], prog=f"worldsim {args[0]}")
            sys.stdout.flush()
    except WorldsimError as error:
        print(f"worldsim {args[0]}: {printable(str(error), keep='')}", file=sys.stderr)
        raise SystemExit(2) from error
    except BrokenPipeError:  # whoever read it has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + 13) from None  # as a program that SIGPIPE ends
    except KeyboardInterrupt as stop:
        print(f"worldsim {args[0]}: interrupted", file=sys.stderr)
        raise SystemExit(128 + (stop.number if isinstance(stop, Interrupted) else signal.SIGINT)) from None


if __name__ == "__main__":
    main()
