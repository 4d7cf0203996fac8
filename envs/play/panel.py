"""The side panel (how fast, how late, how far) and the bar under the frame (keys, messages)."""

from __future__ import annotations

from dataclasses import dataclass

import pygame

from worldsim.envs.play.layout import Layout
from worldsim.envs.play.plan import draw_plan
from worldsim.envs.play.status import Status
from worldsim.envs.play.theme import (
    ACCENT,
    BAD,
    BODY,
    DIM,
    GOOD,
    GROUND,
    HERO,
    LINE,
    RAISED,
    SMALL,
    SURFACE,
    TEXT,
    TITLE,
    Colour,
    Theme,
)
from worldsim.memory.base import FromAbove
from worldsim.spec import WorldSpec

MESSAGE_SECONDS = 6.0


@dataclass(frozen=True)
class Measured:
    """What the window itself measures."""

    frames_per_second: float | None = None  # distinct frames that reached the screen
    latency_p50: float | None = None  # from a key press to the first frame it made, in milliseconds
    latency_p95: float | None = None


@dataclass(frozen=True)
class Section:
    """One block of the panel: a title, perhaps a large number with a meter, and rows of label and value."""

    title: str
    rows: list[tuple[str, str]]
    hero: tuple[str, str] | None = None  # a number and its unit
    meter: float | None = None  # 0 to 1, drawn under the large number


def sections(spec: WorldSpec, status: Status, measured: Measured) -> list[Section]:
    """The content of the panel, top to bottom."""
    wanted = spec.steps_per_second * spec.frames_per_step * status.speed
    speed_rows = [
        ("real time", f"{wanted:.3g} frames/s"),
        (
            "model",
            "-" if status.step_ms is None else f"{status.step_ms:.1f} of {_period(spec, status):.1f} ms",
        ),
        ("key to frame", _latency(measured)),
    ]
    if status.hit_rate is not None:
        speed_rows.insert(2, ("guessed in time", f"{status.hit_rate:.0%} of steps"))
    episode_rows = [
        ("seed", str(status.seed)),
        ("step", f"{status.steps}  ({status.steps / spec.steps_per_second:.1f} s)"),
        ("reward", f"{status.reward:.4g}"),
        ("game speed", f"{status.speed:g}x"),
    ]
    if status.ending_chance is not None:
        episode_rows.insert(3, ("chance of ending", f"{status.ending_chance:.1%}"))
    if status.volume is not None:  # here, as a panel at the bottom has no room for it under the large number
        loud = "off" if status.volume == 0 else f"{status.volume:.0%}"
        episode_rows.append(("sound", f"{loud}, {status.underruns} gap{'s' * (status.underruns != 1)}"))
    if status.memory is not None:
        kept = "" if status.plan is None else f", {len(status.plan.views)} views"
        episode_rows.append(("memory", ("on" if status.memory else "off") + kept))
    return [
        Section("speed", speed_rows, *_hero(status, measured.frames_per_second, wanted)),
        Section("episode", episode_rows),
    ]


def _hero(status: Status, achieved: float | None, wanted: float) -> tuple[tuple[str, str], float | None]:
    """The large number, its unit and its share of what real time wants; a word while nothing moves."""
    if status.phase != "playing":
        return (status.phase, ""), None
    if achieved is None:
        return ("…", "frames/s"), None
    return (f"{achieved:.1f}", "frames/s"), min(1.0, achieved / wanted)


def _period(spec: WorldSpec, status: Status) -> float:
    return 1000 / (spec.steps_per_second * status.speed)


def _latency(measured: Measured) -> str:
    if measured.latency_p50 is None or measured.latency_p95 is None:
        return "-"
    return f"{measured.latency_p50:.0f} ms, p95 {measured.latency_p95:.0f}"


