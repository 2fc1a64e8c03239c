"""7-Scenes (Shotton et al., CVPR 2013): ``frame-000000.color.png``, ``.depth.png``, ``.pose.txt`` per frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from robust_loc.data.datasets.recording import (
    NANOSECONDS,
    RecordedImage,
    Recording,
    integer_depth_reader,
)
from robust_loc.data.images import MILLIMETRES
from robust_loc.data.trajectory import Trajectory
from robust_loc.errors import DatasetError
from robust_loc.geometry.cameras import CameraCalibration

COLOUR_FOCAL = 525.0  # of the Kinect's colour camera; the dataset gives no colour calibration
DEPTH_FOCAL = 585.0  # of its depth camera, as the dataset states
RATE = 30  # Hz; the dataset has no stamps


def read_seven_scenes(path: Path) -> Recording:
    """A sequence folder such as ``chess/seq-01``.

    The depth maps are the depth camera's: they are brought to the colour camera's focal length, and the 2.5 cm between
    the two cameras are neglected (the dataset does not give them). Readings of 65535 mean unknown.

    Raises:
        DatasetError: no frames, or a malformed pose.
    """
    path = Path(path)
    colours = sorted([*path.glob("frame-*.color.png"), *path.glob("frame-*.color.jpg")])
    if not colours:
        raise DatasetError(f"{path}: no frame-*.color.png in this folder; expected a sequence such as chess/seq-01")
    images, stamps, poses = [], [], []
    for colour in colours:
        name = colour.name.split(".")[0]
        try:
            stamp = int(name.removeprefix("frame-")) * NANOSECONDS // RATE
        except ValueError as error:
            raise DatasetError(f"{colour}: expected a name like frame-000000.color.png") from error
        depth = path / f"{name}.depth.png"
        images.append(RecordedImage(stamp, colour, depth if depth.exists() else None))
        pose = path / f"{name}.pose.txt"
        if pose.exists():
            stamps.append(stamp)
            poses.append(_pose(pose))
    truth = Trajectory(np.array(stamps), np.array(poses)) if poses else None
    calibration = CameraCalibration(640, 480, COLOUR_FOCAL, COLOUR_FOCAL, 320.0, 240.0)
    return Recording(f"{path.parent.name}_{path.name}", calibration, images, truth, _read_depth)


def _read_depth(path: Path) -> NDArray[np.float32]:
    import cv2

    depth = integer_depth_reader(MILLIMETRES)(path)
    depth[depth >= 65.535] = 0
    ratio = COLOUR_FOCAL / DEPTH_FOCAL
    warp = np.array([[ratio, 0.0, 320.0 * (1 - ratio)], [0.0, ratio, 240.0 * (1 - ratio)]])
    warped = cv2.warpAffine(depth, warp, (depth.shape[1], depth.shape[0]), flags=cv2.INTER_NEAREST)
    return warped.astype(np.float32, copy=False)


def _pose(path: Path) -> NDArray[np.float64]:
    try:
        pose = np.loadtxt(path).reshape(4, 4)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: expected a 4x4 camera-to-world matrix ({error})") from error
    if not np.all(np.isfinite(pose)) or abs(np.linalg.det(pose[:3, :3]) - 1) > 1e-2:
        raise DatasetError(f"{path}: its rotation part is no rotation")
    u, _, vt = np.linalg.svd(pose[:3, :3])  # the files are rounded to a few digits
    pose[:3, :3] = u @ vt
    return pose
