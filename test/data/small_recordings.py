"""A small recording that a test can make for itself."""

from pathlib import Path

import numpy as np

from robust_loc.data.writer import BagWriter
from robust_loc.geometry.cameras import CameraCalibration
from robust_loc.types import Camera, Frame

CAMERA = Camera(64, 48, 60.0, 61.0, 31.0, 24.0)
SECOND = 1_000_000_000


def make_frames(count: int, start: int = 100 * SECOND) -> list[Frame]:
    """Smooth images that differ from frame to frame, depth in every second one, a camera moving along x."""
    rows, columns = np.mgrid[0:48, 0:64]
    frames = []
    for index in range(count):
        image = np.stack([rows * 4, columns * 3, (rows + columns + 10 * index) % 256], axis=-1).astype(np.uint8)
        depth = (1.0 + 0.01 * rows + 0.5 * index).astype(np.float32) if index % 2 == 0 else None
        pose = np.eye(4)
        pose[0, 3] = 0.1 * index
        frames.append(Frame(image, CAMERA, start + index * SECOND // 10, depth, pose))
    return frames


def write_bag(path: Path, frames: list[Frame]) -> Path:
    calibration = CameraCalibration(64, 48, 60.0, 61.0, 31.0, 24.0)
    with BagWriter(path, calibration) as writer:
        for frame in frames:
            writer.write_frame(frame, quality=0)
    return path
