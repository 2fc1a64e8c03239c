"""Bare corridors and rooms: smooth panels with thin joints, paint, doors and skirting.

What little texture there is lies in lines, as in hospitals and offices; a camera near such a wall sees large motion and
few corners.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from robust_loc.data.synthetic.free_space import BoxFreeSpace
from robust_loc.data.synthetic.palette import Palette
from robust_loc.data.synthetic.rooms import Obstacle
from robust_loc.data.synthetic.scene import FloatArray, Lights, Scene, TextureAtlas, Trajectory, Triangles
from robust_loc.data.synthetic.shapes import Material, box, quad, rigid, room_shell
from robust_loc.data.synthetic.textures import Field, Generator, Picture, fractal_noise, random_colour


def panels(generator: Generator, side: int) -> Picture:
    """Smooth panels or glazed tiles, all nearly alike, with thin joints between them."""
    g = generator
    columns = int(g.integers(1, 5))
    rows = int(np.clip(columns * g.choice([0.5, 1.0, 1.0, 2.0]), 1, 8))
    base = (0.45 + 0.55 * random_colour(g, 0.25)) * g.uniform(0.5, 1.0)
    image = np.empty((side, side, 3), np.float32)
    image[:] = base
    shade = 1 + g.uniform(0, 0.06) * g.standard_normal((rows, columns))
    image *= cv2.resize(shade.astype(np.float32), (side, side), interpolation=cv2.INTER_NEAREST)[..., None]
    joint = base * (g.uniform(0.2, 0.8) if g.random() < 0.8 else 1.15)
    width = int(g.integers(1, 6))
    for count, axis in ((columns, 1), (rows, 0)):
        for k in range(count):
            at = k * side // count
            line = image[:, at : at + width] if axis else image[at : at + width]
            line[:] = joint
    return _soiled(g, image)


def paint(generator: Generator, side: int) -> Picture:
    """A painted wall: hardly anything to see."""
    image = np.empty((side, side, 3), np.float32)
    image[:] = 0.3 + 0.7 * random_colour(generator, 0.3)
    return _soiled(generator, image)


def _soiled(g: Generator, image: Field) -> Picture:
    """Much less dirt and grain than :func:`~robust_loc.data.synthetic.textures.finish` gives."""
    side = image.shape[0]
    dirt = g.uniform(0.0, 0.02) * fractal_noise(g, side, 1.5) + g.uniform(0.0, 0.008) * fractal_noise(g, side, 0.4)
    for _ in range(int(g.integers(0, 5))):  # marks and screws
        at = tuple(int(v) for v in g.integers(0, side, 2))
        cv2.circle(dirt, at, int(g.integers(1, 4)), float(g.uniform(-0.5, -0.1)), -1, cv2.LINE_AA)
    return np.clip(255 * image * (1 + dirt[..., None]), 0, 255).astype(np.uint8)


def make_bare_room(generator: Generator) -> Scene:
    """A corridor or room with bare walls; its floor is at z = 0, and it has a ``free_space``."""
    g = generator
    size = np.array([g.uniform(1.5, 5.0), g.uniform(4.0, 10.0), g.uniform(2.3, 3.2)])
    palette = Palette(g, (), 0.0)

    def added(kind: str, tile: tuple[float, float]) -> Material:
        picture = (panels if kind == "panels" else paint)(g, 512)
        return palette.material(palette.add_picture(picture), tile)

    walls = [added("panels" if g.random() < 0.65 else "paint", (0.8, 3.0)) for _ in range(2)]
    floor = added("panels", (0.5, 2.5))
    ceiling = added("panels" if g.random() < 0.6 else "paint", (1.0, 3.0))
    details = [palette.add(names, 256) for names in (("poster",), ("books", "wood"), ("speckle", "bricks"))]
    palette.surfaces = details
    sides = [walls[int(k)] for k in g.integers(0, 2, 4)]
    parts = [room_shell(size, sides, floor, ceiling)]
    for wall in range(4):
        length, away = (size[0], size[1] / 2) if wall % 2 == 0 else (size[1], size[0] / 2)
        fitted = _fittings(g, length, away, size[2], palette)
        parts += [part.transformed(rigid(yaw=wall * np.pi / 2)) for part in fitted]
    obstacles: list[Obstacle] = []
    for _ in range(int(g.integers(0, 5))):
        parts += _cabinet(g, size, palette, obstacles)
    half = size / 2
    free = BoxFreeSpace.build(
        (-half[0], -half[1], 0.0), (half[0], half[1], size[2]), obstacles, (0.4, min(2.0, size[2] - 0.4)), 0.25
    )
    return Scene(Triangles.concatenate(parts), TextureAtlas(palette.pictures), _lamps(g, size), free_space=free)


def _fittings(g: Generator, length: float, away: float, height: float, palette: Palette) -> list[Triangles]:
    """Skirting, a rail, doors with frames and handles, now and then a notice; on the wall at +y."""
    parts = []

    def slab(x: float, top: float, width: float, tall: float, thick: float, material: Material) -> None:
        body = box((width, thick, tall), material)
        parts.append(body.transformed(rigid(position=(x, away - thick / 2, top - tall))))

    for top, tall, share in ((g.uniform(0.06, 0.15), None, 0.8), (g.uniform(0.7, 1.1), g.uniform(0.05, 0.2), 0.4)):
        if g.random() < share:
            slab(0.0, top, length, tall or top, g.uniform(0.01, 0.05), palette.plain())
    taken: list[float] = []
    for _ in range(int(g.integers(0, 1 + max(1, round(length / 2.5))))):
        wide, tall = g.uniform(0.75, 1.0), g.uniform(1.95, 2.15)
        if length < wide + 0.4:
            break
        x = g.uniform(-length / 2 + wide / 2 + 0.1, length / 2 - wide / 2 - 0.1)
        if any(abs(x - other) < 1.2 for other in taken):
            continue  # doors do not overlap
        taken.append(x)
        frame, leaf, handle = palette.plain(), palette.plain(), palette.plain()
        slab(x, tall + 0.07, wide + 0.14, tall + 0.07, 0.03, frame)
        slab(x, tall, wide, tall, 0.04, leaf)
        slab(x + wide / 2 - 0.08, 1.08, 0.04, 0.2, 0.06, handle)
        slab(x + wide / 2 - 0.14, 1.07, 0.14, 0.02, 0.1, handle)
    for _ in range(int(g.integers(0, 3))):
        wide, tall = g.uniform(0.15, 0.7, 2)
        x, top = g.uniform(-length / 2 + 0.4, length / 2 - 0.4), g.uniform(1.2, height - 0.1)
        origin = np.array([x, away - 0.02, top])
        notice = Material(int(g.choice(palette.surfaces)), 0.0, palette.material().colour)
        parts.append(quad(origin, np.array([wide, 0.0, 0.0]), np.array([0.0, 0.0, -tall]), notice))
    return parts


def _cabinet(g: Generator, size: FloatArray, palette: Palette, obstacles: list[Obstacle]) -> list[Triangles]:
    """A box along a wall, plain on most sides."""
    half = np.array([g.uniform(0.1, 0.35), g.uniform(0.2, 0.7), g.uniform(0.1, 0.9)])
    room = size[:2] / 2 - half[:2] - 0.02
    if size[0] < 4 * half[0] + 0.9 or (room <= 0.1).any():
        return []
    position = np.array([g.choice([-1.0, 1.0]) * room[0], g.uniform(-room[1], room[1]), 0.0])
    front = palette.material() if g.random() < 0.3 else palette.plain()
    plain = palette.plain()
    obstacles.append(((*position[:2], half[2]), tuple(half * 1.05), 0.0))
    body = box(2 * half, plain, [plain, front, plain, front, plain, plain])
    return [body.transformed(rigid(position=tuple(position)))]


def _lamps(g: Generator, size: FloatArray) -> Lights:
    count = int(g.integers(1, 5))
    position = g.uniform(-0.45, 0.45, (count, 3)) * size
    position[:, 2] = size[2] * g.uniform(0.8, 0.97, count)
    colour = np.outer(np.full(count, g.uniform(0.3, 1.0) / count**0.5), 1 + g.uniform(-0.1, 0.1) * np.array([1, 0, -1]))
    return Lights(
        ambient=g.uniform(0.3, 0.7) * (1 + g.uniform(-0.05, 0.05, 3)),
        upward=g.uniform(0.0, 0.4),
        position=position,
        colour=colour,
        reach=g.uniform(1.0, 4.0, count),
    )


@dataclass(frozen=True, eq=False)
class Rolled:
    """A trajectory whose camera is turned about its optical axis by ``roll`` radians."""

    trajectory: Trajectory
    roll: float

    def pose(self, seconds: float) -> FloatArray:
        return self.trajectory.pose(seconds) @ rigid(yaw=self.roll)
