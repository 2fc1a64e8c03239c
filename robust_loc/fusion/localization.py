"""What the filter says."""

from __future__ import annotations

from dataclasses import dataclass

from robust_loc.fusion.state import State
from robust_loc.types import Estimate, FloatArray, Status
from robust_loc.uncertainty.conversions import change_body

LOST_VARIANCE = 9999.0


@dataclass(frozen=True, eq=False)
class Localization:
    """What the filter publishes.

    Attributes:
        stamp: of the newest image, integer nanoseconds.
        state, reason: see :class:`State`; the reason is empty when all is well.
        map_T_base: (4, 4), None while there is no pose at all.
        covariance: (6, 6) of it, ROS convention; 9999 on the diagonal when LOST.
        odom_T_base: (4, 4) smooth odometry, metric by the scale of its time (or the external odometry's own).
        map_T_odom: (4, 4), None while there is no pose.
        scale, scale_sigma: metres per unit of odometry and its sigma.
        nis: of the newest fix that was compared with the filter, None before the first.
        age: seconds since the image of the newest accepted fix, None before the first.
        twist: (6,) linear and angular velocity of the base, in the base frame.
    """

    stamp: int
    state: State
    reason: str
    map_T_base: FloatArray | None
    covariance: FloatArray | None
    odom_T_base: FloatArray
    map_T_odom: FloatArray | None
    scale: float
    scale_sigma: float
    nis: float | None
    age: float | None
    twist: FloatArray


_STATUS = {
    State.INITIALIZING: Status.INITIALIZING,
    State.LOCALIZED: Status.OK,
    State.DEGRADED: Status.UNRELIABLE,
    State.LOST: Status.FAILED,
}


def camera_estimate(localization: Localization, stamp: int, base_T_cam: FloatArray) -> Estimate:
    """A localization as the estimate of the camera's pose at ``stamp``: what is compared with the camera's true pose.

    Without a pose while there is none, when LOST, and at a stamp that the filter did not move to.
    """
    status, reason = _STATUS[localization.state], localization.reason
    if localization.stamp != stamp:
        return Estimate(stamp, Status.FAILED, "no pose at the time of this image")
    if localization.map_T_base is None or localization.covariance is None or localization.state is State.LOST:
        return Estimate(stamp, status, reason)
    covariance = change_body(localization.covariance, localization.map_T_base, base_T_cam)
    return Estimate(stamp, status, reason, localization.map_T_base @ base_T_cam, covariance)
