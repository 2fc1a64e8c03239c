"""A bounded history of motion, and tracks that replay it so that a late fix counts at its image's time."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from robust_loc.fusion.belief import Belief, Fix, Innovation, MotionModel, Step
from robust_loc.fusion.gating import Gate
from robust_loc.fusion.rigid import fraction_of, inverse

SECOND = 1_000_000_000


class Timeline:
    """The steps of the last seconds; every stamp in it can be corrected."""

    def __init__(self, stamp: int) -> None:
        self.stamps = [stamp]
        self._steps: dict[int, Step] = {}

    @property
    def newest(self) -> int:
        return self.stamps[-1]

    def append(self, stamp: int, step: Step) -> None:
        self.stamps.append(stamp)
        self._steps[stamp] = step

    def after(self, stamp: int) -> Iterator[tuple[int, Step]]:
        """(stamp, step that leads to it) of everything later than ``stamp``, in order."""
        for later in self.stamps[bisect_right(self.stamps, stamp) :]:
            yield later, self._steps[later]

    def covers(self, stamp: int) -> bool:
        return self.stamps[0] <= stamp <= self.stamps[-1]

    def split_at(self, stamp: int) -> bool:
        """Make ``stamp`` (covered) one of the stamps by cutting the step around it; False if it was one already."""
        index = bisect_left(self.stamps, stamp)
        later = self.stamps[index]
        if later == stamp:
            return False
        step = self._steps[later]
        fraction = (stamp - self.stamps[index - 1]) / (later - self.stamps[index - 1])
        self.stamps.insert(index, stamp)
        self._steps[stamp], self._steps[later] = cut(step, fraction)
        return True

    def forget_before(self, stamp: int) -> None:
        """Drop the stamps before ``stamp``, except that at least one remains."""
        keep = min(bisect_left(self.stamps, stamp), len(self.stamps) - 1)
        for old in self.stamps[:keep]:
            self._steps.pop(old, None)
        del self.stamps[:keep]
        self._steps.pop(self.stamps[0], None)


def cut(step: Step, fraction: float) -> tuple[Step, Step]:
    """Two steps that make up one: constant velocity, covariance shared in proportion."""
    first_increment = fraction_of(step.increment, fraction)
    # The second part's covariance is given in its own previous camera.
    R = np.kron(np.eye(2), first_increment[:3, :3].T)
    first = replace(
        step,
        duration=fraction * step.duration,
        increment=first_increment,
        covariance=fraction * step.covariance,
        measured_scale=None,
    )
    second = replace(
        step,
        duration=(1 - fraction) * step.duration,
        increment=inverse(first_increment) @ step.increment,
        covariance=(1 - fraction) * R @ step.covariance @ R.T,
        new_scale=False,
    )
    return first, second


class Track:
    """One hypothesis of where the camera is: beliefs along a timeline and the fixes that formed them.

    Inserting a fix restores the belief at its stamp and replays everything later. All fixes are kept and gated again in
    a replay, so the result does not depend on the order in which they arrive.
    """

    def __init__(self, timeline: Timeline, start: int, belief: Belief, model: MotionModel, gate: Gate) -> None:
        self._timeline, self._model, self._gate = timeline, model, gate
        self._prior = {start: belief}
        self._posterior = {start: belief}
        self._fixes: dict[int, list[tuple[Fix, float]]] = {}
        self._replay(start)

    @property
    def belief(self) -> Belief:
        """At the newest stamp."""
        return self._posterior[self._timeline.newest]

    @property
    def start(self) -> int:
        return next(iter(self._prior))

    def extend(self) -> None:
        """Follow the timeline's newest step."""
        stamps = self._timeline.stamps
        ((stamp, step),) = self._timeline.after(stamps[-2])
        self._prior[stamp] = self._posterior[stamp] = self._posterior[stamps[-2]].predicted(step, self._model)

    def before(self, fix: Fix) -> Belief:
        """The belief at the fix's stamp before any fix of that image."""
        return self._prior[fix.stamp]

    def innovation(self, fix: Fix) -> Innovation:
        return self.before(fix).innovation(fix)

    def reaches(self, stamp: int) -> bool:
        return stamp >= self.start

    def insert(self, fix: Fix, inflation: float = 1.0) -> None:
        """Apply ``fix`` where it belongs (its stamp must be one of the timeline's) and replay what follows."""
        self._fixes.setdefault(fix.stamp, []).append((fix, inflation))
        # Fixes of one image are merged in one order, whichever came first.
        self._fixes[fix.stamp].sort(key=lambda item: item[0].source)
        self._replay(fix.stamp)

    def split_at(self, stamp: int) -> None:
        """The timeline got a new stamp between two old ones."""
        if self.reaches(stamp):
            index = bisect_left(self._timeline.stamps, stamp)
            self._replay(self._timeline.stamps[index - 1])
            self._prior = dict(sorted(self._prior.items()))

    def forget_before(self, stamp: int) -> None:
        tables: tuple[dict[int, Any], ...] = (self._prior, self._posterior, self._fixes)
        for table in tables:
            for old in [s for s in table if s < stamp]:
                del table[old]

    def _replay(self, stamp: int) -> None:
        belief = self._corrected(stamp)
        for later, step in self._timeline.after(stamp):
            self._prior[later] = belief.predicted(step, self._model)
            belief = self._corrected(later)

    def _corrected(self, stamp: int) -> Belief:
        belief = self._prior[stamp]
        fixes = self._fixes.get(stamp)
        if fixes:
            belief = belief.corrected([fix for fix, _ in fixes], [factor for _, factor in fixes], self._gate)
        self._posterior[stamp] = belief
        return belief
