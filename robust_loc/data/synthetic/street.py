"""Procedural streets: facades, trees, parked cars, poles and clutter along a road."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from robust_loc.data.synthetic import textures
from robust_loc.data.synthetic.free_space import BoxFreeSpace
from robust_loc.data.synthetic.outdoor_textures import asphalt, facade, foliage, grass, sky
from robust_loc.data.synthetic.palette import Palette
from robust_loc.data.synthetic.scene import FloatArray, Lights, Scene, Sky, TextureAtlas, Triangles, Vector
from robust_loc.data.synthetic.shapes import Material, box, cylinder, ellipsoid, quad, rigid

Obstacle = tuple[Vector, Vector, float]


class _Builder:
    """Places things beside the road and keeps the road free."""

    def __init__(self, g: np.random.Generator, road: FloatArray, width: float) -> None:
        self.g, self.road, self.width = g, road, width
        delta = np.gradient(road, axis=0)
        self.heading = np.unwrap(np.arctan2(delta[:, 1], delta[:, 0]))
        self.parts: list[Triangles] = []
        self.obstacles: list[Obstacle] = []

    def beside(self, lateral: tuple[float, float]) -> tuple[FloatArray, float]:
        """A random point left or right of the road at a distance in ``lateral``, and the road's heading there."""
        i = int(self.g.integers(len(self.road)))
        side = self.g.choice([-1.0, 1.0]) * self.g.uniform(*lateral)
        yaw = float(self.heading[i])
        return self.road[i] + side * np.array([-np.sin(yaw), np.cos(yaw)]), yaw

    def place(self, thing: Triangles, position: FloatArray, yaw: float, half: Vector, keep: float = 0.6) -> bool:
        """Add ``thing`` unless its box comes within ``keep`` metres of the road's edge."""
        obstacle = ((position[0], position[1], half[2]), half, yaw)
        space = BoxFreeSpace.build((-1e4,) * 3, (1e4,) * 3, [obstacle], (0.5, 1.0))
        line = np.column_stack([self.road, np.full(len(self.road), half[2])])
        if float(space.clearance(line).min()) < self.width / 2 + keep:
            return False
        self.parts.append(thing.transformed(rigid(yaw, (position[0], position[1], 0.0))))
        self.obstacles.append(obstacle)
        return True


def make_street(
    generator: np.random.Generator,
    road: FloatArray,
    pictures: Sequence[textures.Picture] = (),
    given_share: float = 0.15,
    textureless: float = 0.1,
    density: float = 1.0,
    roam: float = 100.0,
) -> Scene:
    """A street along the polyline ``road`` (n, 2), points about a metre apart.

    ``density`` scales the number of things, ``roam`` is how far from the road (metres) a
    camera may walk; other arguments as for ``make_room``. The ground is at z = 0.
    """
    g = generator
    palette = Palette(g, pictures, given_share)
    facades = [palette.add_picture(facade(g, 512)) for _ in range(4)]
    walls = [palette.add(("bricks", "plaster", "speckle", "wood")) for _ in range(3)]
    surface = palette.add_picture(asphalt(g, 512))
    ground = palette.add_picture(grass(g, 512) if g.random() < 0.6 else textures.bricks(g, 512))
    leaves = [palette.add_picture(foliage(g, 256)) for _ in range(2)]
    bark = palette.add(("wood", "speckle"))
    signs = [palette.add(("poster", "mosaic")) for _ in range(3)]
    palette.surfaces = [palette.add() for _ in range(5)]
    sky_texture = palette.add_picture(sky(g, 512))
    width = float(g.uniform(5.0, 9.0))
    build = _Builder(g, road, width)
    build.parts += _ground(g, road, build.heading, width, palette, surface, ground)
    built = g.uniform(0.3, 1.0)
    for _ in range(int(1.2 * density * built * len(road) / 6)):
        _building(build, palette, facades, walls, textureless)
    _skyline(build, palette, facades, int(g.integers(4, 22)), 25.0, 110.0)
    if density > 1:  # close the place off
        _skyline(build, palette, facades, int(g.integers(10, 30)), roam, 30.0)
    length = density * len(road)
    for _ in range(int(g.uniform(0.05, 0.35) * length)):
        _tree(build, palette, leaves, bark)
    for _ in range(int(g.uniform(0.0, 0.2) * length)):
        _car(build, palette)
    for _ in range(int(g.uniform(0.05, 0.2) * length)):
        _pole(build, palette, signs)
    for _ in range(int(g.uniform(0.1, 0.4) * length)):
        _clutter(build, palette, leaves, textureless)
    low, high = road.min(axis=0) - roam, road.max(axis=0) + roam
    free = BoxFreeSpace.build((*low, 0.0), (*high, 30.0), build.obstacles, (1.0, 2.0), roam - 2.0)
    lights, above = _daylight(g, sky_texture)
    return Scene(Triangles.concatenate(build.parts), TextureAtlas(palette.pictures), lights, above, free)


