"""The report's pictures. Each function takes arrays and returns a matplotlib ``Figure``; nothing is shown or stored."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from robust_loc.types import FloatArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRUTH, ESTIMATE, SIGMA = "#444444", "#0b6bcb", "#f2a33a"


def trajectory_figure(truth: FloatArray, estimate: FloatArray, path: FloatArray, error: FloatArray) -> Figure:
    """The estimate over the true path, seen along the axis in which the camera moves least.

    Args:
        truth, estimate: (N, 3) paired positions; path: (M, 3) the whole truth; error: (N,) metres, the colour.
    """
    horizontal, vertical = np.sort(np.argsort(np.ptp(path, axis=0), kind="stable")[1:])
    figure = _figure(6.4, 5.2)
    axes = figure.add_subplot()
    axes.plot(estimate[:, horizontal], estimate[:, vertical], color=ESTIMATE, linewidth=0.8, alpha=0.5)
    # a few outliers must not take all of the colour scale
    top = max(float(np.quantile(error, 0.98)), 1e-12)
    points = axes.scatter(
        estimate[:, horizontal], estimate[:, vertical], c=error, s=9, vmin=0, vmax=top, cmap="viridis", label="estimate"
    )
    axes.plot(path[:, horizontal], path[:, vertical], color="black", linewidth=0.9, label="truth", zorder=3)
    axes.plot(*path[0, [horizontal, vertical]], "o", color="black", markersize=6, label="start", zorder=3)
    extend = "max" if error.max() > top else "neither"
    figure.colorbar(points, ax=axes, label="position error (m)", shrink=0.85, extend=extend)
    axes.set_aspect("equal", adjustable="datalim")
    axes.set_xlabel(f"{'xyz'[horizontal]} (m)")
    axes.set_ylabel(f"{'xyz'[vertical]} (m)")
    axes.legend(loc="best", framealpha=0.8)
    axes.grid(alpha=0.3)
    return figure


def error_figure(
    seconds: FloatArray,
    translation: FloatArray,
    rotation: FloatArray,
    sigma_translation: FloatArray,
    sigma_rotation: FloatArray,
) -> Figure:
    """Position and rotation error over time, with the predicted one- and three-sigma bands where there are any."""
    figure = _figure(7.6, 5.2)
    above, below = figure.subplots(2, 1, sharex=True)
    for axes, error, sigma, label in (
        (above, translation, sigma_translation, "position error (m)"),
        (below, np.degrees(rotation), np.degrees(sigma_rotation), "rotation error (deg)"),
    ):
        if np.isfinite(sigma).any():
            axes.fill_between(seconds, 0, 3 * sigma, color=SIGMA, alpha=0.15, linewidth=0, label="3 sigma, predicted")
            axes.fill_between(seconds, 0, sigma, color=SIGMA, alpha=0.35, linewidth=0, label="1 sigma, predicted")
        axes.plot(seconds, error, color=ESTIMATE, linewidth=1.0, label="error")
        axes.set_ylabel(label)
        # a huge sigma (lost) must not flatten the errors
        top = max(1.3 * float(error.max()), _finite_quantile(3 * sigma, 0.8) * 1.1, 1e-12)
        typical = float(np.median(error))
        if typical > 0 and top > 40 * typical:  # outliers: a linear axis would show nothing else
            axes.set_yscale("log")
            axes.set_ylim(0.1 * typical, 2 * top)
        else:
            axes.set_ylim(0, top)
        axes.grid(alpha=0.3)
    above.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), frameon=False, ncols=3, fontsize=8)
    below.set_xlabel("time (s)")
    return figure


def calibration_figure(normalised: FloatArray) -> Figure:
    """Expected against observed share of errors inside each ellipsoid of the predicted covariance.

    Args:
        normalised: (N,) squared errors normalised by the covariance (6 degrees of freedom).
    """
    from scipy import stats

    levels = np.linspace(0.0, 1.0, 101)[1:-1]
    observed = np.mean(normalised[None] <= stats.chi2.ppf(levels, 6)[:, None], axis=1)
    figure = _figure(4.6, 4.4)
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=TRUTH, linestyle="--", linewidth=1, label="calibrated")
    axes.plot(levels, observed, color=ESTIMATE, label="observed")
    axes.fill_between(levels, levels, observed, color=ESTIMATE, alpha=0.15, linewidth=0)
    axes.text(0.97, 0.05, "below: too sure of itself", ha="right", fontsize=8, color=TRUTH)
    axes.set(xlabel="expected share inside", ylabel="observed share inside", xlim=(0, 1), ylim=(0, 1))
    axes.set_aspect("equal")
    axes.legend(loc="upper left", framealpha=0.8)
    axes.grid(alpha=0.3)
    return figure


STATE_COLOURS = {"INITIALIZING": "#9aa5b1", "LOCALIZED": "#3a9d5d", "DEGRADED": "#f2a33a", "LOST": "#c0392b"}


def state_figure(
    seconds: FloatArray, states: Sequence[str], wrong: NDArray[np.bool_], right_fix: NDArray[np.bool_]
) -> Figure:
    """The state over time as a band of colours; below it where the pose was wrong, above it where a fix was right.

    Args:
        seconds: (N,) with N states; wrong, right_fix: (N,) flags.
    """
    figure = _figure(7.6, 2.2)
    axes = figure.add_subplot()
    ends = np.append(seconds[1:], seconds[-1:] + (np.median(np.diff(seconds)) if len(seconds) > 1 else 1.0))
    for state, colour in STATE_COLOURS.items():
        spans = [(start, end - start) for start, end, name in zip(seconds, ends, states) if name == state]
        axes.broken_barh(spans, (0, 1), color=colour, linewidth=0, label=state)
    localized = np.array([state == "LOCALIZED" for state in states], bool)
    for flags, height, colour, label in (
        (right_fix, 1.15, "#3a9d5d", "right fix"),
        (wrong & ~localized, -0.15, "#999999", "wrong pose"),
        (wrong & localized, -0.15, "#c0392b", "wrong, LOCALIZED"),
    ):
        if flags.any():
            axes.plot(seconds[flags], np.full(flags.sum(), height), "|", color=colour, markersize=6, label=label)
    axes.set(ylim=(-0.4, 1.4), yticks=[], xlabel="time (s)", xlim=(seconds.min(), ends.max()))
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), frameon=False, ncols=4, fontsize=8)
    return figure


def timing_figure(seconds: FloatArray, latencies: FloatArray) -> Figure:
    """Latency of every frame over time, and its distribution, in milliseconds."""
    figure = _figure(7.6, 3.2)
    left, right = figure.subplots(1, 2, width_ratios=[2, 1], sharey=True)
    milliseconds = 1000 * latencies
    left.plot(seconds, milliseconds, color=ESTIMATE, linewidth=0.9)
    left.set(xlabel="time (s)", ylabel="latency (ms)")
    right.hist(milliseconds, bins=30, orientation="horizontal", color=ESTIMATE, alpha=0.7)
    right.set(xlabel="frames")
    for quantile in (50, 99):
        value = float(np.percentile(milliseconds, quantile))
        right.axhline(value, color=TRUTH, linewidth=0.9, linestyle="--")
        right.text(0.97, value, f"p{quantile} {value:.1f} ms", ha="right", va="bottom", fontsize=8,
                   bbox={"color": "white", "alpha": 0.7, "pad": 1}, transform=right.get_yaxis_transform())  # fmt: skip
    left.set_ylim(0, 1.15 * float(milliseconds.max()))
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def png_of(figure: Figure) -> bytes:
    """The figure as PNG bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()


def embedded(figure: Figure) -> str:
    """The figure as a ``data:`` address, so that a page needs no file beside it."""
    return embedded_png(png_of(figure))


def embedded_png(png: bytes) -> str:
    """PNG bytes as a ``data:`` address."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _finite_quantile(values: FloatArray, share: float) -> float:
    finite = values[np.isfinite(values)]
    return float(np.quantile(finite, share)) if len(finite) else 0.0
