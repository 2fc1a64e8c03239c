"""``report.html``, one page with its pictures inside, and ``report.json`` with the same numbers."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import robust_loc
from robust_loc.data.files import write_atomically
from robust_loc.evaluation import figures
from robust_loc.evaluation.evaluate import Evaluation

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0; text-align: left; vertical-align: top; }
td:last-child { font-variant-numeric: tabular-nums; } tr { border-bottom: 1px solid #ddd; }
img { max-width: 100%; } .note { color: #666; } .warning { color: #a33; } pre { background: #f5f5f5; padding: .7rem; }
"""


def table_of(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The summary as lines of a table: what, and its value in readable units."""
    rows = [("frames", f"{summary['frames']}, of which {summary['estimated']} estimated")]
    for mode, name in (("none", "ATE, not aligned"), ("se3", "ATE, SE(3)"), ("sim3", "ATE, Sim(3)")):
        error = summary["ate"].get(mode)
        if error:
            scale = f", scale {error['scale']:.5g}" if "scale" in error else ""
            numbers = f"rmse {error['rmse']:.4g} m, median {error['median']:.4g} m, max {error['max']:.4g} m{scale}"
            rows.append((name, numbers))
        else:
            rows.append((name, "cannot be computed (no motion, or too few poses)"))
    if "rpe" in summary:
        rpe = summary["rpe"]
        turned = np.degrees(rpe["rotation"]["rmse"])
        rows.append(
            (f"RPE over {rpe['delta_frames']} frame(s)", f"{rpe['translation']['rmse']:.4g} m, {turned:.4g} deg (rmse)")
        )
    if "kitti" in summary:
        kitti = summary["kitti"]
        rows.append(
            ("KITTI drift", f"{kitti['translation_percent']:.3g} %, {kitti['rotation_deg_per_100m']:.3g} deg / 100 m")
        )
    median = summary["median"]
    rows.append(("median error", f"{median['translation']:.4g} m, {np.degrees(median['rotation']):.4g} deg"))
    shares = ", ".join(
        f"{100 * share:.1f} % in {bound.replace('_', ' ')}" for bound, share in summary["recall"].items()
    )
    rows.append(("recall", shares))
    if "uncertainty" in summary:
        u = summary["uncertainty"]
        rows.append(
            ("ANEES (1 is calibrated)", f"{u['anees']:.3g}, 95 % band {u['band'][0]:.3g} to {u['band'][1]:.3g}")
        )
        inside = ", ".join(f"{100 * share:.1f} % in {float(level):.0%}" for level, share in u["coverage"].items())
        rows.append(("coverage", inside))
        if u["ause"]:
            rows.append(("AUSE (0 is best)", ", ".join(f"{name} {value:.3g}" for name, value in u["ause"].items())))
    if "state" in summary:
        state = summary["state"]
        text = f"{100 * state['localized']:.1f} %, while wrong {100 * state['localized_while_wrong']:.2f} %"
        rows.append(("said to be localized", f"{text}, longest {state['longest_wrong']:.2f} s"))
        could = state.get("lost_while_fixes_possible")
        known = "" if could is None else f", while a right fix was there {100 * could:.2f} %"
        rows.append(("said to be lost", f"{100 * state['lost']:.1f} %{known}"))
    if "latency" in summary:
        latency = summary["latency"]
        rows.append(("latency", f"p50 {1000 * latency['p50']:.1f} ms, p99 {1000 * latency['p99']:.1f} ms"))
    return rows


def write_report(
    folder: str | Path,
    evaluation: Evaluation,
    title: str,
    run: Mapping[str, Any] | None = None,
    pictures: Sequence[tuple[str, bytes]] = (),
) -> Path:
    """Write ``report.html`` and ``report.json`` into ``folder``; returns the page's path.

    Args:
        title: the page's heading.
        run: what made the result (configuration, version, seed), printed at the end.
        pictures: further (caption, PNG bytes) to show.
    """
    folder, series, summary = Path(folder), evaluation.series, evaluation.summary
    images = [
        (
            f"Trajectory (estimate aligned: {evaluation.alignment.value})",
            figures.embedded(figures.trajectory_figure(series.truth, series.estimate, series.path, series.translation)),
        ),
        (
            "Error over time",
            figures.embedded(
                figures.error_figure(
                    series.seconds,
                    series.translation,
                    series.rotation,
                    series.sigma_translation,
                    series.sigma_rotation,
                )
            ),
        ),
    ]
    known = series.nees[np.isfinite(series.nees)]
    if len(known):
        images.append(("Calibration of the covariance", figures.embedded(figures.calibration_figure(known))))
    if evaluation.states is not None:
        t = evaluation.states
        seconds = (t.stamps - (t.stamps[0] if len(t.stamps) else 0)) / 1e9
        picture = figures.state_figure(seconds, t.states, t.wrong, t.right_fix)
        images.append(("States", figures.embedded(picture)))
    if len(series.latencies):
        picture = figures.timing_figure(series.latency_seconds, series.latencies)
        images.append(("Timing", figures.embedded(picture)))
    images += [(caption, figures.embedded_png(png)) for caption, png in pictures]
    rows = "\n".join(f"<tr><td>{_text(name)}</td><td>{_text(value)}</td></tr>" for name, value in table_of(summary))
    shown = "\n".join(
        f'<h2>{_text(caption)}</h2>\n<img alt="{_text(caption)}" src="{address}">' for caption, address in images
    )
    notes = "\n".join(f'<p class="warning">{_text(warning)}</p>' for warning in evaluation.warnings)
    made = "" if run is None else f"<h2>Run</h2>\n<pre>{_text(json.dumps(run, indent=2, default=str))}</pre>"
    page = (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{_text(title)}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n<h1>{_text(title)}</h1>\n{notes}\n<table>\n{rows}\n</table>\n"
        f'{shown}\n{made}\n<p class="note">robust_loc {robust_loc.__version__}</p>\n</body>\n</html>\n'
    )
    content = {"title": title, "version": robust_loc.__version__, "alignment": evaluation.alignment.value, **summary}
    write_atomically(folder / "report.json", json.dumps(content, indent=2) + "\n")
    write_atomically(folder / "report.html", page)
    return folder / "report.html"


def _text(value: str) -> str:
    return html.escape(str(value))
