"""TartanAir (Wang et al., IROS 2020), version 1 (``image_left``) and 2 (``image_lcam_front``)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robust_loc.data.datasets.recording import NANOSECONDS, RecordedImage, Recording, require
from robust_loc.data.trajectory import Trajectory
from robust_loc.errors import DatasetError, TrajectoryError
from robust_loc.geometry.cameras import CameraCalibration

RATE = 10  # Hz, invented: the dataset has no stamps
FOCAL = 320.0

# The dataset's poses are of the camera with axes forward, right, down in a world of north, east, down.
NED_T_OPTICAL = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
NWU_T_NED = np.diag([1.0, -1.0, -1.0, 1.0])  # a world with z up (REP 103)


def read_tartanair(path: Path) -> Recording:
    """A trajectory folder such as ``P001``; the world becomes z-up, the clock is invented (10 Hz).

    Raises:
        DatasetError: a folder is missing, or poses and images differ in number.
    """
    path = Path(path)
    side = "lcam_front" if (path / "image_lcam_front").is_dir() else "left"
    folder = require(path / f"image_{side}", "the folder of images (image_left or image_lcam_front)")
    files = sorted(file for file in folder.iterdir() if file.suffix in (".png", ".jpg"))
    poses = require(path / f"pose_{side}.txt", "one pose per line (tx ty tz qx qy qz qw)")
    try:
        table = np.loadtxt(poses, ndmin=2)
        stamps = np.arange(len(table), dtype=np.int64) * (NANOSECONDS // RATE)
        ned_T_cam = Trajectory.from_quaternions(stamps, table[:, :3], table[:, 3:7]).of_child(NED_T_OPTICAL)
    except (ValueError, IndexError, TrajectoryError) as error:
        raise DatasetError(f"{poses}: {error}; expected tx ty tz qx qy qz qw per line") from error
    if len(files) != len(table):
        raise DatasetError(f"{path}: {len(files)} images and {len(table)} poses; expected as many")
    images = []
    for stamp, file in zip(stamps, files):
        candidates = [path / f"depth_{side}" / f"{file.stem}_depth{suffix}" for suffix in (".npy", ".png")]
        images.append(RecordedImage(int(stamp), file, next((depth for depth in candidates if depth.exists()), None)))
    size = (640, 640) if side == "lcam_front" else (640, 480)
    calibration = CameraCalibration(*size, FOCAL, FOCAL, size[0] / 2, size[1] / 2)
    name = f"{path.parent.name}_{path.name}"
    return Recording(name, calibration, images, ned_T_cam.in_frame(NWU_T_NED), _read_depth)


def _read_depth(path: Path) -> NDArray[np.float32]:
    """Metres as float32: an array file, or four bytes per pixel in the channels of a PNG (version 2)."""
    import cv2

    try:
        if path.suffix == ".npy":
            depth = np.load(path, allow_pickle=False)
        else:
            depth = np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED)).view("<f4")[:, :, 0]
    except (OSError, ValueError, TypeError, IndexError) as error:
        raise DatasetError(f"{path}: no readable depth ({error})") from error
    depth = depth.astype(np.float32)
    return np.where(np.isfinite(depth) & (depth > 0), depth, np.float32(0))
