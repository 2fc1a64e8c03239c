"""An initial pose from loss maps: MSAC over minimal P3P samples (NRE, section 3.4), scored on every map.

Three maps are drawn, their least costly pixels give up to four poses (P3P), and the pose with the lowest total NRE
(eq. 6) wins. Against the plain loop: samples hold distinct points, all poses of a batch are scored at once, a new best
pose is refined on the maps themselves, and sampling stops when a better one is unlikely.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import poselib
from scipy.spatial.transform import Rotation

from robust_loc.config import Config, parameter
from robust_loc.relocalization.gnc import GncConfig, refine
from robust_loc.relocalization.loss_maps import LossMaps
from robust_loc.types import FloatArray


@dataclass(frozen=True)
class MsacConfig(Config):
    """How long to sample."""

    min_iterations: int = parameter(100, "samples drawn at least", minimum=1)
    max_iterations: int = parameter(5000, "samples drawn at most", minimum=1)
    miss_probability: float = parameter(1e-4, "stop when a better pose was missed with this probability", minimum=0.0)
    batch: int = parameter(50, "samples scored together", minimum=1)
    refinements: int = parameter(10, "local optimisations at most", minimum=0)
    refinement_sigma: float = parameter(2.0, "smoothing of the local optimisation in feature pixels", minimum=0.1)
    rival_distance: float = parameter(0.3, "metres from the best pose beyond which another is a rival", minimum=0.0)
    rival_angle: float = parameter(0.2, "radians from the best pose beyond which another is a rival", minimum=0.0)


class MsacResult(NamedTuple):
    """The best pose and how it stands out.

    Attributes:
        cam_T_world: (4, 4), or None when no sample gave a pose.
        inlier_ratio: mean of ``1 - L_n / ln|O|`` over the maps: 1 when every map agrees, 0 when none does.
        rival_ratio: the same for the best pose elsewhere.
        iterations: samples drawn.
    """

    cam_T_world: FloatArray | None
    inlier_ratio: float
    rival_ratio: float
    iterations: int


@dataclass
class _Best:
    """The best pose so far and the scored poses, for the rival."""

    ratio: float = -1.0
    pose: FloatArray | None = None
    scored: list[tuple[FloatArray, FloatArray, FloatArray]] = field(default_factory=list)


def msac(
    maps: LossMaps,
    points: FloatArray,
    intrinsics: FloatArray,
    rng: np.random.Generator,
    config: MsacConfig | None = None,
) -> MsacResult:
    """Search the pose with the least total NRE.

    Args:
        maps: N loss maps. points: [N, 3] their world points. intrinsics: [4] ``fx fy cx cy`` of the feature grid.
    """
    config = config or MsacConfig()
    pixels, losses = maps.peaks()
    weights = 1 - losses / maps.ceiling  # a flat map makes a poor sample
    candidates = np.flatnonzero(weights > 0)
    if len(candidates) < 3:
        return MsacResult(None, 0.0, 0.0, 0)
    weights = weights[candidates] / weights[candidates].sum()
    rays = np.concatenate([(pixels - intrinsics[2:]) / intrinsics[:2], np.ones((len(pixels), 1))], 1)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)

    best, drawn, refinements = _Best(), 0, 0
    while drawn < config.max_iterations:
        R, t = _minimal_poses(rays, points, _samples(candidates, weights, config.batch, rng))
        drawn += config.batch
        if len(R):
            ratios = 1 - maps.cost(points, intrinsics, R, t).mean(1) / maps.ceiling
            best.scored.append((R, t, ratios))
            top = int(ratios.argmax())
            if ratios[top] > best.ratio:
                best.ratio, best.pose = float(ratios[top]), _pose(R[top], t[top])
                if refinements < config.refinements:
                    refinements += 1
                    _improve(best, maps, points, intrinsics, config)
        if drawn >= config.min_iterations and _missed(best.ratio, drawn) < config.miss_probability:
            break
    rival = _rival(best, config) if best.pose is not None else 0.0
    return MsacResult(best.pose, max(best.ratio, 0.0), rival, drawn)


def _samples(candidates: np.ndarray, weights: FloatArray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` triplets [count, 3] of distinct indices, drawn by weight without replacement (Gumbel top-3)."""
    keys = np.log(weights) + rng.gumbel(size=(count, len(candidates)))
    return candidates[np.argpartition(-keys, 2, axis=1)[:, :3]]


def _minimal_poses(rays: FloatArray, points: FloatArray, samples: np.ndarray) -> tuple[FloatArray, FloatArray]:
    """Every P3P solution of the samples: R [P, 3, 3], t [P, 3]."""
    R, t = [], []
    for triplet in samples:
        for pose in poselib.p3p(rays[triplet], points[triplet]):
            if np.all(np.isfinite(pose.t)) and np.all(np.isfinite(pose.q)):
                R.append(pose.R)
                t.append(pose.t)
    return np.array(R).reshape(-1, 3, 3), np.array(t).reshape(-1, 3)


def _improve(best: _Best, maps: LossMaps, points: FloatArray, intrinsics: FloatArray, config: MsacConfig) -> None:
    """Local optimisation: a few IRLS steps on the smoothed maps, kept when the NRE itself falls."""
    assert best.pose is not None
    steps = GncConfig(max_iterations=4)
    pose = refine(maps, points, intrinsics, best.pose, [config.refinement_sigma, 1.0], steps).cam_T_world
    ratio = 1 - maps.cost(points, intrinsics, pose[None, :3, :3], pose[None, :3, 3]).mean() / maps.ceiling
    if ratio > best.ratio:
        best.ratio, best.pose = float(ratio), pose


def _missed(ratio: float, drawn: int) -> float:
    """Probability that no sample so far was all inliers, ``(1 - w^3)^k``."""
    return math.exp(drawn * math.log1p(-min(max(ratio, 0.0) ** 3, 1 - 1e-12)))


def _rival(best: _Best, config: MsacConfig) -> float:
    """The best ratio among the poses that are somewhere else."""
    assert best.pose is not None
    R = np.concatenate([scored[0] for scored in best.scored])
    t = np.concatenate([scored[1] for scored in best.scored])
    ratios = np.concatenate([scored[2] for scored in best.scored])
    centres = -np.einsum("pji,pj->pi", R, t)
    centre = -best.pose[:3, :3].T @ best.pose[:3, 3]
    away = np.linalg.norm(centres - centre, axis=1) > config.rival_distance
    away |= Rotation.from_matrix(R @ best.pose[:3, :3].T).magnitude() > config.rival_angle
    return float(max(ratios[away].max(), 0.0)) if away.any() else 0.0


def _pose(R: FloatArray, t: FloatArray) -> FloatArray:
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = R, t
    return pose
