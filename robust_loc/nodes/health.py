"""Counts what a node does and says it on ``/diagnostics`` (REP 107)."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue


@dataclass
class Tally:
    """What happened since the last report."""

    started: float = field(default_factory=time.monotonic)
    latencies: list[float] = field(default_factory=list)  # seconds, one per answered frame
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


class Health:
    """Counters of one node; every method may be called from any thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.received = 0
        self.answered = 0
        self.dropped = 0  # live: replaced by a newer frame before its turn
        self.refused = 0  # answered with an error
        self._tally = Tally()
        self._lock = threading.Lock()

    def frame_received(self) -> None:
        with self._lock:
            self.received += 1

    def frame_dropped(self) -> None:
        with self._lock:
            self.dropped += 1

    def frame_answered(self, latency: float, refused: bool) -> None:
        """``latency`` in seconds, from arrival of the image to its answer."""
        with self._lock:
            self.answered += 1
            self.refused += refused
            self._tally.latencies.append(latency)

    def error(self, message: str) -> None:
        with self._lock:
            self._tally.errors.append(message)

    def warn(self, message: str) -> None:
        with self._lock:
            self._tally.warnings.append(message)

    def report(self, now: Any, state: str, extra: Mapping[str, Any]) -> DiagnosticArray:
        """The message for the time since the last call: ERROR with the last error where there was one."""
        with self._lock:
            tally, self._tally = self._tally, Tally()
            counters = {
                "frames received": self.received,
                "frames answered": self.answered,
                "frames dropped": self.dropped,
                "frames refused": self.refused,
            }
        elapsed = max(time.monotonic() - tally.started, 1e-9)
        values: dict[str, Any] = {"state": state, "rate [Hz]": round(len(tally.latencies) / elapsed, 2), **counters}
        if tally.latencies:
            p50, p99 = np.percentile(tally.latencies, [50, 99])
            values |= {"latency p50 [s]": round(float(p50), 4), "latency p99 [s]": round(float(p99), 4)}
        values |= memory() | dict(extra)
        status = DiagnosticStatus(name=self.name, level=DiagnosticStatus.OK, message=state)
        if tally.errors:
            status.level, status.message = DiagnosticStatus.ERROR, _summary(tally.errors)
        elif tally.warnings:
            status.level, status.message = DiagnosticStatus.WARN, _summary(tally.warnings)
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        report = DiagnosticArray(status=[status])
        report.header.stamp = now
        return report


def memory() -> dict[str, str]:
    """Resident memory of the process, and the GPU's where torch has used one [MB]."""
    values = {}
    try:
        with open("/proc/self/statm") as file:
            import resource

            values["memory [MB]"] = f"{int(file.read().split()[1]) * resource.getpagesize() / 1e6:.0f}"
    except OSError:
        pass  # no /proc
    import sys

    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        values["GPU memory [MB]"] = f"{torch.cuda.memory_allocated() / 1e6:.0f}"
    return values


def _summary(messages: list[str]) -> str:
    more = len(messages) - 1
    return messages[-1] + (f" (and {more} more)" if more else "")
