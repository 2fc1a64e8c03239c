"""Descriptors and cost functions on the same real pairs (Tables 2 and 4 of the paper), and what maps cost (Table 3).

Usage: ROBUST_LOC_DATA=... python experiments/nre/features.py [--pairs 24] [--features handmade,compact] [-o FOLDER]

Table 2: NRE with each descriptor, and SIFT matches with LO-RANSAC at its best threshold. Table 4: from the coarse NRE
pose of each pair, the fine refinement by NRE, by the feature-metric error of the same fine descriptors (raw, and of
unit length), and by NRE on the peaks alone. Table 3: seconds and bytes of dense fine maps of the whole image against
windows stored sparsely.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import poselib
import torch
from estimators import THRESHOLDS, score
from real_pairs import RECORDINGS, Pair, described, pairs_of, query_of

from robust_loc.features import COARSE_STRIDE, FINE_STRIDE, FeatureMaps, load_features, sample
from robust_loc.relocalization import correspondence_maps, msac, refine, refine_maps, sigma_schedule
from robust_loc.relocalization.gnc import pose_jacobian, retract
from robust_loc.relocalization.loss_maps import project_points
from robust_loc.types import FloatArray
from robust_loc.uncertainty import pose_error

Describe = Callable[[Any], FeatureMaps]
FAILED = [10.0, 10.0]
MATCHES: dict[int, tuple[Pair, FloatArray, FloatArray]] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=24, help="judged per recording; half as many are tuned on")
    parser.add_argument("--features", default="handmade,compact")
    parser.add_argument("-o", "--output", type=Path, default=Path("experiments/nre/results"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    report: dict[str, Any] = {"table2": {}, "table4": {}, "table3": {}}
    for name in RECORDINGS:
        pairs = pairs_of(name, options.pairs * 3 // 2, 150)
        tuning, judged = pairs[: len(pairs) // 3], pairs[len(pairs) // 3 :]
        table2, table4 = report["table2"].setdefault(name, {}), report["table4"].setdefault(name, {})
        tuned = {t: score(errors(tuning, [lo_ransac(*m, t) for m in matched(tuning)])) for t in THRESHOLDS}
        best = min(tuned, key=tuned.__getitem__)
        table2["SIFT, LO-RANSAC"] = row(errors(judged, [lo_ransac(*m, best) for m in matched(judged)]))
        for kind in options.features.split(","):
            describe = described(load_features(kind))
            coarse = [coarse_pose(pair, describe) for pair in judged]
            table2[f"{kind}, NRE coarse"] = row(errors(judged, coarse))
            for how, refinement in REFINEMENTS.items():
                refined = [None if s is None else refinement(p, describe, s) for p, s in zip(judged, coarse)]
                table4[f"{kind}, {how}"] = row(errors(judged, refined))
            table2[f"{kind}, NRE"] = table4[f"{kind}, NRE"]
            if name == "redkitchen":
                report["table3"][kind] = costs(judged[0], describe)
        for table in (table2, table4):
            for method, values in table.items():
                print(f"{name:<11} {method:<38} {text(values)}", flush=True)
    (options.output / "features.json").write_text(json.dumps(report, indent=2) + "\n")
    (options.output / "features.md").write_text(markdown(report))


def coarse_pose(pair: Pair, describe: Describe) -> FloatArray | None:
    query = query_of(pair, describe)
    found = msac(query.maps, query.points, query.intrinsics, np.random.default_rng(0)).cam_T_world
    if found is None:
        return None
    return refine(query.maps, query.points, query.intrinsics, found, sigma_schedule(2.0, 0.6)).cam_T_world


def fine_nre(pair: Pair, describe: Describe, start: FloatArray, peaks: bool = False) -> FloatArray:
    """Appendix D.1: fine windows around the projections, GNC from there."""
    maps = fine_maps(pair, describe, start)
    intrinsics = pair.target.camera.at_stride(FINE_STRIDE).intrinsics
    return refine(
        maps.to_peaks() if peaks else maps, pair.points, intrinsics, start, sigma_schedule(8.0, 0.6)
    ).cam_T_world


def fine_maps(pair: Pair, describe: Describe, start: FloatArray) -> Any:
    source, target = describe(pair.source), describe(pair.target)
    dense = correspondence_maps(sample(source.coarse, pair.pixels, COARSE_STRIDE), target.coarse)
    pixels, _ = project_points(pair.points, pair.target.camera.at_stride(FINE_STRIDE).intrinsics, start)
    return refine_maps(sample(source.fine, pair.pixels, FINE_STRIDE), target.fine, dense, pixels)


def feature_metric(pair: Pair, describe: Describe, start: FloatArray, unit: bool = False) -> FloatArray:
    """Levenberg-Marquardt on ``sum rho(|h_n - H(p_n)|^2)`` of the fine descriptors; rho is Geman-McClure's."""
    source = sample(describe(pair.source).fine, pair.pixels, FINE_STRIDE)
    grid = describe(pair.target).fine
    if unit:
        source, grid = (x / x.norm(dim=-1, keepdim=True).clamp(min=1e-6) for x in (source, grid))
    camera = pair.target.camera.at_stride(FINE_STRIDE)
    height, width, _ = grid.shape
    scale = 0.5 * float((source**2).sum(1).median())

    def linearise(pose: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        local = pair.points @ pose[:3, :3].T + pose[:3, 3]
        pixels, front = project_points(pair.points, camera.intrinsics, pose)
        seen = front & np.all((pixels >= 1) & (pixels <= [width - 3, height - 3]), axis=1)
        at = torch.from_numpy(np.where(seen[:, None], pixels, 1.0))
        value, right, below = (sample(grid, at + torch.tensor(s), 1) for s in ([0.0, 0.0], [1.0, 0.0], [0.0, 1.0]))
        residual = (value - source).double().numpy()
        gradient = torch.stack([right - value, below - value], -1).double().numpy()  # [N, D, 2]
        square = (residual**2).sum(1)
        cost = np.where(seen, square / (square + scale), 1.0).sum()
        weight = seen * scale / (square + scale) ** 2
        J = np.einsum("ndk,nkj->ndj", gradient, pose_jacobian(local, camera.intrinsics, pose[:3, 3]))
        H = np.einsum("n,ndi,ndj->ij", weight, J, J)
        return float(cost), H, np.einsum("n,ndi,nd->i", weight, J, residual)

    pose, damping = start, 1e-3
    cost, H, g = linearise(pose)
    for _ in range(60):
        step = -np.linalg.solve(H + damping * np.diag(np.diag(H)) + 1e-12 * np.eye(6), g)
        candidate = retract(pose, step)
        new = linearise(candidate)
        if new[0] < cost:
            converged = cost - new[0] < 1e-7 * cost
            pose, (cost, H, g), damping = candidate, new, damping / 3
            if converged:
                break
        else:
            damping *= 5
            if damping > 1e6:
                break
    return pose


REFINEMENTS: dict[str, Callable[[Pair, Describe, FloatArray], FloatArray]] = {
    "NRE": fine_nre,
    "NRE on the peaks (RE)": lambda p, d, s: fine_nre(p, d, s, peaks=True),
    "feature-metric": feature_metric,
    "feature-metric, unit length": lambda p, d, s: feature_metric(p, d, s, unit=True),
}


def matched(pairs: list[Pair]) -> list[tuple[Pair, FloatArray, FloatArray]]:
    """Each pair with its SIFT matches, which are found once."""
    for pair in pairs:
        if id(pair) not in MATCHES:
            MATCHES[id(pair)] = (pair, *sift_matches(pair))
    return [MATCHES[id(pair)] for pair in pairs]


def sift_matches(pair: Pair) -> tuple[FloatArray, FloatArray]:
    """Pixels of the target and points, by SIFT at the points' pixels and detected ones in the target (ratio 0.8)."""
    sift = cv2.SIFT_create(4000)  # type: ignore[attr-defined]
    grey = [cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY) for frame in (pair.source, pair.target)]
    # A point's size and orientation come from the nearest detected keypoint.
    detected, descriptors = sift.detectAndCompute(grey[0], None)
    where = np.array([k.pt for k in detected])
    distance = np.linalg.norm(where[None] - pair.pixels[:, None], axis=2)
    near = distance.argmin(1)
    known = np.flatnonzero(distance.min(1) < 3.0)
    if len(known) < 4:
        return np.empty((0, 2)), np.empty((0, 3))
    there, others = sift.detectAndCompute(grey[1], None)
    found = cv2.BFMatcher().knnMatch(descriptors[near[known]], others, k=2)
    good = [(known[k], m.trainIdx) for k, (m, n) in enumerate(found) if m.distance < 0.8 * n.distance]
    pixels = np.array([there[j].pt for _, j in good], float).reshape(-1, 2)
    return pixels, pair.points[[n for n, _ in good]].reshape(-1, 3)


