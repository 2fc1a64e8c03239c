"""Judges a soak of the whole system: ``report.json``, ``report.txt`` and ``report.png`` from its answers.

    python experiments/soak/report.py soak_output -o experiments/soak/results

An answer is wrong when the camera's position is off by 0.25 m or its rotation by 5 degrees, or the error lies outside
the ellipsoid of the probability of 3 sigma. It is an unflagged wrong pose when the state said LOCALIZED for more than
a second of such answers in a row.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy import stats

from robust_loc.data.files import write_atomically

STATES = {"OK": "LOCALIZED", "UNRELIABLE": "DEGRADED", "FAILED": "LOST", "INITIALIZING": "INITIALIZING"}
COLOURS = {"INITIALIZING": "#9aa5b1", "LOCALIZED": "#2f9e62", "DEGRADED": "#f0a23c", "LOST": "#c53030"}
THREE_SIGMA = float(stats.chi2.ppf(stats.chi2.cdf(9.0, 1), 6))
WARM_UP = 600.0  # seconds, or a third of the run if that is less


def wrong(answer: dict[str, Any]) -> bool:
    """Whether the pose of an answer is; without a pose it is not."""
    if "position" not in answer:
        return False
    return bool(answer["position"] > 0.25 or answer["rotation"] > np.radians(5) or not answer["nees"] <= THREE_SIGMA)


def wrong_spans(answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of answers that were LOCALIZED and wrong; each lasts until the first answer that was not, by image time."""
    spans, current = [], []
    for answer in [*answers, None]:
        if answer is not None and STATES[answer["status"]] == "LOCALIZED" and wrong(answer):
            current.append(answer)
            continue
        if current:
            last = current[-1]["time"] if answer is None else max(answer["time"], current[-1]["time"])
            worst = max(current, key=lambda a: a["position"])
            spans.append({"start": current[0]["time"], "seconds": last - current[0]["time"],
                          "position": worst["position"], "rotation": max(a["rotation"] for a in current),
                          "nees": max(a["nees"] for a in current), "answers": len(current)})  # fmt: skip
            current = []
    return spans


