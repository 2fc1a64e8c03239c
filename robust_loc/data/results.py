"""A results folder: what was run, and what each source answered for each frame.

run.json                  package version, seed, configuration, command, recording
<source>.tum              trajectory of the frames with a pose (covariances in <source>.tum.cov.csv)
<source>.frames.csv       every frame: status, state, latency, probability, in-map score, reason
"""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

import robust_loc
from robust_loc.data.files import write_atomically
from robust_loc.data.trajectory import StampArray, Trajectory, format_stamp, parse_stamp, read_tum, write_tum
from robust_loc.errors import TrajectoryError
from robust_loc.types import Estimate, FloatArray

COLUMNS = ("timestamp", "status", "state", "latency", "probability", "in_map_score", "reason")


@dataclass(frozen=True, eq=False)
class SourceResults:
    """One source's answers.

    Attributes:
        trajectory: the frames with a pose.
        stamps: (N,) int64, every frame it was asked for.
        statuses: N estimator statuses; ``states`` N localization states ("" where the source has none).
        latencies: (N,) seconds, NaN where unknown.
    """

    trajectory: Trajectory
    stamps: StampArray
    statuses: tuple[str, ...]
    states: tuple[str, ...]
    latencies: FloatArray


def run_description(
    configuration: Mapping[str, Any],
    seed: int,
    recording: str | Path | None = None,
    frames: tuple[int, int | None] = (0, None),
) -> dict[str, Any]:
    """What makes a result reproducible: version, seed, configuration, command line, recording and its frames."""
    return {
        "package": "robust_loc",
        "version": robust_loc.__version__,
        "seed": seed,
        "recording": None if recording is None else str(recording),
        "from_frame": frames[0],
        "until_frame": frames[1],
        "configuration": dict(configuration),
        "command": sys.argv,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def trajectory_of(estimates: list[Estimate]) -> Trajectory:
    """The estimates that have a pose, in time order; of equal stamps the last one."""
    posed = {estimate.stamp: estimate for estimate in estimates if estimate.world_T_cam is not None}
    stamps = sorted(posed)
    if not stamps:
        return Trajectory(np.zeros(0, dtype=np.int64), np.zeros((0, 4, 4)))
    unknown = np.full((6, 6), np.nan)
    covariances = [posed[stamp].covariance for stamp in stamps]
    return Trajectory(
        np.array(stamps, dtype=np.int64),
        np.array([posed[stamp].world_T_cam for stamp in stamps]),
        np.array([unknown if covariance is None else covariance for covariance in covariances]),
    )


@dataclass
class ResultsWriter:
    """Collects estimates by source and writes the folder when it is closed (a context manager).

    Args:
        folder: made if needed; files of an earlier run of the same sources are replaced.
        configuration: every component's configuration, JSON-ready (``Config.to_dict()``).
        frames: first frame of the recording that was to be answered, and the frame to stop before (None: its end).
    """

    folder: Path
    configuration: Mapping[str, Any]
    seed: int
    recording: str | Path | None = None
    frames: tuple[int, int | None] = (0, None)
    _rows: dict[str, list[tuple[Estimate, str]]] = field(default_factory=dict)

    def add(self, source: str, estimate: Estimate, state: str = "") -> None:
        """One source's answer to one frame; ``state`` is the fusion's LOCALIZED, DEGRADED, ... where there is one."""
        self._rows.setdefault(source, []).append((estimate, state))

    def close(self) -> None:
        """Write everything."""
        folder = Path(self.folder)
        for source, rows in self._rows.items():
            write_tum(folder / f"{source}.tum", trajectory_of([estimate for estimate, _ in rows]))
            table = io.StringIO()
            writer = csv.writer(table, lineterminator="\n")
            writer.writerow(COLUMNS)
            for estimate, state in rows:
                optional = ("" if v is None else f"{v:.6f}" for v in (estimate.probability, estimate.in_map_score))
                stamp, latency = format_stamp(estimate.stamp), f"{estimate.latency:.6f}"
                writer.writerow([stamp, estimate.status.value, state, latency, *optional, estimate.reason])
            write_atomically(folder / f"{source}.frames.csv", table.getvalue())
        description = run_description(self.configuration, self.seed, self.recording, self.frames)
        write_atomically(folder / "run.json", json.dumps(description, indent=2, default=str) + "\n")

    def __enter__(self) -> ResultsWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()


def sources_in(folder: str | Path) -> list[str]:
    """The names of the sources that a results folder holds."""
    return sorted(path.name.removesuffix(".tum") for path in Path(folder).glob("*.tum"))


def read_source(folder: str | Path, source: str) -> SourceResults:
    """One source of a results folder; a folder with a trajectory alone gives empty states and unknown latencies.

    Raises:
        TrajectoryError: the source is not there, or its files are malformed.
    """
    folder = Path(folder)
    if source not in sources_in(folder):
        known = ", ".join(sources_in(folder)) or "none"
        raise TrajectoryError(f"{folder}: no source {source!r}; the trajectories here are: {known}")
    trajectory = read_tum(folder / f"{source}.tum")
    table = folder / f"{source}.frames.csv"
    if not table.exists():
        unknown = ("",) * len(trajectory)
        return SourceResults(trajectory, trajectory.stamps, unknown, unknown, np.full(len(trajectory), np.nan))
    with table.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    try:
        return SourceResults(
            trajectory,
            np.array([parse_stamp(row["timestamp"]) for row in rows], dtype=np.int64),
            tuple(row["status"] for row in rows),
            tuple(row["state"] for row in rows),
            np.array([float(row["latency"] or "nan") for row in rows]),
        )
    except (KeyError, ValueError, ArithmeticError) as error:
        raise TrajectoryError(f"{table}: malformed ({error!r}); expected columns {', '.join(COLUMNS)}") from error
