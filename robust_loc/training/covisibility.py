"""Which frames of a sequence see the same scene: mean optical flow between frames from depth and poses."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robust_loc.types import Camera, FloatArray

SAMPLES = (15, 20)  # rows, columns of the grid on which the flow is averaged
MINIMUM_VALID = 0.7  # fraction of the grid that must land in front of the other camera, in the image


def covisibility(depth: NDArray[np.floating], world_T_cam: FloatArray, camera: Camera) -> NDArray[np.float32]:
    """Symmetric mean flow between all pairs of frames.

    Args:
        depth: [n, H, W] along the optical axis; 0 where unknown, inf where infinitely far (the sky).
        world_T_cam: [n, 4, 4].
        camera: of all frames.

    Returns:
        [n, n] pixels; inf where less than 70 % of the points of known depth are seen from the other frame.
    """
    n, height, width = depth.shape
    v = np.linspace(0, height - 1, SAMPLES[0] + 2)[1:-1].astype(int)
    u = np.linspace(0, width - 1, SAMPLES[1] + 2)[1:-1].astype(int)
    grid = np.stack(np.meshgrid(u, v, indexing="xy"), -1).reshape(-1, 2).astype(float)
    z = depth[:, v[:, None], u[None]].reshape(n, -1).astype(float)
    rays = np.column_stack([(grid - [camera.cx, camera.cy]) / [camera.fx, camera.fy], np.ones(len(grid))])
    cam_T_world = np.linalg.inv(world_T_cam)
    flow = np.full((n, n), np.inf, np.float32)
    for i in range(n):
        known = z[i] > 0
        if known.sum() < MINIMUM_VALID * len(grid):
            continue
        # homogeneous, so that a point may be infinitely far: it turns with the camera and sees no translation
        inverse = 1 / z[i, known]
        relative = cam_T_world @ world_T_cam[i]  # every frame j from frame i
        moved = rays[known] @ relative[:, :3, :3].transpose(0, 2, 1) + inverse[:, None] * relative[:, None, :3, 3]
        Z = np.maximum(moved[..., 2], 1e-6)
        pixel = moved[..., :2] / Z[..., None] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
        seen = (moved[..., 2] > 1e-3) & np.all((pixel >= 0) & (pixel <= [width - 1, height - 1]), -1)
        distance = np.linalg.norm(pixel - grid[known], axis=-1)
        count = seen.sum(1)
        mean = np.where(seen, distance, 0.0).sum(1) / np.maximum(count, 1)
        flow[i] = np.where(count >= MINIMUM_VALID * known.sum(), mean, np.inf)
    return 0.5 * (flow + flow.T)


def sample_clip(
    flow: NDArray[np.float32], length: int, limits: tuple[float, float], generator: np.random.Generator
) -> list[int]:
    """Indices of ``length`` frames, each co-visible with the one before it.

    From each frame the next is drawn uniformly among those whose mean flow to it lies within ``limits`` (pixels),
    later ones first, earlier ones where the sequence ends; the neighbouring frame where there is none. Half of the
    clips are played backwards.
    """
    n = len(flow)
    index = int(generator.integers(0, max(1, n - length)))
    clip = [index]
    while len(clip) < length:
        candidates = np.flatnonzero((flow[index] > limits[0]) & (flow[index] < limits[1]))
        # near in time: the graph may also hold revisits, which belong to no camera's motion
        candidates = candidates[np.abs(candidates - index) <= max(16, n // 8)]
        forward = candidates[candidates > index]
        if len(forward):
            index = int(generator.choice(forward))
        elif index + 1 < n:
            index += 1
        else:
            backward = candidates[candidates < index]
            index = int(generator.choice(backward)) if len(backward) else max(index - 1, 0)
        clip.append(index)
    return clip[::-1] if generator.random() < 0.5 else clip
