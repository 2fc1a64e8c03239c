"""Other places the fixes point to: where the filter starts, and where a kidnapped robot is found again.

A rejected fix either supports a rival track, which follows the same odometry, or starts one. Wrong fixes rarely agree
with each other *through the motion between them*; right ones do.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from robust_loc.fusion.belief import Belief, Fix, MotionModel
from robust_loc.fusion.config import FusionConfig
from robust_loc.fusion.gating import Gate
from robust_loc.fusion.history import SECOND, Timeline, Track


@dataclass
class Rival:
    """A track and the fixes that support it.

    Attributes:
        members: (stamp, source) of every fix that agreed.
        streak: those since the last fix that agreed with the filter.
    """

    track: Track
    members: list[tuple[int, str]] = field(default_factory=list)
    streak: list[tuple[int, str]] = field(default_factory=list)

    @property
    def newest(self) -> int:
        return max(stamp for stamp, _ in self.members)

    @property
    def sources(self) -> set[str]:
        return {source for _, source in self.members}

    def confirmed(self, count: int, seconds: float) -> bool:
        """``count`` images agreed, over at least ``seconds``."""
        return _spans(self.members, count, seconds)

    def unopposed(self, count: int, seconds: float) -> bool:
        """The same, with no fix in favour of the filter meanwhile."""
        return _spans(self.streak, count, seconds)


def _spans(members: list[tuple[int, str]], count: int, seconds: float) -> bool:
    stamps = {stamp for stamp, _ in members}  # two sources on one image are one vote: they may share its error
    return len(stamps) >= count and max(stamps) - min(stamps) >= seconds * SECOND


class Rivals:
    """A few rival tracks on one timeline."""

    def __init__(self, config: FusionConfig, model: MotionModel, gate: Gate) -> None:
        self._config, self._model, self._gate = config, model, gate
        self._rivals: list[Rival] = []

    def __iter__(self):
        return iter(self._rivals)

    def __len__(self) -> int:
        return len(self._rivals)

    def clear(self) -> None:
        self._rivals.clear()

    def remove(self, rival: Rival) -> None:
        self._rivals.remove(rival)

    def filter_agreed(self) -> None:
        """A fix agreed with the filter: no rival is unopposed any more."""
        for rival in self._rivals:
            rival.streak.clear()

    def opposed(self, rival: Rival) -> bool:
        """Whether other sources agree on another place: then neither may be believed."""
        return any(
            other is not rival and other.confirmed(2, 0.0) and not other.sources & rival.sources for other in self
        )

    def support(self, fix: Fix, inflation: float, timeline: Timeline, scale: tuple[float, float]) -> Rival:
        """The rival that ``fix`` agrees with, or a new one at ``fix`` with the given (scale, relative sigma)."""
        self._prune(timeline.newest)
        rated = [(r.track.innovation(fix).nis, i) for i, r in enumerate(self._rivals) if r.track.reaches(fix.stamp)]
        nis, index = min(rated, default=(float("inf"), -1))
        if self._gate.accepts(nis):
            rival = self._rivals[index]
            rival.track.insert(fix, inflation)
        else:
            belief = Belief.at(fix.map_T_cam, fix.covariance, *scale)
            rival = Rival(Track(timeline, fix.stamp, belief, self._model, self._gate))
            self._rivals.append(rival)
            if len(self._rivals) > self._config.rivals:
                others = [r for r in self._rivals if r is not rival]
                self._rivals.remove(min(others, key=lambda r: (len(r.members), r.newest)))
        rival.members.append((fix.stamp, fix.source))
        rival.streak.append((fix.stamp, fix.source))
        return rival

    def _prune(self, now: int) -> None:
        """Drop rivals that no fix supports any more, and those so blind that any fix would."""
        oldest, longest = now - int(self._config.rival_window * SECOND), self._config.clock_jump
        self._rivals = [
            rival
            for rival in self._rivals
            if rival.newest >= oldest
            and max(rival.track.belief.gap_translation, rival.track.belief.gap_rotation) <= longest
        ]
