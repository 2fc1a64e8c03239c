"""Map points from motion: corners followed from frame to frame and triangulated with known poses."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from robust_loc.mapping.points import corners
from robust_loc.types import Camera, FloatArray, Frame

MIN_PARALLAX = np.radians(1.5)  # between the extreme rays of a track
MAX_ERROR = 1.5  # pixels, RMS reprojection error of a kept point
ROUND_TRIP = 0.7  # pixels between a corner and itself, followed forth and back
PIXEL_HUBER = 1.0


@dataclass
class Tracker:
    """Follows corners with pyramidal Lucas-Kanade and remembers where each was seen.

    Attributes:
        count: corners kept alive.
        ids: [N] of the live tracks, at ``pixels`` [N, 2] of the newest frame.
    """

    count: int = 600
    spacing: float = 8.0
    ids: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    pixels: FloatArray = field(default_factory=lambda: np.empty((0, 2)))
    _previous: NDArray[np.uint8] | None = None
    _next: int = 0
    _tracks: list[NDArray[np.int64]] = field(default_factory=list)
    _seen: list[FloatArray] = field(default_factory=list)
    _cameras: list[Camera] = field(default_factory=list)
    _poses: list[FloatArray] = field(default_factory=list)
    _stamps: list[int] = field(default_factory=list)

    def add(self, frame: Frame, world_T_cam: FloatArray, replenish: bool) -> None:
        """Follow the corners into ``frame``; with ``replenish``, start new tracks where there are few."""
        grey = np.asarray(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), np.uint8)
        if self._previous is not None and self._previous.shape == grey.shape and len(self.ids):
            self._follow(grey)
        elif self._previous is not None:
            self.ids, self.pixels = self.ids[:0], self.pixels[:0]
        if replenish and len(self.ids) < self.count:
            new = corners(frame.image, self.count - len(self.ids), self.spacing, self.pixels)
            self.ids = np.concatenate([self.ids, np.arange(self._next, self._next + len(new))])
            self.pixels = np.concatenate([self.pixels, new])
            self._next += len(new)
        self._previous = grey
        self._tracks.append(self.ids)
        self._seen.append(self.pixels)
        self._cameras.append(frame.camera)
        self._poses.append(world_T_cam)
        self._stamps.append(frame.stamp)

    @property
    def stamps(self) -> NDArray[np.int64]:
        """[F] of the frames taken."""
        return np.array(self._stamps, np.int64)

    @property
    def poses(self) -> FloatArray:
        """[F, 4, 4] world_T_cam of the frames taken."""
        return np.array(self._poses, np.float64).reshape(-1, 4, 4)

    def triangulate(self, left_out: NDArray[np.bool_] | None = None) -> tuple[NDArray[np.int64], FloatArray]:
        """Tracks [P] that give a sound point, and the points [P, 3] in the world.

        Args:
            left_out: [F] frames whose observations do not count; then only tracks that had such are looked at.
        """
        counts = [len(ids) for ids in self._tracks]
        frame = np.repeat(np.arange(len(counts)), counts)
        if not len(frame):
            return np.empty(0, np.int64), np.empty((0, 3))
        ids, pixels = np.concatenate(self._tracks), np.concatenate(self._seen)
        names = np.arange(self._next)
        if left_out is not None:
            names = np.unique(ids[left_out[frame]])
            kept = np.isin(ids, names) & ~left_out[frame]
            ids, pixels, frame = np.searchsorted(names, ids[kept]), pixels[kept], frame[kept]
            if not len(ids):
                return np.empty(0, np.int64), np.empty((0, 3))
        intrinsics = np.array([camera.intrinsics for camera in self._cameras])
        points, good = triangulate(ids, pixels, frame, intrinsics, self.poses, len(names))
        return names[good], points[good]

    def observed_in(self, frames: NDArray[np.bool_]) -> NDArray[np.int64]:
        """The tracks that were seen in any of ``frames`` [F]."""
        seen = [ids for ids, wanted in zip(self._tracks, frames) if wanted]
        return np.unique(np.concatenate(seen)) if seen else np.empty(0, np.int64)

    def _follow(self, grey: NDArray[np.uint8]) -> None:
        assert self._previous is not None
        start = self.pixels.astype(np.float32)[:, None]
        options = {"winSize": (15, 15), "maxLevel": 3}
        there, found, _ = cv2.calcOpticalFlowPyrLK(self._previous, grey, start, None, **options)  # type: ignore
        back, returned, _ = cv2.calcOpticalFlowPyrLK(grey, self._previous, there, None, **options)  # type: ignore
        trip = np.linalg.norm(back - start, axis=2)[:, 0]
        there = there[:, 0].astype(float)
        inside = np.all((there >= 4) & (there <= [grey.shape[1] - 5, grey.shape[0] - 5]), axis=1)
        keep = (found[:, 0] == 1) & (returned[:, 0] == 1) & (trip < ROUND_TRIP) & inside
        self.ids, self.pixels = self.ids[keep], there[keep]


def triangulate(
    ids: NDArray[np.int64],
    pixels: FloatArray,
    frame: NDArray[np.int64],
    intrinsics: FloatArray,
    world_T_cam: FloatArray,
    count: int,
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Points of all tracks at once: nearest to their rays, then Gauss-Newton on a Huber reprojection error.

    Args:
        ids, pixels, frame: [M] track, [M, 2] pixel and [M] frame of each observation.
        intrinsics: [F, 4]. world_T_cam: [F, 4, 4]. count: number of tracks.

    Returns:
        Points [count, 3] and whether each is sound: seen three times or more, with parallax, in front of its cameras,
        and reprojecting within ``MAX_ERROR``.
    """
    R, centre, k = world_T_cam[frame, :3, :3], world_T_cam[frame, :3, 3], intrinsics[frame]
    rays = np.concatenate([(pixels - k[:, 2:]) / k[:, :2], np.ones((len(pixels), 1))], 1)
    rays = np.einsum("mij,mj->mi", R, rays / np.linalg.norm(rays, axis=1, keepdims=True))
    seen = np.bincount(ids, minlength=count)
    normal = np.eye(3) - rays[:, :, None] * rays[:, None]
    A = _summed(normal, ids, count)
    A[seen < 2] = np.eye(3)
    b = _summed(np.einsum("mij,mj->mi", normal, centre), ids, count)
    points = np.asarray(np.linalg.solve(A + 1e-9 * np.eye(3), b[..., None])[..., 0], np.float64)
    for _ in range(6):
        residual, J, _ = _reprojection(points[ids], pixels, R, centre, k)
        weight = 1 / np.maximum(np.linalg.norm(residual, axis=1) / PIXEL_HUBER, 1.0)
        H = _summed(np.einsum("m,mki,mkj->mij", weight, J, J), ids, count)
        g = _summed(np.einsum("m,mki,mk->mi", weight, J, residual), ids, count)
        H += 1e-6 * np.eye(3) * (1 + np.trace(H, axis1=1, axis2=2))[:, None, None]
        points += np.clip(np.linalg.solve(H, g[..., None])[..., 0], -1, 1)
    residual, _, depth = _reprojection(points[ids], pixels, R, centre, k)
    error = np.sqrt(_summed((residual**2).sum(1), ids, count) / np.maximum(seen, 1))
    behind = _summed((depth <= 0.05).astype(float), ids, count) > 0
    # Parallax: angle of the rays to the track's mean ray, doubled.
    toward = points[ids] - centre
    toward /= np.maximum(np.linalg.norm(toward, axis=1, keepdims=True), 1e-9)
    mean = _summed(toward, ids, count)
    mean /= np.maximum(np.linalg.norm(mean, axis=1, keepdims=True), 1e-9)
    angle = np.zeros(count)
    np.maximum.at(angle, ids, np.arccos(np.clip((toward * mean[ids]).sum(1), -1, 1)))
    good = (seen >= 3) & (2 * angle >= MIN_PARALLAX) & (error < MAX_ERROR) & ~behind
    return points, good & np.all(np.isfinite(points), axis=1)


