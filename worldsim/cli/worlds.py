"""`worldsim worlds`: the worlds that ship, and the card of each."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from worldsim.cli.output import say
from worldsim.config import WorldConfig
from worldsim.io.files import write_json
from worldsim.io.folders import CONFIG, find_world, shipped_worlds
from worldsim.io.weights import read_card
from worldsim.registration import WORLDS

NONE_SHIP = "no world ships with this installation; make one with `worldsim record` and `worldsim train`"


def worlds(
    name: Annotated[str | None, tyro.conf.Positional] = None,
    /,
    json: Path | None = None,
) -> None:
    """List the worlds that ship, or print the card of one.

    Args:
        name: a shipped world, a local folder, or a hub id; prints its card.
        json: also write what is printed to this file.
    """
    if name is not None:
        values = describe(name)
        say(values["card"].strip() or f"{values['name']} has no card")
        listed: dict[str, Any] = values
    else:
        found = [describe(one) for one in shipped_worlds()]
        say("\n".join(_line(values) for values in found) or NONE_SHIP)
        listed = {"worlds": [{key: v for key, v in values.items() if key != "card"} for values in found]}
    if json is not None:
        write_json(json, listed)


def describe(name: str) -> dict[str, Any]:
    """What a world's folder says about it; reads no weights. Raises UnknownWorld and DamagedWorld."""
    folder = find_world(name)
    config = WorldConfig.read(folder / CONFIG)
    card = read_card(folder)
    actions, frames = config.actions, 1 + config.dynamics.between
    return {
        "name": config.name,
        "id": next((id for id, world in WORLDS.items() if world == config.name), None),
        "megabytes": round(sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e6, 1),
        "height": config.tokenizer.height,
        "width": config.tokenizer.width,
        "steps_per_second": config.source.fps,
        "frames_per_second": config.source.fps * frames,
        "actions": list(actions.meanings) or actions.n or list(zip(actions.low, actions.high, strict=True)),
        "source": config.source.name,
        "summary": first_sentence(card),
        "card": card,
        "folder": str(folder),
    }


def first_sentence(card: str) -> str:
    """The first line of a card that is neither empty nor a title, an image, a comment or a table."""
    for line in card.splitlines():
        text = line.strip()
        if text and not text.startswith(("#", "!", "<", "|", "---")):
            return text
    return ""


def _line(values: dict[str, Any]) -> str:
    actions = values["actions"]
    if isinstance(actions, int):
        named = f"0 to {actions - 1}"
    else:
        named = ", ".join(one if isinstance(one, str) else f"{one[0]:g} to {one[1]:g}" for one in actions)
    rows = [
        f"{values['name']}  {values['megabytes']} MB",
        f"    frames {values['width']}x{values['height']}, {values['frames_per_second']:g} a second in "
        f"{values['steps_per_second']:g} steps; actions: {named}",
    ]
    if values["id"]:
        rows.append(f'    gym.make("worldsim:{values["id"]}")')
    if values["summary"]:
        rows.append(f"    {values['summary']}")
    return "\n".join(rows)
