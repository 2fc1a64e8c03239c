"""What can be said of a frame before tracking it: its place in time, its size, and whether it shows anything new."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robust_loc.odometry.config import OdometryConfig
from robust_loc.types import REPEATED_IMAGE, Frame


@dataclass(frozen=True)
class Verdict:
    """Attributes: ignore the frame; restart tracking before using it; frozen: the same image again; featureless:
    nothing to track; reason: why, in a sentence."""

    ignore: bool = False
    restart: bool = False
    frozen: bool = False
    featureless: bool = False
    reason: str = ""


class Screen:
    """Judges frames in order; remembers the last one it let through."""

    def __init__(self, config: OdometryConfig) -> None:
        self._config = config
        self._last: Frame | None = None

    def judge(self, frame: Frame) -> Verdict:
        last = self._last
        if last is not None and frame.stamp <= last.stamp:
            back = (last.stamp - frame.stamp) * 1e-9
            if back == 0:
                return Verdict(ignore=True, reason="the stamp is that of the previous frame; frame ignored")
            if back < self._config.clock_jump:
                return Verdict(ignore=True, reason=f"the frame is {back:.3f} s late; frame ignored")
        self._last = frame
        featureless = self._contrast(frame) < self._config.minimum_contrast
        if last is not None and frame.stamp < last.stamp:
            reason = f"time went back by {(last.stamp - frame.stamp) * 1e-9:.3f} s; tracking starts again"
            return Verdict(restart=True, featureless=featureless, reason=reason)
        if last is not None and frame.image.shape != last.image.shape:
            old, new = ("x".join(map(str, image.shape[1::-1])) for image in (last.image, frame.image))
            reason = f"the image size changed from {old} to {new}; tracking starts again"
            return Verdict(restart=True, featureless=featureless, reason=reason)
        if featureless:
            return Verdict(featureless=True, reason="the image shows no contrast")
        if last is not None and np.array_equal(frame.image, last.image):
            return Verdict(frozen=True, reason=REPEATED_IMAGE)
        return Verdict()

    @staticmethod
    def _contrast(frame: Frame) -> float:
        """Standard deviation of the green channel, on every fourth pixel."""
        return float(frame.image[::4, ::4, 1].std())
