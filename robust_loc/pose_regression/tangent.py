"""Pose errors in the camera's own frame, and the information matrix of such an error.

The error of a prediction ``(R, t)`` of ``world_T_cam`` against the truth is

    e = [ R^T (t_true - t) ;  Log(R^T R_true) ]        (6): metres, radians

It does not change when the world frame does, so a network need not learn to turn covariances with the world.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from robust_loc.geometry.lie import SO3, quaternion_from_matrix

# Standard deviations that the information matrix can express (before correlations).
TRANSLATION_SIGMA = (1e-3, 10.0)  # metres
ROTATION_SIGMA = (math.radians(0.05), math.radians(60.0))
FACTOR_NUMBERS = 21  # of a 6x6 triangle
_MAX_COUPLING = 0.9


def body_error(world_T_cam: Tensor, world_T_cam_true: Tensor) -> Tensor:
    """The error (..., 6) of poses (..., 4, 4); differentiable in the prediction."""
    inverse_rotation = world_T_cam[..., :3, :3].transpose(-1, -2)
    offset = (world_T_cam_true - world_T_cam)[..., :3, 3:]
    relative = inverse_rotation @ world_T_cam_true[..., :3, :3]
    rotation = SO3(quaternion_from_matrix(relative)).log()
    return torch.cat([(inverse_rotation @ offset)[..., 0], rotation], -1)


def information_factor(numbers: Tensor) -> Tensor:
    """21 unbounded numbers (..., 21) to a lower-triangular L (..., 6, 6) with ``information = L L^T``.

    ``L = D U``: the diagonal D comes from the first six numbers through a logistic function, so that its inverse stays
    within ``TRANSLATION_SIGMA`` and ``ROTATION_SIGMA``; U is unit lower triangular with entries bounded by a tanh.
    Zeros give a diagonal covariance in the (geometric) middle of the bounds.
    """
    bounds = numbers.new_tensor([TRANSLATION_SIGMA] * 3 + [ROTATION_SIGMA] * 3).log()
    least, most = -bounds[:, 1], -bounds[:, 0]
    diagonal = torch.exp(least + (most - least) * torch.sigmoid(numbers[..., :6]))
    unit = torch.diag_embed(torch.ones_like(diagonal))
    rows, columns = torch.tril_indices(6, 6, offset=-1, device=numbers.device)
    unit[..., rows, columns] = _MAX_COUPLING * torch.tanh(numbers[..., 6:])
    return diagonal[..., :, None] * unit


def numbers_for_sigma(translation: float, rotation: float) -> Tensor:
    """The six leading numbers for which :func:`information_factor` has these standard deviations (metres, radians)."""
    values = []
    for sigma, (low, high) in [(translation, TRANSLATION_SIGMA)] * 3 + [(rotation, ROTATION_SIGMA)] * 3:
        fraction = (math.log(high) - math.log(sigma)) / (math.log(high) - math.log(low))
        fraction = min(max(fraction, 1e-4), 1 - 1e-4)
        values.append(math.log(fraction / (1 - fraction)))
    return torch.tensor(values)


def covariance_of_factor(factor: Tensor) -> Tensor:
    """``(L L^T)^-1`` (..., 6, 6), symmetric."""
    return torch.cholesky_inverse(factor)
