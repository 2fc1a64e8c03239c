"""Motion in the image of a static world, exact from depth and poses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robust_loc.data.synthetic.scene import FloatArray
from robust_loc.types import Camera

Image = NDArray[np.float32]


def static_flow(camera: Camera, depth: Image, cam_T_now: FloatArray) -> Image:
    """(H, W, 2) motion in pixels of a static world between the camera that saw ``depth`` and ``cam``.

    ``cam_T_now`` maps points from the camera of ``depth`` into the other; depth 0 counts as infinitely far.
    """
    fx, fy, cx, cy = camera.intrinsics
    x = np.arange(camera.width, dtype=np.float64)[None, :]
    y = np.arange(camera.height, dtype=np.float64)[:, None]
    inverse = np.where(depth > 0, 1.0 / np.maximum(depth, 1e-6), 0.0)
    R, t = cam_T_now[:3, :3], cam_T_now[:3, 3]
    rx, ry = (x - cx) / fx, (y - cy) / fy
    point = [R[k, 0] * rx + R[k, 1] * ry + R[k, 2] + t[k] * inverse for k in range(3)]
    z = np.maximum(point[2], 1e-3)
    return np.stack([fx * point[0] / z + cx - x, fy * point[1] / z + cy - y], axis=-1).astype(np.float32)
