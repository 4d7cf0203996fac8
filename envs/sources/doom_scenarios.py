"""The Doom scenarios that are recorded: what is shown, what can be pressed, and the spec that follows."""

from __future__ import annotations

from dataclasses import dataclass

from worldsim.envs.sources.base import Arena, SourceSpec
from worldsim.envs.sources.registry import Package, register_source
from worldsim.spec import ActionSpec, StreamSpec

TICS_PER_SECOND = 35
SCREEN_WIDTH = 320  # of the screen that ViZDoom draws
SAMPLES_PER_TIC = 630  # of sound, at 22,050 Hz
MAX_FIREBALLS = 16
TIC_LIMIT = 2100  # of an episode
POSE = ("POSITION_X", "POSITION_Y", "POSITION_Z", "ANGLE")


@dataclass(frozen=True)
class Scenario:
    """How one ViZDoom scenario is shown and played."""

    buttons: tuple[str, ...]
    actions: ActionSpec
    presses: tuple[tuple[int, ...], ...]  # for each action, which buttons are down
    rows: tuple[int, int]  # band of the 320x240 screen that is kept
    size: tuple[int, int]  # height and width after area averaging
    variables: tuple[str, ...]
    arena: Arena  # in map units, counted from the map
    mirrored: tuple[tuple[str, str], ...]  # actions that change places in a mirror


SCENARIOS = {
    # The floor and the ceiling of the arena say nothing; the band in the middle is where things happen.
    "take_cover": Scenario(
        buttons=("MOVE_LEFT", "MOVE_RIGHT"),
        actions=ActionSpec(n=3, meanings=("NOOP", "LEFT", "RIGHT"), keys=((), ("left",), ("right",))),
        presses=((0, 0), (1, 0), (0, 1)),
        rows=(60, 180),
        size=(64, 128),
        variables=("HEALTH", "POSITION_Y"),
        arena=Arena({"POSITION_Y": (0.0, 768.0)}, cell=32.0, floor_cells=24),
        mirrored=(("LEFT", "RIGHT"),),
    ),
    # One stands still, turns and shoots: a shot follows its key at once.
    "defend_the_center": Scenario(
        buttons=("TURN_LEFT", "TURN_RIGHT", "ATTACK"),
        actions=ActionSpec(
            n=4, meanings=("NOOP", "TURN_LEFT", "TURN_RIGHT", "ATTACK"), keys=((), ("left",), ("right",), ("space",))
        ),
        presses=((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)),
        rows=(80, 240),  # without the ceiling: all that moves is below, and frames are as large as those of take cover
        size=(64, 128),
        variables=("HEALTH", "AMMO2", "ANGLE"),
        arena=Arena({"ANGLE": (0.0, 360.0)}, cell=15.0, floor_cells=24),
        mirrored=(("TURN_LEFT", "TURN_RIGHT"),),
    ),
    "my_way_home": Scenario(
        buttons=("TURN_LEFT", "TURN_RIGHT", "MOVE_FORWARD", "MOVE_LEFT", "MOVE_RIGHT"),
        actions=ActionSpec(
            n=8,
            meanings=(
                "NOOP", "FORWARD", "TURN_LEFT", "TURN_RIGHT",
                "FORWARD_LEFT", "FORWARD_RIGHT", "STRAFE_LEFT", "STRAFE_RIGHT",
            ),
            keys=((), ("up",), ("left",), ("right",), ("up", "left"), ("up", "right"), ("a",), ("d",)),
        ),
        presses=(
            (0, 0, 0, 0, 0), (0, 0, 1, 0, 0), (1, 0, 0, 0, 0), (0, 1, 0, 0, 0),
            (1, 0, 1, 0, 0), (0, 1, 1, 0, 0), (0, 0, 0, 1, 0), (0, 0, 0, 0, 1),
        ),
        rows=(0, 240),
        size=(96, 128),
        variables=("POSITION_X", "POSITION_Y"),
        arena=Arena({"POSITION_X": (160.0, 1120.0), "POSITION_Y": (-704.0, 128.0)}, cell=32.0,
        floor_cells=275),
        mirrored=tuple((f"{move}_LEFT", f"{move}_RIGHT") for move in ("TURN", "FORWARD", "STRAFE")),
    ),
}  # fmt: skip


def source_spec(scenario: str, frame_skip: int, **streams: bool) -> SourceSpec:
    """The spec of a Doom source; `streams` turns on between, depth, pose, sound and labels."""
    shown = SCENARIOS[scenario]
    height, width = shown.size
    extras = {"variables": StreamSpec("vector", (len(shown.variables),), "float32", names=tuple(shown.variables))}
    if streams["between"]:
        extras["between"] = StreamSpec("image", (frame_skip - 1, height, width, 3), "uint8", per_step=frame_skip - 1)
    if streams["depth"]:
        extras["depth"] = StreamSpec("depth", (height, width), "float32")
    if streams["pose"]:
        extras["pose"] = StreamSpec("vector", (4,), "float32", names=("x", "y", "z", "yaw"))
    if streams["sound"]:
        extras["audio"] = StreamSpec(
            "audio", (SAMPLES_PER_TIC * frame_skip, 2), "int16", per_step=SAMPLES_PER_TIC * frame_skip
        )
    if streams["labels"]:
        extras["fireball_boxes"] = StreamSpec("vector", (MAX_FIREBALLS, 4), "float32")
    band = shown.rows[1] - shown.rows[0]
    return SourceSpec(
        name="doom-" + scenario.replace("_", "-"),
        height=height,
        width=width,
        actions=shown.actions,
        fps=TICS_PER_SECOND / frame_skip,
        frame_skip=frame_skip,
        max_episode_steps=TIC_LIMIT // frame_skip,
        # A pixel of the 320x240 screen is taken as square, as ViZDoom's windows show it.
        pixel_aspect=(SCREEN_WIDTH / width) / (band / height),
        hfov_degrees=90.0,
        variable_names=shown.variables,
        arena=shown.arena,
        augmentations={"mirror": {"actions": [list(pair) for pair in shown.mirrored]}},
        extras=extras,
        parameters={
            "scenario": scenario,
            "frame_skip": frame_skip,
            "screen_rows": list(shown.rows),
            **streams,
        },
    )


def _register() -> None:
    """Make the scenarios known, with data policies that cover what can happen in them."""
    take_cover, wandering = "worldsim.envs.sources.doom_take_cover", "worldsim.envs.sources.wandering"
    make = "worldsim.envs.sources.doom:DoomSource"
    package = Package("vizdoom", 'pip install "worldsim[doom]"', "vizdoom")
    register_source(
        "doom-take-cover", make, package=package, options={"scenario": "take_cover"},
        policies={"sweep": f"{take_cover}:Sweep", "dodge": f"{take_cover}:Dodge"},
        mix=("random", "persistent", "sweep", "dodge", "dodge"),
    )  # fmt: skip
    register_source(
        "doom-my-way-home", make, package=package, options={"scenario": "my_way_home"},
        policies={name.lower(): f"{wandering}:{name}" for name in ("Wander", "Spin", "Return")},
        mix=("persistent", "wander", "wander", "spin", "return"),
    )  # fmt: skip
    register_source(
        "doom-defend-the-center", make, package=package, options={"scenario": "defend_the_center"}, policies={},
        mix=("random", "persistent"),
    )  # fmt: skip


_register()
