"""Procedural rooms: a furnished box whose sizes, furniture, surfaces and lamps follow from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robust_loc.config import Config, parameter
from robust_loc.data.synthetic import textures
from robust_loc.data.synthetic.free_space import BoxFreeSpace
from robust_loc.data.synthetic.palette import Palette
from robust_loc.data.synthetic.scene import FloatArray, Lights, Scene, TextureAtlas, Triangles, Vector
from robust_loc.data.synthetic.shapes import Material, box, cylinder, ellipsoid, quad, rigid, room_shell

Obstacle = tuple[Vector, Vector, float]


@dataclass(frozen=True)
class RoomConfig(Config):
    size: tuple | None = parameter(None, "length, width and height in metres; None: random")
    given_share: float = parameter(0.4, "share of textures that are given pictures", minimum=0.0, maximum=1.0)
    textureless: float = parameter(0.1, "probability that a wall or a piece is plain", minimum=0.0, maximum=1.0)
    texture_side: int = parameter(256, "side of the procedural textures, pixels", minimum=16, maximum=1024)
    wall_textures: int = parameter(2, "different textures of the walls", minimum=1, maximum=4)
    prints: int = parameter(5, "different pictures that hang on the walls", minimum=1)
    prints_per_wall: tuple = parameter((2, 10), "range of the number of pictures on a wall")
    furniture: tuple = parameter((10, 25), "range of the number of pieces")


_WALLS = ("bricks", "marble", "cells", "weave", "mosaic", "camouflage", "dead_leaves")
_CALM_WALLS = ("plaster", "bricks", "wood", "speckle", "books")


def make_room(
    generator: np.random.Generator, pictures: Sequence[textures.Picture] = (), config: RoomConfig | None = None
) -> Scene:
    """A random furnished room.

    Args:
        generator: every choice is drawn from it.
        pictures: textures to mix in, (h, w, 3) uint8 RGB.
        config: sizes, numbers and shares.

    Returns:
        A scene whose floor is at z = 0, centred on x = y = 0, with its ``free_space``.
    """
    g, config = generator, config or RoomConfig()
    drawn = np.array([g.uniform(3.0, 9.0), g.uniform(3.0, 9.0), g.uniform(2.3, 3.8)])
    size = drawn if config.size is None else np.array(config.size, float)
    palette = Palette(g, pictures, config.given_share)
    side, plain = config.texture_side, config.textureless
    walls = [palette.add(_CALM_WALLS if k % 2 else _WALLS, side) for k in range(config.wall_textures)]
    floor = palette.add(("wood", "bricks", "speckle", "weave", "cells", "mosaic"), 2 * side)
    ceiling = palette.add(("plaster", "bricks", "wood", "speckle", "marble"), side)
    prints = [palette.add(("poster", "books", "dead_leaves", "mosaic"), side) for _ in range(config.prints)]
    palette.surfaces = [palette.add((), side) for _ in range(7)] + prints[:2]

    def surface() -> Material:
        return palette.plain() if g.random() < plain else palette.material()

    order = g.permutation(4) if config.wall_textures > 2 else g.integers(0, 4, 4)
    sides = [
        palette.plain() if g.random() < plain else palette.material(walls[int(k) % len(walls)], (1.0, 3.5))
        for k in order
    ]
    parts = [room_shell(size, sides, palette.material(floor, (1.0, 3.0)), palette.material(ceiling, (1.0, 3.0)))]
    parts += _pictures_on_walls(g, size, prints, palette, config.prints_per_wall)
    obstacles: list[Obstacle] = []
    for _ in range(int(g.integers(config.furniture[0], config.furniture[1] + 1))):
        parts += _furniture(g, size, surface, obstacles)
    for _ in range(int(g.integers(0, 3))):
        parts += _slanted_panel(g, size, surface(), obstacles)
    half = size / 2
    free = BoxFreeSpace.build(
        (-half[0], -half[1], 0.0), (half[0], half[1], size[2]), obstacles, (0.4, min(2.0, size[2] - 0.4)), 0.35
    )
    return Scene(Triangles.concatenate(parts), TextureAtlas(palette.pictures), _lamps(g, size), free_space=free)


def _pictures_on_walls(
    g: np.random.Generator, size: FloatArray, prints: Sequence[int], palette: Palette, number: tuple
) -> list[Triangles]:
    """Posters, shelves and windows: quads a centimetre in front of the walls."""
    parts = []
    for wall in range(4):
        turn = rigid(yaw=wall * np.pi / 2)
        length, away = (size[0], size[1] / 2) if wall % 2 == 0 else (size[1], size[0] / 2)
        for _ in range(int(g.integers(number[0], number[1] + 1))):
            width, height = np.exp(g.uniform(np.log(0.25), np.log(1.6), 2))
            width, height = min(width, 0.8 * length), min(height, 0.7 * size[2])
            x = g.uniform(-length / 2 + 0.05, length / 2 - width - 0.05)
            top = g.uniform(height + 0.2, size[2] - 0.1)
            depth = away - g.uniform(0.005, 0.03)
            material = Material(int(g.choice(prints)), 0.0, palette.material().colour)
            tilt = np.array([0.0, g.uniform(0.0, 0.04), 0.0]) if g.random() < 0.3 else np.zeros(3)
            origin = np.array([x, depth, top])
            picture = quad(origin, np.array([width, 0.0, 0.0]), np.array([0.0, 0.0, -height]) + tilt, material)
            parts.append(picture.transformed(turn))
    return parts


def _furniture(g: np.random.Generator, size: FloatArray, surface, obstacles: list[Obstacle]) -> list[Triangles]:
    """A cupboard, table, column or ball, more often along the walls, sometimes with small things on top."""
    kind = g.random()
    yaw = float(g.choice([0.0, np.pi / 2])) if g.random() < 0.6 else float(g.uniform(-np.pi, np.pi))
    if kind < 0.45:
        half = np.array([g.uniform(0.2, 0.8), g.uniform(0.15, 0.4), g.uniform(0.15, min(1.2, size[2] / 2.1))])
    elif kind < 0.7:
        half = np.array([g.uniform(0.3, 0.9), g.uniform(0.3, 0.5), g.uniform(0.3, 0.5)])
    else:
        half = np.append(np.full(2, g.uniform(0.08, 0.35)), g.uniform(0.2, min(1.2, size[2] / 2.1)))
    reach = float(np.hypot(half[0], half[1])) if yaw not in (0.0, np.pi / 2) else float(max(half[0], half[1]))
    room = size[:2] / 2 - reach - 0.02
    if (room <= 0.1).any():
        return []
    position = g.uniform(-room, room)
    if g.random() < 0.7:  # push it to a wall
        axis = int(g.integers(2))
        side = g.choice([-1.0, 1.0])
        extent = (half[0] if (axis == 0) == (yaw == 0.0) else half[1]) if yaw in (0.0, np.pi / 2) else reach
        position[axis] = side * (size[axis] / 2 - extent - 0.01)
    if np.linalg.norm(position) < 0.8 + reach and g.random() < 0.8:  # keep the middle rather free
        return []
    pose = rigid(yaw, (*position, 0.0))
    parts: list[Triangles] = []
    if kind < 0.45:
        front = surface()
        parts.append(box(2 * half, surface(), [front, surface(), front, surface(), surface(), front]))
    elif kind < 0.7:
        top, leg = surface(), surface()
        parts.append(box((2 * half[0], 2 * half[1], 0.05), top).transformed(rigid(position=(0, 0, 2 * half[2] - 0.05))))
        for sx in (-1, 1):
            for sy in (-1, 1):
                at = (sx * (half[0] - 0.05), sy * (half[1] - 0.05), 0.0)
                parts.append(box((0.06, 0.06, 2 * half[2] - 0.05), leg).transformed(rigid(position=at)))
    elif kind < 0.9:
        parts.append(
            cylinder(half[0], 2 * half[2], surface(), top_scale=g.uniform(0.6, 1.3) if g.random() < 0.4 else 1.0)
        )
    else:
        bumps = 1 + 0.12 * g.standard_normal((11, 21)) if g.random() < 0.5 else None
        half[2] = half[0]
        parts.append(
            ellipsoid((half[0], half[0], half[0]), surface(), 10, bumps).transformed(rigid(position=(0, 0, half[0])))
        )
    obstacles.append(((*position, half[2]), tuple(half * 1.05), yaw))
    if kind < 0.7:
        for _ in range(int(g.integers(0, 6))):
            thing = g.uniform(0.03, 0.18, 3)
            spread = np.maximum(half[:2] - thing[:2], 0.01)
            place = rigid(g.uniform(-np.pi, np.pi), (*g.uniform(-spread, spread), 2 * half[2]))
            body = box(2 * thing, surface()) if g.random() < 0.7 else cylinder(thing[0], 2 * thing[2], surface(), 12)
            parts.append(body.transformed(place))
            centre = pose @ np.append(place[:3, 3] + [0, 0, thing[2]], 1.0)
            reach_of_thing = float(np.hypot(thing[0], thing[1]))
            obstacles.append((centre[:3], (reach_of_thing, reach_of_thing, thing[2]), 0.0))
    return [part.transformed(pose) for part in parts]


def _slanted_panel(
    g: np.random.Generator, size: FloatArray, material: Material, obstacles: list[Obstacle]
) -> list[Triangles]:
    """A board leaning against a wall."""
    wall = int(g.integers(4))
    length, away = (size[0], size[1] / 2) if wall % 2 == 0 else (size[1], size[0] / 2)
    width, foot, height = g.uniform(0.4, 1.4), g.uniform(0.2, 0.9), g.uniform(0.6, size[2] - 0.3)
    if width > length - 0.6:
        return []
    x = g.uniform(-length / 2 + 0.1, length / 2 - width - 0.1)
    turn = rigid(yaw=wall * np.pi / 2)
    panel = quad(
        np.array([x, away - 0.03, height]), np.array([width, 0, 0]), np.array([0, -foot, -height + 0.01]), material
    )
    centre = turn @ np.array([x + width / 2, away - foot / 2, height / 2, 1.0])
    obstacles.append((centre[:3], (width / 2, foot / 2, height / 2), wall * np.pi / 2))
    return [panel.transformed(turn)]


def _lamps(g: np.random.Generator, size: FloatArray) -> Lights:
    count = int(g.integers(1, 4))
    position = g.uniform(-0.4, 0.4, (count, 3)) * size
    position[:, 2] = size[2] * g.uniform(0.75, 0.97, count)
    warm = 1 + g.uniform(-0.12, 0.12) * np.array([1.0, 0.0, -1.0])
    strength = g.uniform(0.3, 0.9) / count**0.5
    return Lights(
        ambient=g.uniform(0.35, 0.75) * (1 + g.uniform(-0.05, 0.05, 3)),
        upward=g.uniform(0.0, 0.4),
        position=position,
        colour=np.outer(np.full(count, strength), warm) * g.uniform(0.6, 1.2, (count, 1)),
        reach=g.uniform(2.0, 5.0, count),
    )
