"""Floor 2: covariance conventions, calibration of covariances and consistency statistics."""

from robust_loc.uncertainty.conversions import (
    change_body,
    change_world,
    compose,
    from_body_tangent,
    from_decoupled_tangent,
    from_left_tangent,
    invert,
    perturb,
    pose_error,
)

__all__ = [
    "change_body",
    "change_world",
    "compose",
    "from_body_tangent",
    "from_decoupled_tangent",
    "from_left_tangent",
    "invert",
    "perturb",
    "pose_error",
]
