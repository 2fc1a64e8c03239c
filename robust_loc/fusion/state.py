"""INITIALIZING, LOCALIZED, DEGRADED or LOST, and why: judged from covariance, innovations and the age of the fixes."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum

import numpy as np
from scipy import stats

from robust_loc.fusion.config import FusionConfig
from robust_loc.fusion.history import SECOND
from robust_loc.types import FloatArray

_CORROBORATION = 5  # accepted fixes after which a source has a record
_CONTRADICTION = 3  # rejected ones in a row after which such a source has left it
_NIS_WINDOW = 15
_NIS_MEDIAN = float(stats.chi2.ppf(0.5, 6))


class State(Enum):
    """How much the published pose may be relied on."""

    INITIALIZING = "initializing"  # no pose yet, or only one saved by an earlier run
    LOCALIZED = "localized"  # the pose and its covariance may be used
    DEGRADED = "degraded"  # the pose is the best guess; the reason says what is wrong
    LOST = "lost"  # the pose must not be used; global relocalization is wanted


@dataclass
class Source:
    """The record of one source of fixes since the filter last (re)started.

    Attributes:
        seen: stamp of its newest answer that held a pose.
        accepted: fixes accepted.
        accepted_at: stamp of the newest accepted one.
        rejected_run: fixes rejected since then.
        distrusted: it agreed once, now it does not, and another source vouches for the filter.
        silent: its newest answer held no pose.
        nis: of its newest fixes, accepted or not.
    """

    seen: int
    accepted: int = 0
    accepted_at: int | None = None
    rejected_run: int = 0
    distrusted: bool = False
    silent: bool = False
    nis: deque[float] = field(default_factory=lambda: deque(maxlen=_NIS_WINDOW))


class StateMonitor:
    """The state machine. It holds no pose: it is told of fixes and asked with a covariance.

    Attributes:
        state, reason: the newest judgement.
        fix_stamp: stamp of the newest accepted fix, None before the first.
        comparable: whether fixes still say something about the pose: not when it is LOST because it is too uncertain.
        sources: the record of each source of fixes.
    """

    def __init__(self, config: FusionConfig) -> None:
        self._config = config
        self.sources: dict[str, Source] = {}
        self.reset()

    def reset(self) -> None:
        """Nothing is known."""
        self.sources.clear()
        self.state, self.reason = State.INITIALIZING, "waiting for the first fixes"
        self._restart(None)

    def _restart(self, stamp: int | None) -> None:
        for source in self.sources.values():
            source.accepted, source.accepted_at, source.rejected_run, source.distrusted = 0, None, 0, False
            source.nis.clear()
        self.fix_stamp = stamp
        self._rejected_since_accept = 0
        self._recovering = 0
        self.hint: str | None = None
        self.comparable = True
        self._fine_at: dict[str, int] = {}  # trouble -> stamp at which there was none

    def started(self, members: list[tuple[int, str]]) -> None:
        """The filter (re)started from fixes that agree."""
        now = max(stamp for stamp, _ in members)
        agreeing = {name for _, name in members}
        opposed = {name for name in self.voters(now) - agreeing if self.sources[name].rejected_run}
        self._restart(now)
        for name in opposed:  # it contradicted the filter before and has not agreed to this pose either
            self.sources[name].rejected_run = 1
        self.state, self.reason = State.DEGRADED, "starting"
        for stamp, name in members:
            source = self._source(name, stamp)
            source.accepted += 1
            source.accepted_at = max(stamp, source.accepted_at or stamp)

    def hinted(self, stamp: int, hint: str, trusted: bool) -> None:
        """The filter (re)started from a pose given from outside; ``trusted``: by the user, not by an earlier run."""
        self._restart(stamp)
        self.hint = hint
        self.state = State.DEGRADED if trusted else State.INITIALIZING

    def time_jumped(self, stamp: int) -> None:
        """The clock was set: stamps before the jump mean nothing now."""
        for source in self.sources.values():
            source.seen, source.accepted_at, source.rejected_run = stamp, None, 0
        self.fix_stamp = stamp
        self._rejected_since_accept = 0
        self._recovering = self._config.recovery_fixes

    def abstained(self, name: str) -> None:
        """The source answered without a pose."""
        if name in self.sources:
            self.sources[name].silent = True

    def observed(self, name: str, stamp: int, accepted: bool, nis: float) -> None:
        """A fix was compared with the filter."""
        source = self._source(name, stamp)
        source.nis.append(nis)
        if accepted:
            source.accepted += 1
            source.accepted_at = max(stamp, source.accepted_at or stamp)
            source.rejected_run, source.distrusted = 0, False
            self.fix_stamp = max(stamp, self.fix_stamp or stamp)
            self.hint = None
            self._rejected_since_accept = 0
            if self.state is State.LOST:
                self.state, self._recovering = State.DEGRADED, self._config.recovery_fixes
            self._recovering = max(0, self._recovering - 1)
            return
        source.rejected_run += 1
        if source.accepted >= _CORROBORATION and source.rejected_run >= _CONTRADICTION:
            run_began = source.accepted_at or 0
            source.distrusted = source.distrusted or any(
                other is not source and other.accepted >= _CORROBORATION and (other.accepted_at or 0) > run_began
                for other in self.sources.values()
            )
        if not source.distrusted:
            self._rejected_since_accept += 1

    def voters(self, now: int) -> set[str]:
        """Sources that must not be overruled: they speak, and they have not left a filter that others vouch for."""
        oldest = now - int(self._config.source_timeout * SECOND)
        return {n for n, s in self.sources.items() if s.seen >= oldest and not s.silent and not s.distrusted}

    def assess(self, now: int, covariance: FloatArray, observed: bool, frozen: bool) -> State:
        """The state at stamp ``now`` of a filter with a pose; ``reason`` is set beside it.

        Args:
            covariance: (6, 6) of the published pose.
            observed: whether the newest motion was observed by the odometry.
            frozen: whether the camera repeats itself.
        """
        if self.state is State.LOST:
            return self.state
        c = self._config
        sigmas = np.sqrt(np.trace(covariance[:3, :3])), np.sqrt(np.trace(covariance[3:, 3:]))
        age = (now - self.fix_stamp) / SECOND if self.fix_stamp is not None else float("inf")
        if lost := self._why_lost(*sigmas, age):
            self.state, self.reason = State.LOST, lost
            # A pose that is wide, not contradicted, would agree with a wrong fix.
            self.comparable = sigmas[0] < c.lost_position_sigma / 2 and sigmas[1] < c.lost_rotation_sigma / 2
            return self.state

        slack = c.hysteresis if self.state is State.LOCALIZED else 1.0
        too_wide = sigmas[0] > slack * c.localized_position_sigma or sigmas[1] > slack * c.localized_rotation_sigma
        # What lasts for a moment only, until the next fix or image comes, is no reason to change the state.
        too_wide = self._lasts("too wide", too_wide, now)
        frozen = self._lasts("frozen", frozen, now)
        if self.state is State.LOCALIZED and too_wide:
            self._recovering = c.recovery_fixes
        degraded = self._why_degraded(now, age, frozen)
        if degraded is None and too_wide:
            cause = "" if observed else ": the odometry is silent"
            degraded = f"uncertain by {sigmas[0]:.2f} m and {np.degrees(sigmas[1]):.1f} deg{cause}"
        if degraded is None and self._recovering:
            degraded = f"{self._recovering} more fixes must agree"
        if self.hint is not None and self.state is State.INITIALIZING:
            self.reason = f"{self.hint}: not confirmed by a fix"
        elif degraded is not None:
            self.state, self.reason = State.DEGRADED, degraded
        else:
            self.state, self.reason = State.LOCALIZED, "" if self.hint is None else self.hint
            ignored = sorted(name for name, source in self.sources.items() if source.distrusted)
            if ignored:
                self.reason = f"{', '.join(ignored)} contradicts the other sources and is ignored"
        return self.state

    def _lasts(self, name: str, trouble: bool, now: int) -> bool:
        """Whether there is trouble; while LOCALIZED, only when it has lasted for longer than ``patience``."""
        since = self._fine_at.setdefault(name, now)
        if not trouble or now < since:
            self._fine_at[name] = now
            return False
        return self.state is not State.LOCALIZED or now - since > self._config.patience * SECOND

    def _why_lost(self, position: float, rotation: float, age: float) -> str | None:
        c = self._config
        if position > c.lost_position_sigma or rotation > c.lost_rotation_sigma:
            return f"uncertain by {position:.1f} m and {np.degrees(rotation):.0f} deg"
        if age > c.lost_timeout:
            return f"no fix for {age:.0f} s"
        if self._rejected_since_accept >= c.kidnap_confirmations and age > c.contradiction_time:
            return f"{self._rejected_since_accept} fixes in a row contradict the pose: moved unseen?"
        return None

    def _why_degraded(self, now: int, age: float, frozen: bool) -> str | None:
        c = self._config
        if frozen:
            return "the camera repeats one image"
        for name, source in self.sources.items():
            recent = now - source.seen <= c.rival_window * SECOND
            patience = 1 if source.accepted == 0 else _CONTRADICTION
            unproven = source.accepted < _CORROBORATION and self._others_accepted(source)
            if recent and unproven and source.rejected_run >= patience:
                return f"{name} contradicts the other sources"
        if self._rejected_since_accept and age > c.doubt_time:
            return f"{self._rejected_since_accept} fixes rejected, none accepted for {age:.1f} s"
        if age > c.fix_timeout:
            return f"no fix for {age:.0f} s"
        for name, source in self.sources.items():
            excess = np.median(source.nis) / _NIS_MEDIAN if len(source.nis) == _NIS_WINDOW else 1.0
            if excess > c.inconsistent_nis and not source.distrusted:
                return f"{name} is {np.sqrt(excess):.1f} times further off than its covariances say"
        if self.hint is not None and self.state is not State.INITIALIZING and age > c.source_timeout:
            return f"{self.hint}: not confirmed by a fix"
        return None

    def _others_accepted(self, source: Source) -> bool:
        return any(other is not source and other.accepted for other in self.sources.values())

    def _source(self, name: str, stamp: int) -> Source:
        source = self.sources.setdefault(name, Source(stamp))
        source.seen, source.silent = max(source.seen, stamp), False
        return source
