"""Smooth random camera motions: handheld, driven, with stops and turns on the spot.

Positions and angles are uniform cubic B-splines (continuous acceleration). A time warp stops the one, or both, for a
while: rotation on the spot, standing still.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from robust_loc.config import Config, parameter
from robust_loc.data.synthetic.scene import FloatArray, FreeSpace
from robust_loc.errors import ConfigurationError, RobustLocError


class PathError(RobustLocError):
    """No collision-free path was found in a scene."""


def check_range(name: str, value: tuple | None) -> None:
    """ConfigurationError unless ``value`` is None or two ascending numbers that are not negative."""
    if value is None:
        return
    numbers = len(value) == 2 and all(isinstance(x, int | float) for x in value)
    if not numbers or not 0 <= value[0] <= value[1]:
        raise ConfigurationError(f"{name} is {value}; expected two ascending numbers that are not negative")


@dataclass(frozen=True)
class HandheldConfig(Config):
    speed: tuple = parameter((0.25, 1.3), "range of the mean walking speed, m/s")
    turn_rate: float = parameter(1.0, "largest yaw rate, rad/s", minimum=0.0)
    tilt: float = parameter(0.12, "spread of the pitch, radians; that of the roll is a third", minimum=0.0, maximum=0.6)
    clearance: float = parameter(0.3, "least distance to any surface, metres", minimum=0.0)
    shake_angle: float = parameter(0.006, "amplitude of the hand's tremble, radians", minimum=0.0)
    shake_position: float = parameter(0.003, "amplitude of the hand's tremble, metres", minimum=0.0)
    rotation_only: float = parameter(0.15, "probability of a turn on the spot", minimum=0.0, maximum=1.0)
    stand_still: float = parameter(0.1, "probability of a stop", minimum=0.0, maximum=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("HandheldConfig.speed", self.speed)


@dataclass(frozen=True)
class DriveConfig(Config):
    speed: tuple = parameter((3.0, 13.0), "range of the speed on straight road, m/s")
    camera_height: tuple = parameter((1.2, 1.8), "range of the camera's height above the road, metres")
    turns: float = parameter(0.5, "probability that the road turns within the recording", minimum=0.0, maximum=1.0)
    sideways: float = parameter(0.15, "probability that the camera looks sideways", minimum=0.0, maximum=1.0)
    shake_angle: float = parameter(0.004, "amplitude of the car's pitching and rolling, radians", minimum=0.0)
    stand_still: float = parameter(0.1, "probability of a stop", minimum=0.0, maximum=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("DriveConfig.speed", self.speed)
        check_range("DriveConfig.camera_height", self.camera_height)


def look_rotation(yaw: float, pitch: float, roll: float) -> FloatArray:
    """(3, 3) ``world_R_cam`` with optical axes: yaw about the world's z, pitch upwards, roll about the view axis."""
    cy, sy, cp, sp = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch)
    forward = np.array([cp * cy, cp * sy, sp])
    right = np.array([sy, -cy, 0.0])
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    return np.stack([c * right + s * down, c * down - s * right, forward], axis=1)


@dataclass(frozen=True, eq=False)
class Spline:
    """Uniform cubic B-spline; knot interval ``step`` seconds; held at its ends.

    Attributes:
        control: (n, d) control points, n >= 4.
        step: seconds between knots.
    """

    control: FloatArray
    step: float

    @property
    def duration(self) -> float:
        return (len(self.control) - 3) * self.step

    def __call__(self, seconds: float) -> FloatArray:
        """(d,) value at ``seconds`` in [0, duration]."""
        x = float(np.clip(seconds / self.step, 0.0, len(self.control) - 3 - 1e-9))
        i = int(x)
        u = x - i
        w = np.array([(1 - u) ** 3, 3 * u**3 - 6 * u**2 + 4, -3 * u**3 + 3 * u**2 + 3 * u + 1, u**3]) / 6.0
        return np.asarray(w @ self.control[i : i + 4])


