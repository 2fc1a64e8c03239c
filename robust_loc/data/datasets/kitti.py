"""KITTI odometry benchmark (Geiger et al., CVPR 2012): ``sequences/00`` and ``poses/00.txt``."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from robust_loc.data import images as image_codec
from robust_loc.data.datasets.recording import RecordedImage, Recording, require
from robust_loc.data.trajectory import parse_stamp, read_kitti_poses
from robust_loc.errors import CameraError, DatasetError, ImageEncodingError
from robust_loc.geometry.cameras import CameraCalibration
from robust_loc.types import FloatArray


def read_kitti(path: Path, camera: int | None = None) -> Recording:
    """A sequence folder such as ``dataset/sequences/00`` (``image_N``, ``calib.txt``, ``times.txt``).

    ``camera`` is 0 to 3 (None: the first whose images are there). Poses are looked for in ``dataset/poses/00.txt`` and
    in the sequence folder; they are camera 0's and are carried to the chosen camera by its projection matrix.

    Raises:
        DatasetError, TrajectoryError: a file is missing or malformed.
    """
    path = Path(path)
    if camera is None:
        camera = next((number for number in range(4) if (path / f"image_{number}").is_dir()), 0)
    folder = require(path / f"image_{camera}", "the folder of images")
    files = sorted(file for file in folder.iterdir() if file.suffix in (".png", ".jpg"))
    times = require(path / "times.txt", "one time in seconds per image")
    stamps = [parse_stamp(line) for line in times.read_text().split()]
    if not files or len(stamps) < len(files):
        raise DatasetError(f"{path}: {len(files)} images and {len(stamps)} times; expected a time per image")
    projection = _projection(require(path / "calib.txt", "the projection matrices P0 to P3"), camera)
    k = projection[:, :3]
    cam0_T_cam = np.eye(4)
    cam0_T_cam[:3, 3] = -np.linalg.solve(k, projection[:, 3])
    try:
        height, width = image_codec.rgb_from_compressed(files[0].read_bytes()).shape[:2]
        calibration = CameraCalibration(width, height, float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]))
    except (ImageEncodingError, CameraError) as error:
        raise DatasetError(f"{files[0]}: {error}") from error
    candidates = [path.parent.parent / "poses" / f"{path.resolve().name}.txt", path / "poses.txt"]
    poses = next((file for file in candidates if file.exists()), None)
    truth = None if poses is None else read_kitti_poses(poses, times).of_child(cam0_T_cam)
    images = [RecordedImage(stamp, file) for stamp, file in zip(stamps, files)]
    return Recording(f"kitti_{path.resolve().name}", calibration, images, truth)


def _projection(path: Path, camera: int) -> FloatArray:
    for line in path.read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == f"P{camera}":
            try:
                return np.array([float(value) for value in numbers.split()]).reshape(3, 4)
            except ValueError as error:
                raise DatasetError(f"{path}: P{camera} does not hold 12 numbers") from error
    raise DatasetError(f"{path}: no projection matrix P{camera}")
