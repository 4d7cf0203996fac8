"""Gymnasium's *CarRacing* as a source: its own 96x96 observation, and where the car is on the track as a stream.

The stream `car` is what the simulator knows and a driver would like to: data policies steer by it, and evaluation may
compare with it. A world need not be trained on it.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar, Literal

import numpy as np

from worldsim.envs.sources.base import SourceSpec, TimeStep
from worldsim.envs.sources.gym_source import GymSource
from worldsim.envs.sources.registry import Package, register_source
from worldsim.errors import InvalidInput
from worldsim.spec import StreamSpec

Action = int | np.ndarray

ENV_ID = "CarRacing-v3"
AHEAD = 6  # tiles of the track from the car to the point that it should head for
NEAR = 12  # tiles around the last place where the car is looked for: a track may pass close to itself
LOST = 30.0  # m from the track at which the nearest tile of all is taken
KEYS = (("left", "right"), ("", "up"), ("", "down"))  # that move a dimension to its low and to its high end
CAR = StreamSpec(
    "vector",
    (6,),
    "float32",
    names=("speed", "slip", "yaw_rate", "wheel_angle", "heading_error", "offset"),
    unit="m/s, m/s, rad/s, rad, rad, m; to the right is positive",
)


class CarRacing(GymSource):
    """`CarRacing-v3`; 25 steps a second by default, continuous actions: steering (-1 left to 1 right), gas, brake.

    Raises MissingDependency without the package box2d.
    """

    def __init__(
        self,
        *,
        height: int = 64,
        width: int = 64,
        frames: Literal["observation", "render"] | None = None,
        frame_skip: int = 2,
        between: bool = False,
    ) -> None:
        super().__init__(ENV_ID, height=height, width=width, frames=frames, frame_skip=frame_skip, between=between)
        named = {name: value for name, value in self.spec.parameters.items() if name != "env_id"}
        self.spec = replace(
            self.spec,
            name="car-racing",
            actions=replace(self.spec.actions, keys=KEYS),
            extras={"car": CAR, **self.spec.extras},
            parameters=named,
        )

    def reset(self, seed: int) -> TimeStep:
        """As `GymSource.reset`."""
        self._tile = 0
        return super().reset(seed)

    def _tick(self, action: Any, shown: bool) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Without drawing what nobody looks at, which takes the simulator longer than all else."""
        if shown:
            return super()._tick(action, shown)
        game: Any = self._env.unwrapped
        game._render = lambda mode: game.state.copy()  # as it was
        try:
            observation, reward, terminated, truncated, info = super()._tick(action, shown)
        finally:
            del game._render
        if terminated or truncated:
            observation = game._render("state_pixels")
        return observation, reward, terminated, truncated, info

    def _observed(self, observation: Any) -> dict[str, np.ndarray]:
        """Where the car is, seen from the track."""
        game: Any = self._env.unwrapped
        hull, wheel = game.car.hull, game.car.wheels[0]
        track = np.array([tile[2:4] for tile in game.track])  # (N, 2), x and y of the centre line in m
        place = np.array(hull.position)
        near = np.arange(self._tile - NEAR, self._tile + NEAR + 1) % len(track)
        self._tile = int(near[np.linalg.norm(track[near] - place, axis=1).argmin()])
        if np.linalg.norm(track[self._tile] - place) > LOST:
            self._tile = int(np.linalg.norm(track - place, axis=1).argmin())
        forward = np.array([-math.sin(hull.angle), math.cos(hull.angle)])
        right = np.array([forward[1], -forward[0]])
        way = track[(self._tile + AHEAD) % len(track)] - place
        along = track[(self._tile + 1) % len(track)] - track[self._tile]
        across = np.array([along[1], -along[0]]) / np.linalg.norm(along)
        speed = np.array(hull.linearVelocity)
        values = (
            speed @ forward, speed @ right, -hull.angularVelocity, -wheel.joint.angle,
            math.atan2(way @ right, way @ forward), (place - track[self._tile]) @ across,
        )  # fmt: skip
        return {"car": np.array(values, np.float32)}


