"""Textured boxes, quads, cylinders and ellipsoids as triangles, with texture coordinates in metric tiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robust_loc.data.synthetic.scene import NO_TEXTURE, FloatArray, Triangles, Vector


@dataclass(frozen=True)
class Material:
    """How a surface looks.

    Attributes:
        texture: index into the atlas or ``NO_TEXTURE``.
        tile: metres that one repetition of the texture covers; 0 stretches it once over each face.
        colour: factor of the texture, or the plain colour.
    """

    texture: int = NO_TEXTURE
    tile: float = 1.0
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)


def rigid(yaw: float = 0.0, position: Vector = (0.0, 0.0, 0.0), tilt: float = 0.0) -> FloatArray:
    """(4, 4) transform: tilt about x, then yaw about z, then translation."""
    cy, sy, ct, st = np.cos(yaw), np.sin(yaw), np.cos(tilt), np.sin(tilt)
    result = np.eye(4)
    result[:3, :3] = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, ct, -st], [0, st, ct]])
    result[:3, 3] = position
    return result


def _patch(grid: FloatArray, uv: FloatArray, normals: FloatArray, material: Material) -> Triangles:
    """Triangles of a (m, n) grid of points (m, n, 3) with uv (m, n, 2) and normals (m, n, 3)."""

    def split(values: FloatArray) -> FloatArray:
        a, b, c, d = values[:-1, :-1], values[:-1, 1:], values[1:, 1:], values[1:, :-1]
        return np.stack([np.stack([a, b, c], -2), np.stack([a, c, d], -2)], 2).reshape(-1, 3, values.shape[-1])

    corners = split(grid)
    count = len(corners)
    texture = np.full(count, material.texture, np.int32)
    return Triangles(corners, split(uv), split(normals), texture, np.tile(np.array(material.colour, float), (count, 1)))


def quad(origin: FloatArray, right: FloatArray, down: FloatArray, material: Material, offset: float = 0.0) -> Triangles:
    """The parallelogram ``origin + s right + t down``; its picture is upright for (right, down) as seen on screen.

    ``offset`` shifts the texture so that equal materials do not look alike.
    """
    corners = np.array([[origin, origin + right], [origin + down, origin + right + down]])
    width, height = np.linalg.norm(right), np.linalg.norm(down)
    su, sv = (1.0, 1.0) if material.tile <= 0 else (width / material.tile, height / material.tile)
    uv = np.array([[[0.0, 0.0], [su, 0.0]], [[0.0, sv], [su, sv]]])
    if material.tile > 0:
        uv = uv + offset * np.array([1.0, 0.618])
    normal = np.cross(right, down)
    normal = normal / max(float(np.linalg.norm(normal)), 1e-12)
    return _patch(corners, uv, np.broadcast_to(normal, (2, 2, 3)), material)


def box(size: Vector, material: Material, sides: Sequence[Material] | None = None) -> Triangles:
    """A box centred on x = y = 0 that stands on z = 0.

    ``sides`` optionally gives the materials of -y, +x, +y, -x, top and bottom.
    """
    x, y, z = float(size[0]) / 2, float(size[1]) / 2, float(size[2])
    faces = [
        ((-x, -y, z), (2 * x, 0, 0), (0, 0, -z)),
        ((x, -y, z), (0, 2 * y, 0), (0, 0, -z)),
        ((x, y, z), (-2 * x, 0, 0), (0, 0, -z)),
        ((-x, y, z), (0, -2 * y, 0), (0, 0, -z)),
        ((-x, y, z), (2 * x, 0, 0), (0, -2 * y, 0)),
        ((-x, -y, 0), (2 * x, 0, 0), (0, 2 * y, 0)),
    ]
    materials = sides or [material] * 6
    return Triangles.concatenate(
        [
            quad(np.array(o, float), np.array(r, float), np.array(d, float), m, offset=0.37 * i)
            for i, ((o, r, d), m) in enumerate(zip(faces, materials))
        ]
    )


def room_shell(size: Vector, walls: Sequence[Material], floor: Material, ceiling: Material) -> Triangles:
    """The inside of a box [-x/2, x/2] x [-y/2, y/2] x [0, z]; ``walls`` are those at -y, +x, +y, -x."""
    return box(size, floor, [*walls, ceiling, floor])


def cylinder(radius: float, height: float, material: Material, segments: int = 20, top_scale: float = 1.0) -> Triangles:
    """A capped (truncated) cone about z from z = 0 to ``height``; the upper radius is ``top_scale * radius``."""
    angle = np.linspace(0.0, 2 * np.pi, segments + 1)
    ring = np.stack([np.cos(angle), np.sin(angle), np.zeros_like(angle)], -1)
    top = ring * radius * top_scale + [0, 0, height]
    bottom = ring * radius
    tile = material.tile if material.tile > 0 else max(2 * np.pi * radius, height)
    # a whole number of repetitions around, so that the seam does not show
    around = max(1.0, round(2 * np.pi * radius / tile)) * angle / (2 * np.pi)
    uv = np.stack([np.stack([around, np.zeros_like(angle)], -1), np.stack([around, 0 * angle + height / tile], -1)])
    parts = [_patch(np.stack([top, bottom]), uv, np.stack([ring, ring]), material)]
    for rim, z in ((top, 1.0), (bottom, -1.0)):
        centre = np.broadcast_to(rim.mean(axis=0) * [0, 0, 1], rim.shape)
        disc = np.stack([rim, centre])
        parts.append(_patch(disc, disc[..., :2] / tile, np.broadcast_to([0.0, 0.0, z], disc.shape), material))
    return Triangles.concatenate(parts)


def ellipsoid(radii: Vector, material: Material, segments: int = 14, bumps: FloatArray | None = None) -> Triangles:
    """An ellipsoid about the origin; ``bumps`` (segments + 1, 2 segments + 1) scales the radius (a bush, a rock)."""
    polar = np.linspace(0.0, np.pi, segments + 1)[:, None]
    azimuth = np.linspace(0.0, 2 * np.pi, 2 * segments + 1)[None, :]
    unit = np.stack(
        [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar) + 0 * azimuth], axis=-1
    )
    scale = np.ones(unit.shape[:2]) if bumps is None else bumps.copy()
    scale[:, -1] = scale[:, 0]
    scale[0], scale[-1] = scale[0, 0], scale[-1, 0]
    size = np.array(radii, float)
    grid = unit * size * scale[..., None]
    normals = unit / size
    normals = normals / np.linalg.norm(normals, axis=-1, keepdims=True)
    tile = material.tile if material.tile > 0 else 2.0 * float(size.max())
    around = max(1.0, round(2 * np.pi * float(size[:2].mean()) / tile))
    down = np.pi * float(size.mean()) / tile
    uv = np.stack([around * azimuth / (2 * np.pi) + 0 * polar, down * polar / np.pi + 0 * azimuth], -1)
    return _patch(grid, uv, normals, material)
