"""How much is measured: enough for the figures of a card, or a glance; never more than the episodes are long."""

from __future__ import annotations

from dataclasses import dataclass, replace

from worldsim.data.episodes import Episodes
from worldsim.errors import InvalidInput
from worldsim.evaluate.data import shown_spans


@dataclass(frozen=True)
class Effort:
    """Sizes of all measurements; the defaults take some minutes on two cores."""

    seed: int = 0
    quick: bool = False  # for a world's own probes: measure very little
    context: int = 8  # real rows before a dream
    horizons: tuple[int, ...] = (1, 8, 16, 32, 48)  # steps
    clips: int = 64
    tokenizer_runs: int = 128  # runs of successive rows
    tokenizer_rows: int = 16  # rows in a run
    drift_worlds: int = 12
    drift_steps: int = 2000
    drift_window: int = 200
    drift_every: int = 10  # steps between the frames that are looked at
    ending_dreams: int = 200
    ending_steps: int = 350  # nobody is watched for longer, so that a world without endings ends too
    probe_rows: int = 6000  # real rows the action probe is trained on
    probe_steps: int = 1500


QUICK = Effort(
    quick=True,
    clips=4,
    tokenizer_runs=4,
    tokenizer_rows=4,
    drift_worlds=2,
    drift_steps=60,
    drift_window=20,
    drift_every=5,
    ending_dreams=4,
    ending_steps=100,
    probe_rows=200,
    probe_steps=20,
)


def fit_effort(effort: Effort, store: Episodes) -> Effort:
    """The effort without the horizons that no episode of `store` is long enough for.

    Raises InvalidInput if none is long enough for the first one.
    """
    longest = max((len(span) for span in shown_spans(store)), default=0)
    horizons = tuple(steps for steps in effort.horizons if effort.context + steps <= longest)
    if not horizons:
        raise InvalidInput(
            f"no episode of {str(store.path)!r} has {effort.context + min(effort.horizons)} rows, the fewest to "
            f"measure a world with (the longest has {longest}); record longer episodes"
        )
    return replace(effort, horizons=horizons, tokenizer_rows=min(effort.tokenizer_rows, longest))
