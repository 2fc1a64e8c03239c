"""Drive an estimator over recorded frames: the same ``update`` the nodes call, nothing dropped."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Protocol

from robust_loc.types import Estimate, Frame, Status


class Estimator(Protocol):
    """The one contract of odometry, relocalizer and regressor."""

    def update(self, frame: Frame, prior: Estimate | None = None) -> Estimate | None: ...

    def reset(self) -> None: ...


def replay(frames: Iterable[Frame], estimator: Estimator) -> Iterator[Estimate]:
    """One estimate per frame, in order; the truth that a frame may carry is taken off before the estimator sees it.

    A frame without an answer becomes a REFUSED estimate, and a missing latency is measured here.
    """
    for frame in frames:
        start = time.perf_counter()
        estimate = estimator.update(replace(frame, world_T_cam=None))
        if estimate is None:
            estimate = Estimate(frame.stamp, Status.REFUSED, "no answer")
        yield estimate if estimate.latency else replace(estimate, latency=time.perf_counter() - start)
