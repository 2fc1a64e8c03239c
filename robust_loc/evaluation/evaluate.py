"""One estimate against the truth: the object that ``robust-loc evaluate --json`` prints, and the series behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from robust_loc.data.trajectory import StampArray, Trajectory, associate
from robust_loc.errors import TrajectoryError
from robust_loc.evaluation.metrics import (
    AlignmentMode,
    apply_alignment,
    find_alignment,
    kitti_drift,
    recall,
    relative_errors,
    rotation_errors,
    statistics,
    translation_errors,
)
from robust_loc.evaluation.state_timeline import StateTimeline, state_timeline
from robust_loc.types import FloatArray
from robust_loc.uncertainty import block_bootstrap, coverage, nees, pose_error, sparsification

THREE_SIGMA = float(stats.chi2.ppf(stats.chi2.cdf(9.0, 1), 6))  # the ellipsoid that holds as much as +-3 sigma: 20.06


@dataclass(frozen=True)
class WrongPose:
    """Bounds beyond which a pose is wrong, whatever its covariance says."""

    metres: float = 0.25
    degrees: float = 5.0


@dataclass(frozen=True, eq=False)
class Series:
    """Errors over time of the poses that have a true counterpart, after the chosen alignment.

    Attributes:
        seconds: (N,) since the first true pose.
        translation, rotation: (N,) errors in metres and radians.
        sigma_translation, sigma_rotation: (N,) predicted: root of the trace of the covariance's blocks; NaN where
            there is none.
        nees: (N,) normalised squared error, NaN where there is no covariance.
        estimate, truth: (N, 3) paired positions; ``path`` (M, 3) is the whole truth.
        latency_seconds, latencies: time and latency (s) of every frame asked for; empty where unknown.
    """

    seconds: FloatArray
    translation: FloatArray
    rotation: FloatArray
    sigma_translation: FloatArray
    sigma_rotation: FloatArray
    nees: FloatArray
    estimate: FloatArray
    truth: FloatArray
    path: FloatArray
    latency_seconds: FloatArray
    latencies: FloatArray


@dataclass(frozen=True, eq=False)
class Evaluation:
    """``summary`` is the JSON object of the command line; ``warnings`` what a reader of the numbers should know.

    ``states`` is there where the localization states were given.
    """

    summary: dict[str, Any]
    series: Series
    alignment: AlignmentMode
    warnings: tuple[str, ...] = ()
    states: StateTimeline | None = None


def evaluate(
    estimate: Trajectory,
    truth: Trajectory,
    *,
    alignment: AlignmentMode = AlignmentMode.NONE,
    tolerance: int = 10_000_000,
    delta_frames: int = 1,
    wrong: WrongPose | None = None,
    states: tuple[StampArray, Sequence[str]] | None = None,
    latencies: tuple[StampArray, FloatArray] | None = None,
    fixes: Sequence[Trajectory] = (),
) -> Evaluation:
    """Every metric that can be computed; one that cannot is absent from the summary.

    Args:
        estimate, truth: associated by time within ``tolerance`` ns. Each true pose counts as a frame.
        alignment: the transform that the estimate undergoes before RPE, drift, medians, recall and uncertainty (ATE is
            given for three of them). A localizer wants NONE, up-to-scale odometry SIM3, or START for its covariances.
        delta_frames: step of the RPE.
        wrong: bounds of ``localized_while_wrong``.
        states: stamps and localization states of the frames; ``latencies``: stamps and seconds.
        fixes: what the sources of absolute poses answered, to tell where LOST could have been avoided.

    Raises:
        TrajectoryError: nothing can be associated, or the alignment asked for is not determined.
    """
    wrong = wrong or WrongPose()
    i, j = associate(estimate, truth, tolerance, unique=True)
    if not len(i):
        raise TrajectoryError(
            f"none of {len(estimate)} estimates is within {tolerance / 1e9:g} s of one of {len(truth)} true poses; "
            "do both use the same clock?"
        )
    paired, paired_truth = estimate.select(i), truth.select(j)
    summary: dict[str, Any] = {"frames": len(truth), "estimated": len(i), "ate": {}}
    for mode in (AlignmentMode.NONE, AlignmentMode.SE3, AlignmentMode.SIM3):
        found = find_alignment(paired, paired_truth, mode)
        if found is not None:
            error = statistics(translation_errors(apply_alignment(paired, found), paired_truth))
            summary["ate"][mode.value] = {"rmse": error.rmse, "median": error.median, "max": error.max}
            if mode is AlignmentMode.SIM3:
                summary["ate"][mode.value]["scale"] = found.scale
    chosen = find_alignment(paired, paired_truth, alignment)
    if chosen is None:
        raise TrajectoryError(f"alignment {alignment.value} is not determined (fewer than three poses, or no motion)")
    paired, aligned = apply_alignment(paired, chosen), apply_alignment(estimate, chosen)
    translation, rotation = translation_errors(paired, paired_truth), rotation_errors(paired, paired_truth)

    if len(paired) > delta_frames:
        moved, turned = relative_errors(paired, paired_truth, delta_frames)
        summary["rpe"] = {
            "delta_frames": delta_frames,
            "translation": statistics(moved)._asdict(),
            "rotation": statistics(turned)._asdict(),
        }
    drift = kitti_drift(aligned, truth, (i, j))
    if drift is not None:
        summary["kitti"] = {
            "translation_percent": 100 * drift.translation,
            "rotation_deg_per_100m": float(np.degrees(drift.rotation)) * 100,
        }
    summary["median"] = {"translation": float(np.median(translation)), "rotation": float(np.median(rotation))}
    summary["recall"] = recall(translation, rotation, len(truth))

    normalised, warnings = _nees(paired, paired_truth)
    sigma_translation, sigma_rotation = _sigmas(paired)
    known = np.isfinite(normalised)
    if known.any():
        summary["uncertainty"] = _uncertainty(
            normalised[known], translation[known], rotation[known], sigma_translation[known], sigma_rotation[known]
        )
    timeline = None
    if states is not None and any(states[1]):
        is_wrong = (translation > wrong.metres) | (np.degrees(rotation) > wrong.degrees) | (normalised > THREE_SIGMA)
        right = np.concatenate([np.zeros(0, np.int64), *(_right(fix, truth, tolerance, wrong) for fix in fixes)])
        timeline = state_timeline(*states, paired.stamps, is_wrong, right, truth, tolerance)
        summary["state"] = timeline.summary()
    clock, seconds = (np.zeros(0, np.int64), np.zeros(0)) if latencies is None else latencies
    measured = np.isfinite(seconds)
    if measured.any():
        summary["latency"] = {f"p{q}": float(np.percentile(seconds[measured], q)) for q in (50, 99)}
    start = int(truth.stamps[0])
    series = Series(
        (paired.stamps - start) / 1e9,
        translation,
        rotation,
        sigma_translation,
        sigma_rotation,
        normalised,
        paired.positions,
        paired_truth.positions,
        truth.positions,
        (clock[measured] - start) / 1e9,
        seconds[measured],
    )
    return Evaluation(summary, series, alignment, warnings, timeline)


def _right(fix: Trajectory, truth: Trajectory, tolerance: int, wrong: WrongPose) -> StampArray:
    """Stamps at which an absolute pose was within the bounds."""
    i, j = associate(fix, truth, tolerance, unique=True)
    paired, true = fix.select(i), truth.select(j)
    near = translation_errors(paired, true) <= wrong.metres
    return paired.stamps[near & (np.degrees(rotation_errors(paired, true)) <= wrong.degrees)]


def _nees(estimate: Trajectory, truth: Trajectory) -> tuple[FloatArray, tuple[str, ...]]:
    """(N,) normalised squared errors; NaN, with a warning, where a covariance is missing or not positive definite."""
    values = np.full(len(estimate), np.nan)
    if estimate.covariances is None:
        return values, ()
    finite = np.isfinite(estimate.covariances).all(axis=(1, 2))
    usable = np.array(finite)
    usable[finite] = np.linalg.eigvalsh(estimate.covariances[finite])[:, 0] > 0
    if usable.any():
        errors = pose_error(estimate.world_T_cam[usable], truth.world_T_cam[usable])
        values[usable] = nees(errors, estimate.covariances[usable])
    bad = int(np.sum(finite & ~usable))
    return values, (f"{bad} covariances are not positive definite and are left out",) if bad else ()


def _sigmas(estimate: Trajectory) -> tuple[FloatArray, FloatArray]:
    if estimate.covariances is None:
        unknown = np.full(len(estimate), np.nan)
        return unknown, unknown
    variances = np.diagonal(estimate.covariances, axis1=1, axis2=2)
    traces = np.stack([variances[:, :3].sum(axis=1), variances[:, 3:].sum(axis=1)])
    translation, rotation = np.sqrt(np.where(traces >= 0, traces, np.nan))
    return translation, rotation


def _uncertainty(
    normalised: FloatArray,
    translation: FloatArray,
    rotation: FloatArray,
    sigma_translation: FloatArray,
    sigma_rotation: FloatArray,
) -> dict[str, Any]:
    """ANEES with its block-bootstrap band (frames of a recording are correlated), coverage, sparsification error."""
    band = block_bootstrap(normalised / 6)
    ause = {}
    for name, errors, sigmas in (
        ("translation", translation, sigma_translation),
        ("rotation", rotation, sigma_rotation),
    ):
        if errors.max() > 0:
            ause[name] = sparsification(errors, sigmas).ause
    levels = {f"{level:g}": share for level, share in coverage(normalised, 6).items()}
    return {"anees": band.value, "band": [band.low, band.high], "coverage": levels, "ause": ause}
