"""The estimators that are compared: all of them get the same loss maps and points.

An estimator of the reprojection error sees the peak of each map; its threshold is tuned on other queries than those
it is judged on (figure 7).

  NRE            MSAC and GNC on the loss maps
  NRE, no GNC    MSAC alone, without local optimisation (ablation of figure 5)
  NRE, one sigma that, and IRLS at the last sigma only (ablation of figure 5)
  RE             the same solver on one-hot maps (eq. 11)
  LO-RANSAC      PoseLib
  GC-RANSAC, MAGSAC++, USAC   OpenCV
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
import poselib

from robust_loc.relocalization import LossMaps, MsacConfig, msac, refine, sigma_schedule
from robust_loc.relocalization.synthetic import SyntheticQuery
from robust_loc.types import FloatArray
from robust_loc.uncertainty import pose_error

matplotlib.use("Agg")

THRESHOLDS = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # feature pixels
PLAIN = MsacConfig(refinements=0)
FAILED = np.full(6, 10.0)
Estimator = Callable[[SyntheticQuery, float], "FloatArray | None"]


def nre(query: SyntheticQuery, _: float) -> FloatArray | None:
    return _solved(query.maps, query, sigma_schedule(2.0, 0.6))


def nre_without_gnc(query: SyntheticQuery, _: float) -> FloatArray | None:
    return msac(query.maps, query.points, query.intrinsics, np.random.default_rng(0), PLAIN).cam_T_world


def nre_one_sigma(query: SyntheticQuery, _: float) -> FloatArray | None:
    return _solved(query.maps, query, [0.6], PLAIN)


def one_hot(query: SyntheticQuery, sigma: float) -> FloatArray | None:
    """RE (eq. 11): its smoothing plays the threshold's part."""
    return _solved(query.maps.to_peaks(), query, [2 * sigma, sigma])


def lo_ransac(query: SyntheticQuery, threshold: float) -> FloatArray | None:
    pixels, points = _matches(query)
    camera = {"model": "PINHOLE", "width": query.maps.width, "height": query.maps.height}
    camera["params"] = query.intrinsics.tolist()
    options = {"max_reproj_error": threshold, "max_iterations": 5000, "seed": 0}
    pose, information = poselib.estimate_absolute_pose(pixels, points, camera, options, {})
    return _matrix(pose.R, pose.t) if information["num_inliers"] >= 3 else None


def opencv(method: int) -> Estimator:
    def estimate(query: SyntheticQuery, threshold: float) -> FloatArray | None:
        pixels, points = _matches(query)
        if len(points) < 4:
            return None
        fx, fy, cx, cy = query.intrinsics
        K = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
        parameters = cv2.UsacParams()
        parameters.maxIterations, parameters.threshold, parameters.confidence = 5000, threshold, 0.9999
        parameters.sampler, parameters.score = cv2.SAMPLING_UNIFORM, SCORES[method]
        parameters.loMethod = LOCAL[method]
        parameters.final_polisher = cv2.COV_POLISHER
        try:
            found, _, rotation, translation, _ = cv2.solvePnPRansac(points, pixels, K, None, params=parameters)
        except cv2.error:
            return None
        return _matrix(cv2.Rodrigues(rotation)[0], translation[:, 0]) if found else None

    return estimate


SCORES = {
    cv2.USAC_ACCURATE: cv2.SCORE_METHOD_MSAC,
    cv2.USAC_MAGSAC: cv2.SCORE_METHOD_MAGSAC,
    cv2.USAC_DEFAULT: cv2.SCORE_METHOD_MSAC,
}
LOCAL = {
    cv2.USAC_ACCURATE: cv2.LOCAL_OPTIM_GC,
    cv2.USAC_MAGSAC: cv2.LOCAL_OPTIM_SIGMA,
    cv2.USAC_DEFAULT: cv2.LOCAL_OPTIM_INNER_AND_ITER_LO,
}

# name -> (estimator, whether it has a threshold)
METHODS: dict[str, tuple[Estimator, bool]] = {
    "NRE": (nre, False),
    "NRE, no GNC": (nre_without_gnc, False),
    "NRE, one sigma": (nre_one_sigma, False),
    "RE (eq. 11)": (one_hot, True),
    "LO-RANSAC": (lo_ransac, True),
    "GC-RANSAC": (opencv(cv2.USAC_ACCURATE), True),
    "MAGSAC++": (opencv(cv2.USAC_MAGSAC), True),
    "USAC": (opencv(cv2.USAC_DEFAULT), True),
}


def errors(method: Estimator, threshold: float, queries: Sequence[SyntheticQuery]) -> FloatArray:
    """Errors [N, 2]: metres and degrees."""
    out = []
    for query in queries:
        pose = method(query, threshold)
        error = FAILED
        if pose is not None and np.all(np.isfinite(pose)):
            error = pose_error(np.linalg.inv(pose), np.linalg.inv(query.cam_T_world))
        out.append([np.linalg.norm(error[:3]), np.degrees(np.linalg.norm(error[3:]))])
    return np.array(out)


