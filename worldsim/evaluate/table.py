"""A study's report as text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from worldsim.io.text import interval_text, table

SIDES = ("real", "dream")


def format_report(report: dict[str, Any], of_probes: Iterable[str] = ()) -> str:
    """The figures that matter, and the sections of a world's own probes."""
    tokenizer = report["tokenizer"]
    lines = [
        f"tokenizer  {tokenizer['psnr']:.2f} dB {interval_text(tokenizer['psnr_ci'], 2)}, "
        f"moving pixels {tokenizer['moving_psnr']:.2f} dB",
        "",
        *_horizons(report["horizons"]),
    ]
    if report["horizons_left_out"]:
        lines.append(f"no episode is long enough for {', '.join(map(str, report['horizons_left_out']))} steps")
    lines += ["", *_drift(report["drift"]), "", *_endings(report["endings"]), "", *_rewards(report["rewards"])]
    lines += ["", *_actions(report["actions"])]
    for text in of_probes:
        lines += ["", text]
    return "\n".join(lines)


def _horizons(horizons: dict[str, dict[str, Any]]) -> list[str]:
    """Two tables: PSNR of means over clips, and how much a dream gains on its rivals clip by clip."""
    rivals = ("copy", "shuffled")
    plain = [
        (
            steps, f"{row['seconds']:.2f}", f"{row['psnr']:.2f} {interval_text(row['psnr_ci'], 1)}",
            f"{row['ssim']:.3f}", *(f"{row[f'{rival}_psnr']:.2f}" for rival in (*rivals, "tokenizer")),
        )
        for steps, row in horizons.items()
    ]  # fmt: skip
    gains = [
        (
            steps,
            *(
                f"{row[figure]:+.2f} {interval_text(row[f'{figure}_ci'], 1)}"
                for figure in (f"{kind}above_{rival}" for kind in ("", "median_") for rival in rivals)
            ),
        )
        for steps, row in horizons.items()
    ]
    titles = ("steps", *(f"{over} over {rival}" for over in ("dB", "median dB") for rival in rivals))
    return [
        table(("steps", "seconds", "PSNR, dB", "SSIM", "copy, dB", "shuffled actions, dB", "tokenizer, dB"), plain),
        "",
        table(titles, gains),
    ]


def _drift(drift: dict[str, Any]) -> list[str]:
    parts = [
        f"{label} {drift[f'{name}_ratio']:.2f} {interval_text(drift[f'{name}_ratio_ci'], 2)}"
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
        f"           ratio {endings['ratio']:.2f} {interval_text(endings['ratio_ci'], 2)}, at the same age "
        f"{endings['same_age_ratio']:.2f} {interval_text(endings['same_age_ratio_ci'], 2)}",
        f"           head on real frames: precision {head['precision']:.2f}, recall {head['recall']:.2f}; "
        f"within 2 steps {head['precision_within_2']:.2f}, {head['recall_within_2']:.2f}",
        f"           calibration error {head['calibration_error']:.4f}, "
        f"expected over observed endings {head['expected_over_observed']:.2f}",
    ]


def _rewards(rewards: dict[str, Any]) -> list[str]:
    """Of single steps and of sums: how they go together with the real ones, and by how much they are too large."""

    def figures(row: dict[str, Any]) -> str:
        return (
            f"correlation {row['correlation']:.2f} {interval_text(row['correlation_ci'], 2)}, "
            f"bias {row['bias']:+.4g} {interval_text(row['bias_ci'], 4)}"
        )

    return [
        f"rewards    head on real frames: {figures(rewards['teacher_forced'])}",
        f"           summed over {rewards['steps']} steps of dreams: {figures(rewards['dream'])}",
        f"           real rewards: mean {rewards['real_mean']:.4g} a step, deviation {rewards['real_deviation']:.4g}",
    ]


def _actions(row: dict[str, Any]) -> list[str]:
    measure = "accuracy" if "real_accuracy" in row else "correlation"
    sides = [f"{row[f'{side}_{measure}']:.3f} {interval_text(row[f'{side}_{measure}_ci'], 3)}" for side in SIDES]
    if measure == "accuracy":
        last = f"{row['most_frequent_action']:.3f} by always saying the most frequent one"
    else:
        pairs = zip(*(row[f"{side}_correlations"] for side in SIDES), strict=True)
        last = "correlation with those played; by dimension " + ", ".join(f"{a:.2f} and {b:.2f}" for a, b in pairs)
    return [f"actions    told from real frames {sides[0]}, from dreams {sides[1]};", f"           {last}"]