class _Driver:
    """Base of the drivers: they act in (steering, gas, brake)."""

    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, spec: SourceSpec) -> None:
        if len(spec.actions.low) != 3:
            raise InvalidInput(
                f"a driver steers, accelerates and brakes, {spec.name!r} is not driven so; give another policy"
            )

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode."""
        self._rng = rng

    def _action(self, steering: float, pedal: float) -> np.ndarray:
        """`pedal` from -1 (full brake) to 1 (full gas)."""
        return np.array([np.clip(steering, -1, 1), np.clip(pedal, 0, 1), np.clip(-pedal, 0, 1)], np.float32)


class _Wandering:
    """A number that wanders about 0 with a deviation of 1 and forgets itself in about `steps` (Ornstein-Uhlenbeck)."""

    def __init__(self, rng: np.random.Generator, steps: float) -> None:
        self._rng, self._keep = rng, math.exp(-1 / steps)
        self._value = rng.standard_normal()

    def draw(self) -> float:
        """The next value."""
        spread = math.sqrt(1 - self._keep**2)
        self._value = self._keep * self._value + spread * self._rng.standard_normal()
        return self._value


class Pursuit(_Driver):
    """Steers for a point of the track ahead (pure pursuit; Coulter, 1992), each episode with a skill of its own.

    Noise on the wheel, a speed that is too high or too low, and blunders, after which it finds back.
    """

    needs = frozenset({"car"})

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode with a speed, a gain and errors of its own."""
        super().reset(rng)
        self._speed, self._gain = rng.uniform(15, 75), rng.uniform(1.2, 4.0)
        self._noise = rng.uniform(0, 0.6) * rng.integers(2)
        self._blunders = rng.uniform(0, 0.02)
        self._hand, self._foot = _Wandering(rng, rng.uniform(2, 15)), _Wandering(rng, 20)
        self._left, self._held = 0, (0.0, 0.0)

    def act(self, row: TimeStep) -> Action:
        """Steer for the track, hold the speed; or go on with a blunder."""
        if self._left == 0 and self._rng.random() < self._blunders:
            self._left = int(self._rng.geometric(1 / 10))
            self._held = self._rng.uniform(-1, 1), self._rng.uniform(-1, 1)
        if self._left:
            self._left -= 1
            return self._action(*self._held)
        speed, _, _, _, heading, _ = row.extras["car"]
        steering = self._gain * heading + self._noise * self._hand.draw()
        wanted = self._speed * (1 + 0.3 * self._foot.draw()) / (1 + 1.5 * abs(heading))
        return self._action(steering, np.clip(0.1 * (wanted - speed), -0.6, 1.0))


class Weave(_Driver):
    """Steers and pedals without looking: at all speeds, to both sides, with full stops."""

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode with a restlessness of its own."""
        super().reset(rng)
        self._hand, self._foot = _Wandering(rng, rng.uniform(2, 25)), _Wandering(rng, rng.uniform(10, 60))
        self._size, self._drive = rng.uniform(0.1, 1.2), rng.uniform(-0.2, 0.4)

    def act(self, row: TimeStep) -> Action:
        """The next action."""
        return self._action(self._size * self._hand.draw(), self._drive + 0.5 * self._foot.draw())


class Lane(_Driver):
    """Steers by the frame alone, for the middle of the grey ahead, so that it drives dreams, too.

    `skill` from 0 to 1 sets its errors and its speed; without it each episode has one of its own.
    """

    def __init__(self, spec: SourceSpec, skill: float | None = None) -> None:
        super().__init__(spec)
        self._given = skill

    def reset(self, rng: np.random.Generator) -> None:
        """Begin an episode, standing."""
        super().reset(rng)
        self._skill = rng.uniform() if self._given is None else self._given
        self._hand = _Wandering(rng, 8)
        self._steps, self._last = 0, 0.0

    def act(self, row: TimeStep) -> Action:
        """Steer for the road."""
        self._steps += 1
        near, far = road_ahead(row.rgb)
        error = self._last if far is None else far
        self._last = 0.9 * error
        steering = 1.1 * error + (0.0 if near is None else 0.4 * near) + 1.2 * (1 - self._skill) * self._hand.draw()
        wanted = (0.2 + 0.3 * self._skill) * max(0.2, 1 - 1.2 * abs(error))
        return self._action(steering, 0.8 * (wanted - speed_shown(row.rgb)) / 0.1)


def road_ahead(frame: np.ndarray) -> tuple[float | None, float | None]:
    """Where the road's middle is, just ahead of the car and further on, from -1 (left) to 1; None where none is seen.

    `frame` (H, W, 3) uint8 of any size.
    """
    height, width = frame.shape[:2]
    red, green, blue = (frame[..., i].astype(np.int16) for i in range(3))
    road = (abs(green - red) < 30) & (abs(green - blue) < 30) & (red > 60) & (red < 150)
    column = (np.arange(width) + 0.5) / width * 2 - 1
    found: list[float | None] = []
    for top, bottom in ((0.5, 0.62), (0.3, 0.45)):
        weight = road[int(top * height) : int(bottom * height)].sum(0)
        found.append(float(weight @ column / weight.sum()) if weight.sum() >= 3 else None)
    return found[0], found[1]


def speed_shown(frame: np.ndarray) -> float:
    """The speed by the white bar at the lower left of the frame, in 1/100 m/s, from 0 to about 1."""
    height, width = frame.shape[:2]
    bar = frame[int(0.86 * height) :, int(0.12 * width) : int(0.165 * width) + 1].min(-1).astype(np.float32) / 255
    # The bar is 1/40 of the width wide, and 1/2000 of the height high for each m/s. A standing car shows 0.33.
    return float(bar.sum() / (height / 20) / (width / 40)) - 0.33


register_source(
    "car-racing",
    CarRacing,
    package=Package("box2d", 'pip install "worldsim[box2d]"', "Box2D"),
    policies={"pursuit": Pursuit, "weave": Weave, "lane": Lane},
    mix=("pursuit", "pursuit", "pursuit", "pursuit", "weave", "lane", "lane", "persistent"),
)
