"""The whole system without a graph: all estimators and the filter over every frame, in the lockstep order of the graph.

For each image: the odometry's answer moves the filter, then the absolute estimators' answers, in the order of their
names, correct it. The absolute estimators are given the fused pose of the image before as a prior, as in the graph.
"""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from robust_loc.data.files import write_atomically
from robust_loc.data.results import ResultsWriter, trajectory_of
from robust_loc.data.trajectory import format_stamp, write_tum
from robust_loc.evaluation.covariance_calibration import INCREMENTS
from robust_loc.evaluation.replay import Estimator
from robust_loc.fusion import Localization, LocalizationFilter, camera_estimate
from robust_loc.types import Estimate, FloatArray, Frame, Status

SECOND = 1_000_000_000
TIMELINE = "fusion.timeline.csv"
TIMELINE_COLUMNS = (
    "timestamp",
    "state",
    "reason",
    "scale",
    "scale_sigma",
    "nis",
    "age",
    "position_sigma",
    "rotation_sigma",
)


@dataclass(frozen=True, eq=False)
class Answers:
    """Everything said about one frame.

    Attributes:
        by_source: the estimators' own answers; absent where an estimator was not asked.
        localization: the filter's, after them.
        fusion: the same as an estimate of the camera, with the latency of the whole frame.
    """

    stamp: int
    by_source: Mapping[str, Estimate]
    localization: Localization
    fusion: Estimate


def localize(
    frames: Iterable[Frame],
    localizer: LocalizationFilter,
    *,
    odometry: Estimator | None = None,
    absolute: Mapping[str, Estimator] | None = None,
    every: Mapping[str, int] | None = None,
    prior_age: float = 1.0,
    metric_odometry: Iterable[tuple[int, FloatArray]] = (),
) -> Iterator[Answers]:
    """Drive estimators and filter over frames; any of the estimators may be missing.

    Args:
        absolute: estimators of absolute poses by name (``relocalizer``, ``regressor``).
        every: name -> ask it at every n-th frame only (a slow one on a small machine); default 1.
        prior_age: seconds after which the fused pose is no prior any more.
        metric_odometry: (stamp, ``odom_T_base``) of the robot's wheels, in time order; each is used with the first
            image that it reaches.
    """
    wheels = iter(metric_odometry)
    reached = -1
    absolute, every = dict(sorted((absolute or {}).items())), every or {}
    fusion: Estimate | None = None
    for number, frame in enumerate(frames):
        answers: dict[str, Estimate] = {}
        start = time.perf_counter()
        while reached < frame.stamp and (sample := next(wheels, None)) is not None:
            localizer.observe_metric_odometry(*sample)
            reached = sample[0]
        if odometry is not None:
            answers["odometry"] = _ask(odometry, frame, None)
            said = localizer.predict(answers["odometry"])
        else:
            said = localizer.advance(frame.stamp)
        usable = fusion is not None and fusion.has_pose and abs(frame.stamp - fusion.stamp) <= prior_age * SECOND
        prior = fusion if usable else None
        for name, estimator in absolute.items():
            if number % every.get(name, 1) == 0:
                answers[name] = _ask(estimator, frame, prior)
                said = localizer.correct(answers[name], name)
        fusion = camera_estimate(said, frame.stamp, localizer.base_T_cam)
        fusion = replace(fusion, latency=time.perf_counter() - start)
        yield Answers(frame.stamp, answers, said, fusion)


def _ask(estimator: Estimator, frame: Frame, prior: Estimate | None) -> Estimate:
    """The estimator's answer, without the truth that the frame may carry; a missing one counts as REFUSED."""
    start = time.perf_counter()
    estimate = estimator.update(replace(frame, world_T_cam=None), prior)
    if estimate is None:
        estimate = Estimate(frame.stamp, Status.REFUSED, "no answer")
    return estimate if estimate.latency else replace(estimate, latency=time.perf_counter() - start)


def record(
    folder: Path,
    answers: Iterable[Answers],
    configuration: Mapping[str, Any],
    seed: int,
    recording: str | Path | None = None,
    frames: tuple[int, int | None] = (0, None),
) -> dict[str, int]:
    """Write a results folder: one trajectory and table per source, the odometry's increments, the state timeline,
    ``run.json``.

    Returns:
        State -> number of frames.
    """
    counts: dict[str, int] = {}
    moved: list[Estimate] = []
    table = io.StringIO()
    timeline = csv.writer(table, lineterminator="\n")
    timeline.writerow(TIMELINE_COLUMNS)
    with ResultsWriter(folder, configuration, seed, recording, frames) as writer:
        for answer in answers:
            state = answer.localization.state.name
            counts[state] = counts.get(state, 0) + 1
            for name, estimate in answer.by_source.items():
                writer.add(name, estimate)
                if estimate.increment is not None and estimate.increment_covariance is not None:
                    as_pose = replace(
                        estimate, world_T_cam=estimate.increment, covariance=estimate.increment_covariance
                    )
                    moved.append(as_pose)
            writer.add("fusion", answer.fusion, state)
            timeline.writerow(_timeline_row(answer))
    write_atomically(folder / TIMELINE, table.getvalue())
    if moved:
        write_tum(folder / INCREMENTS, trajectory_of(moved))
    return counts


def _timeline_row(answer: Answers) -> list[str]:
    said = answer.localization
    sigmas = ["", ""]
    if said.covariance is not None:
        sigmas = [f"{np.sqrt(np.trace(said.covariance[block, block])):.6f}" for block in (slice(0, 3), slice(3, 6))]
    optional = ["" if value is None else f"{value:.6f}" for value in (said.nis, said.age)]
    scale = [f"{said.scale:.6g}", f"{said.scale_sigma:.6g}"]
    return [format_stamp(answer.stamp), said.state.name, said.reason, *scale, *optional, *sigmas]
