"""A scene flattened into plain arrays: what both ray casters read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robust_loc.data.synthetic.bvh import build_bvh
from robust_loc.data.synthetic.scene import FloatArray, Scene, TextureAtlas, Triangles


class PackedScene(NamedTuple):
    """Body 0 is the static world, body k the k-th mover; each has a subtree of nodes and a range of triangles.

    Attributes:
        geometry: (F, 9) float64 first corner and the two edges from it, in the body's frame.
        surface: (F, 20) float64 for each triangle: 0-5 uv of the corners, 6-14 their normals, 15-17 colour, 18 first
            texel of the texture (-1: none), 19 base-2 logarithm of its side.
        body: (F,) int32 owner of each triangle.
        bounds, skip, first, leaf: the bodies' ``Bvh`` arrays, one after the other, indices into the whole.
        roots: (B,) int32 root node of each body.
        spheres: (B, 4) float64 centre and radius of each body, in its frame.
        texels: (N, 4) uint8 texels of all textures and mip levels.
        ambience: (16,) float64: 0-2 ambient, 3-5 sun direction, 6-8 sun colour, 9 upward, 10-12 sky colour, 13 haze,
            14 first texel of the sky's texture (-1: none), 15 base-2 logarithm of its side.
        lamps: (L, 7) float64 position, colour, reach.
    """

    geometry: FloatArray
    surface: FloatArray
    body: NDArray[np.int32]
    bounds: NDArray[np.float32]
    skip: NDArray[np.int32]
    first: NDArray[np.int32]
    leaf: NDArray[np.int32]
    roots: NDArray[np.int32]
    spheres: FloatArray
    texels: NDArray[np.uint8]
    ambience: FloatArray
    lamps: FloatArray


def pack(scene: Scene) -> PackedScene:
    """Flatten ``scene``; builds one bounding volume hierarchy per body."""
    bodies = [scene.triangles, *(mover.triangles for mover in scene.movers)]
    parts: list[Triangles] = []
    nodes: list[list[NDArray]] = []
    roots, spheres = [], []
    node_offset = face_offset = 0
    for body in bodies:
        tree = build_bvh(body.corners)
        parts.append(
            Triangles(*(getattr(body, n)[tree.order] for n in ("corners", "uv", "normals", "texture", "colour")))
        )
        nodes.append([tree.bounds, tree.skip + np.int32(node_offset), tree.first + np.int32(face_offset), tree.count])
        roots.append(node_offset)
        low, high = body.corners.min(axis=(0, 1)), body.corners.max(axis=(0, 1))
        spheres.append([*(low + high) / 2, np.linalg.norm(high - low) / 2 + 1e-6])
        node_offset += len(tree.skip)
        face_offset += len(body)
    whole = Triangles.concatenate(parts)
    count = len(whole)
    v0 = whole.corners[:, 0]
    geometry = np.concatenate([v0, whole.corners[:, 1] - v0, whole.corners[:, 2] - v0], axis=1)
    base, log_size = _texture_places(scene.atlas, whole.texture)
    flat = [whole.uv.reshape(count, 6), whole.normals.reshape(count, 9), whole.colour]
    surface = np.concatenate([*flat, base[:, None], log_size[:, None]], axis=1)
    lights, sky = scene.lights, scene.sky
    sky_base, sky_log_size = _texture_places(scene.atlas, np.array([sky.texture], np.int32))
    light = [lights.ambient, lights.sun_direction, lights.sun_colour, [lights.upward]]
    ambience = np.concatenate([*light, sky.colour, [sky.haze], sky_base, sky_log_size]).astype(np.float64)
    lamps = np.concatenate([lights.position, lights.colour, lights.reach[:, None]], axis=1).astype(np.float64)
    return PackedScene(
        geometry=np.ascontiguousarray(geometry),
        surface=np.ascontiguousarray(surface),
        body=np.repeat(np.arange(len(bodies), dtype=np.int32), [len(body) for body in bodies]),
        bounds=np.concatenate([n[0] for n in nodes]),
        skip=np.concatenate([n[1] for n in nodes]),
        first=np.concatenate([n[2] for n in nodes]),
        leaf=np.concatenate([n[3] for n in nodes]),
        roots=np.array(roots, np.int32),
        spheres=np.array(spheres, np.float64),
        texels=scene.atlas.texels,
        ambience=ambience,
        lamps=np.ascontiguousarray(lamps),
    )


def _texture_places(atlas: TextureAtlas, texture: NDArray[np.int32]) -> tuple[FloatArray, FloatArray]:
    """First texel and base-2 logarithm of the side of each of ``texture``; -1 and 0 for none."""
    if len(atlas) == 0:
        return np.full(len(texture), -1.0), np.zeros(len(texture))
    index = np.maximum(texture, 0)
    return np.where(texture >= 0, atlas.base[index], -1).astype(float), atlas.log_size[index].astype(float)
