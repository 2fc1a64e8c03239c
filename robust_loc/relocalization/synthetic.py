"""Random correspondence maps of a known pose: what tests and experiments draw, and what a covariance is judged on.

Each map is a posterior that is true by construction: the projection of its point is drawn from the map itself.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from robust_loc.relocalization.loss_maps import LossMaps, project_points
from robust_loc.types import FloatArray


@dataclass(frozen=True)
class Difficulty:
    """How ambiguous the maps are.

    Attributes:
        outliers: mass of each map that is not in its main peak: the fraction of points that are elsewhere.
        distractors: further peaks per map, which share that mass with a uniform background.
        spread: standard deviation of a peak in pixels.
    """

    outliers: float
    distractors: int
    spread: float


DIFFICULTIES = {
    "easy": Difficulty(0.2, 1, 0.7),
    "medium": Difficulty(0.5, 3, 0.9),
    "hard": Difficulty(0.7, 5, 1.0),
    "very hard": Difficulty(0.8, 8, 1.2),
}


@dataclass(frozen=True, eq=False)
class SyntheticQuery:
    """Loss maps of ``points`` [N, 3] under the pose ``cam_T_world``, on a grid with ``intrinsics`` [4]."""

    maps: LossMaps
    points: FloatArray
    intrinsics: FloatArray
    cam_T_world: FloatArray


def draw_query(
    rng: np.random.Generator,
    difficulty: Difficulty,
    count: int = 50,
    width: int = 60,
    height: int = 40,
    focal: float = 50.0,
) -> SyntheticQuery:
    """A random pose, ``count`` visible points 2 to 8 m away, and their maps."""
    intrinsics = np.array([focal, focal, (width - 1) / 2, (height - 1) / 2])
    pixels = rng.uniform([2, 2], [width - 3, height - 3], (count, 2))
    depth = rng.uniform(2, 8, count)
    local = np.concatenate([(pixels - intrinsics[2:]) / intrinsics[:2] * depth[:, None], depth[:, None]], 1)
    cam_T_world = _random_pose(rng)
    points = (local - cam_T_world[:3, 3]) @ cam_T_world[:3, :3]
    probabilities = np.stack([_map(rng, difficulty, pixel, width, height) for pixel in pixels])
    maps = LossMaps.from_dense(torch.from_numpy(probabilities), width=width, height=height)
    assert np.allclose(project_points(points, intrinsics, cam_T_world)[0], pixels)
    return SyntheticQuery(maps, points, intrinsics, cam_T_world)


def _map(rng: np.random.Generator, kind: Difficulty, truth: FloatArray, width: int, height: int) -> FloatArray:
    """One map [height, width]: Gaussian peaks and a background, one of which (drawn by mass) explains ``truth``."""
    peaks = kind.distractors + 1
    centres = rng.uniform([0, 0], [width - 1, height - 1], (peaks, 2))
    masses = np.concatenate([[1 - kind.outliers], kind.outliers * rng.dirichlet(np.full(peaks, 2.0))])
    explains = rng.choice(peaks + 1, p=masses)  # the last one is the background
    if explains < peaks:
        centres[explains] = truth + rng.normal(0, kind.spread, 2)
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1)
    square = ((grid[None] - centres[:, None, None]) ** 2).sum(-1)
    shapes = np.exp(-0.5 * square / kind.spread**2) / (2 * np.pi * kind.spread**2)
    mixture = np.einsum("k,khw->hw", masses[:-1], shapes) + masses[-1] / (width * height)
    return mixture / mixture.sum()


def _random_pose(rng: np.random.Generator) -> FloatArray:
    axis = rng.normal(size=4)
    w, x, y, z = axis / np.linalg.norm(axis)
    pose = np.eye(4)
    pose[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    pose[:3, 3] = rng.normal(size=3)
    return pose
