"""Floor 1: Lie groups, lenses, projection and alignment."""

from robust_loc.geometry.alignment import Alignment, umeyama
from robust_loc.geometry.cameras import CameraCalibration, Undistorter
from robust_loc.geometry.lie import SE3, SO3, Sim3, lie_groups, skew
from robust_loc.geometry.projection import backproject, project, projection_jacobian

__all__ = [
    "SE3",
    "SO3",
    "Alignment",
    "CameraCalibration",
    "Sim3",
    "Undistorter",
    "backproject",
    "lie_groups",
    "project",
    "projection_jacobian",
    "skew",
    "umeyama",
]
