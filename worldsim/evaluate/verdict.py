"""What a world can do and what it cannot, in words, from the figures of its evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

BEHIND = 3.0  # dB below the tokenizer from which there is much left to learn
FEW_ENDINGS = 0.3  # recall of endings below which most of them are not foreseen


def verdict(report: Mapping[str, Any]) -> list[str]:
    """Sentences from the report of `worldsim.evaluate.study.run_study`: achievements first, then what to change."""
    horizons = {int(steps): row for steps, row in report["horizons"].items()}
    first, last = horizons[min(horizons)], horizons[max(horizons)]
    good, bad = [], []
    _compare(
        good, bad, first["above_copy"], first["above_copy_ci"],
        f"{_steps(min(horizons))} ahead its frames are {{gain:.1f}} dB better than repeating the last one",
        f"{_steps(min(horizons))} ahead its frames are no better than repeating the last one ({{gain:+.1f}} dB): "
        + _why_not_better(first),
    )  # fmt: skip
    _compare(
        good, bad, last["above_shuffled"], last["above_shuffled_ci"],
        f"it obeys actions: {_steps(max(horizons))} ahead its own are {{gain:.1f}} dB better than others",
        f"it does not obey actions yet: {_steps(max(horizons))} ahead its own are {{gain:+.1f}} dB better than others; "
        "record more varied actions that do not follow from the frame, or train the dynamics longer",
    )  # fmt: skip
    if first["above_copy_ci"][0] > 0 and first["tokenizer_psnr"] - first["psnr"] > BEHIND:
        bad.append(
            f"the tokenizer alone has {first['tokenizer_psnr']:.1f} dB where the world has {first['psnr']:.1f} dB: "
            "more time for the dynamics makes it better"
        )
    _endings(good, bad, report["endings"])
    return [*(f"It can: {text}." for text in good), *(f"It cannot: {text}." for text in bad)]


def _compare(good: list[str], bad: list[str], gain: float, interval: list[float], better: str, not_better: str) -> None:
    """Good only where the whole interval is above 0."""
    if interval[0] > 0:
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


def _endings(good: list[str], bad: list[str], endings: Mapping[str, Any]) -> None:
    real, head = endings["real"], endings["teacher_forced"]
    if not real["hazard"]:
        bad.append("say when episodes end: no held-out episode does, but for its time limit")
    elif not head["recall_within_2"] >= FEW_ENDINGS:  # NaN where it met none
        bad.append(
            f"foresee endings: of those of real episodes it expects {_share(head['recall_within_2'])}; record more "
            "episodes that end"
        )
    else:
        good.append(f"it expects {head['recall_within_2']:.0%} of the endings of real episodes, within two steps")


def _share(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.0%}"


def _steps(count: int) -> str:
    return "one step" if count == 1 else f"{count} steps"