def judge(lines: list[dict[str, Any]]) -> dict[str, Any]:
    """The report of one run."""
    of = lambda kind: [line for line in lines if line["line"] == kind]  # noqa: E731
    run, answers, faults, processes = of("run")[0], of("fusion"), of("fault"), of("process")
    # Several answers to one image: the last one stands.
    final = list({answer["time"]: answer for answer in answers}.values())
    spans = wrong_spans(sorted(answers, key=lambda a: a["time"]))
    for span in spans:
        span["fault"] = next((f["kind"] for f in reversed(faults) if f["begun"] <= span["start"] + 1.0), "none")
        span["seconds"] = round(span["seconds"], 2)
    times = [p["wall"] for p in processes]
    memory, settled = np.array([p["memory"] for p in processes]), min(WARM_UP, times[-1] / 3)
    late = np.array([m for m, t in zip(memory, times) if t >= settled])
    tenth = max(1, len(late) // 10)
    localized = [a for a in final if STATES[a["status"]] == "LOCALIZED" and "position" in a]
    report: dict[str, Any] = {
        "wall_seconds": times[-1],
        "seconds": processes[-1]["time"],
        "seed": run["seed"],
        "images_per_wall_second": run["rate"],
        "seconds_between_stamps": run["period"],
        "ended": of("end")[0]["ended"] if of("end") else "not yet",
        "answers": len(answers),
        "images_answered": len(final),
        "faults": dict(sorted(Counter(f["kind"] for f in faults).items())),
        "states": {name: count / len(final) for name, count in Counter(STATES[a["status"]] for a in final).items()},
        "localized": {
            "position_error_median_m": float(np.median([a["position"] for a in localized])),
            "position_error_max_m": max(a["position"] for a in localized),
            "rotation_error_median_deg": float(np.degrees(np.median([a["rotation"] for a in localized]))),
            "anees": float(np.mean([a["nees"] for a in localized]) / 6),
        },
        "localized_while_wrong": {
            "share_of_images": float(np.mean([STATES[a["status"]] == "LOCALIZED" and wrong(a) for a in final])),
            "longest_seconds": max((s["seconds"] for s in spans), default=0.0),
            "over_one_second": [s for s in spans if s["seconds"] > 1.0],
        },
        "recovery_seconds": recoveries(faults, final),
        "memory_MiB": {
            # Images in flight come and go: the least of a while is what stays.
            "after_warm_up": float(late[:tenth].min()),
            "in_the_middle": float(late[len(late) // 2 - tenth // 2 :][:tenth].min()),
            "at_the_end": float(late[-tenth:].min()),
            "largest": float(late.max()),
        },
        "threads": [processes[0]["threads"], processes[-1]["threads"]],
        "open_files": [processes[0]["files"], processes[-1]["files"]],
        "cpu_cores": (processes[-1]["cpu"] - processes[0]["cpu"]) / max(times[-1] - times[0], 1e-9),
        "nodes": {
            name: {key: int(value) for key, value in values.items() if key.startswith("frames ")}
            for name, values in processes[-1]["nodes"].items()
        },
        "relocalizer_fixes_wrong": wrong_fixes(of("source")),
        "latency_seconds": latency(answers),
        "failed_calls": Counter(f"{c['name']}: {c['reason']}" for c in of("failed call")),
    }
    return report


def latency(answers: list[dict[str, Any]]) -> dict[str, float]:
    late = [a["late"] for a in answers]
    return {"p50": float(np.median(late)), "p99": float(np.percentile(late, 99)), "max": float(np.max(late))}


def wrong_fixes(sources: list[dict[str, Any]]) -> dict[str, int]:
    posed = [s for s in sources if "position" in s]
    far = [s for s in posed if s["position"] > 0.25 or s["rotation"] > np.radians(5)]
    return {"fixes": len(posed), "over_0.25m_or_5deg": len(far)}


def recoveries(faults: list[dict[str, Any]], answers: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Kind -> seconds from the end of the fault to the next LOCALIZED and right answer."""
    good = np.array([a["time"] for a in answers if STATES[a["status"]] == "LOCALIZED" and not wrong(a)])
    found: dict[str, list[float]] = {}
    for fault in faults:
        end = max(fault["end"] - fault["start"] + fault["begun"], fault["begun"])
        later = good[good > end + 1e-6]
        found.setdefault(fault["kind"], []).append(float(later[0] - end) if len(later) else float("nan"))
    return {
        kind: {"median": float(np.nanmedian(v)), "max": float(np.nanmax(v))}
        for kind, v in sorted(found.items())
        if np.isfinite(v).any()
    }


def text(report: dict[str, Any]) -> str:
    """The report for reading."""
    wrong, memory = report["localized_while_wrong"], report["memory_MiB"]
    lines = [
        f"{report['wall_seconds'] / 60:.0f} minutes ({report['seconds'] / 60:.0f} of the stamps), "
        f"{report['images_answered']} images answered, "
        f"{sum(report['faults'].values())} faults, ended {report['ended']}",
        "states: " + ", ".join(f"{100 * share:.1f} % {name}" for name, share in report["states"].items()),
        f"LOCALIZED: median error {100 * report['localized']['position_error_median_m']:.1f} cm and "
        f"{report['localized']['rotation_error_median_deg']:.2f} deg, largest "
        f"{100 * report['localized']['position_error_max_m']:.1f} cm, ANEES {report['localized']['anees']:.2f}",
        f"LOCALIZED while wrong: {100 * wrong['share_of_images']:.2f} % of images, at most "
        f"{wrong['longest_seconds']:.2f} s in a row, {len(wrong['over_one_second'])} times over 1 s",
        f"memory: {memory['after_warm_up']:.0f} MiB after warm-up, {memory['in_the_middle']:.0f} MiB in the middle, "
        f"{memory['at_the_end']:.0f} MiB at the end; threads {report['threads'][0]} and {report['threads'][1]}, "
        f"open files {report['open_files'][0]} and {report['open_files'][1]}",
        f"{report['cpu_cores']:.2f} CPU cores; answers after {report['latency_seconds']['p50']:.2f} s (median), "
        f"{report['latency_seconds']['p99']:.2f} s (99 %)",
        f"relocalizer: {report['relocalizer_fixes_wrong']['over_0.25m_or_5deg']} of "
        f"{report['relocalizer_fixes_wrong']['fixes']} fixes over 0.25 m or 5 deg",
        *(f"{name}: " + ", ".join(f"{k} {v}" for k, v in values.items()) for name, values in report["nodes"].items()),
        "",
        f"{'fault':<28}{'times':>6}  seconds until LOCALIZED again (median, most)",
    ]
    for kind, times in report["faults"].items():
        after = report["recovery_seconds"].get(kind, {"median": np.nan, "max": np.nan})
        lines.append(f"{kind:<28}{times:>6}  {after['median']:6.1f} {after['max']:6.1f}")
    for span in wrong["over_one_second"]:
        lines.append(f"WRONG for {span['seconds']:.1f} s at {span['start']:.1f} s ({span['fault']}): {span}")
    return "\n".join(lines) + "\n"


def draw(lines: list[dict[str, Any]], report: dict[str, Any], path: Path) -> None:
    """Errors with sigmas, states and faults, memory over time."""
    answers = [line for line in lines if line["line"] == "fusion"]
    faults = [line for line in lines if line["line"] == "fault"]
    processes = [line for line in lines if line["line"] == "process"]
    final = sorted({a["time"]: a for a in answers}.values(), key=lambda a: a["time"])
    figure, (error, state, kinds, memory) = plt.subplots(
        4, 1, figsize=(12, 9), sharex=True, height_ratios=[2.2, 0.35, 2.2, 1], constrained_layout=True
    )
    minutes = lambda items: np.array([item["time"] for item in items]) / 60  # noqa: E731
    for name, colour in COLOURS.items():
        some = [a for a in final if STATES[a["status"]] == name and "position" in a]
        if some:
            error.semilogy(minutes(some), [max(a["position"], 1e-4) for a in some], ".", ms=2, color=colour, label=name)
    posed = [a for a in final if "position" in a and a["position_sigma"] < 5]
    error.semilogy(minutes(posed), [a["position_sigma"] for a in posed], color="black", lw=0.4, alpha=0.6,
                   label="predicted RMS")  # fmt: skip
    error.axhline(0.25, color="#c53030", lw=0.8, ls="--")
    error.set(ylabel="position error (m)")
    error.legend(frameon=False, ncols=5, fontsize=8, loc="upper right", markerscale=4)
    for a, b in pairwise([*final, {"time": report["seconds"], "status": "OK"}]):
        state.axvspan(a["time"] / 60, b["time"] / 60, color=COLOURS[STATES[a["status"]]], lw=0)
    state.set(yticks=[], ylabel="state")
    names = sorted({f["kind"] for f in faults})
    for fault in faults:
        row, begun = names.index(fault["kind"]), fault["begun"]
        kinds.plot([begun / 60, (begun + fault["end"] - fault["start"]) / 60], [row, row], "-", lw=4, color="#1f6fb2",
                   solid_capstyle="butt")  # fmt: skip
        kinds.plot(begun / 60, row, "|", ms=8, color="#1f6fb2")
    kinds.set(yticks=range(len(names)), yticklabels=names, ylim=(-0.7, len(names) - 0.3))
    memory.plot(minutes(processes), [p["memory"] for p in processes], color="#1f6fb2")
    memory.set(ylabel="memory (MiB)", xlabel="minutes of the stamps", ylim=(0, None), xlim=(0, report["seconds"] / 60))
    figure.savefig(path, dpi=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output of system_soak.py")
    parser.add_argument("-o", "--output", type=Path, help="default: the same folder")
    parser.add_argument("--name", default="system")
    arguments = parser.parse_args()
    lines = [
        json.loads(line) for line in (arguments.folder / "answers.jsonl").read_text().splitlines() if line[-1] == "}"
    ]
    report = judge(lines)
    output = arguments.output or arguments.folder
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / f"{arguments.name}.json", json.dumps(report, indent=1) + "\n")
    write_atomically(output / f"{arguments.name}.txt", text(report))
    draw(lines, report, output / f"{arguments.name}.png")
    print(text(report))


if __name__ == "__main__":
    main()
