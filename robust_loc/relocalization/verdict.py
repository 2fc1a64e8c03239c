"""Is the pose right? A probability from how well the maps agree, and how far the pose stands out from its rivals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from robust_loc.types import FloatArray


class Evidence(NamedTuple):
    """What speaks for a pose.

    Attributes:
        coarse: soft inlier ratio of the coarse maps at the coarse pose (1 minus the mean loss over its ceiling).
        margin: how far ``coarse`` is above the best pose elsewhere.
        fine: soft inlier ratio of the fine maps at the final pose.
        support: log10 of the number of points that the fine maps place where the pose does.
    """

    coarse: float
    margin: float
    fine: float
    support: float


@dataclass(frozen=True)
class Verdict:
    """A logistic model of the probability that a pose is right (within 0.25 m and 5 degrees).

    Attributes:
        weights: of the four parts of the evidence. bias: of the logit. samples: held-out queries it was fitted to.
    """

    weights: tuple[float, ...] = (12.0, 8.0, 23.0, 4.0)
    bias: float = -13.0
    samples: int = 0

    def probability(self, evidence: Evidence) -> float:
        logit = float(np.dot(self.weights, evidence)) + self.bias
        return float(1 / (1 + np.exp(-np.clip(logit, -50, 50))))

    def to_dict(self) -> dict[str, Any]:
        return {"weights": list(self.weights), "bias": self.bias, "samples": self.samples}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Verdict:
        return cls(tuple(float(w) for w in values["weights"]), float(values["bias"]), int(values["samples"]))


def fit_verdict(evidence: FloatArray, right: FloatArray, strength: float = 0.05) -> Verdict:
    """Maximum a posteriori logistic regression around the default coefficients.

    The weights cannot be negative: no part of the evidence speaks against a pose.

    Args:
        evidence: [N, 4]. right: [N] 1 where the pose was right, else 0. strength: of the pull to the defaults.
    """
    from scipy.optimize import minimize

    default = Verdict()
    start = np.array([*default.weights, default.bias])
    x = np.concatenate([evidence, np.ones((len(evidence), 1))], 1)
    sign = 2 * np.asarray(right, float) - 1
    balance = np.where(sign > 0, 0.5 / max((sign > 0).sum(), 1), 0.5 / max((sign < 0).sum(), 1)) * len(sign)

    def objective(w: FloatArray) -> tuple[float, FloatArray]:
        margin = sign * (x @ w)
        loss = (balance * np.logaddexp(0, -margin)).sum() + 0.5 * strength * ((w - start) ** 2).sum()
        pull = -balance * sign / (1 + np.exp(np.clip(margin, -50, 50)))
        return float(loss), x.T @ pull + strength * (w - start)

    bounds = [(0.0, None)] * 4 + [(None, None)]
    solution = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds)
    return Verdict(tuple(float(w) for w in solution.x[:4]), float(solution.x[4]), len(sign))
