"""What a node asks of an estimator, and the parameters that every estimator's node has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from robust_loc.config import Config, parameter
from robust_loc.types import Estimate, Frame


class Estimator(Protocol):
    """The contract of every estimator (a ``prior`` argument may follow)."""

    def update(self, frame: Frame) -> Estimate | None: ...

    def reset(self) -> None: ...


@dataclass(frozen=True)
class EstimatorNodeConfig(Config):
    lockstep: bool = parameter(
        False, "replay: work on every image and answer each one, over reliable topics; false: newest image only"
    )
    world_frame: str = parameter("map", "frame the estimates are given in")
    time_jump: float = parameter(
        1.0, "seconds: an image older than the last one by more starts anew, by less is refused", minimum=0.0
    )
    stale_after: float = parameter(2.0, "seconds without an image until diagnostics warn", minimum=0.1)