def score(values: FloatArray) -> float:
    """What a threshold is tuned for: the median of metres and degrees together."""
    return float(np.median(values[:, 0] / 0.1 + values[:, 1]))


def compare(
    title: str, judged: Sequence[SyntheticQuery], tuning: Sequence[SyntheticQuery]
) -> tuple[dict[str, Any], dict[str, FloatArray]]:
    """Every method on ``judged``, each threshold chosen on ``tuning``: rows of a table, and the errors."""
    rows: dict[str, Any] = {}
    curves: dict[str, FloatArray] = {}
    for name, (method, tunable) in METHODS.items():
        tuned = {t: score(errors(method, t, tuning)) for t in (THRESHOLDS if tunable else ())}
        threshold = min(tuned, key=tuned.__getitem__) if tuned else 0.0
        values = curves[name] = errors(method, threshold, judged)
        row = rows[name] = {
            "median_deg": float(np.median(values[:, 1])),
            "median_m": float(np.median(values[:, 0])),
            "within_1deg_10cm": float(np.mean((values[:, 1] < 1) & (values[:, 0] < 0.1))),
            "threshold": threshold,
            "tuning": tuned,
            "tuning_score": tuned[threshold] if tuned else score(errors(method, 0.0, tuning)),
        }
        print(
            f"{title:<10} {name:<15} {row['median_deg']:.2f} deg {row['median_m']:.3f} m  "
            f"{100 * row['within_1deg_10cm']:.0f} % within 1 deg, 10 cm  threshold {threshold:g}",
            flush=True,
        )
    return rows, curves


def markdown(tables: dict[str, Any]) -> str:
    """A row per method, a column per set of queries: medians, and queries within 1 degree and 10 cm."""
    lines = ["| | " + " | ".join(tables) + " |", "|---" * (len(tables) + 1) + "|"]
    for name in METHODS:
        cells = []
        for rows in tables.values():
            row = rows[name]
            text = f"{row['median_deg']:.2f} deg {100 * row['median_m']:.1f} cm {100 * row['within_1deg_10cm']:.0f} %"
            cells.append(f"**{text}**" if name == "NRE" else text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(tables: dict[str, Any], path: Path) -> None:
    """Cumulative errors in rotation, one panel per set of queries."""
    figure, panels = _panels(len(tables))
    for panel, (title, rows) in zip(panels, tables.items()):
        for name, row in rows.items():
            ordered = np.sort(np.array(row["errors"])[:, 1])
            style = {"linewidth": 2.2} if name == "NRE" else {"linewidth": 1.1, "alpha": 0.8}
            panel.step(ordered, np.arange(1, len(ordered) + 1) / len(ordered), label=name, where="post", **style)
        panel.set(title=title, xlabel="rotation error (deg)", xlim=(0, 4), ylim=(0, 1), ylabel="fraction of queries")
    _finish(figure, panels, path)


def draw_tuning(tables: dict[str, Any], path: Path) -> None:
    """Score of each reprojection-error estimator over its threshold; the line is NRE, which has none (figure 7)."""
    figure, panels = _panels(len(tables))
    for panel, (title, rows) in zip(panels, tables.items()):
        for name, row in rows.items():
            if row["tuning"]:
                thresholds = [float(t) for t in row["tuning"]]
                panel.plot(thresholds, list(row["tuning"].values()), marker=".", linewidth=1.1, label=name)
        panel.axhline(rows["NRE"]["tuning_score"], color="black", label="NRE")
        panel.set(title=title, xlabel="threshold (feature pixels)", xscale="log", yscale="log", ylim=(0.3, 20))
        panel.set_xticks([0.5, 1, 2, 4], labels=["0.5", "1", "2", "4"])
        panel.set_xticks([], minor=True)
        panel.set_ylabel("median error (0.1 m + 1 deg)")
    _finish(figure, panels, path)


def _panels(count: int) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    columns = min(count, 4)
    rows = -(-count // columns)
    figure, panels = plt.subplots(rows, columns, figsize=(3.2 * columns, 2.9 * rows), squeeze=False)
    for panel in panels.ravel()[count:]:
        panel.axis("off")
    return figure, panels.ravel()[:count]


def _finish(figure: Any, panels: Any, path: Path) -> None:
    for panel in panels:
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize=6, loc="best")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def _solved(
    maps: LossMaps, query: SyntheticQuery, sigmas: list[float], config: MsacConfig | None = None
) -> FloatArray | None:
    found = msac(maps, query.points, query.intrinsics, np.random.default_rng(0), config).cam_T_world
    if found is None:
        return None
    return refine(maps, query.points, query.intrinsics, found, sigmas).cam_T_world


def _matches(query: SyntheticQuery) -> tuple[FloatArray, FloatArray]:
    pixels, losses = query.maps.peaks()
    seen = losses < query.maps.ceiling
    return pixels[seen].astype(np.float64), query.points[seen]


def _matrix(R: FloatArray, t: FloatArray) -> FloatArray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = R, t
    return pose
