"""What a stream of images may do wrong, and what then happens."""

from __future__ import annotations

from dataclasses import dataclass

from robust_loc.errors import RobustLocError
from robust_loc.types import Frame

SECOND = 1_000_000_000


class FrameRefused(RobustLocError):
    """A frame that is not worked on; the estimator keeps its state."""


class StreamBroken(RobustLocError):
    """The stream starts anew with this frame: the estimator is reset, then works on it."""


@dataclass
class StreamGuard:
    """Checks each image against the one before.

    ===================================== =================================================================
    same stamp as the last image           refused (a repeated message)
    older by up to ``jump`` seconds        refused (out of order)
    older by more                          stream broken (the clock jumped back, a bag started again)
    another image size                     stream broken (another camera mode)
    ===================================== =================================================================
    """

    jump: float = 1.0
    _stamp: int | None = None
    _size: tuple[int, int] | None = None

    def check_stamp(self, stamp: int) -> None:
        """Raises FrameRefused or StreamBroken; remembers the stamp unless refused."""
        last = self._stamp
        if last is not None and stamp == last:
            raise FrameRefused(f"image repeats the stamp {_seconds(stamp)} s")
        if last is not None and last - self.jump * SECOND <= stamp < last:
            raise FrameRefused(f"image of {_seconds(stamp)} s is older than the last one, {_seconds(last)} s")
        self._stamp = stamp
        if last is not None and stamp < last:
            raise StreamBroken(f"time went back from {_seconds(last)} s to {_seconds(stamp)} s; starting anew")

    def check_frame(self, frame: Frame) -> None:
        """Raises StreamBroken when the image size changes."""
        size, last = (frame.camera.width, frame.camera.height), self._size
        self._size = size
        if last is not None and size != last:
            raise StreamBroken(f"image size changed from {last[0]}x{last[1]} to {size[0]}x{size[1]}; starting anew")

    def forget(self) -> None:
        self._stamp, self._size = None, None


def _seconds(stamp: int) -> str:
    return f"{stamp / SECOND:.6f}"