def _reprojection(
    points: FloatArray, pixels: FloatArray, R: FloatArray, centre: FloatArray, k: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Residuals [M, 2], Jacobians of the projections [M, 2, 3] and depths [M]."""
    local = np.einsum("mji,mj->mi", R, points - centre)
    depth = local[:, 2]
    z = np.where(np.abs(depth) < 1e-3, 1e-3, depth)
    residual = pixels - (k[:, :2] * local[:, :2] / z[:, None] + k[:, 2:])
    plane = np.zeros((len(points), 2, 3))
    plane[:, 0, 0], plane[:, 0, 2] = k[:, 0] / z, -k[:, 0] * local[:, 0] / z**2
    plane[:, 1, 1], plane[:, 1, 2] = k[:, 1] / z, -k[:, 1] * local[:, 1] / z**2
    return residual, plane @ np.swapaxes(R, 1, 2), depth


def _summed(values: FloatArray, ids: NDArray[np.int64], count: int) -> FloatArray:
    """Sums of ``values`` [M, ...] by id: [count, ...]."""
    flat = values.reshape(len(values), -1)
    columns = [np.bincount(ids, flat[:, c], minlength=count) for c in range(flat.shape[1])]
    return np.stack(columns, 1).reshape(count, *values.shape[1:]).astype(np.float64)
