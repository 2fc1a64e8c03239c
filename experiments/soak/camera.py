"""A camera for soaks: looped recordings as a camera that moves back and forth, and pictures of other places."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from robust_loc.data import images, open_bag
from robust_loc.geometry.cameras import CameraCalibration
from robust_loc.types import Camera, FloatArray


@dataclass(frozen=True, eq=False)
class Picture:
    """An encoded image with its calibration and, in the mapped place, the camera's true pose (4, 4)."""

    jpeg: bytes
    calibration: CameraCalibration
    world_T_cam: FloatArray | None = None


def load(recording: Path, every: int = 1, limit: int | None = None) -> list[Picture]:
    """The images of a recording, undistorted, in memory."""
    pictures = []
    for index, frame in enumerate(open_bag(recording).frames(0, limit)):
        if index % every == 0:
            pictures.append(Picture(images.rgb_jpeg(frame.image), pinhole(frame.camera), frame.world_T_cam))
    return pictures


def pinhole(camera: Camera) -> CameraCalibration:
    return CameraCalibration(camera.width, camera.height, camera.fx, camera.fy, camera.cx, camera.cy)


class Path_:
    """An index that runs back and forth in the part of the recording that it is in: [0, split) or [split, end).

    Args:
        split: first image that the map was not made of.
    """

    def __init__(self, length: int, split: int, step: int) -> None:
        self._parts = [(0, split), (split, length)]
        self._step = step
        self.index = split
        self._direction = 1

    def advance(self) -> int:
        low, high = next(part for part in self._parts if part[0] <= self.index < part[1])
        following = self.index + self._direction * self._step
        if not low <= following < high:
            self._direction = -self._direction
            following = int(np.clip(self.index + self._direction * self._step, low, high - 1))
        self.index = following
        return self.index

    def jump(self, draw: float, poses: list[FloatArray], metres: float = 0.5) -> None:
        """To somewhere at least ``metres`` away, ``draw`` in [0, 1); more often among the images not mapped."""
        here = poses[self.index][:3, 3]
        far = [i for i, pose in enumerate(poses) if np.linalg.norm(pose[:3, 3] - here) > metres]
        self.index = far[int(draw * len(far))] if far else self.index
