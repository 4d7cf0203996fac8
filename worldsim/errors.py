"""The errors a user can meet: each message is one sentence that names the input and the fix."""


class WorldsimError(Exception):
    """Base of every error that worldsim raises on purpose."""


class InvalidAction(WorldsimError, ValueError):
    """An action of the wrong type, shape or range; the state is unchanged."""


class InvalidState(WorldsimError, RuntimeError):
    """A call that the current state does not allow, such as a step before the first reset."""


class InvalidInput(WorldsimError, ValueError):
    """Any other argument that cannot be used: pictures, options, command-line values."""


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
