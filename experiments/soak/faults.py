"""What goes wrong in a soak of the whole system: faults drawn at random, one after another, by seed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

# kind -> (shortest, longest) seconds; 0: an instant
KINDS: dict[str, tuple[float, float]] = {
    "images dropped": (1.0, 8.0),  # none arrive
    "every second image dropped": (3.0, 8.0),
    "camera frozen": (2.0, 8.0),  # the same image with new stamps, the camera moves on
    "black": (2.0, 10.0),
    "noise": (2.0, 8.0),
    "long blackout": (15.0, 30.0),
    "foreign images": (2.0, 8.0),  # of another place and camera
    "clock forwards": (0.0, 0.0),
    "kidnapped": (0.0, 0.0),  # the recording jumps
    "odometry paused": (2.0, 8.0),
    "relocalizer paused": (2.0, 8.0),
    "odometry dead": (3.0, 10.0),  # lifecycle: cleaned up, then configured and activated again
    "relocalizer dead": (3.0, 10.0),
    "lying initial pose": (0.0, 0.0),  # wrong by a metre, with a small covariance
    "stale initial pose": (0.0, 0.0),  # right some seconds ago, with the stamp of now
}


@dataclass(frozen=True)
class Fault:
    """One fault: ``start`` and ``end`` in seconds since the beginning, ``draw`` in [0, 1) for its details."""

    kind: str
    start: float
    end: float
    draw: float

    def to_dict(self) -> dict[str, Any]:
        return {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(self).items()}


def plan(seconds: float, seed: int, first: float = 30.0, quiet: tuple[float, float] = (8.0, 14.0)) -> list[Fault]:
    """Faults until ``seconds``, ``quiet`` seconds apart; every kind comes up once before any comes again."""
    rng = np.random.default_rng(seed)
    faults: list[Fault] = []
    now, deck = first, []
    while True:
        if not deck:
            deck = list(rng.permutation(list(KINDS)))
        kind = str(deck.pop())
        end = now + rng.uniform(*KINDS[kind])
        if end > seconds - quiet[0]:
            return faults
        faults.append(Fault(kind, now, end, float(rng.random())))
        now = end + rng.uniform(*quiet)
