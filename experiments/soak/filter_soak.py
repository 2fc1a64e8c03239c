"""One simulated hour of the filter with faults at random: no unflagged wrong pose, no growth of memory.

    python experiments/soak/filter_soak.py --hours 1 --seed 0 -o experiments/soak/results

Every 20 to 40 seconds one of: blackout, frozen camera, kidnapping, clock jump, a lying source, a dead source. Fixes of
the relocalizer (5 Hz, 100 ms late) are wrong in 10 %, those of the regressor (10 Hz) in 5 % of the cases.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import resource
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import robust_loc
from robust_loc.data.files import write_atomically
from robust_loc.fusion import FusionConfig, LocalizationFilter, State
from robust_loc.fusion.rigid import rotation_exp
from robust_loc.fusion.simulation import Fixes, Moment, Scenario, longest, run, simulate

FAULTS = ("blackout", "frozen", "kidnapped", "clock", "lying", "dead")
CHUNK = 300.0  # seconds simulated at a time


@dataclass
class Plan:
    """Faults of one chunk: (kind, start, end)."""

    faults: list[tuple[str, float, float]] = field(default_factory=list)

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Plan:
        plan, now = cls(), 10.0
        while now < CHUNK - 30.0:
            plan.faults.append((str(rng.choice(FAULTS)), now, now + rng.uniform(1.0, 8.0)))
            now += rng.uniform(20.0, 40.0)
        return plan

    def scenario(self, rng: np.random.Generator) -> Scenario:
        at = {kind: [(a, b) for name, a, b in self.faults if name == kind] for kind in FAULTS}
        kidnapped = {}
        for start, _ in at["kidnapped"]:
            change = np.eye(4)
            change[:3, :3] = rotation_exp(np.array([0.0, 0.0, rng.uniform(-3, 3)]))
            change[:3, 3] = rng.uniform(-2, 2, 3)
            kidnapped[start] = change
        lies = {span: (*(rng.choice([-1, 1], 3) * rng.uniform(0.3, 1.5, 3)), 0.0, 0.0, 0.0) for span in at["lying"]}
        clock = {start: float(rng.choice([-1, 1]) * rng.uniform(2, 100)) for start, _ in at["clock"]}
        relocalizer = Fixes("relocalizer", 0.2, 0.1, outliers=0.1, silent=tuple(at["dead"]))
        regressor = Fixes("regressor", 0.1, 0.0, 0.05, 0.02, outliers=0.05, bias=lies)
        return Scenario(
            CHUNK,
            0.1,
            (relocalizer, regressor),
            kidnapped=kidnapped,
            dark=at["blackout"],
            frozen=at["frozen"],
            clock=clock,
        )


def resident_mebibytes() -> float:
    """Memory in use by this process now."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def soak(hours: float, seed: int) -> dict[str, Any]:
    """Run and judge; the filter is one object for the whole time."""
    rng = np.random.default_rng(seed)
    localizer = LocalizationFilter(FusionConfig(fix_correlation_time=0.0, initial_odometry_inflation=1.0))
    states: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    recoveries: dict[str, list[float]] = {}
    wrong: list[dict[str, Any]] = []
    memory: list[float] = []
    began = time.perf_counter()
    for chunk in range(max(1, round(hours * 3600 / CHUNK))):
        plan = Plan.draw(rng)
        events = simulate(plan.scenario(rng), int(rng.integers(1 << 31)), start=2000.0 * chunk)
        moments = run(localizer, events)
        states.update(m.localization.state.name for m in moments)
        faults.update(kind for kind, *_ in plan.faults)
        for start, end, seconds in wrong_spans(moments):
            near = [kind for kind, a, b in plan.faults if a - 1 <= end and start <= b + 3]
            wrong.append({"chunk": chunk, "start": round(start, 1), "seconds": round(seconds, 2), "near": near})
        for kind, start, end in plan.faults:
            after = start if kind in ("kidnapped", "clock") else end
            found = next((m.time for m in moments if m.time > after + 0.1 and good(m)), np.inf)
            recoveries.setdefault(kind, []).append(found - after)
        del events, moments
        memory.append(resident_mebibytes())
    settled = memory[len(memory) // 4]
    return {
        "simulated_hours": hours,
        "seed": seed,
        "version": robust_loc.__version__,
        "machine": platform.machine(),
        "wall_seconds": round(time.perf_counter() - began, 1),
        "faults": dict(faults),
        "states": {name: count / states.total() for name, count in states.items()},
        "longest_localized_while_wrong": max([span["seconds"] for span in wrong], default=0.0),
        "localized_while_wrong_over_1s": [span for span in wrong if span["seconds"] > 1.0],
        "recovery_seconds": {
            kind: {"median": float(np.median(values)), "max": float(np.max(values))}
            for kind, values in sorted(recoveries.items())
        },
        "memory_growth_MiB_after_warm_up": round(memory[-1] - settled, 1),
        "ignored": localizer.ignored,
    }


def good(moment: Moment) -> bool:
    return moment.localization.state is State.LOCALIZED and not moment.wrong()


def wrong_spans(moments: list[Moment]) -> list[tuple[float, float, float]]:
    """(start, end, seconds) of every stretch that was LOCALIZED and wrong."""
    spans, current = [], []
    for moment in [*moments, None]:
        if moment is not None and moment.localization.state is State.LOCALIZED and moment.wrong():
            current.append(moment)
        elif current:
            spans.append((current[0].time, current[-1].time, longest(current, lambda m: True)))
            current = []
    return spans


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("experiments/soak/results"))
    arguments = parser.parse_args()
    report = soak(arguments.hours, arguments.seed)
    text = json.dumps(report, indent=2)
    write_atomically(arguments.output / f"filter_seed{arguments.seed}.json", text + "\n")
    print(text)


if __name__ == "__main__":
    main()
