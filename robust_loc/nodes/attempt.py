"""One search for the camera that a client of a service waits for."""

from __future__ import annotations

import threading
import time

import numpy as np
from scipy import stats

from robust_loc.types import Estimate


class Attempt:
    """One search without a prior, and the client that waits for it."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._estimate: Estimate | None = None

    def finish(self, estimate: Estimate | None) -> None:
        self._estimate = estimate
        self._done.set()

    def wait(self, timeout: float) -> tuple[bool, str]:
        began = time.monotonic()
        if not self._done.wait(timeout):
            return False, f"no image was searched within {time.monotonic() - began:.0f} s; do images arrive?"
        found = self._estimate
        if found is None or found.world_T_cam is None or found.covariance is None:
            return False, (found.reason if found is not None else "") or "no pose was found"
        metres, radians = (
            float(np.sqrt(stats.chi2.ppf(0.95, 3) * np.linalg.eigvalsh(found.covariance[i : i + 3, i : i + 3]).max()))
            for i in (0, 3)
        )
        x, y, z = found.world_T_cam[:3, 3]
        sure = "" if found.probability is None else f", probability {found.probability:.2f}"
        return True, f"at {x:.2f} {y:.2f} {z:.2f}, within {metres:.3f} m and {np.degrees(radians):.2f} deg (95 %){sure}"
