"""The odometry's 3D patches with the colours they were seen in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from robust_loc.types import FloatArray, Frame

UNSEEN = (128, 128, 128)


class PatchCloud:
    """Remembers the colours of each frame's patches from when the frame was the newest."""

    def __init__(self) -> None:
        self._colours: dict[int, NDArray[np.uint8]] = {}

    def colours(
        self, points: FloatArray, numbers: NDArray[np.integer], frame: Frame, world_T_cam: FloatArray
    ) -> NDArray[np.uint8]:
        """RGB (n, 3) of ``points`` (n, 3) first seen in frames ``numbers`` (n,), given the newest frame and its pose.

        A point that the newest frame does not see, of a frame that was never the newest here, is grey.
        """
        seen = {int(number) for number in np.unique(numbers)}
        self._colours = {number: colours for number, colours in self._colours.items() if number in seen}
        result = np.empty((len(points), 3), np.uint8)
        for number in seen:
            rows = numbers == number
            known = self._colours.get(number)
            if known is None or len(known) != np.count_nonzero(rows):
                known = self._colours[number] = _sampled(points[rows], frame, world_T_cam)
            result[rows] = known
        return result


def _sampled(points: FloatArray, frame: Frame, world_T_cam: FloatArray) -> NDArray[np.uint8]:
    camera = frame.camera
    x, y, z = ((points - world_T_cam[:3, 3]) @ world_T_cam[:3, :3]).T
    ahead = z > 1e-9
    z = np.where(ahead, z, 1.0)
    u, v = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
    inside = ahead & (u > -0.5) & (u < camera.width - 0.5) & (v > -0.5) & (v < camera.height - 0.5)
    colours = np.full((len(points), 3), UNSEEN, np.uint8)
    colours[inside] = frame.image[np.rint(v[inside]).astype(int), np.rint(u[inside]).astype(int)]
    return colours
