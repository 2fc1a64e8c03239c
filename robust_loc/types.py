"""The types that cross room boundaries: ``Camera``, ``Frame``, ``Estimate`` and ``Status``.

Pixel centres are at integer coordinates: the top-left pixel's centre is ``(0, 0)``. Camera axes are optical
(x right, y down, z forward). A transform ``a_T_b`` maps points of frame ``b`` into frame ``a``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from robust_loc.errors import CameraError, ImageEncodingError

FloatArray = NDArray[np.float64]

# Reason of an odometry's NO_MOTION for an image equal to the one before: a camera's noise never repeats, so the camera,
# not the robot, stands still.
REPEATED_IMAGE = "the image is identical to the previous one"


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion.

    Attributes:
        width, height: image size in pixels.
        fx, fy: focal lengths in pixels.
        cx, cy: principal point in pixels.

    Raises:
        CameraError: on a non-positive size, a non-positive focal length or a value that is not finite.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    def __post_init__(self) -> None:
        if self.width <= 0 or self.height <= 0:
            raise CameraError(f"camera size is {self.width}x{self.height}; both must be positive")
        if not np.all(np.isfinite([self.fx, self.fy, self.cx, self.cy])):
            raise CameraError(f"intrinsics are not finite: fx={self.fx} fy={self.fy} cx={self.cx} cy={self.cy}")
        if self.fx <= 0 or self.fy <= 0:
            raise CameraError(f"focal lengths are fx={self.fx} fy={self.fy}; both must be positive (uncalibrated?)")

    @property
    def matrix(self) -> FloatArray:
        """The 3x3 intrinsic matrix K."""
        return np.array([[self.fx, 0.0, self.cx], [0.0, self.fy, self.cy], [0.0, 0.0, 1.0]])

    @property
    def intrinsics(self) -> FloatArray:
        """``[fx, fy, cx, cy]``."""
        return np.array([self.fx, self.fy, self.cx, self.cy])

    def resized(self, width: int, height: int) -> Camera:
        """The camera of the image resampled to ``width x height`` (half-pixel formula ``x' = s(x + 1/2) - 1/2``)."""
        sx, sy = width / self.width, height / self.height
        return Camera(width, height, self.fx * sx, self.fy * sy, sx * (self.cx + 0.5) - 0.5, sy * (self.cy + 0.5) - 0.5)

    def at_stride(self, stride: int) -> Camera:
        """The camera of a feature map whose cell ``i`` is centred on pixel ``stride * i`` (pure scaling)."""
        return Camera(
            -(-self.width // stride),
            -(-self.height // stride),
            self.fx / stride,
            self.fy / stride,
            self.cx / stride,
            self.cy / stride,
        )

    def cropped(self, left: int, top: int, width: int, height: int) -> Camera:
        """The camera of the window of ``width x height`` pixels whose top-left pixel is ``(left, top)``."""
        return replace(self, width=width, height=height, cx=self.cx - left, cy=self.cy - top)


@dataclass(frozen=True, eq=False)
class Frame:
    """One undistorted image and the pinhole camera that took it.

    Attributes:
        image: (height, width, 3) uint8, RGB.
        camera: its camera; sizes must agree.
        stamp: time of the exposure, integer nanoseconds.
        depth: optional (height, width) float32 depth along the optical axis in metres, 0 where unknown.
        world_T_cam: optional (4, 4) ground-truth pose (never read by an estimator).
    """

    image: NDArray[np.uint8]
    camera: Camera
    stamp: int
    depth: NDArray[np.float32] | None = None
    world_T_cam: FloatArray | None = None

    def __post_init__(self) -> None:
        expected = (self.camera.height, self.camera.width, 3)
        if self.image.dtype != np.uint8 or self.image.shape != expected:
            raise ImageEncodingError(
                f"image is {self.image.dtype} {self.image.shape}; expected uint8 {expected} as its camera says"
            )


class Status(Enum):
    """What an estimator says of its own answer."""

    OK = "ok"
    INITIALIZING = "initializing"
    NO_MOTION = "no_motion"
    DEGENERATE = "degenerate"  # e.g. pure rotation: rotation is known, translation is not
    UNRELIABLE = "unreliable"  # an answer exists, its covariance is inflated
    REFUSED = "refused"  # no pose: outside the map or the scene
    FAILED = "failed"  # no pose: bad input or lost track


@dataclass(frozen=True, eq=False)
class Estimate:
    """What every estimator answers for one frame.

    Attributes:
        stamp: the image's time, integer nanoseconds.
        status: see ``Status``; ``reason`` says why in a sentence when it is not ``OK``.
        world_T_cam: (4, 4) camera pose in the estimator's world frame, or None when there is none.
        covariance: (6, 6) of ``world_T_cam`` in ROS convention: position x y z, then rotation about the fixed
            x y z axes of the world frame. None exactly when ``world_T_cam`` is None.
        increment: (4, 4) ``previous_T_current`` of the camera since the previous estimate (odometry only).
        increment_covariance: (6, 6) of ``increment``, same convention with the previous camera as the world.
        probability: probability that the pose is right, in [0, 1], where the estimator can tell.
        in_map_score: similarity of the image to the map or the training scene, in [0, 1], where there is one.
        latency: seconds spent on this frame.
    """

    stamp: int
    status: Status
    reason: str = ""
    world_T_cam: FloatArray | None = None
    covariance: FloatArray | None = None
    increment: FloatArray | None = None
    increment_covariance: FloatArray | None = None
    probability: float | None = None
    in_map_score: float | None = None
    latency: float = 0.0

    @property
    def has_pose(self) -> bool:
        return self.world_T_cam is not None
