"""What a map knows of its own reliability: held-out frames, and mirrored ones as queries from elsewhere.

The keyframes around a held-out frame are left out, so that it is as far from the map as a real query. A mirrored image
has the statistics of the place, and is not the place: its answers show what a wrong pose looks like.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from robust_loc.features import DenseFeatures
from robust_loc.relocalization.localizer import Answer, Relocalizer, RelocalizerConfig
from robust_loc.relocalization.map import Map
from robust_loc.relocalization.verdict import Evidence, fit_verdict
from robust_loc.types import Camera, FloatArray, Frame
from robust_loc.uncertainty import nees, pose_error

RIGHT_DISTANCE, RIGHT_ANGLE = 0.25, np.radians(5.0)
MIN_SAMPLES = 10


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
        return (
            f"{self.right} of {self.queries} held-out frames localized, "
            f"median {100 * self.median_position:.1f} cm, {np.degrees(self.median_angle):.2f} deg"
        )


def calibrate(
    map: Map,
    held_out: Iterable[tuple[Frame, FloatArray]],
    features: DenseFeatures | None = None,
    config: RelocalizerConfig | None = None,
    gap: float = 1.0,
) -> tuple[Map, Calibration]:
    """The map with factors for its covariances and coefficients of its verdict.

    Args:
        held_out: frames that are no keyframes, with their ``world_T_cam``.
        gap: keyframes nearer in time than this (seconds) are left out.
    """
    relocalizer = Relocalizer(map, features, config)
    stamps = np.asarray(map.arrays["keyframe_stamp"], np.int64)
    evidence: list[Evidence] = []
    right: list[bool] = []
    errors: list[FloatArray] = []
    covariances: list[FloatArray] = []
    queries = localized = 0
    for frame, world_T_cam in held_out:
        relocalizer.ignored = np.abs(stamps - frame.stamp) < gap * 1e9
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


def mirrored(frame: Frame) -> Frame:
    """The frame seen in a mirror."""
    camera = frame.camera
    flipped = Camera(camera.width, camera.height, camera.fx, camera.fy, camera.width - 1 - camera.cx, camera.cy)
    return Frame(np.ascontiguousarray(frame.image[:, ::-1]), flipped, frame.stamp)