def lo_ransac(pair: Pair, pixels: FloatArray, points: FloatArray, threshold: float) -> FloatArray | None:
    """PoseLib on pixels; the threshold is in coarse feature pixels, as in Table 1."""
    if len(points) < 4:
        return None
    camera = {"model": "PINHOLE", "width": pair.target.camera.width, "height": pair.target.camera.height}
    camera["params"] = pair.target.camera.intrinsics.tolist()
    options = {"max_reproj_error": 4 * threshold, "max_iterations": 5000, "seed": 0}
    pose, facts = poselib.estimate_absolute_pose(pixels, points, camera, options, {})
    if facts["num_inliers"] < 3:
        return None
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = pose.R, pose.t
    return matrix


def errors(pairs: list[Pair], poses: list[FloatArray | None]) -> FloatArray:
    """Errors [N, 2]: metres and degrees."""
    out = []
    for pair, pose in zip(pairs, poses):
        if pose is None or not np.all(np.isfinite(pose)):
            out.append(FAILED)
            continue
        error = pose_error(np.asarray(np.linalg.inv(pose)), np.asarray(pair.target.world_T_cam))
        out.append([float(np.linalg.norm(error[:3])), float(np.degrees(np.linalg.norm(error[3:])))])
    return np.array(out)


def row(values: FloatArray) -> dict[str, float]:
    good = np.mean((values[:, 1] < 1) & (values[:, 0] < 0.1))
    return {
        "pairs": len(values),
        "median_deg": float(np.median(values[:, 1])),
        "median_m": float(np.median(values[:, 0])),
        "within_1deg_10cm": float(good),
    }


