"""What a real camera does to an ideal image: exposure, colour, vignetting, motion blur, noise, JPEG.

One ``CameraEffects`` draws a camera's constants once and is then applied frame by frame; every effect can be switched
off, and with ``EffectsConfig.none()`` the image is only rounded to uint8.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import cv2
import numpy as np
from numpy.typing import NDArray

from robust_loc.config import Config, parameter

Image = NDArray[np.float32]


@dataclass(frozen=True)
class EffectsConfig(Config):
    auto_exposure: float = parameter(0.42, "mean brightness that the exposure is driven to, 0: none", minimum=0.0)
    exposure: float = parameter(0.25, "spread of the sequence's exposure, in stops", minimum=0.0, maximum=3.0)
    exposure_drift: float = parameter(0.15, "slow change of exposure within a sequence, in stops", minimum=0.0)
    gamma: float = parameter(0.15, "spread of the logarithm of gamma", minimum=0.0, maximum=1.0)
    colour: float = parameter(0.08, "spread of the white balance", minimum=0.0, maximum=0.5)
    saturation: float = parameter(0.25, "spread of the saturation", minimum=0.0, maximum=1.0)
    greyscale: float = parameter(0.08, "probability of a greyscale camera", minimum=0.0, maximum=1.0)
    vignetting: float = parameter(0.35, "largest loss of light in the corners", minimum=0.0, maximum=1.0)
    blur: float = parameter(0.5, "largest exposure time as a part of the frame interval", minimum=0.0, maximum=1.0)
    defocus: float = parameter(0.5, "largest deviation of the lens blur, pixels", minimum=0.0, maximum=5.0)
    noise: float = parameter(0.02, "largest deviation of the sensor noise", minimum=0.0, maximum=0.5)
    jpeg: float = parameter(0.4, "probability of JPEG compression", minimum=0.0, maximum=1.0)
    rolling_shutter: float = parameter(0.0, "probability of a rolling shutter", minimum=0.0, maximum=1.0)

    @staticmethod
    def none() -> EffectsConfig:
        """An ideal camera."""
        return EffectsConfig(*[0.0] * len(fields(EffectsConfig)))


class CameraEffects:
    """One random camera; ``apply`` must be called frame after frame (the exposure drifts)."""

    def __init__(self, config: EffectsConfig, generator: np.random.Generator) -> None:
        g = self._generator = generator
        self.config = config
        self._gain = float(2.0 ** g.normal(0.0, config.exposure)) if config.exposure > 0 else 1.0
        self._metered = 0.0
        self._drift = 0.0
        self._gamma = float(np.exp(g.normal(0.0, config.gamma)))
        self._balance = np.exp(g.normal(0.0, config.colour, 3)).astype(np.float32)
        saturation = float(np.clip(1 + g.normal(0.0, config.saturation), 0.2, 2.0))
        if g.random() < config.greyscale:
            saturation = 0.0
        grey = np.array([0.299, 0.587, 0.114], np.float32)
        self._colour = (saturation * np.eye(3) + (1 - saturation) * np.outer(np.ones(3), grey)).astype(np.float32)
        self._vignetting = g.uniform(0.0, config.vignetting)
        self._defocus = g.uniform(0.0, config.defocus)
        self._noise = config.noise * g.random() ** 2
        self._quality = int(g.integers(50, 96)) if g.random() < config.jpeg else 0
        self.exposure = float(config.blur * g.random() ** 2)  # part of the frame interval
        self.readout = float(g.uniform(0.2, 0.8)) if g.random() < config.rolling_shutter else 0.0
        self._falloff: Image | None = None

    def apply(self, rgb: Image, flow: Image | None = None) -> NDArray[np.uint8]:
        """An ideal (H, W, 3) image to the camera's uint8 image.

        ``flow`` (H, W, 2) is the motion in pixels while exposed.
        """
        image, config = rgb, self.config
        if flow is not None:
            image = motion_blur(image, flow)
        if self._defocus > 0.25:
            image = np.asarray(cv2.GaussianBlur(image, (0, 0), self._defocus), np.float32)
        if config.exposure_drift > 0:
            self._drift = 0.95 * self._drift + 0.31 * self._generator.normal(0.0, config.exposure_drift)
        if config.auto_exposure > 0:
            # metered on a slowly forgotten mean, so that the brightness changes when the view does
            mean = float(np.clip(image[::8, ::8], 0, 2).mean())
            self._metered = mean if self._metered == 0 else 0.85 * self._metered + 0.15 * mean
        metered = config.auto_exposure / max(self._metered, 0.02) if config.auto_exposure > 0 else 1.0
        matrix = metered * self._colour * self._balance[:, None] * np.float32(self._gain * 2.0**self._drift)
        if not np.allclose(matrix, np.eye(3)):
            image = np.asarray(cv2.transform(image, matrix), np.float32)
        if self._vignetting > 0.01:
            image = image * self._vignette(*image.shape[:2])
        if self._noise > 1e-4:
            image = image + self._sensor_noise(image)
        code = np.clip(image, 0.0, 1.0)
        if abs(self._gamma - 1.0) > 1e-3:
            code = np.asarray(cv2.pow(code, self._gamma), np.float32)
        result = (255.0 * code + 0.5).astype(np.uint8)
        if self._quality:
            ok, data = cv2.imencode(".jpg", result[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, self._quality])
            if ok:
                result = np.ascontiguousarray(np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[..., ::-1])
        return np.asarray(result)

    def _vignette(self, height: int, width: int) -> Image:
        if self._falloff is None or self._falloff.shape[:2] != (height, width):
            y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
            self._falloff = (1 - self._vignetting * ((x**2 + y**2) / 2) ** 1.5).astype(np.float32)[..., None]
        return self._falloff

    def _sensor_noise(self, image: Image) -> Image:
        """Photon noise (deviation by the square root of the light) and read noise."""
        noise = self._generator.standard_normal(image.shape, np.float32)
        return np.float32(self._noise) * noise * np.sqrt(np.clip(image, 0.0, 1.0) + np.float32(0.1))


def motion_blur(image: Image, flow: Image) -> Image:
    """Average along each pixel's own motion ``flow`` (H, W, 2) in pixels (as seen over the exposure)."""
    longest = float(np.quantile(np.linalg.norm(flow[::4, ::4], axis=-1), 0.95))
    if longest < 0.3:
        return image
    taps = int(np.clip(np.ceil(longest), 3, 11))
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    total = np.zeros_like(image)
    for s in np.linspace(-0.5, 0.5, taps, dtype=np.float32):
        total += cv2.remap(
            image, x + s * flow[..., 0], y + s * flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
    return np.asarray(total / taps)
