"""Where a camera may be in a world of boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robust_loc.data.synthetic.scene import FloatArray, Vector


@dataclass(frozen=True, eq=False)
class BoxFreeSpace:
    """The inside of an axis-aligned box, less upright boxes turned about z.

    Attributes:
        low, high: (3,) corners of the whole space in metres.
        centre: (n, 3) of the obstacles.
        half: (n, 3) half sizes.
        yaw: (n,) radians.
        sample_low, sample_high: (3,) where camera positions are drawn.
    """

    low: FloatArray
    high: FloatArray
    centre: FloatArray
    half: FloatArray
    yaw: FloatArray
    sample_low: FloatArray
    sample_high: FloatArray

    @staticmethod
    def build(
        low: Vector,
        high: Vector,
        obstacles: Sequence[tuple[Vector, Vector, float]],
        heights: tuple[float, float],
        border: float = 0.3,
    ) -> BoxFreeSpace:
        """``obstacles`` are (centre, half size, yaw); cameras are drawn between ``heights``."""
        a, b = np.array(low, float), np.array(high, float)
        sample_low, sample_high = a + border, b - border
        sample_low[2], sample_high[2] = heights
        return BoxFreeSpace(
            a,
            b,
            np.array([o[0] for o in obstacles], float).reshape(-1, 3),
            np.array([o[1] for o in obstacles], float).reshape(-1, 3),
            np.array([o[2] for o in obstacles], float),
            sample_low,
            sample_high,
        )

    def clearance(self, points: FloatArray) -> FloatArray:
        """(n,) distance to the nearest surface, negative outside or inside an obstacle (exact outside obstacles)."""
        points = np.atleast_2d(np.asarray(points, float))
        result = np.minimum(points - self.low, self.high - points).min(axis=1)
        if len(self.centre):
            offset = points[:, None] - self.centre
            cosine, sine = np.cos(self.yaw), np.sin(self.yaw)
            local = np.stack(
                [
                    cosine * offset[..., 0] + sine * offset[..., 1],
                    -sine * offset[..., 0] + cosine * offset[..., 1],
                    offset[..., 2],
                ],
                axis=-1,
            )
            beyond = np.abs(local) - self.half
            outside = np.linalg.norm(np.maximum(beyond, 0.0), axis=-1)
            inside = np.minimum(beyond.max(axis=-1), 0.0)
            result = np.minimum(result, (outside + inside).min(axis=1))
        return result

    def sample(self, generator: np.random.Generator, count: int) -> FloatArray:
        """(count, 3) uniform in the sampling box."""
        return generator.uniform(self.sample_low, self.sample_high, (count, 3))
