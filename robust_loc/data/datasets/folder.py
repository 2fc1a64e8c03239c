"""The plain layout: ``frames.csv``, ``calib.json``, ``groundtruth.txt`` and the image files."""

from __future__ import annotations

import csv
from decimal import InvalidOperation
from pathlib import Path

from robust_loc.data.datasets.recording import (
    RecordedImage,
    Recording,
    integer_depth_reader,
    read_calibration,
    require,
)
from robust_loc.data.images import MILLIMETRES
from robust_loc.data.trajectory import parse_stamp, read_tum
from robust_loc.errors import DatasetError


def read_folder(path: Path) -> Recording:
    """A folder with ``frames.csv``, ``calib.json`` and, optionally, ``groundtruth.txt`` (TUM format, T_world_camera).

    Depth PNGs hold ``depth_scale_units_per_metre`` units (calib.json), registered to the image.

    Raises:
        DatasetError, TrajectoryError: a file is missing or malformed.
    """
    path = Path(path)
    table = require(path / "frames.csv", "a table of timestamp, image, depth")
    calibration, scale = read_calibration(require(path / "calib.json", "the camera's calibration"))
    images = []
    with table.open(newline="") as stream:
        for number, row in enumerate(csv.DictReader(stream), start=2):
            try:
                depth = row.get("depth") or None
                images.append(
                    RecordedImage(
                        parse_stamp(row["timestamp"]), path / row["image"], None if depth is None else path / depth
                    )
                )
            except (KeyError, TypeError, InvalidOperation) as error:
                raise DatasetError(f"{table}:{number}: expected timestamp,image,depth; got {row}") from error
    truth = path / "groundtruth.txt"
    return Recording(
        path.name,
        calibration,
        images,
        read_tum(truth) if truth.exists() else None,
        integer_depth_reader(scale or MILLIMETRES),
        depth_is_millimetre_png=(scale or MILLIMETRES) == MILLIMETRES,
    )