@dataclass(frozen=True, eq=False)
class Pause:
    """Motion that stops between ``begin`` and ``end`` seconds, with ramps; ``rotates``: the angles go on."""

    begin: float
    end: float
    rotates: bool
    ramp: float = 0.35

    def lost(self, t: float) -> float:
        """Seconds of motion lost by time ``t`` (twice differentiable in ``t``)."""

        def ramped(x: float) -> float:  # integral of a smoothstep of width ``ramp`` that is centred on 0
            u = float(np.clip(x / self.ramp + 0.5, 0.0, 1.0))
            return self.ramp * (u**3 - 0.5 * u**4) + max(x - 0.5 * self.ramp, 0.0)

        return ramped(t - self.begin) - ramped(t - self.end)


@dataclass(frozen=True, eq=False)
class CameraPath:
    """A camera trajectory: position and (yaw, pitch, roll) splines, each over its own warped time."""

    position: Spline
    angles: Spline
    shake: Spline | None = None  # (n, 6) metres and radians added to both
    pauses: tuple[Pause, ...] = field(default_factory=tuple)

    @property
    def duration(self) -> float:
        return min(self.position.duration, self.angles.duration)

    def pose(self, seconds: float) -> FloatArray:
        """(4, 4) ``world_T_cam``."""
        moved = seconds - sum(pause.lost(seconds) for pause in self.pauses)
        turned = seconds - sum(pause.lost(seconds) for pause in self.pauses if not pause.rotates)
        position, angles = self.position(moved), self.angles(turned)
        if self.shake is not None:
            position = position + self.shake(moved)[:3]
            angles = angles + self.shake(turned)[3:]
        pose = np.eye(4)
        pose[:3, :3] = look_rotation(*angles)
        pose[:3, 3] = position
        return pose


def random_pauses(g: np.random.Generator, config: HandheldConfig, duration: float) -> tuple[Pause, ...]:
    """At most one turn on the spot and one stop, in the first half, apart from each other."""
    pauses: list[Pause] = []
    kinds = [(config.rotation_only, True), (config.stand_still, False)]
    ramp = min(0.35, 0.04 * duration)
    earliest = ramp
    for index in g.permutation(2):
        probability, rotates = kinds[int(index)]
        if g.random() < probability:
            begin = earliest + g.uniform(0.0, 0.2) * duration
            pauses.append(Pause(begin, begin + g.uniform(0.08, 0.16) * duration, rotates, ramp))
            earliest = pauses[-1].end + 2 * ramp
    return tuple(pauses)


def handheld_path(
    g: np.random.Generator, free: FreeSpace, duration: float, config: HandheldConfig | None = None
) -> CameraPath:
    """A person's walk of ``duration`` seconds through free space.

    The spline stays in the convex hull of its control points; the finished path is checked for clearance again.

    Raises:
        PathError: no path of the wanted clearance was found (the space is too narrow).
    """
    config = config or HandheldConfig()
    step = 0.5
    count = int(np.ceil(duration / step)) + 4
    for attempt in range(40):
        margin = config.clearance + 0.1 * (attempt < 20)
        points = _walk(g, free, count, step * g.uniform(*config.speed), margin)
        if points is None:
            continue
        position = Spline(points, step)
        gazes = [_gaze(g, points, step, config) for _ in range(8)]
        angles = gazes[int(np.argmax([_view_distance(free, position, gaze) + g.gumbel(0, 0.3) for gaze in gazes]))]
        path = CameraPath(position, angles, _shake(g, duration, config), random_pauses(g, config, duration))
        samples = np.stack([path.pose(t)[:3, 3] for t in np.linspace(0, duration, 8 * count)])
        if float(free.clearance(samples).min()) >= config.clearance:
            return path
    raise PathError(f"no path with {config.clearance} m clearance was found; the scene is too narrow")


