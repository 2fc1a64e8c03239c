"""An analytic world for the tracker tests: a bumpy wall and floor seen by a moving camera, with exact depth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from robust_loc.types import Camera, Frame

CAMERA = Camera(160, 128, 150.0, 148.0, 80.5, 62.3)
RATE = 20  # frames per second
Path = Callable[[float], NDArray[np.float64]]


def pose(position: tuple[float, float, float], yaw: float = 0.0, pitch: float = 0.0) -> NDArray[np.float64]:
    """world_T_cam looking along z, turned by yaw (about y) and pitch (about x)."""
    T = np.eye(4)
    T[:3, :3] = Rotation.from_euler("yx", [yaw, pitch]).as_matrix()
    T[:3, 3] = position
    return T


def wander(t: float) -> NDArray[np.float64]:
    """A smooth path with all six motions; about 0.5 m/s."""
    position = (0.6 * np.sin(0.8 * t), 0.25 * np.sin(1.1 * t + 1), 0.5 * np.sin(0.5 * t))
    return pose(position, 0.12 * np.sin(0.7 * t), 0.08 * np.sin(0.9 * t))


def render(world_T_cam: NDArray[np.float64], stamp: int, camera: Camera = CAMERA) -> Frame:
    """Ray-cast a box room of 6 x 3 x 8 m with a checkered, wavy texture; depth is exact."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u, float)], -1)
    direction = rays @ world_T_cam[:3, :3].T
    direction[direction == 0] = 1e-12
    origin = world_T_cam[:3, 3]
    low, high = np.array([-3.0, -1.5, -3.0]), np.array([3.0, 1.5, 5.0])
    distance = np.where(direction > 0, (high - origin) / direction, (low - origin) / direction)
    depth = distance.min(-1)
    # boxes standing in the room give depth edges
    for centre, half in (((-1.0, 0.8, 2.5), 0.5), ((1.2, 0.3, 3.2), 0.6), ((0.2, -0.9, 3.8), 0.4)):
        near = (np.array(centre) - half - origin) / direction
        far = (np.array(centre) + half - origin) / direction
        enter, leave = np.minimum(near, far).max(-1), np.maximum(near, far).min(-1)
        depth = np.where((enter < leave) & (enter > 0), np.minimum(depth, enter), depth)
    point = origin + direction * depth[..., None]
    phase = point * np.array([5.1, 6.3, 4.7])
    waves = np.sin(phase).sum(-1) + np.sin(2.7 * phase[..., [1, 2, 0]]).sum(-1) + np.sin(6.1 * phase).prod(-1)
    image = np.clip(127 + 25 * waves[..., None] * np.array([1.0, 0.8, 0.6]), 0, 255).astype(np.uint8)
    return Frame(image, camera, stamp, depth.astype(np.float32), world_T_cam)


def sequence(count: int, path: Path = wander, skip: tuple[int, ...] = (), camera: Camera = CAMERA) -> list[Frame]:
    """``count`` frames at ``RATE``, without the frames in ``skip``."""
    step = 1_000_000_000 // RATE
    return [render(path(i / RATE), 1000 + i * step, camera) for i in range(count) if i not in skip]
