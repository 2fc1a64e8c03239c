"""TUM RGB-D benchmark (Sturm et al., IROS 2012): ``rgb.txt``, ``depth.txt``, ``groundtruth.txt``."""

from __future__ import annotations

from decimal import InvalidOperation
from pathlib import Path

import numpy as np

from robust_loc.data.datasets.recording import (
    RecordedImage,
    Recording,
    integer_depth_reader,
    listed_files,
    read_calibration,
    require,
)
from robust_loc.data.trajectory import parse_stamp, read_tum
from robust_loc.errors import DatasetError
from robust_loc.geometry.cameras import CameraCalibration

UNITS_PER_METRE = 5000.0
MAXIMUM_OFFSET = 20_000_000  # ns between an image and its depth, as the benchmark's own association

# The benchmark's published colour cameras; freiburg3 is already rectified.
CALIBRATIONS = {
    "freiburg1": CameraCalibration(
        640, 480, 517.3, 516.5, 318.6, 255.3, "plumb_bob", (0.2624, -0.9531, -0.0054, 0.0026, 1.1633)
    ),
    "freiburg2": CameraCalibration(
        640, 480, 520.9, 521.0, 325.1, 249.7, "plumb_bob", (0.2312, -0.7849, -0.0033, -0.0001, 0.9172)
    ),
    "freiburg3": CameraCalibration(640, 480, 535.4, 539.2, 320.1, 247.6),
}


def read_tum_rgbd(path: Path) -> Recording:
    """A sequence folder; the camera by the folder's name (freiburg1, 2, 3) unless a ``calib.json`` lies in it.

    Each image takes the nearest depth map within 20 ms, which a bag then holds under the image's stamp.

    Raises:
        DatasetError, TrajectoryError: a file is missing or malformed, or the camera is not known.
    """
    path = Path(path)
    colour = listed_files(require(path / "rgb.txt", "the list of colour images"))
    depth = listed_files(path / "depth.txt") if (path / "depth.txt").exists() else []
    try:
        stamps = [parse_stamp(stamp) for stamp, _ in colour]
        depth_stamps = np.array([parse_stamp(stamp) for stamp, _ in depth], dtype=np.int64)
    except InvalidOperation as error:
        raise DatasetError(f"{path}: rgb.txt or depth.txt has a timestamp that is no number") from error
    images = []
    for stamp, (_, name) in zip(stamps, colour):
        nearest = int(np.argmin(np.abs(depth_stamps - stamp))) if len(depth_stamps) else -1
        matched = nearest >= 0 and abs(int(depth_stamps[nearest]) - stamp) <= MAXIMUM_OFFSET
        images.append(RecordedImage(stamp, path / name, path / depth[nearest][1] if matched else None))
    truth = path / "groundtruth.txt"
    return Recording(
        path.name,
        _calibration(path),
        images,
        read_tum(truth) if truth.exists() else None,
        integer_depth_reader(UNITS_PER_METRE),
    )


def _calibration(path: Path) -> CameraCalibration:
    if (path / "calib.json").exists():
        return read_calibration(path / "calib.json")[0]
    for name, calibration in CALIBRATIONS.items():
        if name in path.resolve().name or name.replace("freiburg", "fr") + "_" in path.resolve().name:
            return calibration
    raise DatasetError(f"{path}: the camera is not known; name the folder after freiburg1, 2 or 3, or add a calib.json")
