"""Reader of textured triangle worlds stored as ``.npz`` with a ``textures`` folder beside it.

The file holds meshes placed by rigid transforms: ``verts``, ``uv`` (v up), ``normals``, ``faces``, ``face_mat``,
``mesh_vert_range``, ``mesh_face_range``, ``inst_mesh``, ``inst_T``, ``inst_optional``, ``mat_tex``, ``mat_color``,
``tex_file``, ``light_pos``, ``light_rgb``, and where a camera may be: ``clearance_cm`` at ``clearance_origin +
clearance_step * (i, j, k)``.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from robust_loc.data.synthetic import textures
from robust_loc.data.synthetic.outdoor_textures import sky
from robust_loc.data.synthetic.scene import FloatArray, Lights, Scene, Sky, TextureAtlas, Triangles
from robust_loc.errors import DatasetError


@dataclass(frozen=True, eq=False)
class GridFreeSpace:
    """Free space as distances on a regular grid.

    Attributes:
        distance: (X, Y, Z) metres to the nearest surface; 0 where a camera cannot be.
        origin: (3,) position of the first grid point.
        step: metres between grid points.
    """

    distance: NDArray[np.float32]
    origin: FloatArray
    step: float

    def clearance(self, points: FloatArray) -> FloatArray:
        """(n,) trilinear distance, 0 outside the grid or next to a point where a camera cannot be."""
        position = (np.atleast_2d(points) - self.origin) / self.step
        low = np.floor(position).astype(int)
        inside = ((low >= 0) & (low + 1 < self.distance.shape)).all(axis=1)
        low = np.clip(low, 0, np.array(self.distance.shape) - 2)
        fraction = position - low
        total = np.zeros(len(position))
        blocked = np.zeros(len(position), bool)
        for corner in np.ndindex(2, 2, 2):
            index = tuple((low + corner).T)
            weight = np.prod(np.where(np.array(corner) == 1, fraction, 1 - fraction), axis=1)
            total += weight * self.distance[index]
            blocked |= self.distance[index] == 0
        return np.where(inside & ~blocked, total, 0.0)

    def sample(self, generator: np.random.Generator, count: int) -> FloatArray:
        """(count, 3) random positions near grid points with at least 0.4 m of clearance."""
        free = np.argwhere(self.distance >= 0.4)
        chosen = free[generator.integers(0, len(free), count)]
        return self.origin + self.step * (chosen + generator.uniform(-0.5, 0.5, (count, 3)))


@dataclass(frozen=True, eq=False)
class World:
    """A world as read: triangles, pictures, free space and the positions and colours of its lamps."""

    triangles: Triangles
    pictures: list[textures.Picture]
    free_space: GridFreeSpace
    lamp_position: FloatArray
    lamp_colour: FloatArray


@lru_cache(maxsize=2)
def load_world(path: Path, optional: bool = True) -> World:
    """Read ``path``; ``optional`` keeps the parts marked optional (ceilings).

    Raises:
        DatasetError: the file or a texture is missing or malformed.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            z = {name: file[name] for name in file.files}
        triangles = _triangles(z, optional)
        pictures = []
        for name in z["tex_file"]:
            picture = cv2.imread(str(path.parent / str(name)), cv2.IMREAD_COLOR)
            if picture is None:
                raise DatasetError(f"{path}: its texture {name} is missing or not a picture")
            pictures.append(np.ascontiguousarray(picture[..., ::-1], np.uint8))
        free = GridFreeSpace(
            z["clearance_cm"].astype(np.float32) / 100.0,
            z["clearance_origin"].astype(float),
            float(z["clearance_step"]),
        )
        return World(triangles, pictures, free, z["light_pos"].astype(float), z["light_rgb"].astype(float))
    except (OSError, KeyError, ValueError, IndexError, zipfile.BadZipFile) as error:
        raise DatasetError(f"{path}: is not a readable world: {error}") from error


def _triangles(z: dict[str, NDArray], optional: bool) -> Triangles:
    parts = []
    for mesh, world_T_mesh, is_optional in zip(z["inst_mesh"], z["inst_T"].astype(float), z["inst_optional"]):
        if is_optional and not optional:
            continue
        faces = z["faces"][slice(*z["mesh_face_range"][mesh])]
        material = z["face_mat"][slice(*z["mesh_face_range"][mesh])]
        texture = z["mat_tex"][material].astype(np.int32)
        colour = np.where(texture[:, None] >= 0, 1.0, z["mat_color"][material][:, :3])
        uv = z["uv"][faces].astype(float)
        uv[..., 1] = 1.0 - uv[..., 1]
        normals = z["normals"][faces] / 127.0
        part = Triangles(z["verts"][faces].astype(float), uv, normals, texture, colour)
        parts.append(part.transformed(world_T_mesh))
    return Triangles.concatenate(parts)


def make_world(
    generator: np.random.Generator,
    path: str | Path,
    pictures: Sequence[textures.Picture] = (),
    swapped: float | None = None,
) -> Scene:
    """The world at ``path`` under random light, with a share ``swapped`` of its textures replaced (default: random).

    Replacements are procedural or, half of them, from ``pictures``.
    """
    g = generator
    world = load_world(Path(path))
    share = (0.0 if g.random() < 0.35 else g.uniform(0.1, 0.8)) if swapped is None else swapped
    atlas = []
    for picture in world.pictures:
        if g.random() < share:
            given = len(pictures) > 0 and g.random() < 0.5
            picture = pictures[int(g.integers(len(pictures)))] if given else textures.random_surface(g, 256)
        atlas.append(picture)
    atlas.append(sky(g, 256))
    chosen = g.permutation(len(world.lamp_position))[: int(g.integers(2, 7))]
    lights = Lights(
        ambient=g.uniform(0.4, 0.7) * (1 + g.uniform(-0.05, 0.05, 3)),
        upward=g.uniform(0.0, 0.3),
        position=world.lamp_position[chosen],
        colour=world.lamp_colour[chosen] / max(float(world.lamp_colour.max()), 1e-6) * g.uniform(0.3, 0.8),
        reach=g.uniform(2.0, 5.0, len(chosen)),
    )
    above = Sky(len(atlas) - 1, np.full(3, g.uniform(0.6, 1.2)))
    return Scene(world.triangles, TextureAtlas(atlas), lights, above, world.free_space)
