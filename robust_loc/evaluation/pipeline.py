"""The whole system without a graph: all estimators and the filter over every frame, in the lockstep order of the graph.

For each image: the odometry's answer moves the filter, then the absolute estimators' answers, in the order of their
names, correct it. The estimators get no prior, so that their fixes stay independent of the filter.
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
from robust_loc.evaluation.replay import Estimator, replay
from robust_loc.fusion import Localization, LocalizationFilter, camera_estimate
from robust_loc.types import Estimate, Frame

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
) -> Iterator[Answers]:
    """Drive estimators and filter over frames; any of the estimators may be missing.

    Args:
        absolute: estimators of absolute poses by name (``relocalizer``, ``regressor``).
        every: name -> ask it at every n-th frame only (a slow one on a small machine); default 1.
    """
    absolute, every = dict(sorted((absolute or {}).items())), every or {}
    for number, frame in enumerate(frames):
        answers: dict[str, Estimate] = {}
        start = time.perf_counter()
        if odometry is not None:
            (answers["odometry"],) = replay([frame], odometry)
            said = localizer.predict(answers["odometry"])
        else:
            said = localizer.advance(frame.stamp)
        for name, estimator in absolute.items():
            if number % every.get(name, 1) == 0:
                (answers[name],) = replay([frame], estimator)
                said = localizer.correct(answers[name], name)
        fusion = camera_estimate(said, frame.stamp, localizer.base_T_cam)
        yield Answers(frame.stamp, answers, said, replace(fusion, latency=time.perf_counter() - start))


def record(
    folder: Path,
    answers: Iterable[Answers],
    configuration: Mapping[str, Any],
    seed: int,
    recording: str | Path | None = None,
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
    with ResultsWriter(folder, configuration, seed, recording) as writer:
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
