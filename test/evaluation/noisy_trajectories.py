"""Trajectories with known errors."""

import numpy as np
from scipy.spatial.transform import Rotation

from robust_loc.data.trajectory import Trajectory
from robust_loc.uncertainty import perturb

SECOND = 1_000_000_000


def helix(count: int = 400, step: float = 0.05) -> Trajectory:
    angle = np.arange(count) * 0.02
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.from_euler("ZX", np.stack([angle, 0.3 * np.sin(angle)], 1)).as_matrix()
    poses[:, :3, 3] = np.stack([np.cos(angle), np.sin(angle), 0.2 * angle], 1) * step / 0.02
    return Trajectory(np.arange(count) * SECOND // 10, poses)


def noisy(truth: Trajectory, sigma: np.ndarray, claimed: float = 1.0, seed: int = 0) -> Trajectory:
    """The truth plus noise of ``sigma`` (6,), whose covariance is claimed with ``claimed`` times the true sigma."""
    noise = np.random.default_rng(seed).normal(size=(len(truth), 6)) * sigma
    covariances = np.tile(np.diag((claimed * sigma) ** 2), (len(truth), 1, 1))
    return Trajectory(truth.stamps, perturb(truth.world_T_cam, noise), covariances)


SIGMA = np.array([0.01, 0.02, 0.01, 0.004, 0.006, 0.004])
