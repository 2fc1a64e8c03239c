"""A training-free dense descriptor: DAISY (Tola et al., PAMI 2010) with the RootSIFT normalisation (Arandjelovic 2012).

Gradient histograms of eight orientations, smoothed and sampled on rings around each cell. The gradients are those of
the logarithm of the grey value: a gain moves it as a whole, and what is left unsaturated by an overexposure keeps its
share of the histogram. The square root of the L1-normalised histograms has about unit length and compares by a dot
product, divided here by a temperature. It is upright: it follows the camera through a roll of some twenty degrees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from robust_loc.config import Config, parameter
from robust_loc.features.dense import COARSE_STRIDE, FINE_STRIDE, DenseFeatures, FeatureMaps

ORIENTATIONS = 8
DARK = 0.1  # grey level (of 1) below which the logarithm turns linear: there the sensor's noise is
CONTRAST_FLOOR = 0.0002  # mean gradient of the logarithm below which a cell counts as textureless
VERSION = 2  # of the descriptor: part of its identity

LOGARITHM = np.log(np.arange(256, dtype=np.float32) / 255 + np.float32(DARK))

FloatImage = NDArray[np.float32]
Ring = tuple[float, float, int]  # radius and smoothing in pixels of the working image, samples


@dataclass(frozen=True)
class HandmadeConfig(Config):
    """Scales and temperatures of the hand-made descriptor."""

    coarse_temperature: float = parameter(0.01, "of the coarse softmax; lower is sharper", minimum=1e-4)
    fine_temperature: float = parameter(0.007, "of the fine softmax; lower is sharper", minimum=1e-4)


class HandmadeFeatures(DenseFeatures):
    """DAISY descriptors: coarse from an image at 1/8 scale (patch of 130 pixels), fine at 1/2 scale (24 pixels)."""

    COARSE_SCALE = 8
    COARSE_CENTRE, COARSE_RINGS = 1.5, ((3.0, 1.5, 8), (6.0, 2.5, 8))
    FINE_CENTRE, FINE_RINGS = 1.2, ((5.0, 2.2, 8),)

    def __init__(self, config: HandmadeConfig | None = None) -> None:
        self.config = config or HandmadeConfig()
        temperatures = f"{self.config.coarse_temperature:g},{self.config.fine_temperature:g}"
        self.identity = f"handmade-{VERSION}({temperatures})"
        self.coarse_channels = ORIENTATIONS * (1 + sum(count for _, _, count in self.COARSE_RINGS))
        self.fine_channels = ORIENTATIONS * (1 + sum(count for _, _, count in self.FINE_RINGS))

    def extract(self, image: NDArray[np.uint8]) -> FeatureMaps:
        grey = LOGARITHM[cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)]

        def fine() -> torch.Tensor:
            reduced = _reduced(grey, FINE_STRIDE, 0.8)
            histograms = _daisy(reduced, self.FINE_CENTRE, self.FINE_RINGS, 1)
            return torch.from_numpy(_normalised(histograms, self.config.fine_temperature))

        reduced = _reduced(grey, self.COARSE_SCALE, 0.5 * self.COARSE_SCALE)
        histograms = _daisy(reduced, self.COARSE_CENTRE, self.COARSE_RINGS, COARSE_STRIDE // self.COARSE_SCALE)
        return FeatureMaps(torch.from_numpy(_normalised(histograms, self.config.coarse_temperature)), fine)


def _reduced(grey: FloatImage, scale: int, sigma: float) -> FloatImage:
    """Smoothed and subsampled; cell ``i`` stays centred on pixel ``scale * i``."""
    return np.ascontiguousarray(cv2.GaussianBlur(grey, (0, 0), sigma)[::scale, ::scale])


def _daisy(image: FloatImage, centre: float, rings: Sequence[Ring], step: int) -> FloatImage:
    """Orientation histograms [H', W', D] at every ``step``-th pixel: the centre, then each ring."""
    height, width = image.shape
    gx = cv2.Sobel(image, cv2.CV_32F, 1, 0, ksize=3, scale=1 / 8)
    gy = cv2.Sobel(image, cv2.CV_32F, 0, 1, ksize=3, scale=1 / 8)
    angles = np.arange(ORIENTATIONS, dtype=np.float32) * np.float32(2 * np.pi / ORIENTATIONS)
    gradients = np.maximum(gx[..., None] * np.cos(angles) + gy[..., None] * np.sin(angles), 0)
    parts = [cv2.GaussianBlur(gradients, (0, 0), centre)[::step, ::step]]
    for index, (radius, sigma, count) in enumerate(rings):
        pad = round(radius) + 1
        smooth = cv2.GaussianBlur(gradients, (0, 0), sigma)
        smooth = cv2.copyMakeBorder(smooth, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        for k in range(count):
            angle = 2 * np.pi * (k + 0.5 * (index % 2)) / count
            left, top = pad + round(radius * np.cos(angle)), pad + round(radius * np.sin(angle))
            parts.append(smooth[top : top + height : step, left : left + width : step])
    return np.concatenate(parts, -1)


def _normalised(histograms: FloatImage, temperature: float) -> FloatImage:
    """Square roots of the L1-normalised histograms, over the square root of the temperature."""
    total = histograms.sum(-1, keepdims=True) + np.float32(CONTRAST_FLOOR * histograms.shape[-1])
    return np.sqrt(histograms / (total * np.float32(temperature)))
