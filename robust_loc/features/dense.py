"""Dense descriptors: a coarse grid of stride 16 and a fine one of stride 2.

Cell ``i`` of a grid of stride ``s`` is centred on pixel ``s * i`` exactly. The dot product of two descriptors is a
score in nats: a softmax of scores over a grid is a correspondence map. Its temperature is part of the descriptor.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

COARSE_STRIDE = 16
FINE_STRIDE = 2


class FeatureMaps:
    """The descriptors of one image; the fine ones are computed when first asked for.

    Attributes:
        coarse: [ceil(H / 16), ceil(W / 16), Dc] float32.
        fine: [ceil(H / 2), ceil(W / 2), Df] float32.
    """

    def __init__(self, coarse: Tensor, fine: Callable[[], Tensor]) -> None:
        self.coarse = coarse
        self._fine = fine

    @cached_property
    def fine(self) -> Tensor:
        return self._fine()


class DenseFeatures(ABC):
    """A pair of dense descriptors.

    Attributes:
        identity: names the descriptor and its weights; a map made with another one cannot be used with it.
        coarse_channels, fine_channels: lengths of the descriptors.
    """

    identity: str
    coarse_channels: int
    fine_channels: int

    @abstractmethod
    def extract(self, image: NDArray[np.uint8]) -> FeatureMaps:
        """Describe an RGB image [H, W, 3] uint8."""


def sample(features: Tensor, pixels: NDArray[np.floating] | Tensor, stride: int) -> Tensor:
    """Bilinear samples [N, D] of ``features`` [H, W, D] at image pixels [N, 2] (x, y); zero outside the grid."""
    height, width, _ = features.shape
    at = torch.as_tensor(pixels, dtype=features.dtype, device=features.device) / stride
    inside = (at >= 0).all(1) & (at[:, 0] <= width - 1) & (at[:, 1] <= height - 1)
    at = torch.where(inside[:, None], at, torch.zeros_like(at))
    x0 = at[:, 0].floor().long().clamp(max=max(width - 2, 0))
    y0 = at[:, 1].floor().long().clamp(max=max(height - 2, 0))
    x1, y1 = (x0 + 1).clamp(max=width - 1), (y0 + 1).clamp(max=height - 1)
    a, b = (at[:, 0] - x0)[:, None], (at[:, 1] - y0)[:, None]
    top = (1 - a) * features[y0, x0] + a * features[y0, x1]
    bottom = (1 - a) * features[y1, x0] + a * features[y1, x1]
    return ((1 - b) * top + b * bottom) * inside[:, None]
