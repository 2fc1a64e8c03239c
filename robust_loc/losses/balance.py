"""Balancing of loss terms by the norms of their gradients (V2V, eq. 8)."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor

FLOOR = 1e-6  # of each norm


class GradientNormBalance:
    """A factor for one loss term that keeps its gradient as large as a reference term's.

    Every ``period`` steps the ratio ``|grad reference| / |grad term|`` with respect to one tensor is measured, clipped
    to ``[1/clip, clip]`` times the present factor, and the factor becomes the mean of the last ``window`` ratios.

    Args:
        period: steps between measurements (the paper's 50, the published code's 20).
        clip: largest change of one measurement against the present factor.
        window: number of ratios averaged.
    """

    def __init__(self, period: int = 20, clip: float = 10.0, window: int = 51) -> None:
        if period < 1 or clip < 1 or window < 1:
            raise ValueError(f"period={period}, clip={clip} and window={window} must all be at least 1")
        self.period, self.clip = period, clip
        self.factor = 1.0
        self._ratios: deque[float] = deque(maxlen=window)

    def due(self, step: int) -> bool:
        """True on the steps at which :meth:`measure` is to be called."""
        return step > 0 and step % self.period == 0

    def measure(self, reference: Tensor, term: Tensor, parameter: Tensor) -> float:
        """Update the factor from two scalar losses (their own coefficients included); the graph is kept.

        Returns:
            The new factor.
        """
        return self.update(gradient_norm(reference, parameter) / gradient_norm(term, parameter))

    def update(self, ratio: float) -> float:
        """Update the factor from a measured ratio; ratios that are not finite are ignored."""
        if math.isfinite(ratio):
            self._ratios.append(min(max(ratio, self.factor / self.clip), self.factor * self.clip))
            self.factor = sum(self._ratios) / len(self._ratios)
        return self.factor

    def state_dict(self) -> dict[str, Any]:
        return {"factor": self.factor, "ratios": list(self._ratios)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.factor = float(state["factor"])
        self._ratios.clear()
        self._ratios.extend(float(r) for r in state["ratios"])


def gradient_norm(loss: Tensor, parameter: Tensor) -> float:
    """``|d loss / d parameter|``, at least 1e-6; 1e-6 when the loss does not depend on the parameter."""
    if not loss.requires_grad:
        return FLOOR
    (gradient,) = torch.autograd.grad(loss, [parameter], retain_graph=True, allow_unused=True)
    return FLOOR if gradient is None else max(float(gradient.norm()), FLOOR)