def costs(pair: Pair, describe: Describe) -> dict[str, float]:
    """Processor seconds and bytes of fine maps: the whole image for every point, and sparse windows."""
    start = coarse_pose(pair, describe)
    assert start is not None
    source, target = describe(pair.source), describe(pair.target)
    descriptors = sample(source.fine, pair.pixels, FINE_STRIDE)
    fine_maps(pair, describe, start)  # compiles
    began = time.process_time()
    sparse = fine_maps(pair, describe, start)
    window = time.process_time() - began
    began = time.process_time()
    dense = sum(correspondence_maps(part, target.fine).numel() * 4 for part in descriptors.split(50))
    whole = time.process_time() - began
    stored = sparse.x.nbytes + sparse.y.nbytes + sparse.loss.nbytes + sparse.starts.nbytes
    facts = {"points": len(descriptors), "dense_seconds": whole, "sparse_seconds": window}
    return facts | {"dense_mib": dense / 2**20, "sparse_mib": stored / 2**20}


def text(values: dict[str, float]) -> str:
    good = 100 * values["within_1deg_10cm"]
    return f"{values['median_deg']:.2f} deg {100 * values['median_m']:.1f} cm {good:.0f} %"


def markdown(report: dict[str, Any]) -> str:
    lines = []
    for title, table in (("Descriptors (Table 2)", report["table2"]), ("Refinements (Table 4)", report["table4"])):
        lines += [f"| {title} | " + " | ".join(table) + " |", "|---" * (len(table) + 1) + "|"]
        for method in next(iter(table.values())):
            lines.append(f"| {method} | " + " | ".join(text(rows[method]) for rows in table.values()) + " |")
        lines.append("")
    lines += [
        "| Fine maps (Table 3) | points | dense s | sparse s | dense MiB | sparse MiB |",
        "|---|---|---|---|---|---|",
    ]
    for kind, c in report["table3"].items():
        lines.append(
            f"| {kind} | {c['points']} | {c['dense_seconds']:.2f} | {c['sparse_seconds']:.3f} | "
            f"{c['dense_mib']:.0f} | {c['sparse_mib']:.2f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
