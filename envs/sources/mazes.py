"""Procedural mazes: a grid of open and solid blocks from a number, its UDMF map for ZDoom, exact depth from any pose.

Block (i, j) covers x from i * BLOCK to (i + 1) * BLOCK and y likewise, in map units. A maze is a function of its number
alone: a depth-first maze with rooms and loops, in regions of one wall, floor and ceiling texture each, with single
walls of other textures as landmarks. Poses are x, y, z, yaw; yaw is counterclockwise from +x, in radians.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

BLOCK = 96.0  # map units
EYE, CEILING = 41.0, 128.0  # heights above the floor
FOCAL_ROWS = 0.8  # focal length over the height of a frame; over its width it is 0.5 (90 degrees)
LANDMARK = 0.12  # share of the walls that have a texture of their own
GOAL_THING = 2028  # a floor lamp: stands still and looks the same from all sides

# Textures of Freedoom that neither move nor repeat within a block; animated ones would need to be remembered in time.
WALLS = """ASHWALL2 ASHWALL4 BIGBRIK1 BIGBRIK2 BRICK1 BRICK2 BRICK4 BRICK5 BRICK6 BRICK7 BRICK8 BRICK10 BRICK11 BRICK12
BRONZE1 BRONZE2 BRONZE3 BROWN1 BROWN96 BROWNGRN BROWNHUG BSTONE1 BSTONE2 CEMENT7 CEMENT9 COMPBLUE CRACKLE2 GRAY1 GRAY5
GSTONE1 ICKWALL1 ICKWALL3 MARBLE1 MARBLE2 MARBLE3 METAL1 METAL2 MODWALL1 MODWALL3 PANEL4 PANEL6 PIPEWAL2 ROCK1 ROCK3
ROCKRED1 SHAWN2 SPACEW2 SPACEW4 STARG1 STARG3 STARGR1 STARTAN2 STARTAN3 STONE2 STONE3 STONE4 STONE6 STUCCO1 STUCCO3
TANROCK2 TANROCK5 TEKGREN2 TEKWALL1 TEKWALL4 WOOD1 WOOD5 WOOD9 WOODVERT ZIMMER2 ZIMMER5 ZIMMER7""".split()  # noqa: SIM905
LANDMARKS = """BIGDOOR2 BIGDOOR5 BIGDOOR6 COMPSTA1 COMPSTA2 COMPTALL MARBFAC2 MARBFAC3 MARBFACE GSTLION GSTSATYR GSTGARG
PANBOOK PANCASE1 SKINFACE SPCDOOR1 EXITDOOR SW1GARG SW1LION REDWALL CRATE1 CRATE2 CRATWIDE WOODGARG BRICKLIT MODWALL4
SILVER3 PIPE2 SW1COMP SW1STRTN ZZWOLF2 ZZWOLF6 PANEL1 TEKWALL6 BIGMURAL MURAL1""".split()  # noqa: SIM905
FLATS = """CEIL1_1 CEIL3_1 CEIL3_3 CEIL3_5 CEIL5_1 CEIL5_2 DEM1_1 DEM1_5 FLAT1 FLAT10 FLAT14 FLAT17 FLAT18
FLAT19 FLAT1_1 FLAT1_2 FLAT2 FLAT20 FLAT22 FLAT23 FLAT3 FLAT4 FLAT5 FLAT5_1 FLAT5_2 FLAT5_3 FLAT5_5
FLAT5_7 FLAT8 FLAT9 FLOOR0_1 FLOOR0_3 FLOOR0_5 FLOOR0_6 FLOOR1_1 FLOOR1_6 FLOOR3_3 FLOOR4_1 FLOOR4_6
FLOOR4_8 FLOOR5_1 FLOOR5_2 FLOOR5_4 FLOOR6_1 FLOOR7_1 FLOOR7_2 GRASS1 GRNROCK MFLR8_1 MFLR8_2
MFLR8_3 MFLR8_4 RROCK03 RROCK09 RROCK11 RROCK13 RROCK16 RROCK18 RROCK20 SLIME13 SLIME14 SLIME15""".split()  # noqa: SIM905
STEPS = ((1, 0), (0, 1), (-1, 0), (0, -1))

Cell = tuple[int, int]


@dataclass(frozen=True)
class Maze:
    """One maze."""

    number: int
    free: np.ndarray  # (S, S) bool, open blocks
    region: np.ndarray  # (S, S) int, of open blocks; -1 elsewhere
    looks: tuple[tuple[str, str, str, int], ...]  # of regions: wall, floor, ceiling, light
    start: Cell
    angle: int  # degrees, at the start
    goal: Cell  # far from the start
    textures: int = 0  # of a kind that there are at all; 0: all of them

    def center(self, cell: Cell) -> np.ndarray:
        """The middle of a block, (x, y) in map units."""
        return (np.array(cell) + 0.5) * BLOCK

    def path(self, start: Cell, end: Cell, rng: np.random.Generator, closed: Cell | None = None) -> list[Cell]:
        """A shortest way over open blocks, both ends included, drawn among equals; empty where there is none."""
        before: dict[Cell, Cell | None] = {start: None}
        queue = [start]
        for cell in queue:
            if cell == end:
                break
            for k in rng.permutation(4):
                there = (cell[0] + STEPS[k][0], cell[1] + STEPS[k][1])
                if self.free[there] and there not in before and there != closed:
                    before[there] = cell
                    queue.append(there)
        if end not in before:
            return []
        way: list[Cell] = [end]
        while (last := before[way[-1]]) is not None:
            way.append(last)
        return way[::-1]


def make_maze(number: int, rooms: int = 6, textures: int = 0) -> Maze:
    """The maze of that number, of (2 * rooms + 1) blocks a side; any number of `textures` gives the same ways."""
    rng = np.random.default_rng([17, number])
    size = 2 * rooms + 1
    free = _corridors(rng, rooms)
    for _ in range(int(rng.integers(2, 5))):  # rooms
        (w, h), (i, j) = rng.integers(2, 4, 2) * 2 - 1, rng.integers(0, rooms - 1, 2) * 2 + 1
        free[i : min(i + w, size - 1), j : min(j + h, size - 1)] = True
    for _ in range(int(rng.integers(rooms // 2, rooms + 2))):  # loops
        i, j = rng.integers(1, size - 1, 2)
        free[i, j] |= bool((i + j) % 2)
    count = int(rng.integers(4, 8))
    sites, places = rng.uniform(0, size, (count, 2)), np.moveaxis(np.mgrid[:size, :size], 0, -1)
    nearest = np.linalg.norm(places[:, :, None] - sites, axis=-1).argmin(-1)
    walls = rng.choice(WALLS, count, replace=False)
    looks = tuple(
        (
            _one_of(WALLS, str(wall), textures), _one_of(FLATS, str(rng.choice(FLATS)), textures),
            _one_of(FLATS, str(rng.choice(FLATS)), textures), int(rng.integers(160, 256)),
        )
        for wall in walls
    )  # fmt: skip
    cells = [(int(i), int(j)) for i, j in np.argwhere(free)]
    start = cells[int(rng.integers(len(cells)))]
    far = sorted(cells, key=lambda c: -abs(c[0] - start[0]) - abs(c[1] - start[1]))
    goal = far[int(rng.integers(max(len(far) // 4, 1)))]
    angle = int(rng.integers(8)) * 45
    return Maze(number, free, np.where(free, nearest, -1), looks, start, angle, goal, textures)


def _one_of(names: list[str], name: str, count: int) -> str:
    """The name, or of `count` of the names, spread over all, the one in its place."""
    if not count:
        return name
    some = names[:: len(names) // count][:count]
    return some[names.index(name) % count]


def _corridors(rng: np.random.Generator, rooms: int) -> np.ndarray:
    """A depth-first maze: blocks (odd, odd) are open, and one way leads from each to each."""
    free = np.zeros((2 * rooms + 1, 2 * rooms + 1), bool)
    free[1::2, 1::2] = True
    first = (int(rng.integers(rooms)), int(rng.integers(rooms)))
    seen, stack = {first}, [first]
    while stack:
        i, j = stack[-1]
        ways = [(a, b) for a, b in STEPS if 0 <= i + a < rooms and 0 <= j + b < rooms and (i + a, j + b) not in seen]
        if not ways:
            stack.pop()
            continue
        a, b = ways[int(rng.integers(len(ways)))]
        free[2 * i + 1 + a, 2 * j + 1 + b] = True
        seen.add((i + a, j + b))
        stack.append((i + a, j + b))
    return free


def textmap(maze: Maze) -> str:
    """The map in UDMF text; ZDoom builds its nodes when it loads it."""
    rng = np.random.default_rng([18, maze.number])  # for landmarks
    vertices: dict[Cell, int] = {}
    sides: list[str] = []
    lines: list[str] = []

    def vertex(at: Cell) -> int:
        return vertices.setdefault(at, len(vertices))

    def side(sector: int, texture: str = "-", offset: int = 0) -> int:
        sides.append(f'sidedef {{ sector = {sector}; texturemiddle = "{texture}"; offsetx = {offset}; }}')
        return len(sides) - 1

    for i, j in np.argwhere(maze.free):
        here = int(maze.region[i, j])
        # The front of a line is on the right of the way from its first vertex to its second: clockwise round a block.
        corners = ((i, j), (i, j + 1), (i + 1, j + 1), (i + 1, j))
        for k, (di, dj) in enumerate(((-1, 0), (0, 1), (1, 0), (0, -1))):
            a, b = corners[k], corners[(k + 1) % 4]
            other = int(maze.region[i + di, j + dj])
            ends = f"v1 = {vertex(a)}; v2 = {vertex(b)}"
            if other < 0:
                along = (b[0] - a[0]) * a[0] + (b[1] - a[1]) * a[1]
                texture, offset = maze.looks[here][0], int(along * BLOCK) % 256
                if rng.random() < LANDMARK:
                    texture, offset = _one_of(LANDMARKS, str(rng.choice(LANDMARKS)), maze.textures), 0
                lines.append(f"linedef {{ {ends}; sidefront = {side(here, texture, offset)}; blocking = true; }}")
            elif other > here:
                front, back = side(here), side(other)
                lines.append(f"linedef {{ {ends}; sidefront = {front}; sideback = {back}; twosided = true; }}")
    points = [f"vertex {{ x = {i * BLOCK}; y = {j * BLOCK}; }}" for i, j in vertices]
    sectors = [
        f'sector {{ heightfloor = 0; heightceiling = {int(CEILING)}; texturefloor = "{floor}"; '
        f'textureceiling = "{ceiling}"; lightlevel = {light}; }}'
        for _, floor, ceiling, light in maze.looks
    ]
    things = [_thing(maze, maze.start, 1, maze.angle), _thing(maze, maze.goal, GOAL_THING, 0)]
    return "\n".join(['namespace = "zdoom";', *points, *sides, *lines, *sectors, *things]) + "\n"


def _thing(maze: Maze, cell: Cell, kind: int, angle: int) -> str:
    x, y = maze.center(cell)
    skills = " ".join(f"skill{k} = true;" for k in range(1, 6))
    return f"thing {{ x = {x}; y = {y}; angle = {angle}; type = {kind}; {skills} single = true; coop = true; }}"


def wad(text: str, room: int) -> bytes:
    """A WAD with the map MAP01, its text padded with spaces to `room` bytes, so that another can take its place."""
    body = text.encode().ljust(room)
    lumps = (("MAP01", b""), ("TEXTMAP", body), ("ENDMAP", b""))
    place, entries = 12, b""
    for name, data in lumps:
        entries += struct.pack("<ii8s", place, len(data), name.encode())
        place += len(data)
    return struct.pack("<4sii", b"PWAD", len(lumps), place) + body + entries


def exact_depth(maze: Maze, pose: np.ndarray, height: int, width: int) -> np.ndarray:
    """Depth along the viewing axis of every pixel's centre, (height, width) float32 in map units.

    Rays go from block to block (Amanatides and Woo, 1987); floor and ceiling cut what they reach first.
    """
    x, y, z, yaw = (float(value) for value in pose)
    across = ((np.arange(width) + 0.5) / width - 0.5) / 0.5  # tangent to the right
    ray = np.stack([np.cos(yaw) + across * np.sin(yaw), np.sin(yaw) - across * np.cos(yaw)])  # of forward length 1
    ray = np.where(np.abs(ray) < 1e-9, 1e-9, ray)
    sign = np.sign(ray).astype(int)
    cell = np.floor(np.array([x, y])[:, None] / BLOCK).astype(int) + np.zeros_like(sign)
    reach = ((cell + (sign > 0)) * BLOCK - np.array([x, y])[:, None]) / ray
    step, wall, live = BLOCK / np.abs(ray), np.zeros(width), np.ones(width, bool)
    while live.any():
        first = reach[0] < reach[1]
        wall = np.where(live, np.where(first, reach[0], reach[1]), wall)
        move = np.stack([live & first, live & ~first])
        cell, reach = cell + sign * move, reach + step * move
        live &= maze.free[tuple(cell.clip(0, len(maze.free) - 1))]
    down = ((np.arange(height) + 0.5) / height - 0.5) / FOCAL_ROWS
    flat = np.where(down > 0, z, CEILING - z) / np.abs(down)
    return np.minimum(wall[None], flat[:, None]).astype(np.float32)
