"""Floor 1: Lie groups, lenses, projection and alignment."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from robust_loc.geometry.alignment import Alignment, umeyama
from robust_loc.geometry.cameras import CameraCalibration, Undistorter

if TYPE_CHECKING:
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

_NEEDS_TORCH = dict.fromkeys(("SE3", "SO3", "Sim3", "lie_groups", "skew"), "lie") | dict.fromkeys(
    ("backproject", "project", "projection_jacobian"), "projection"
)


def __getattr__(name: str) -> Any:
    """Import torch for those who use it: readers of images and bags do not wait for it."""
    if name not in _NEEDS_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_NEEDS_TORCH[name]}"), name)
