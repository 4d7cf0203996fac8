"""The errors a user can meet: each message is one sentence that names the input and the fix."""

from typing import Any


class WorldsimError(Exception):
    """Base of every error that worldsim raises on purpose."""


class InvalidAction(WorldsimError, ValueError):
    """An action of the wrong type, shape or range; the state is unchanged."""


class InvalidState(WorldsimError, RuntimeError):
    """A call that the current state does not allow, such as a step before the first reset."""


class InvalidInput(WorldsimError, ValueError):
    """Any other argument that cannot be used: frames, options, command-line values."""


class UnknownWorld(WorldsimError, LookupError):
    """No world of that name, folder or hub id."""


class DamagedWorld(WorldsimError):
    """A world's files are missing, truncated, altered, not finite, or of another format version."""


class DamagedEpisodes(WorldsimError):
    """An episode store is missing chunks, fails its checksums, or is of another format version."""


class DamagedCheckpoint(WorldsimError):
    """A training checkpoint cannot be read or belongs to another configuration."""


class TrainingError(WorldsimError, ArithmeticError):
    """Training that cannot go on: loss or gradient are not finite, step after step."""


class MissingDependency(WorldsimError, ImportError):
    """An optional package or system library is absent; the message says how to get it."""


def check_bounds(what: str, config: Any, **bounds: tuple[float, float]) -> None:
    """Raise InvalidInput unless each of these fields of `config` lies between its two bounds, which are included.

    In a tuple each number must; None passes, NaN does not.
    """
    for name, (low, high) in bounds.items():
        value = getattr(config, name)
        numbers = value if isinstance(value, tuple) else () if value is None else (value,)
        if not all(low <= number <= high for number in numbers):
            raise InvalidInput(f"{what} {name} is {value}; give {low:g} to {high:g}")