def _walk(g: np.random.Generator, free: FreeSpace, count: int, stride: float, margin: float) -> FloatArray | None:
    """(count, 3) control points about ``stride`` apart, each with ``margin`` clearance on the way from the last."""
    starts = free.sample(g, 64)
    starts = starts[free.clearance(starts) >= margin]
    if len(starts) == 0:
        return None
    points = [starts[0]]
    heading, climb = g.uniform(-np.pi, np.pi), 0.0
    wander = g.uniform(0.15, 0.6)
    for _ in range(count - 1):
        for trial in range(25):
            turn = g.normal(0.0, wander + 0.15 * trial)
            slope = float(np.clip(0.7 * climb + g.normal(0.0, 0.12 + 0.02 * trial), -0.6, 0.6))
            length = stride * g.uniform(0.6, 1.3) * 0.93**trial
            h = heading + turn
            new = points[-1] + length * np.array([np.cos(h), np.sin(h), slope])
            between = points[-1] + np.linspace(0.34, 1.0, 3)[:, None] * (new - points[-1])
            if float(free.clearance(between).min()) >= margin:
                heading, climb = h, slope
                break
        else:
            new = points[-1]
            heading += np.pi / 2
        points.append(new)
    walked = np.linalg.norm(np.diff(points, axis=0), axis=1)
    return np.array(points) if np.count_nonzero(walked) > 0.7 * (count - 1) else None


def _gaze(g: np.random.Generator, points: FloatArray, step: float, config: HandheldConfig) -> Spline:
    """(yaw, pitch, roll) control points: ahead, sideways, at a point in the scene, or turning steadily."""
    count = len(points)
    mode = g.choice(["ahead", "aside", "target", "turning"], p=[0.3, 0.2, 0.35, 0.15])
    delta = np.gradient(points, axis=0)
    heading = np.unwrap(np.arctan2(delta[:, 1], delta[:, 0]))
    if mode == "ahead":
        wanted = heading + g.uniform(-0.4, 0.4)
    elif mode == "aside":
        wanted = heading + g.choice([-1, 1]) * g.uniform(0.7, 2.0)
    elif mode == "target":
        reach = g.uniform(1.5, 5.0)
        bearing = g.uniform(-np.pi, np.pi)
        target = points.mean(axis=0)[:2] + reach * np.array([np.cos(bearing), np.sin(bearing)])
        wanted = np.unwrap(np.arctan2(target[1] - points[:, 1], target[0] - points[:, 0]))
    else:
        wanted = g.uniform(-np.pi, np.pi) + g.choice([-1, 1]) * g.uniform(0.1, 0.6) * step * np.arange(count)
    wanted = wanted + np.cumsum(g.normal(0.0, 0.08, count))
    limit = config.turn_rate * step
    yaw = [float(wanted[0])]
    for target_yaw in wanted[1:]:
        difference = (target_yaw - yaw[-1] + np.pi) % (2 * np.pi) - np.pi
        yaw.append(yaw[-1] + float(np.clip(0.7 * difference, -limit, limit)))
    level = g.normal(-0.06, config.tilt)
    pitch = [level + g.normal(0.0, 0.5 * config.tilt)]
    for _ in range(count - 1):
        pitch.append(float(np.clip(0.8 * pitch[-1] + 0.2 * level + g.normal(0, 0.5 * config.tilt), -0.9, 0.8)))
    roll = g.normal(0.0, config.tilt / 3) + g.normal(0.0, config.tilt / 5, count)
    return Spline(np.stack([np.array(yaw), np.array(pitch), roll], -1), step)


def _view_distance(free: FreeSpace, position: Spline, angles: Spline, longest: float = 4.0) -> float:
    """Mean distance in metres that the camera sees ahead, up to ``longest`` (sphere tracing along the optical axis)."""
    times = np.linspace(0.0, position.duration, 12)
    points = np.stack([position(t) for t in times])
    forward = np.stack([look_rotation(*angles(t))[:, 2] for t in times])
    distance = np.zeros(len(times))
    for _ in range(12):
        step = free.clearance(points + distance[:, None] * forward)
        distance = np.minimum(distance + np.where(step > 0.05, step, 0.0), longest)
    return float(distance.mean())


