"""The card of a world that a recipe made: nothing in it but what was measured and what the recipe says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from worldsim.io.text import table
from worldsim.train.recipe import Recipe


def write_card(
    recipe: Recipe,
    data: Sequence[Mapping[str, Any]],
    records: Mapping[str, Any],
    figures: str,
    sentences: Sequence[str],
    machine: str,
) -> str:
    """Markdown; `data` has a row for each store, `figures` are the text of its evaluation."""
    columns = ("for", "recording", "policy", "seed", "steps", "episodes")
    rows = [tuple(str(row[name]) for name in columns) for row in data]
    hours = {kind: sum(call["seconds"] for call in records[kind]["calls"]) / 3600 for kind in ("tokenizer", "dynamics")}
    steps = {kind: records[kind]["calls"][-1]["reached_step"] for kind in hours}
    trained = ", ".join(f"{kind} {hours[kind]:.2f} h ({steps[kind]:,} steps)" for kind in hours)
    day = datetime.now(UTC).date().isoformat()
    return "\n".join(
        [
            f"# {recipe.card.title or recipe.name}",
            "",
            recipe.card.text.strip() or f"A world of {data[0]['recording']}, made by `worldsim make`.",
            "",
            "## How it was made",
            "",
            "`worldsim make recipe.toml`, with the recipe beside this card.",
            "",
            table(columns, rows),
            "",
            f"Trained: {trained}, on {machine}.",
            "",
            "## What it can do and what not",
            "",
            *(f"- {text}" for text in sentences),
            "",
            "## Measured",
            "",
            f"On the held-out episodes, {day}, worldsim {version('worldsim')}; means over clips with 95 % intervals.",
            "",
            _as_blocks(figures),
            "",
        ]
    )


def write_report(name: str, figures: str, sentences: Sequence[str]) -> str:
    """Markdown beside the pictures of an evaluation: what the world can do, its figures, real frames above dreamed."""
    told = "\n".join(f"- {text}" for text in sentences)
    pictures = (
        ("horizons", "Six held-out clips: real frames above dreamed ones with the same actions, every fourth step."),
        ("drift", "Long dreams."),
        ("plots", "PSNR by step, drift, and how many episodes are not over yet."),
    )
    shown = "\n\n".join(f"{text}\n\n![{file}]({file}.png)" for file, text in pictures)
    return f"# {name}\n\n{told}\n\n{_as_blocks(figures)}\n\n{shown}\n"


def _as_blocks(text: str) -> str:
    """Tables as Markdown, other lines as they are aligned."""
    parts = []
    for part in text.split("\n\n"):
        parts.append(part if part.startswith("|") else f"```\n{part}\n```")
    return "\n\n".join(parts)
