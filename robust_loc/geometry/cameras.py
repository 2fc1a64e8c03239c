"""Lens models and the one undistortion on entry: after it, every image is a pinhole image."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from robust_loc.errors import CameraError, ImageEncodingError
from robust_loc.types import Camera, FloatArray

COEFFICIENTS = {"plumb_bob": (4, 5), "rational_polynomial": (8,), "equidistant": (4,)}


@dataclass(frozen=True)
class CameraCalibration:
    """A camera with its lens, as ``sensor_msgs/CameraInfo`` describes it.

    Attributes:
        width, height: image size in pixels.
        fx, fy, cx, cy: intrinsics in pixels, pixel centres at integers.
        distortion_model: ``plumb_bob`` (k1 k2 p1 p2 [k3]), ``rational_polynomial`` (k1 k2 p1 p2 k3 k4 k5 k6) or
            ``equidistant`` (k1 k2 k3 k4).
        distortion: its coefficients; empty means an ideal pinhole.

    Raises:
        CameraError: on a zero, NaN or negative K, an unknown model, or a wrong number of coefficients.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion_model: str = "plumb_bob"
    distortion: tuple[float, ...] = field(default=())

    def __post_init__(self) -> None:
        _ = self.pinhole  # validates size and K
        if not self.distortion:
            return
        if self.distortion_model not in COEFFICIENTS:
            raise CameraError(
                f"distortion model {self.distortion_model!r} is not supported; expected {', '.join(COEFFICIENTS)}"
            )
        if not np.all(np.isfinite(self.distortion)):
            raise CameraError(f"distortion coefficients are not finite: {self.distortion}")
        if len(self.distortion) not in COEFFICIENTS[self.distortion_model]:
            raise CameraError(
                f"{self.distortion_model} has {len(self.distortion)} coefficients; "
                f"expected {' or '.join(map(str, COEFFICIENTS[self.distortion_model]))}"
            )

    @property
    def pinhole(self) -> Camera:
        """The same K and size without the lens."""
        return Camera(self.width, self.height, self.fx, self.fy, self.cx, self.cy)

    @property
    def is_distorted(self) -> bool:
        return any(c != 0 for c in self.distortion) or (
            # an equidistant lens bends light even when its coefficients are all zero
            self.distortion_model == "equidistant" and len(self.distortion) > 0
        )

    def project(self, points: FloatArray) -> FloatArray:
        """Camera-frame points (n, 3) -> distorted pixels (n, 2). Points must lie in front of the camera."""
        K, d, zero = self.pinhole.matrix, np.asarray(self.distortion, float), np.zeros(3)
        points = np.ascontiguousarray(points, dtype=np.float64).reshape(-1, 1, 3)
        if not self.is_distorted:
            return (points[:, 0, :2] / points[:, 0, 2:]) @ K[:2, :2].T + K[:2, 2]
        if self.distortion_model == "equidistant":
            return np.asarray(cv2.fisheye.projectPoints(points, zero, zero, K, d)[0], np.float64).reshape(-1, 2)
        return np.asarray(cv2.projectPoints(points, zero, zero, K, d)[0], np.float64).reshape(-1, 2)


@dataclass(frozen=True)
class Undistorter:
    """Turns images of a calibrated lens into pinhole images of the same size, with no pixel from outside the image.

    An ideal pinhole passes unchanged.
    """

    calibration: CameraCalibration

    @cached_property
    def camera(self) -> Camera:
        """The pinhole camera of the undistorted images."""
        pinhole = self.calibration.pinhole
        if not self.calibration.is_distorted:
            return pinhole
        widest = pinhole
        for zoom in np.geomspace(2.5, 0.75, 80):
            zoomed = replace(pinhole, fx=pinhole.fx * zoom, fy=pinhole.fy * zoom)
            if not self._sees_only_the_image(zoomed):
                break
            widest = zoomed
        return widest

    def _sees_only_the_image(self, camera: Camera) -> bool:
        """Whether every border pixel of ``camera``, and the rays within, come from inside the distorted image.

        Radii must grow along each ray: beyond its calibrated field a polynomial lens model folds back on itself.
        """
        w, h = camera.width - 1, camera.height - 1
        u, v = np.linspace(0, w, 33), np.linspace(0, h, 33)
        border = np.concatenate([np.c_[u, 0 * u], np.c_[u, 0 * u + h], np.c_[0 * v, v], np.c_[0 * v + w, v]])
        rays = (border - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
        fractions = np.linspace(0.1, 1.0, 10)[:, None, None] * rays
        points = np.concatenate([fractions, np.ones((*fractions.shape[:2], 1))], -1)
        pixels = self.calibration.project(points.reshape(-1, 3)).reshape(fractions.shape)
        radii = np.linalg.norm(pixels - [self.calibration.cx, self.calibration.cy], axis=-1)
        inside = (pixels[-1] >= 0).all() and (pixels[-1] <= [w, h]).all()
        return bool(inside and (np.diff(radii, axis=0) > 0).all())

    @cached_property
    def _maps(self) -> tuple[Any, Any]:
        c = self.calibration
        K, d, size = c.pinhole.matrix, np.asarray(c.distortion, float), (c.width, c.height)
        if c.distortion_model == "equidistant":
            return cv2.fisheye.initUndistortRectifyMap(K, d, np.eye(3), self.camera.matrix, size, cv2.CV_16SC2)
        return cv2.initUndistortRectifyMap(K, d, np.eye(3), self.camera.matrix, size, cv2.CV_16SC2)

    def image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Undistort an image (height, width[, channels]) with bilinear interpolation."""
        self._check_size(image)
        if not self.calibration.is_distorted:
            return image
        return np.asarray(cv2.remap(image, *self._maps, cv2.INTER_LINEAR), np.uint8)

    def depth(self, depth: NDArray[np.float32]) -> NDArray[np.float32]:
        """Undistort a depth map (height, width) with the nearest neighbour, so that no depths are averaged."""
        self._check_size(depth)
        if not self.calibration.is_distorted:
            return depth
        return np.asarray(cv2.remap(depth, *self._maps, cv2.INTER_NEAREST), np.float32)

    def _check_size(self, image: np.ndarray) -> None:
        expected = (self.calibration.height, self.calibration.width)
        if image.shape[:2] != expected:
            raise ImageEncodingError(
                f"image is {image.shape[1]}x{image.shape[0]} but its calibration is for {expected[1]}x{expected[0]}"
            )
