"""A first map that is not a local minimum.

Bundle adjustment from equal poses and random depths, as DPVO starts, can end in a wrong minimum (depths reversed,
translation mistaken for rotation) that no further iteration leaves. So once the flow has settled, several starts are
adjusted against the same flow, and the one with the least robust cost wins: the map found so far, starts with other
depths, and one from the essential matrix of the first and the last frame (Nister, PAMI 2004).
"""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
import torch
from torch import Tensor

from robust_loc.geometry.lie import SE3
from robust_loc.odometry.bundle_adjustment import INFERENCE, Layout, apply_step, normal_equations, solve
from robust_loc.odometry.graph import PatchGraph
from robust_loc.odometry.patches import with_inverse_depth
from robust_loc.odometry.projective import reproject

ITERATIONS = 20
RANDOM_STARTS = 3
LARGEST = 3.0  # residuals count as at most this, quarter-resolution pixels


def best_start(graph: PatchGraph, image_size: tuple[int, int], generator: torch.Generator) -> float:
    """Move the graph to the best of several adjusted starts, first frame held; returns the share of the cost left."""
    free = torch.arange(len(graph.frames), device=graph.device) >= 1
    layout = Layout.of(len(graph.frames), graph.ii, graph.kk, None, free)
    measured = (graph.intrinsics, graph.target, graph.weight, *graph.edges)

    def adjusted(poses: SE3, patches: Tensor) -> tuple[float, SE3, Tensor]:
        for _ in range(ITERATIONS):
            system = normal_equations(
                poses, patches, *measured, image_size=image_size, layout=layout, damping=INFERENCE
            )
            poses, patches = apply_step(poses, patches, solve(system, INFERENCE), layout, INFERENCE)
        return _robust_cost(graph, poses, patches), poses, patches

    before = _robust_cost(graph, SE3(graph.poses), graph.patches)
    found = [adjusted(poses, patches) for poses, patches in _starts(graph, generator)]
    cost, poses, patches = min(found, key=lambda result: result[0])
    graph.poses, graph.patches = poses.data, patches
    return cost / before if before > 0 else 1.0


def _robust_cost(graph: PatchGraph, poses: SE3, patches: Tensor) -> float:
    found = reproject(poses, patches, graph.intrinsics, *graph.edges)
    squared = ((graph.target - found.coords[:, 1, 1]) ** 2).clamp(max=LARGEST**2)
    squared = torch.where(found.valid[:, None], squared, LARGEST**2)
    return float((graph.weight * squared).sum())


def _starts(graph: PatchGraph, generator: torch.Generator) -> Iterator[tuple[SE3, Tensor]]:
    poses, patches = SE3(graph.poses), graph.patches
    yield poses, patches
    at_first = SE3(graph.poses[:1].expand_as(graph.poses))
    flat = with_inverse_depth(patches, torch.full_like(patches[:, 2, 0, 0], 0.5))
    yield at_first, flat
    for _ in range(RANDOM_STARTS):
        depth = torch.rand(len(patches), generator=generator).to(patches)
        yield at_first, with_inverse_depth(patches, depth)
    last_T_first = _two_view_motion(graph, len(graph.frames) - 1)
    if last_T_first is not None:
        motion = SE3.from_matrix(torch.from_numpy(last_T_first)).to(poses.data.device).log()
        steps = torch.linspace(0, 1, len(graph.frames), dtype=motion.dtype, device=motion.device)
        yield SE3.exp(steps[:, None] * motion) * at_first, flat


def _two_view_motion(graph: PatchGraph, last: int) -> np.ndarray | None:
    """``last_T_first`` [4, 4] with a unit translation, from the flow between the two; None if it is not determined."""
    a, b = [], []
    for i, j in ((0, last), (last, 0)):
        chosen = (graph.ii == i) & (graph.jj == j) & (graph.weight.min(-1).values > 0.05)
        source = _rays(graph.patches[graph.kk[chosen], :2, 1, 1], graph.intrinsics[i])
        target = _rays(graph.target[chosen], graph.intrinsics[j])
        a.append(source if i == 0 else target)
        b.append(target if i == 0 else source)
    first_rays, last_rays = np.concatenate(a), np.concatenate(b)
    if len(first_rays) < 8:
        return None
    threshold = 0.5 / float(graph.intrinsics[0, 0])
    cv2.setRNGSeed(0)
    E, mask = cv2.findEssentialMat(first_rays, last_rays, np.eye(3), cv2.RANSAC, 0.999, threshold)
    if E is None or E.shape != (3, 3):
        return None
    _, R, t, _ = cv2.recoverPose(E, first_rays, last_rays, np.eye(3), mask=mask)
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = R, t[:, 0]
    return motion


def _rays(pixels: Tensor, K: Tensor) -> np.ndarray:
    return ((pixels - K[2:]) / K[:2]).cpu().numpy().astype(np.float64)
