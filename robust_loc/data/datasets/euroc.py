"""EuRoC MAV dataset (Burri et al., IJRR 2016), ASL layout: ``mav0/cam0`` and ``mav0/state_groundtruth_estimate0``."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from robust_loc.data.datasets.recording import RecordedImage, Recording, require
from robust_loc.data.trajectory import Trajectory
from robust_loc.errors import CameraError, DatasetError, TrajectoryError
from robust_loc.geometry.cameras import CameraCalibration
from robust_loc.types import FloatArray

MODELS = {"radial-tangential": "plumb_bob", "equidistant": "equidistant"}


def read_euroc(path: Path, camera: str = "cam0") -> Recording:
    """A sequence folder (with ``mav0`` in it, or ``mav0`` itself).

    The ground truth is the body's; it becomes the camera's by ``T_BS`` of the camera's ``sensor.yaml``.

    Raises:
        DatasetError: a file is missing or malformed.
    """
    path = Path(path)
    root = path / "mav0" if (path / "mav0").is_dir() else path
    sensor = _sensor(require(root / camera / "sensor.yaml", "the camera's calibration"))
    table = require(root / camera / "data.csv", "the list of images")
    images = [RecordedImage(int(row[0]), root / camera / "data" / row[1].strip()) for row in _rows(table, 2)]
    truth = root / "state_groundtruth_estimate0" / "data.csv"
    name = path.parent.name if path.name == "mav0" else path.name
    return Recording(name, sensor[0], images, _ground_truth(truth, sensor[1]) if truth.exists() else None)


def read_ground_truth(path: str | Path) -> Trajectory:
    """``state_groundtruth_estimate0/data.csv``: the body's poses (nanoseconds, position, quaternion w x y z).

    Raises:
        DatasetError: the file is missing or malformed.
    """
    rows = _rows(Path(path), 8)
    values = np.array([[float(value) for value in row[1:8]] for row in rows]).reshape(-1, 7)
    stamps = np.array([int(row[0]) for row in rows], dtype=np.int64)
    try:
        return Trajectory.from_quaternions(stamps, values[:, :3], values[:, [4, 5, 6, 3]])
    except TrajectoryError as error:
        raise DatasetError(f"{path}: {error}") from error


def _ground_truth(path: Path, body_T_cam: FloatArray) -> Trajectory:
    return read_ground_truth(path).of_child(body_T_cam)


def _sensor(path: Path) -> tuple[CameraCalibration, FloatArray]:
    try:
        content: Any = yaml.safe_load(path.read_text())
        model = content["distortion_model"]
        width, height = (int(value) for value in content["resolution"])
        fx, fy, cx, cy = (float(value) for value in content["intrinsics"])
        calibration = CameraCalibration(
            width,
            height,
            fx,
            fy,
            cx,
            cy,
            MODELS.get(model, model),
            tuple(float(value) for value in content["distortion_coefficients"]),
        )
        return calibration, np.array(content["T_BS"]["data"], dtype=np.float64).reshape(4, 4)
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError, CameraError) as error:
        raise DatasetError(
            f"{path}: no usable calibration ({error!r}); expected resolution, intrinsics, distortion and T_BS"
        ) from error


def _rows(path: Path, columns: int) -> list[list[str]]:
    try:
        with path.open(newline="") as stream:
            rows = [row for row in csv.reader(stream) if row and not row[0].startswith("#")]
            for row in rows:
                int(row[0])
                if len(row) < columns:
                    raise ValueError(f"{len(row)} columns; expected at least {columns}")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    return rows