def _ground(
    g: np.random.Generator,
    road: FloatArray,
    heading: FloatArray,
    width: float,
    palette: Palette,
    asphalt: int,
    ground: int,
) -> list[Triangles]:
    """The plain, the road's strip with its kerbs, and dashes in its middle."""
    low, high = road.min(axis=0) - 150.0, road.max(axis=0) + 150.0
    span = high - low
    plain = palette.material(ground, (1.5, 4.0))
    parts = [quad(np.array([low[0], high[1], 0.0]), np.array([span[0], 0, 0]), np.array([0, -span[1], 0]), plain)]
    surface, walk = palette.material(asphalt, (2.0, 5.0)), palette.material(None, (0.8, 2.0))
    paint = Material(colour=(0.85, 0.85, 0.82))
    left = np.column_stack([-np.sin(heading), np.cos(heading)])
    marked = g.random() < 0.75
    every = 4
    for i in range(0, len(road) - every, every):
        for inner, outer, z, material in (
            (-width / 2, width / 2, 0.02, surface),
            (width / 2, width / 2 + 2.0, 0.12, walk),
        ):
            for mirror in (1.0, -1.0) if inner > 0 else (1.0,):
                a, b = road[i] + mirror * outer * left[i], road[i] + mirror * inner * left[i]
                c, d = (
                    road[i + every] + mirror * outer * left[i + every],
                    road[i + every] + mirror * inner * left[i + every],
                )
                parts.append(_flat(a, b, c, d, z, material))
        if marked and (i // every) % 2 == 0:
            for offset in (0.0, width / 2 - 0.25, 0.25 - width / 2):
                side = [road[i] + (offset + s) * left[i] for s in (0.08, -0.08)]
                far = [road[i + every] + (offset + s) * left[i + every] for s in (0.08, -0.08)]
                parts.append(_flat(side[0], side[1], far[0], far[1], 0.03, paint))
    return parts


def _flat(a: FloatArray, b: FloatArray, c: FloatArray, d: FloatArray, z: float, material: Material) -> Triangles:
    """The level quadrangle a b d c, textured by its ground coordinates."""
    points = np.array([[*p, z] for p in (a, b, d, c)])
    corners = points[[[0, 1, 2], [0, 2, 3]]]
    up = np.broadcast_to([0.0, 0.0, 1.0], corners.shape)
    colour = np.tile(np.array(material.colour), (2, 1))
    return Triangles(corners, corners[..., :2] / material.tile, up, np.full(2, material.texture, np.int32), colour)


def _building(
    build: _Builder, palette: Palette, facades: Sequence[int], walls: Sequence[int], textureless: float
) -> None:
    g = build.g
    half = np.array([g.uniform(3.0, 13.0), g.uniform(3.0, 7.0), 0.5 * g.choice([g.uniform(3, 7), g.uniform(6, 20)])])
    position, yaw = build.beside((build.width / 2 + half[1] + 2.0, build.width / 2 + half[1] + 9.0))
    yaw += float(g.normal(0.0, 0.03)) if g.random() < 0.8 else float(g.uniform(-0.5, 0.5))
    front = palette.material(int(g.choice(facades)), (5.0, 11.0))
    if g.random() < textureless:
        front = palette.plain()
    side = palette.material(int(g.choice([*walls, *facades])), (3.0, 8.0))
    roof = palette.material(int(g.choice(walls)), (2.0, 5.0))
    body = [box(2 * half, front, [front, side, front, side, roof, roof])]
    for _ in range(int(g.integers(0, 5))):  # bays, porches and signs that stand out of the front
        bay = np.array([g.uniform(0.4, 2.0), g.uniform(0.1, 0.8), g.uniform(0.3, 1.5)])
        for y in (-half[1] - bay[1], half[1] + bay[1]):
            at = (g.uniform(-half[0], half[0]), y, g.uniform(0.0, max(2 * half[2] - 2 * bay[2], 0.1)))
            body.append(box(2 * bay, palette.material(None, (0.8, 3.0))).transformed(rigid(position=at)))
    build.place(Triangles.concatenate(body), position, yaw, (half[0], half[1] + 1.0, half[2]), 1.5)


def _skyline(
    build: _Builder, palette: Palette, facades: Sequence[int], count: int, nearest: float, farthest: float
) -> None:
    """Tall buildings around the road, ``nearest`` to ``farthest`` metres beyond its ends."""
    g = build.g
    middle = build.road.mean(axis=0)
    reach = float(np.linalg.norm(build.road - middle, axis=1).max())
    for _ in range(count):
        half = np.array([g.uniform(6, 20), g.uniform(6, 12), g.uniform(4, 20)])
        bearing = g.uniform(-np.pi, np.pi)
        position = middle + (reach + g.uniform(nearest, farthest)) * np.array([np.cos(bearing), np.sin(bearing)])
        thing = box(2 * half, palette.material(int(g.choice(facades)), (8.0, 16.0)))
        build.place(thing, position, float(g.uniform(-np.pi, np.pi)), half, 8.0)


def _tree(build: _Builder, palette: Palette, leaves: Sequence[int], bark: int) -> None:
    g = build.g
    radius, height = g.uniform(0.1, 0.3), g.uniform(1.5, 4.0)
    parts = [cylinder(radius, height + 1.0, palette.material(bark, (0.5, 1.5)), 8, 0.6)]
    material = palette.material(int(g.choice(leaves)), (1.0, 2.5))
    size = g.uniform(1.0, 2.6)
    for _ in range(int(g.integers(1, 4))):
        bumps = 1 + 0.16 * g.standard_normal((8, 15))
        crown = ellipsoid(size * g.uniform(0.6, 1.1, 3), material, 7, bumps)
        parts.append(
            crown.transformed(rigid(position=(*g.normal(0, 0.35 * size, 2), height + g.uniform(0.3, 1.0) * size)))
        )
    position, yaw = build.beside((build.width / 2 + 0.8, build.width / 2 + 14.0))
    build.place(Triangles.concatenate(parts), position, yaw, (0.4, 0.4, height / 2 + size), 0.3)


def car_body(g: np.random.Generator, palette: Palette) -> tuple[Triangles, FloatArray]:
    """A car of two boxes and wheels, and its half size."""
    length, width, height = g.uniform(3.6, 4.8), g.uniform(1.6, 1.9), g.uniform(0.6, 0.8)
    paint = palette.plain() if g.random() < 0.5 else palette.material(None, (1.0, 3.0))
    glass, tyre = palette.material(None, (0.5, 2.0)), Material(colour=(0.08, 0.08, 0.09))
    parts = [box((length, width, height), paint).transformed(rigid(position=(0, 0, 0.25)))]
    parts.append(box((0.55 * length, 0.85 * width, 0.55), glass).transformed(rigid(position=(-0.1, 0, 0.25 + height))))
    wheel = cylinder(0.32, 0.2, tyre, 12)
    for sx in (-0.32, 0.32):
        for sy in (-0.5, 0.5):
            parts.append(wheel.transformed(rigid(0.0, (sx * length, sy * width + 0.1, 0.32), np.pi / 2)))
    return Triangles.concatenate(parts), np.array([length / 2, width / 2, (height + 0.8) / 2])


def _car(build: _Builder, palette: Palette) -> None:
    body, half = car_body(build.g, palette)
    position, yaw = build.beside((build.width / 2 + half[1] - 0.2, build.width / 2 + half[1] + 0.6))
    build.place(body, position, yaw, half, -0.6)


def _pole(build: _Builder, palette: Palette, signs: Sequence[int]) -> None:
    g = build.g
    height = g.uniform(2.0, 7.0)
    parts = [cylinder(g.uniform(0.04, 0.12), height, palette.material(), 8)]
    if g.random() < 0.6:
        w, h = g.uniform(0.4, 1.4), g.uniform(0.4, 1.2)
        board = Material(int(g.choice(signs)), 0.0)
        parts.append(quad(np.array([-0.15, w / 2, height]), np.array([0, -w, 0]), np.array([0, 0, -h]), board))
    position, yaw = build.beside((build.width / 2 + 0.4, build.width / 2 + 2.5))
    build.place(Triangles.concatenate(parts), position, yaw, (0.5, 0.5, height / 2), -0.2)


def _clutter(build: _Builder, palette: Palette, leaves: Sequence[int], textureless: float) -> None:
    """Hedges, fences, bins, crates."""
    g = build.g
    if g.random() < 0.4:
        half = np.array([g.uniform(1.0, 5.0), g.uniform(0.05, 0.5), g.uniform(0.3, 0.8)])
        material = palette.material(int(g.choice([*leaves, *palette.surfaces])), (0.8, 2.0))
    else:
        half = g.uniform(0.15, 0.8, 3)
        material = palette.plain() if g.random() < textureless else palette.material()
    position, yaw = build.beside((build.width / 2 + 0.5, build.width / 2 + 10.0))
    thing = box(2 * half, material) if g.random() < 0.8 else cylinder(half[1], 2 * half[2], material, 12)
    build.place(thing, position, yaw + float(g.choice([0.0, g.uniform(-1.5, 1.5)])), half, 0.2)


def _daylight(g: np.random.Generator, sky_texture: int) -> tuple[Lights, Sky]:
    elevation, azimuth = g.uniform(0.3, 1.4), g.uniform(-np.pi, np.pi)
    direction = np.array([np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)])
    sun = g.uniform(0.0, 0.8) * np.array([1.05, 1.0, 0.9])
    lights = Lights(np.full(3, g.uniform(0.45, 0.75)), g.uniform(0.1, 0.4), sun_direction=direction, sun_colour=sun)
    haze = 0.0 if g.random() < 0.5 else g.uniform(0.0005, 0.006)
    return lights, Sky(sky_texture, np.full(3, g.uniform(0.7, 1.2)), haze)
