"""Pose refinement by graduated non-convexity (NRE, section 3.5 and appendix B): IRLS with Levenberg-Marquardt.

The smoothed cost (eq. 9), with ``w_n`` the projection of point ``n`` and ``k_s`` a Gaussian of deviation ``s``,

    L_s = - sum_n sum_q (ln|O| - L_n(q)) k_s(|q - w_n|),

is minimised for a decreasing schedule of ``s``. The increment is decoupled, ``R <- Exp(omega) R``, ``t <- t + tau``.
Solved in float64; pixels are those of the feature grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.spatial.transform import Rotation

from robust_loc.config import Config, parameter
from robust_loc.relocalization.loss_maps import MIN_DEPTH, LossMaps
from robust_loc.types import FloatArray

KERNEL_RADIUS = 8.0  # in sigmas; the kernel there is 1e-14 of its peak
MAX_DAMPING = 1e7
MIN_DAMPING = 1e-8


@dataclass(frozen=True)
class GncConfig(Config):
    """How the solver steps and stops."""

    gain_ratio: float = parameter(0.1, "leave a sigma when the maps agree less than this", minimum=0.0, maximum=1.0)
    relative_decrease: float = parameter(1e-5, "leave a sigma when the cost falls less than this", minimum=0.0)
    final_decrease: float = parameter(1e-9, "stop at the last sigma when the cost falls less than this", minimum=0.0)
    final_step: float = parameter(1e-8, "stop when the increment is shorter than this", minimum=0.0)
    max_iterations: int = parameter(100, "iterations at one sigma", minimum=1)


class SmoothedTerms(NamedTuple):
    """Per-point parts of the smoothed cost: its value [N], and in the pixel plane its derivatives.

    ``weight`` [N] and ``pull`` [N, 2] are the IRLS sums ``sum_q t`` and ``sum_q t r`` (``pull`` is minus the gradient
    with respect to the projection); ``curvature`` [N, 3] is the exact Hessian ``xx, xy, yy``; ``local`` [N, 3] are
    the camera-frame points.
    """

    cost: FloatArray
    weight: FloatArray
    pull: FloatArray
    curvature: FloatArray
    local: FloatArray


class GncResult(NamedTuple):
    """``cam_T_world`` (4, 4), the cost at the last sigma, the iterations spent, and whether it stopped by itself."""

    cam_T_world: FloatArray
    cost: float
    iterations: int
    converged: bool


def sigma_schedule(largest: float, smallest: float) -> list[float]:
    """Powers of two above 1, steps of 0.1 below: ``8 4 2 1 0.9 ... 0.6``, cut to ``[smallest, largest]``."""
    powers = [2.0**k for k in range(10, -1, -1)]
    tenths = [k / 10 for k in range(9, 0, -1)]
    return [s for s in powers + tenths if smallest - 1e-9 <= s <= largest + 1e-9]


def evaluate(
    maps: LossMaps, points: FloatArray, intrinsics: FloatArray, cam_T_world: FloatArray, sigma: float
) -> SmoothedTerms:
    """The smoothed cost (eq. 9) of each point and its derivatives; a point behind the camera contributes 0."""
    local = points @ cam_T_world[:3, :3].T + cam_T_world[:3, 3]
    n = len(maps)
    cost, weight, pull, curvature = np.zeros(n), np.zeros(n), np.zeros((n, 2)), np.zeros((n, 3))
    stored = (maps.starts, maps.x, maps.y, maps.loss, maps.ceiling)
    _smoothed_terms(*stored, local, intrinsics, sigma, cost, weight, pull, curvature)
    return SmoothedTerms(cost, weight, pull, curvature, local)


def pose_jacobian(local: FloatArray, intrinsics: FloatArray, t: FloatArray) -> FloatArray:
    """d(projection)/d[omega, tau] [N, 2, 6] at camera-frame points [N, 3]; zero for points behind the camera."""
    front = local[:, 2] > MIN_DEPTH
    x, y, z = local[:, 0], local[:, 1], np.where(front, local[:, 2], 1.0)
    pixel = np.zeros((len(local), 2, 3))
    pixel[:, 0, 0], pixel[:, 0, 2] = intrinsics[0] / z, -intrinsics[0] * x / z**2
    pixel[:, 1, 1], pixel[:, 1, 2] = intrinsics[1] / z, -intrinsics[1] * y / z**2
    pixel[~front] = 0.0
    a = local - t  # R u: what omega turns
    turn = np.zeros((len(local), 3, 3))  # -[R u]x
    turn[:, 0, 1], turn[:, 0, 2], turn[:, 1, 2] = a[:, 2], -a[:, 1], a[:, 0]
    turn[:, 1, 0], turn[:, 2, 0], turn[:, 2, 1] = -a[:, 2], a[:, 1], -a[:, 0]
    return np.concatenate([pixel @ turn, pixel], -1)


def retract(cam_T_world: FloatArray, increment: FloatArray) -> FloatArray:
    """``R <- Exp(omega) R``, ``t <- t + tau`` for ``increment`` = ``[omega, tau]``."""
    moved = cam_T_world.copy()
    moved[:3, :3] = Rotation.from_rotvec(increment[:3]).as_matrix() @ cam_T_world[:3, :3]
    moved[:3, 3] += increment[3:]
    return moved


def positive_curvature(curvature: FloatArray) -> FloatArray:
    """The positive-semidefinite part [N, 2, 2] of symmetric 2x2 matrices given as [N, 3] ``xx, xy, yy``."""
    mean, half = 0.5 * (curvature[:, 0] + curvature[:, 2]), 0.5 * (curvature[:, 0] - curvature[:, 2])
    radius = np.hypot(half, curvature[:, 1])
    high, low = np.maximum(mean + radius, 0.0), np.maximum(mean - radius, 0.0)
    scale = np.where(radius > 0, (high - low) / np.maximum(2 * radius, 1e-300), 0.0)
    centre = 0.5 * (high + low)
    out = np.empty((len(curvature), 2, 2))
    out[:, 0, 0], out[:, 1, 1] = centre + scale * half, centre - scale * half
    out[:, 0, 1] = out[:, 1, 0] = scale * curvature[:, 1]
    return out


def refine(
    maps: LossMaps,
    points: FloatArray,
    intrinsics: FloatArray,
    cam_T_world: FloatArray,
    sigmas: Sequence[float],
    config: GncConfig | None = None,
) -> GncResult:
    """Minimise the smoothed cost over the sigma schedule, from ``cam_T_world``.

    Args:
        maps: N loss maps. points: [N, 3] their world points. intrinsics: [4] ``fx fy cx cy`` of the feature grid.
        sigmas: decreasing standard deviations in feature pixels.
    """
    config = config or GncConfig()
    pose, iterations, converged, total = np.array(cam_T_world, float), 0, False, 0.0
    for stage, sigma in enumerate(sigmas):
        final = stage == len(sigmas) - 1
        damping = MIN_DAMPING
        newton = final  # near the optimum the true curvature converges quadratically, IRLS only linearly
        terms = evaluate(maps, points, intrinsics, pose, sigma)
        total = terms.cost.sum()
        for _ in range(config.max_iterations):
            iterations += 1
            step = _step(terms, intrinsics, pose, damping, newton)
            if step is None or np.linalg.norm(step) < config.final_step:
                converged = final
                break
            candidate = retract(pose, step)
            new = evaluate(maps, points, intrinsics, candidate, sigma)
            if new.cost.sum() < total:
                decrease, change = total - new.cost.sum(), terms.cost - new.cost
                agreement = change.sum() / max(np.abs(change).sum(), 1e-300)
                pose, terms, total = candidate, new, new.cost.sum()
                damping = max(damping / 2, MIN_DAMPING)
                if final and decrease < config.final_decrease * abs(total):
                    converged = True
                    break
                if not final and (agreement <= config.gain_ratio or decrease < config.relative_decrease * abs(total)):
                    break
            elif newton:
                newton = False
            else:
                damping = max(4 * damping, 1e-3)
                if damping >= MAX_DAMPING:
                    converged = final
                    break
    return GncResult(pose, float(total), iterations, converged)


def _step(
    terms: SmoothedTerms, intrinsics: FloatArray, pose: FloatArray, damping: float, newton: bool
) -> FloatArray | None:
    """Solve the damped normal equations; None when the maps say nothing at all."""
    active = terms.weight > 0
    if not active.any():
        return None
    J = pose_jacobian(terms.local[active], intrinsics, pose[:3, 3])
    flat = J.reshape(-1, 6)
    gradient = flat.T @ terms.pull[active].ravel()
    if newton:
        H = flat.T @ (positive_curvature(terms.curvature[active]) @ J).reshape(-1, 6)
    else:
        H = flat.T @ (flat * np.repeat(terms.weight[active], 2)[:, None])
    diagonal = np.diag(H)
    H = H + np.diag(damping * diagonal + 1e-12 * (diagonal.max() + 1e-300))
    try:
        return np.asarray(np.linalg.solve(H, gradient), np.float64)
    except np.linalg.LinAlgError:
        return None


@njit(cache=True)
def _smoothed_terms(starts, x, y, loss, ceiling, local, k, sigma, cost, weight, pull, curvature):
    s2 = sigma * sigma
    reach = (KERNEL_RADIUS * sigma) ** 2
    for n in range(len(starts) - 1):
        z = local[n, 2]
        if z <= MIN_DEPTH:
            continue
        u = k[0] * local[n, 0] / z + k[2]
        v = k[1] * local[n, 1] / z + k[3]
        for m in range(starts[n], starts[n + 1]):
            dx, dy = x[m] - u, y[m] - v
            r2 = dx * dx + dy * dy
            if r2 > reach:
                continue
            value = (ceiling - loss[m]) * math.exp(-0.5 * r2 / s2) / (2 * math.pi * s2)
            t = value / s2
            cost[n] -= value
            weight[n] += t
            pull[n, 0] += t * dx
            pull[n, 1] += t * dy
            curvature[n, 0] += t * (1 - dx * dx / s2)
            curvature[n, 1] -= t * dx * dy / s2
            curvature[n, 2] += t * (1 - dy * dy / s2)
