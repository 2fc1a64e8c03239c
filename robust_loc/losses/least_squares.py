"""Gradients through a weighted least-squares layer in closed form (V2V, eq. 6a and 6b).

They explain the variance that bundle adjustment puts into training: the gradient of a *target* is scaled by the weight
of its observation, but the gradient of a *weight* by the residual that remains: outliers dominate it.
"""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_least_squares_gradients(
    jacobian: Tensor, weight: Tensor, residual: Tensor, grad_solution: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of a loss L(x*) with ``x* = argmin_x (r - J x)^T diag(w) (r - J x)``.

    ``dL/dr = W J (J^T W J)^-1 dL/dx`` (6a) and ``dL/dw = (r - J x*) o J (J^T W J)^-1 dL/dx`` (6b).

    Args:
        jacobian: J [m, n] of full column rank.
        weight: w [m], not negative.
        residual: r [m] before the step.
        grad_solution: dL/dx [n].

    Returns:
        dL/dr [m] and dL/dw [m].
    """
    weighted = jacobian * weight[:, None]
    normal = jacobian.T @ weighted
    solution = torch.linalg.solve(normal, weighted.T @ residual)
    influence = jacobian @ torch.linalg.solve(normal, grad_solution)
    return weight * influence, (residual - jacobian @ solution) * influence