def draw_panel(
    target: pygame.Surface, layout: Layout, spec: WorldSpec, blocks: list[Section], plan: FromAbove | None = None
) -> None:
    """Draw the panel into its box: the world's name, its sections in their order, a plan where there is room."""
    assert layout.panel is not None
    theme, box, pad = Theme(layout.unit), layout.panel, Theme(layout.unit).px(18)
    target.fill(SURFACE, box)
    if layout.panel_across:
        pygame.draw.line(target, LINE, box.topleft, box.topright)
        cell = pygame.Rect(layout.bar.left, box.top + pad, theme.px(216), box.height - 2 * pad)
    else:
        pygame.draw.line(target, LINE, box.topleft, box.bottomleft)
        cell = box.inflate(-2 * pad, -2 * pad)
    used = _draw_title(target, theme, cell, spec)
    for block in blocks:
        cell = cell.move((cell.width + theme.px(36), 0) if layout.panel_across else (0, used + theme.px(22)))
        used = _draw_section(target, theme, cell, block)
    if plan is not None:
        below = cell.top + used + theme.px(10)
        room = pygame.Rect(cell.left, below, cell.width, box.bottom - pad - below)
        if layout.panel_across:  # beside the last section, in a window that is wide enough
            room = pygame.Rect(cell.right + theme.px(36), box.top + pad, cell.width, box.height - 2 * pad)
            room = room.clip(box.inflate(-2 * pad, 0))
        if min(room.size) > theme.px(60):
            draw_plan(target, theme, room, plan)


def _draw_title(target: pygame.Surface, theme: Theme, cell: pygame.Rect, spec: WorldSpec) -> int:
    """The name of the world; returns the height used."""
    theme.text(target, spec.name, cell.topleft, TITLE, TEXT, "topleft")
    line = (cell.left, cell.top + theme.px(30))
    theme.text(target, f"a learned world, {spec.width} x {spec.height} pixels", line, SMALL, DIM, "topleft")
    at = (cell.left, cell.top + theme.px(62))
    after = theme.cap(target, "f1", at)
    theme.text(target, "all keys", (after.right + theme.px(8), at[1]), SMALL, DIM)
    return theme.px(76)


def _draw_section(target: pygame.Surface, theme: Theme, cell: pygame.Rect, section: Section) -> int:
    """One section from the top of a cell; returns the height used."""
    y = cell.top
    theme.text(target, section.title.upper(), (cell.left, y), SMALL, DIM, "topleft")
    y += theme.px(24)
    if section.hero is not None:
        number, unit = section.hero
        box = theme.text(target, number, (cell.left, y - theme.px(6)), HERO, TEXT, "topleft")
        theme.text(target, unit, (box.right + theme.px(8), box.bottom - theme.px(9)), SMALL, DIM, "bottomleft")
        y += theme.px(56)
    if section.meter is not None:
        bar = pygame.Rect(cell.left, y - theme.px(14), cell.width, theme.px(4))
        pygame.draw.rect(target, RAISED, bar, border_radius=theme.px(2))
        colour = GOOD if section.meter > 0.97 else ACCENT
        pygame.draw.rect(target, colour, (*bar.topleft, round(bar.width * section.meter), bar.height), border_radius=2)
    for label, value in section.rows:
        theme.text(target, label, (cell.left, y), BODY, DIM, "topleft")
        theme.text(target, value, (cell.right, y), BODY, TEXT, "topright")
        y += theme.px(22)
    return y - cell.top


def draw_bar(
    target: pygame.Surface,
    layout: Layout,
    status: Status,
    message: tuple[str, Colour],
    keys: tuple[str, ...],
    lit: frozenset[str],
) -> None:
    """Draw the bar: the action keys, lit while they are down; a message; at the right, what is special."""
    theme, box = Theme(layout.unit), layout.bar
    target.fill(GROUND, box)
    x, y = box.left, box.centery
    for key in keys:
        x = theme.cap(target, key, (x, y), lit=key in lit).right + theme.px(6)
    right = box.right
    for label, colour in _chips(status):
        right = theme.chip(target, label, (right, y), colour).left - theme.px(8)
    x += theme.px(10)
    text, colour = message
    lines = theme.wrap(text, BODY, max(1, right - x))[:2]
    for i, line in enumerate(lines):
        offset = theme.px(18) * i - theme.px(9) * (len(lines) - 1)
        theme.text(target, line, (x, y + offset), BODY, colour)


def _chips(status: Status) -> list[tuple[str, Colour]]:
    chips = []
    if status.recording is not None:
        chips.append(("REC", BAD))
    if status.phase == "paused":
        chips.append(("PAUSED", ACCENT))
    if status.speed != 1.0:
        chips.append((f"{status.speed:g}x", DIM))
    return chips


def bar_message(spec: WorldSpec, status: Status, now: float) -> tuple[str, Colour]:
    """What the bar says now, and its colour: the end of the episode goes before the last message."""
    if status.ending:
        seconds = status.steps / spec.steps_per_second
        text = f"{status.ending} after {status.steps} steps ({seconds:.1f} s)"
        return f"{text} — R or Enter for a new one", ACCENT
    if now - status.message_at < MESSAGE_SECONDS:
        return status.message, TEXT
    return "", DIM
