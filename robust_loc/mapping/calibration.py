"""What a map knows of its own reliability: held-out frames, and mirrored ones as queries from elsewhere.

The keyframes around a held-out frame are left out, so that it is as far from the map as a real query: those near in
time, as far as their views are near too, since a camera that turns fast has seen something else a second before. Nor do
the frames between those keyframes help to place the points: they would share their errors with the query. A mirrored
image has the statistics of the place, and is not the place: its answers show what a wrong pose looks like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from robust_loc.errors import MapFormatError
from robust_loc.features import DenseFeatures
from robust_loc.relocalization.localizer import Answer, Relocalizer, RelocalizerConfig
from robust_loc.relocalization.map import Map
from robust_loc.relocalization.verdict import Evidence, fit_verdict
from robust_loc.types import Camera, FloatArray, Frame
from robust_loc.uncertainty import nees, pose_error

RIGHT_DISTANCE, RIGHT_ANGLE = 0.25, np.radians(5.0)
MIN_SAMPLES = 10
NEAR_VIEW = 0.3  # radians between views, of which another keyframe is as far as a real query may be


# takes stamps [F] and world_T_cam [F, 4, 4] of frames: which of them are near a query
Near = Callable[[NDArray[np.int64], FloatArray], NDArray[np.bool_]]


@dataclass(frozen=True)
class Calibration:
    """Outcome of the held-out queries.

    Attributes:
        info: for ``MapInfo.calibration``.
        queries: held-out frames; ``right`` how many of them were localized within 0.25 m and 5 degrees.
        median_position, median_angle: metres and radians, of the right ones.
    """

    info: dict[str, object]
    queries: int
    right: int
    median_position: float
    median_angle: float

    def __str__(self) -> str:
        told = f"{self.right} of {self.queries} held-out frames localized"
        if self.right < MIN_SAMPLES:
            return f"{told}: too few to calibrate the covariance ({MIN_SAMPLES} wanted); it is left as computed"
        return f"{told}, median {100 * self.median_position:.1f} cm, {np.degrees(self.median_angle):.2f} deg"


def calibrate(
    map: Map,
    held_out: Iterable[tuple[Frame, FloatArray]],
    features: DenseFeatures | None = None,
    config: RelocalizerConfig | None = None,
    gap: float = 1.0,
    without: Callable[[Map, Near], Map] | None = None,
) -> tuple[Map, Calibration]:
    """The map with factors for its covariances and coefficients of its verdict.

    Args:
        held_out: frames that are no keyframes, with their ``world_T_cam``.
        gap: keyframes nearer in time than this (seconds) are left out where their view is near, too.
        without: :meth:`MapBuilder.without` of a map with tracked points: the map as if near frames had not been there.
    """
    relocalizer = Relocalizer(map, features, config)
    stamps = np.asarray(map.arrays["keyframe_stamp"], np.int64)
    poses = np.asarray(map.arrays["keyframe_pose"], np.float64)
    depth = _median_depth(map)
    evidence: list[Evidence] = []
    right: list[bool] = []
    errors: list[FloatArray] = []
    covariances: list[FloatArray] = []
    queries = localized = 0
    for frame, world_T_cam in held_out:
        near = _neighbourhood(frame.stamp, world_T_cam, gap, depth)
        relocalizer.ignored = near(stamps, poses)
        if without is not None:
            try:
                relocalizer.map = without(map, near)
            except MapFormatError:  # the neighbourhood is the whole map: nothing is left to be localized in
                relocalizer.ignored[:] = True
        queries += 1
        answer = relocalizer.answer(frame)
        if answer is not None:
            error = pose_error(np.asarray(np.linalg.inv(answer.cam_T_world), np.float64), world_T_cam)
            good = bool(np.linalg.norm(error[:3]) < RIGHT_DISTANCE and np.linalg.norm(error[3:]) < RIGHT_ANGLE)
            localized += good
            evidence.append(answer.evidence)
            right.append(good)
            if good:
                errors.append(error)
                covariances.append(answer.covariance)
        elsewhere: Answer | None = relocalizer.answer(mirrored(frame))
        if elsewhere is not None:
            evidence.append(elsewhere.evidence)
            right.append(False)
    info: dict[str, object] = {"held_out": queries, "localized": localized}
    if localized >= MIN_SAMPLES and len(right) - localized >= MIN_SAMPLES:
        info["verdict"] = fit_verdict(np.array(evidence), np.array(right, float)).to_dict()
    medians = (float("nan"), float("nan"))
    if len(errors) >= MIN_SAMPLES:
        # One factor for position and rotation: they are correlated, and only so does the joint error fit as well.
        factor = float(np.sqrt(nees(np.array(errors), np.array(covariances)).mean() / 6))
        info["covariance"] = {"translation": factor, "rotation": factor, "samples": len(errors)}
        parts = np.array(errors).reshape(-1, 2, 3)
        position, angle = np.median(np.linalg.norm(parts, axis=2), axis=0)
        medians = (float(position), float(angle))
    calibrated = Map(replace(map.info, calibration=info), map.arrays, map.source)
    return calibrated, Calibration(info, queries, localized, *medians)


def _neighbourhood(stamp: int, world_T_cam: FloatArray, gap: float, depth: float) -> Near:
    def near(stamps: NDArray[np.int64], poses: FloatArray) -> NDArray[np.bool_]:
        soon = np.abs(stamps - stamp) < gap * 1e9
        return np.asarray(soon & (_view_distance(poses, world_T_cam, depth) < NEAR_VIEW))

    return near


def _view_distance(world_T_cam: FloatArray, other: FloatArray, depth: float) -> FloatArray:
    """Angle between views [N, 4, 4] and another one: that of the rotation, and that of the shift at ``depth``."""
    trace = np.einsum("nij,ij->n", world_T_cam[:, :3, :3], other[:3, :3])
    shift = np.linalg.norm(world_T_cam[:, :3, 3] - other[:3, 3], axis=1)
    return np.asarray(np.arccos(np.clip((trace - 1) / 2, -1, 1)) + shift / depth, np.float64)


def _median_depth(map: Map) -> float:
    """Of the points in the keyframes that see them, over up to 50 keyframes."""
    start, found = map.arrays["observation_start"], []
    for keyframe in np.unique(np.linspace(0, map.keyframes - 1, 50).astype(int)):
        seen = np.asarray(map.arrays["observation_point"][start[keyframe] : start[keyframe + 1]])
        pose = np.asarray(map.arrays["keyframe_pose"][keyframe], np.float64)
        found.append((np.asarray(map.arrays["points"][seen]) - pose[:3, 3]) @ pose[:3, 2])
    return max(float(np.median(np.concatenate(found))), 1e-6)


def mirrored(frame: Frame) -> Frame:
    """The frame seen in a mirror."""
    camera = frame.camera
    flipped = Camera(camera.width, camera.height, camera.fx, camera.fy, camera.width - 1 - camera.cx, camera.cy)
    return Frame(np.ascontiguousarray(frame.image[:, ::-1]), flipped, frame.stamp)
