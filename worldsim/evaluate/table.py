"""A study's report as text and as JSON."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from worldsim.files import write_atomically


def format_report(report: dict[str, Any]) -> str:
    """The figures that matter, in lines of at most 110 characters."""
    tokenizer = report["tokenizer"]
    lines = [
        f"tokenizer  {tokenizer['psnr']:.2f} dB {_ci(tokenizer['psnr_ci'], 2)}, "
        f"moving pixels {tokenizer['moving_psnr']:.2f} dB",
        "",
        "steps  tics   dream dB        ssim   copy dB  shuffled  tokenizer  over copy       over shuffled",
    ]
    for steps, row in report["horizons"].items():
        lines.append(
            f"{steps:>5s} {row['tics']:5d}   {row['psnr']:.2f} {_ci(row['psnr_ci'], 1):14s} {row['ssim']:.3f}"
            f"   {row['copy_psnr']:.2f}    {row['shuffled_psnr']:.2f}     {row['tokenizer_psnr']:.2f}"
            f"    {row['above_copy']:+.2f} {_ci(row['above_copy_ci'], 1):13s}"
            f" {row['above_shuffled']:+.2f} {_ci(row['above_shuffled_ci'], 1)}"
        )
    if report["horizons_left_out"]:
        lines.append(f"       no episode is long enough for {', '.join(map(str, report['horizons_left_out']))} steps")
    lines += ["", "steps  clip by clip, the median: over copy       over shuffled"]
    for steps, row in report["horizons"].items():
        over_copy, over_shuffled = (
            f"{row[f'median_above_{rival}']:+.2f} {_ci(row[f'median_above_{rival}_ci'], 1)}"
            for rival in ("copy", "shuffled")
        )
        lines.append(f"{steps:>5s} {over_copy:>35s} {over_shuffled:>19s}")
    lines += ["", *_drift(report["drift"]), "", *_endings(report["endings"])]
    if "fireballs" in report:
        lines += ["", *_fireballs(report["fireballs"]), "", *_growth(report["growth"])]
    if "actions" in report:
        row = report["actions"]
        lines += [
            "",
            f"actions    told from real pictures {_share(row, 'real')}, from dreams {_share(row, 'dream')};",
            f"           {row['most_frequent_action']:.3f} by always saying the most frequent one",
        ]
    return "\n".join(lines)


def _drift(drift: dict[str, Any]) -> list[str]:
    parts = [
        f"{label} {drift[f'{name}_ratio']:.2f} {_ci(drift[f'{name}_ratio_ci'], 2)}"
        for name, label in (
            ("sharpness", "sharpness"), ("laplacian_variance", "Laplacian"), ("feature_distance", "distance"),
        )
    ]  # fmt: skip
    window, real = drift["window"], drift["real"]
    first, last = (drift["windows"][k]["feature_distance"] for k in (0, -1))
    return [
        f"drift      {drift['steps']} steps, last {window} over first {window}: {', '.join(parts)}",
        f"           last over real: sharpness {drift['sharpness_over_real']:.2f}, "
        f"Laplacian {drift['laplacian_variance_over_real']:.2f}",
        f"           frozen steps {drift['frozen_share']:.1%} (real {real['frozen_share']:.1%}), "
        f"distance {first:.1f}, then {last:.1f}; {real['feature_distance']:.1f} between real frames",
    ]


def _endings(endings: dict[str, Any]) -> list[str]:
    real, dream, head = endings["real"], endings["dream"], endings["teacher_forced"]
    return [
        f"endings    hazard a step, policy {endings['policy']} ({endings['actions']} actions): real "
        f"{real['hazard']:.5f}, dream {dream['hazard']:.5f}",
        f"           ratio {endings['ratio']:.2f} {_ci(endings['ratio_ci'], 2)}, at the same age "
        f"{endings['same_age_ratio']:.2f} {_ci(endings['same_age_ratio_ci'], 2)}",
        f"           head on real frames: precision {head['precision']:.2f}, recall {head['recall']:.2f}; "
        f"within 2 steps {head['precision_within_2']:.2f}, {head['recall_within_2']:.2f}",
        f"           calibration error {head['calibration_error']:.4f}, "
        f"expected over observed endings {head['expected_over_observed']:.2f}",
    ]


def _fireballs(balls: dict[str, Any]) -> list[str]:
    ratios, tokenizer = balls["ratios"], balls["tokenizer_ratios"]
    lines = ["fireballs                     real   dream   ratio                  (tokenizer alone)"]
    for name in balls["real"]:
        lines.append(
            f"  {name:26s}{balls['real'][name]:7.2f} {balls['dream'][name]:7.2f}   {ratios[name]:.2f} "
            f"{_ci(ratios[f'{name}_ci'], 2):18s} {tokenizer[name]:.2f}"
        )
    if "detector" in balls:
        found = balls["detector"]
        lines.append(
            f"  the detector on real pictures: precision {found['precision']:.3f} of {found['blobs']} blobs, "
            f"recall {found['recall']:.3f} of {found['boxes']} boxes"
        )
    return lines


def _growth(growth: dict[str, Any]) -> list[str]:
    lines = [f"whole games, policy {growth['policy']} ({growth['actions']} actions): fireballs in sight"]
    lines.append("  steps since the beginning   real   dream   ratio")
    for row in growth["in_sight"]:
        span = f"{row['from']} to {row['to']}"
        lines.append(
            f"  {span:26s}{row['real']:6.2f} {row['dream']:7.2f}   {row['ratio']:.2f} {_ci(row['ratio_ci'], 2)}"
        )
    return lines


def _share(row: dict[str, Any], side: str) -> str:
    return f"{row[f'{side}_accuracy']:.3f} {_ci(row[f'{side}_accuracy_ci'], 3)}"


def _ci(interval: list[float], digits: int) -> str:
    low, high = interval
    return f"[{low:.{digits}f}, {high:.{digits}f}]"


def save_json(path: Path, values: dict[str, Any]) -> None:
    """Write a report, whole or not at all; numbers that are not finite become null. Raises InvalidInput."""
    write_atomically(path, (json.dumps(_plain(values), indent=2) + "\n").encode())


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
