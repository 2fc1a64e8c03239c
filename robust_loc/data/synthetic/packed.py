"""A scene flattened into plain arrays: what both ray casters read."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from robust_loc.data.synthetic.bvh import build_bvh
from robust_loc.data.synthetic.scene import FloatArray, Scene, Triangles


class PackedScene(NamedTuple):
    """Body 0 is the static world, body k the k-th mover; each has a subtree of nodes and a range of triangles.

    Attributes:
        geometry: (F, 9) float64 first corner and the two edges from it, in the body's frame.
        uv: (F, 6) float32; normals: (F, 9) float32; texture: (F,) int32; colour: (F, 3) float32.
        bounds, skip, first, leaf: the bodies' ``Bvh`` arrays, one after the other, indices into the whole.
        roots: (B,) int32 root node of each body.
        spheres: (B, 4) float64 centre and radius of each body, in its frame.
        texels, base, log_size: the texture atlas.
        light: (3 + 3 + 3 + 1,) float64 ambient, sun direction, sun colour, upward.
        lamps: (L, 7) float64 position, colour, reach.
        sky: (5,) float64 colour, haze, texture index.
    """

    geometry: FloatArray
    uv: NDArray[np.float32]
    normals: NDArray[np.float32]
    texture: NDArray[np.int32]
    colour: NDArray[np.float32]
    bounds: NDArray[np.float32]
    skip: NDArray[np.int32]
    first: NDArray[np.int32]
    leaf: NDArray[np.int32]
    roots: NDArray[np.int32]
    spheres: FloatArray
    texels: NDArray[np.uint8]
    base: NDArray[np.int64]
    log_size: NDArray[np.int64]
    light: FloatArray
    lamps: FloatArray
    sky: FloatArray


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
    lights = scene.lights
    lamps = np.concatenate([lights.position, lights.colour, lights.reach[:, None]], axis=1).astype(np.float64)
    return PackedScene(
        geometry=np.ascontiguousarray(geometry),
        uv=whole.uv.reshape(count, 6).astype(np.float32),
        normals=whole.normals.reshape(count, 9).astype(np.float32),
        texture=whole.texture.astype(np.int32),
        colour=whole.colour.astype(np.float32),
        bounds=np.concatenate([n[0] for n in nodes]),
        skip=np.concatenate([n[1] for n in nodes]),
        first=np.concatenate([n[2] for n in nodes]),
        leaf=np.concatenate([n[3] for n in nodes]),
        roots=np.array(roots, np.int32),
        spheres=np.array(spheres, np.float64),
        texels=scene.atlas.texels,
        base=scene.atlas.base,
        log_size=scene.atlas.log_size,
        light=np.concatenate([lights.ambient, lights.sun_direction, lights.sun_colour, [lights.upward]]).astype(float),
        lamps=np.ascontiguousarray(lamps),
        sky=np.array([*scene.sky.colour, scene.sky.haze, scene.sky.texture], np.float64),
    )
