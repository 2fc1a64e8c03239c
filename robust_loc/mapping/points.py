"""Map points from depth: corners of a keyframe, placed in space by the depth around them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from robust_loc.types import Camera, FloatArray

WINDOW = 3  # pixels around a corner whose depths are looked at
MAX_SPREAD = 0.05  # of the depths in the window, relative: more is an edge in depth
QUALITY = 0.003  # of the weakest corner relative to the strongest


def corners(image: NDArray[np.uint8], count: int, spacing: float = 8.0, taken: FloatArray | None = None) -> FloatArray:
    """Up to ``count`` corners [N, 2] of an RGB image, strongest first, ``spacing`` pixels apart and off ``taken``."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    mask = None
    if taken is not None and len(taken):
        mask = np.full(grey.shape, 255, np.uint8)
        for x, y in np.rint(taken).astype(int):
            cv2.circle(mask, (int(x), int(y)), int(spacing), 0, -1)
    found = cv2.goodFeaturesToTrack(grey, count, QUALITY, spacing, mask=mask)
    return np.empty((0, 2)) if found is None else found[:, 0].astype(float)


def depth_at(depth: NDArray[np.float32], pixels: FloatArray) -> FloatArray:
    """Depth [N] at pixels [N, 2]: the median of the window; 0 where it is mostly unknown or crosses an edge."""
    height, width = depth.shape
    out = np.zeros(len(pixels))
    for n, (x, y) in enumerate(np.rint(pixels).astype(int)):
        patch = depth[max(y - WINDOW, 0) : min(y + WINDOW + 1, height), max(x - WINDOW, 0) : min(x + WINDOW + 1, width)]
        known = patch[patch > 0]
        if 2 * len(known) > patch.size and known.max() - known.min() < MAX_SPREAD * np.median(known):
            out[n] = np.median(known)
    return out


def world_points(pixels: FloatArray, depth: FloatArray, camera: Camera, world_T_cam: FloatArray) -> FloatArray:
    """Pixels [N, 2] at ``depth`` [N] as world points [N, 3]."""
    rays = (pixels - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
    local = np.concatenate([rays * depth[:, None], depth[:, None]], 1)
    return local @ world_T_cam[:3, :3].T + world_T_cam[:3, 3]
