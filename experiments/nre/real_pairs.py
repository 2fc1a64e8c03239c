"""Pairs of real images as queries: the points of one image, and their coarse loss maps in the other.

A pair's images are 0.08 to 0.5 radians of view apart (rotation, and shift over the scene's depth). Where a recording
has depth it gives the points; of the photos with surveyed poses, matches with a third photo are triangulated.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from robust_loc.data.datasets import READERS
from robust_loc.features import COARSE_STRIDE, DenseFeatures, FeatureMaps, sample
from robust_loc.mapping.points import corners, depth_at, world_points
from robust_loc.relocalization import LossMaps, correspondence_maps
from robust_loc.relocalization.synthetic import SyntheticQuery
from robust_loc.types import FloatArray, Frame

NEAR, FAR = 0.08, 0.5  # radians of view
RECORDINGS = {
    "redkitchen": "real/7scenes_redkitchen_a",
    "tartanair": "real/tartanair_indoor_189",
    "fountain": "real/strecha_fountain-P11",
    "herz-jesus": "real/strecha_Herz-Jesus-P8",
}


@dataclass(frozen=True, eq=False)
class Pair:
    """Points [N, 3] seen at ``pixels`` [N, 2] of ``source``, to be found in ``target``."""

    source: Frame
    target: Frame
    points: FloatArray
    pixels: FloatArray


def pairs_of(name: str, count: int, points: int, seed: int = 0) -> list[Pair]:
    """Up to ``count`` random pairs of a recording of ``ROBUST_LOC_DATA``."""
    recording = READERS["folder"](Path(os.environ["ROBUST_LOC_DATA"]) / RECORDINGS[name])
    frames = list(recording.frames())
    sourced = [frame for frame in frames if frame.depth is not None]
    rng = np.random.default_rng(seed)
    out: list[Pair] = []
    if not sourced:
        options = _triangulated(frames, points)
        return [options[k] for k in rng.permutation(len(options))[:count]]
    for _ in range(100 * count):
        source, target = sourced[rng.integers(len(sourced))], frames[rng.integers(len(frames))]
        pixels = corners(source.image, 2 * points)
        depth = depth_at(np.asarray(source.depth), pixels)
        pixels, depth = pixels[depth > 0][:points], depth[depth > 0][:points]
        if len(pixels) < 40 or not NEAR < view_angle(source, target, float(np.median(depth))) < FAR:
            continue
        assert source.world_T_cam is not None
        out.append(Pair(source, target, world_points(pixels, depth, source.camera, source.world_T_cam), pixels))
        if len(out) == count:
            break
    return out


def described(features: DenseFeatures) -> Callable[[Frame], FeatureMaps]:
    """The descriptors of a frame, computed once."""
    known: dict[int, FeatureMaps] = {}

    def describe(frame: Frame) -> FeatureMaps:
        if id(frame) not in known:
            known[id(frame)] = features.extract(frame.image)
        return known[id(frame)]

    return describe


def query_of(pair: Pair, describe: Callable[[Frame], FeatureMaps]) -> SyntheticQuery:
    """The coarse loss maps of a pair."""
    descriptors = sample(describe(pair.source).coarse, pair.pixels, COARSE_STRIDE)
    maps = correspondence_maps(descriptors, describe(pair.target).coarse)
    losses = LossMaps.from_dense(maps, width=maps.shape[2], height=maps.shape[1])
    intrinsics = pair.target.camera.at_stride(COARSE_STRIDE).intrinsics
    return SyntheticQuery(losses, pair.points, intrinsics, np.asarray(np.linalg.inv(pair.target.world_T_cam)))


def view_angle(a: Frame, b: Frame, depth: float) -> float:
    """Radians between two views: that of the rotation, and that of the shift at ``depth``."""
    relative = np.linalg.inv(a.world_T_cam) @ b.world_T_cam
    angle = np.arccos(np.clip((np.trace(relative[:3, :3]) - 1) / 2, -1, 1))
    return float(angle + np.linalg.norm(relative[:3, 3]) / depth)


def _triangulated(frames: list[Frame], count: int) -> list[Pair]:
    """Every source with a neighbour's matches as points, and every other photo as target."""
    out = []
    for i, source in enumerate(frames):
        for helper in (i - 1, i + 1):
            if not 0 <= helper < len(frames):
                continue
            pixels, points = _matched(source, frames[helper])
            if len(points) < 40:
                continue
            pixels, points = pixels[:count], points[:count]
            local = (points - source.world_T_cam[:3, 3]) @ source.world_T_cam[:3, 2]
            for j, target in enumerate(frames):
                if j not in (i, helper) and NEAR < view_angle(source, target, float(np.median(local))) < FAR:
                    out.append(Pair(source, target, points, pixels))
    return out


def _matched(a: Frame, b: Frame) -> tuple[FloatArray, FloatArray]:
    """Pixels [N, 2] of ``a`` and points [N, 3] that SIFT matches with ``b`` give under the known poses."""
    sift = cv2.SIFT_create(4000)  # type: ignore[attr-defined]
    found = [sift.detectAndCompute(cv2.cvtColor(f.image, cv2.COLOR_RGB2GRAY), None) for f in (a, b)]
    candidates = cv2.BFMatcher().knnMatch(found[0][1], found[1][1], k=2)
    good = [m for m, n in candidates if m.distance < 0.8 * n.distance]
    at = [
        np.array([found[0][0][m.queryIdx].pt for m in good], float),
        np.array([found[1][0][m.trainIdx].pt for m in good], float),
    ]
    projections = []
    for frame in (a, b):
        fx, fy, cx, cy = frame.camera.intrinsics
        projections.append(np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]) @ np.linalg.inv(frame.world_T_cam)[:3])
    homogeneous = cv2.triangulatePoints(projections[0], projections[1], at[0].T, at[1].T)
    points = (homogeneous[:3] / homogeneous[3]).T
    keep = np.ones(len(points), bool)
    for P, pixels in zip(projections, at):
        seen = points @ P[:, :3].T + P[:, 3]
        keep &= (seen[:, 2] > 0) & (np.linalg.norm(seen[:, :2] / seen[:, 2:] - pixels, axis=1) < 1.0)
    return at[0][keep], np.asarray(points[keep], np.float64)
