"""The columns of the tables: each maps predictions of many independent problems to one loss per problem.

All take ``mean``, ``log_variance`` and ``target`` of shape (problems, batch), and the progress of the training.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from robust_loc.losses import (
    RobustNLL,
    beta_nll,
    boltzmann_mean,
    faithful_nll,
    gaussian_nll,
    squared_error,
)

Estimator = Callable[[Tensor, Tensor, Tensor, float], Tensor]
PER_SAMPLE = {
    "MSE": lambda mean, log_variance, target: squared_error(mean, target),
    "NLL": gaussian_nll,
    "beta-NLL": beta_nll,
    "Faithful": faithful_nll,
}


def plain(name: str, **options: float) -> Estimator:
    """The batch mean of a per-sample loss."""
    loss = PER_SAMPLE[name]
    return lambda mean, log_variance, target, progress: loss(
        mean[..., None], log_variance[..., None], target[..., None], **options
    ).mean(-1)


def published(name: str, temperature: float | Tensor, **options: float) -> Estimator:
    """The paper's Boltzmann mean of a per-sample loss, gradient through the weights.

    ``temperature`` is one for all problems, or (problems, 1).
    """
    loss = PER_SAMPLE[name]
    return lambda mean, log_variance, target, progress: boltzmann_mean(
        loss(mean[..., None], log_variance[..., None], target[..., None], **options), temperature
    )


def ours(problems: int) -> Estimator:
    """``RobustNLL`` with all its defaults."""
    loss = RobustNLL(problems=(problems,))
    return lambda mean, log_variance, target, progress: loss(
        mean[..., None], log_variance[..., None], target[..., None], progress
    )