def _shake(g: np.random.Generator, duration: float, config: HandheldConfig) -> Spline:
    """The hand's tremble: noise at a few hertz."""
    step = 0.12
    count = int(np.ceil(duration / step)) + 5
    amplitude = g.uniform(0.2, 1.0) * np.array([config.shake_position] * 3 + [config.shake_angle] * 3)
    return Spline(g.standard_normal((count, 6)) * amplitude, step)


def drive_path(
    g: np.random.Generator, duration: float, config: DriveConfig | None = None
) -> tuple[CameraPath, FloatArray]:
    """A car's drive of ``duration`` seconds and its road.

    Returns:
        The camera's path, and the road's middle line (n, 2), a metre between points, which begins behind the start
        and goes on after the end.
    """
    config = config or DriveConfig()
    step = 0.5
    count = int(np.ceil(duration / step)) + 4
    speed = g.uniform(*config.speed)
    lateral = 2.5  # m/s^2, bounds the speed in turns
    turn_at = int(g.integers(2, max(count - 4, 3))) if g.random() < config.turns else -1
    radius, turned, wanted = g.uniform(9.0, 30.0), 0.0, g.uniform(0.5, 1.7)
    sense, curvature, bend = g.choice([-1.0, 1.0]), 0.0, 0.0
    points, headings = [np.zeros(2)], [0.0]
    for k in range(count - 1):
        bend = 0.85 * bend + g.normal(0.0, 0.002)
        in_turn = turn_at >= 0 and k >= turn_at and turned < wanted
        target = sense / radius if in_turn else bend
        curvature += 0.5 * (target - curvature)
        v = min(speed * (1 + 0.1 * np.sin(0.3 * k)), float(np.sqrt(lateral / max(abs(curvature), 1e-4))))
        change = curvature * v * step
        turned += abs(change) * in_turn
        heading = headings[-1] + change
        points.append(points[-1] + v * step * np.array([np.cos(heading), np.sin(heading)]))
        headings.append(heading)
    line, yaw = np.array(points), np.array(headings)
    height = g.uniform(*config.camera_height)
    offset = g.normal(0.0, 0.05)
    if g.random() < config.sideways:
        offset = g.choice([-1.0, 1.0]) * g.uniform(0.5, 1.7)
    level = g.normal(-0.03, 0.05)
    angles = np.column_stack(
        [yaw + 0.5 * np.gradient(yaw) + offset, np.full(count, level), np.full(count, g.normal(0, 0.01))]
    )
    lane = g.uniform(-1.5, 1.5)
    aside = line + lane * np.column_stack([-np.sin(yaw), np.cos(yaw)])
    position = Spline(np.column_stack([aside, np.full(count, height)]), step)
    tremble = np.array([0.002, 0.002, 0.006, 0.3 * config.shake_angle, config.shake_angle, config.shake_angle])
    shake = Spline(g.standard_normal((int(np.ceil(duration / 0.2)) + 5, 6)) * tremble * g.uniform(0.3, 1.0), 0.2)
    pauses: tuple[Pause, ...] = ()
    if g.random() < config.stand_still:
        begin = g.uniform(0.3, 0.7) * duration
        pauses = (Pause(begin, begin + g.uniform(0.1, 0.3) * duration, False, min(1.5, 0.1 * duration)),)
    before = line[0] - np.arange(40, 0, -1)[:, None] * np.array([np.cos(yaw[0]), np.sin(yaw[0])])
    after = line[-1] + np.arange(1, 90)[:, None] * np.array([np.cos(yaw[-1]), np.sin(yaw[-1])])
    whole = np.concatenate([before, line, after])
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(whole, axis=0), axis=1))])
    even = np.arange(0.0, length[-1], 1.0)
    road = np.column_stack([np.interp(even, length, whole[:, k]) for k in range(2)])
    return CameraPath(position, Spline(angles, step), shake, pauses), road
