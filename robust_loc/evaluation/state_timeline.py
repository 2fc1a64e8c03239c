"""What a localizer said of itself over time, against the truth: LOCALIZED while wrong, LOST for no reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robust_loc.data.trajectory import StampArray, Trajectory, associate

STATES = ("INITIALIZING", "LOCALIZED", "DEGRADED", "LOST")
LOCALIZED, LOST = "LOCALIZED", "LOST"


@dataclass(frozen=True, eq=False)
class StateTimeline:
    """One row per true frame that was asked for, in time order.

    Attributes:
        stamps: (N,) int64 of the frames; ``states`` their N states.
        wrong: (N,) whether there was a pose and it was wrong.
        right_fix: (N,) whether some source of absolute poses answered the frame rightly.
        frames: number of true frames, answered or not.
    """

    stamps: StampArray
    states: tuple[str, ...]
    wrong: NDArray[np.bool_]
    right_fix: NDArray[np.bool_]
    frames: int

    def said(self, state: str) -> NDArray[np.bool_]:
        """(N,) whether the state was ``state``."""
        return np.array([name == state for name in self.states], bool)

    def summary(self) -> dict[str, Any]:
        """Fractions of all true frames; ``longest_wrong``: seconds of the longest run of LOCALIZED and wrong frames.

        ``lost_while_fixes_possible`` is there only where a source of absolute poses has answered rightly at all.
        """
        wrong = self.said(LOCALIZED) & self.wrong
        found = {
            "localized": float(self.said(LOCALIZED).sum() / self.frames),
            "localized_while_wrong": float(wrong.sum() / self.frames),
            "longest_wrong": longest_run(self.stamps, wrong),
            "lost": float(self.said(LOST).sum() / self.frames),
        }
        if self.right_fix.any():
            found["lost_while_fixes_possible"] = float((self.said(LOST) & self.right_fix).sum() / self.frames)
        return found


def state_timeline(
    stamps: StampArray,
    states: Sequence[str],
    estimated: StampArray,
    is_wrong: NDArray[np.bool_],
    right_fixes: StampArray,
    truth: Trajectory,
    tolerance: int,
) -> StateTimeline:
    """Bring states (one per frame asked for), judged poses and right fixes together at the true frames.

    Args:
        estimated, is_wrong: stamps of the poses that have a true counterpart, and the verdict on each.
        right_fixes: stamps at which a source of absolute poses was right.
        tolerance: ns between a frame and its true pose.
    """
    order = np.argsort(stamps, kind="stable")
    asked = Trajectory(np.asarray(stamps)[order], np.tile(np.eye(4), (len(stamps), 1, 1)))
    kept, _ = associate(asked, truth, tolerance, unique=True)
    judged = asked.stamps[kept]
    wrong = {int(stamp) for stamp, bad in zip(estimated, is_wrong) if bad}
    right = {int(stamp) for stamp in right_fixes}
    return StateTimeline(
        judged,
        tuple(states[order[k]] for k in kept),
        np.array([int(stamp) in wrong for stamp in judged], bool),
        np.array([int(stamp) in right for stamp in judged], bool),
        len(truth),
    )


def longest_run(stamps: StampArray, condition: NDArray[np.bool_]) -> float:
    """Seconds between the first and the last frame of the longest run in which ``condition`` holds."""
    best, began = 0, None
    for stamp, holds in zip(stamps, condition):
        if not holds:
            began = None
            continue
        began = int(stamp) if began is None else began
        best = max(best, int(stamp) - began)
    return best / 1e9
