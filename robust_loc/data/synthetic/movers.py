"""Moving distractors: people, boxes and balls that cross a camera's view of an otherwise static world."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from robust_loc.data.synthetic.scene import NO_TEXTURE, FloatArray, Mover, Scene, Trajectory, Triangles
from robust_loc.data.synthetic.shapes import Material, box, cylinder, ellipsoid, rigid


@dataclass(frozen=True, eq=False)
class Swing:
    """To and fro about a point while turning about the vertical.

    Attributes:
        centre: (3,) metres.
        reach: (3,) amplitude in metres.
        frequency: of the swing, Hz.
        phase: radians at time zero.
        spin: rad/s.
    """

    centre: FloatArray
    reach: FloatArray
    frequency: float
    phase: float
    spin: float

    def pose(self, seconds: float) -> FloatArray:
        """(4, 4) ``world_T_body``."""
        swing = np.sin(2 * np.pi * self.frequency * seconds + self.phase)
        return rigid(self.spin * seconds, self.centre + swing * self.reach)


def add_movers(
    scene: Scene, path: Trajectory, duration: float, count: int, generator: np.random.Generator, scale: float = 1.0
) -> Scene:
    """The scene with ``count`` moving objects in view of a camera on ``path``, none closer to it than 0.4 ``scale``.

    ``scale`` multiplies sizes, distances and speeds (1 indoors).
    """
    g = generator
    movers: list[Mover] = []
    times = np.linspace(0.0, duration, 40)
    cameras = np.stack([path.pose(t) for t in times])
    for _ in range(10 * count):
        if len(movers) == count:
            break
        body = _body(g, len(scene.atlas), scale)
        radius = float(np.linalg.norm(body.corners, axis=-1).max())
        seen_from = cameras[int(g.integers(len(cameras)))]
        ahead = seen_from[:3, 2] + 0.4 * g.standard_normal() * seen_from[:3, 0]
        centre = seen_from[:3, 3] + scale * g.uniform(1.2, 4.0) * ahead
        centre[2] = max(centre[2], radius)
        direction = g.standard_normal(3) * [1.0, 1.0, 0.15]
        reach = scale * g.uniform(0.3, 1.5) * direction / np.linalg.norm(direction)
        speed = scale * g.uniform(0.2, 1.5)  # at the middle of the swing
        frequency = float(speed / (2 * np.pi * np.linalg.norm(reach)))
        swing = Swing(centre, reach, frequency, float(g.uniform(0, 2 * np.pi)), float(g.normal(0.0, 0.5)))
        distance = [np.linalg.norm(swing.pose(t)[:3, 3] - camera[:3, 3]) for t, camera in zip(times, cameras)]
        if min(distance) > radius + 0.4 * scale:
            movers.append(Mover(body, swing))
    return replace(scene, movers=(*scene.movers, *movers))


def _body(g: np.random.Generator, textures: int, scale: float) -> Triangles:
    """A person of a cylinder and a head, a box, or a ball, about its own centre."""

    def material() -> Material:
        texture = int(g.integers(textures)) if textures and g.random() < 0.85 else NO_TEXTURE
        red, green, blue = g.uniform(0.4, 1.0, 3)
        return Material(texture, float(scale * g.uniform(0.4, 1.5)), (float(red), float(green), float(blue)))

    kind = g.random()
    if kind < 0.4:
        height, width = scale * g.uniform(0.8, 1.2), scale * g.uniform(0.12, 0.2)
        head = ellipsoid((0.1 * scale, 0.1 * scale, 0.13 * scale), material(), 8)
        parts = [
            cylinder(width, height, material(), 14, 0.8).transformed(rigid(position=(0, 0, -height / 2))),
            head.transformed(rigid(position=(0, 0, height / 2 + 0.13 * scale))),
        ]
        return Triangles.concatenate(parts)
    if kind < 0.8:
        size = scale * g.uniform(0.15, 0.7, 3)
        return box(size, material()).transformed(rigid(position=(0, 0, -size[2] / 2)))
    return ellipsoid(scale * np.full(3, g.uniform(0.1, 0.35)), material(), 10)
