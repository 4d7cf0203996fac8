"""What a world can do and what it cannot, in words, from the figures of its evaluation.

And what a trial promises of the full budget: an extrapolation, which says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEAST_GAIN = 0.1  # dB, below which a gain cannot be seen, however sure it is
BEHIND = 3.0  # dB below the tokenizer from which there is much left to learn
CLOSE = 1.0  # dB below the tokenizer from which more training of the dynamics changes little
FEW_ENDINGS = 0.3  # recall of endings below which most of them are not foreseen
REWARDS = 0.3  # correlation of rewards below which the head says little
SHOWN = 0.5  # of what a probe tells of actions in real frames, the share that dreams have to show
TOLD = 0.2  # correlation in real frames below which a probe of continuous actions says nothing of dreams
POINTS = 8  # of a loss curve, the fewest that are extrapolated from
SETTLED = 0.2  # first share of a loss curve that is left out: warm-up is no power law
ERROR = "one_step_mse"  # of the training record: squared error of latents drawn in one step


def verdict(report: Mapping[str, Any]) -> list[str]:
    """Sentences from the report of `worldsim.evaluate.study.run_study`: achievements first, then what to change."""
    horizons = {int(steps): row for steps, row in report["horizons"].items()}
    first, last = horizons[min(horizons)], horizons[max(horizons)]
    good: list[str] = []
    bad: list[str] = []
    _compare(
        good, bad, first["above_copy"], first["above_copy_ci"],
        f"predict: {_steps(min(horizons))} ahead its frames are {{gain:.1f}} dB better than repeating the last one",
        f"predict yet: {_steps(min(horizons))} ahead its frames are no better than repeating the last one "
        f"({{gain:+.1f}} dB): {_why_not_better(first)}",
    )  # fmt: skip
    _compare(
        good, bad, last["above_shuffled"], last["above_shuffled_ci"],
        f"obey actions: {_steps(max(horizons))} ahead its frames are {{gain:.1f}} dB better than with "
        "those of another clip",
        f"obey actions yet: {_steps(max(horizons))} ahead its frames are {{gain:+.1f}} dB better than "
        "with those of another clip; record more varied actions that do not follow from the frame, or train the "
        "dynamics longer",
    )  # fmt: skip
    _actions(good, bad, report["actions"])
    _rewards(good, bad, report["rewards"])
    _endings(good, bad, report["endings"])
    told = [f"It can {text}." for text in good] + [f"It cannot {text}." for text in bad]
    return told + [f"To make it better: {text}." for text in _next(first)]


def outlook(report: Mapping[str, Any], curve: Sequence[Mapping[str, float]], steps: int, more: float) -> str:
    """One sentence on the one-step error of `more` times the training, from the `curve` of a trial of so many `steps`.

    The excess over the tokenizer's error is taken to fall with the power of the steps by which the curve fell.
    """
    points = [(row["step"], row[ERROR]) for row in curve if row.get(ERROR, 0) > 0 and row["step"] > SETTLED * steps]
    if len(points) < POINTS:
        return (
            f"how good the frames will be cannot be foreseen from {steps:,} steps of the dynamics; try a larger --scale"
        )
    x, y = np.log(np.array(points, np.float64)).T
    power = max(-float(np.polyfit(x, y, 1)[0]), 0.0)
    row = min(((int(h), row) for h, row in report["horizons"].items()), key=lambda pair: pair[0])[1]
    ceiling, now = row["tokenizer_psnr"], row["psnr"]
    floor, error = 10 ** (-ceiling / 10), 10 ** (-now / 10)
    then = -10 * math.log10(floor + max(error - floor, 0.0) * more**-power)
    return (
        f"one step ahead, {now:.1f} dB now would become about {then:.1f} dB: an extrapolation that takes the error to "
        f"go on falling with the power {power:.2f} of the steps; the trial's tokenizer has {ceiling:.1f} dB, which is "
        "the ceiling until it is trained longer, too"
    )


def _compare(good: list[str], bad: list[str], gain: float, interval: list[float], better: str, not_better: str) -> None:
    """Good only where it can be seen, and the whole interval is above 0."""
    if interval[0] > 0 and gain >= LEAST_GAIN:
        good.append(better.format(gain=gain))
    else:
        bad.append(not_better.format(gain=gain))


def _why_not_better(row: Mapping[str, Any]) -> str:
    if row["tokenizer_psnr"] < row["copy_psnr"]:
        return (
            f"its tokenizer loses more ({row['tokenizer_psnr']:.1f} dB) than changes from one frame to the next "
            f"({row['copy_psnr']:.1f} dB); train the tokenizer longer, or give it larger frames or fewer steps a second"
        )
    return f"the tokenizer would allow {row['tokenizer_psnr']:.1f} dB; train the dynamics longer, or record more"


def _actions(good: list[str], bad: list[str], actions: Mapping[str, Any]) -> None:
    """What a probe that learned from real frames tells of dreams; silent where it tells nothing of real ones."""
    if "real_accuracy" in actions:
        chance = actions["most_frequent_action"]
        known = actions["real_accuracy_ci"][0] > chance
        real, dream, measure = actions["real_accuracy"], actions["dream_accuracy"], "of the actions"
        share = (dream - chance) / (real - chance) if known else math.nan
        figures = f"{dream:.0%} {measure}, where real frames let it tell {real:.0%}"
    else:
        real, dream = actions["real_correlation"], actions["dream_correlation"]
        share = dream / real if actions["real_correlation_ci"][0] > TOLD else math.nan
        figures = f"them with a correlation of {dream:.2f}, from real frames with {real:.2f}"
    if share >= SHOWN:
        good.append(f"show what actions do: from its frames a probe tells {figures}")
    elif not math.isnan(share):
        bad.append(f"show what actions do: from its frames a probe tells {figures}; train the dynamics longer")


def _rewards(good: list[str], bad: list[str], rewards: Mapping[str, Any]) -> None:
    head, dream = rewards["teacher_forced"], rewards["dream"]
    if not rewards["real_deviation"] > 0:
        if abs(head["bias"]) > 0.1 * max(abs(rewards["real_mean"]), 0.1):
            bad.append(
                f"predict rewards: the held-out ones are all {rewards['real_mean']:g}, and its own differ by "
                f"{head['bias']:+.2g} on average; train the dynamics longer, or hold out more"
            )
        return
    if head["correlation_ci"][0] > 0 and head["correlation"] >= REWARDS:
        good.append(
            f"predict rewards: on real frames they go with the real ones (correlation {head['correlation']:.2f})"
        )
    else:
        bad.append(
            f"predict rewards: on real frames they hardly go with real ones (correlation {head['correlation']:.2f}); "
            "train the dynamics longer, record more of what is rewarded, or raise dynamics.loss.reward_weight"
        )
    low, high = dream["bias_ci"]
    deviation = rewards["real_deviation"] * math.sqrt(rewards["steps"])
    if (low > 0 or high < 0) and abs(dream["bias"]) > 0.5 * deviation:
        bad.append(
            f"pay fairly: over {rewards['steps']} steps its dreams give {abs(dream['bias']):.2g} "
            f"{'more' if low > 0 else 'less'} than the real episodes; agents may exploit that"
        )


def _endings(good: list[str], bad: list[str], endings: Mapping[str, Any]) -> None:
    real, head = endings["real"], endings["teacher_forced"]
    if not real["hazard"]:
        bad.append("say when episodes end: no held-out episode does, but for its time limit")
    elif not head["recall_within_2"] >= FEW_ENDINGS:  # NaN where it met none
        bad.append(
            f"foresee endings: of those of real episodes it expects {_share(head['recall_within_2'])}; record more "
            "episodes that end, or train the dynamics longer"
        )
    else:
        good.append(f"foresee endings: it expects {head['recall_within_2']:.0%} of the real ones, within two steps")


def _next(row: Mapping[str, Any]) -> list[str]:
    """Where the next hour is worth most, once frames are better than copies."""
    left = row["tokenizer_psnr"] - row["psnr"]
    if row["above_copy_ci"][0] <= 0:
        return []
    has = f"one step ahead the world has {row['psnr']:.1f} dB and the tokenizer alone {row['tokenizer_psnr']:.1f} dB"
    if left > BEHIND:
        return [f"{has}; give the dynamics more time, or more recordings"]
    if left < CLOSE:
        return [f"{has}, which is the limit; give the tokenizer more time or channels, or frames more pixels"]
    return []


def _share(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.0%}"


def _steps(count: int) -> str:
    return "one step" if count == 1 else f"{count} steps"
