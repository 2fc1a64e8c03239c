"""Floor 3: one pose from all estimators, with its covariance and an explicit state."""

from robust_loc.fusion.config import FusionConfig
from robust_loc.fusion.filter import LocalizationFilter
from robust_loc.fusion.last_pose import LastPose
from robust_loc.fusion.localization import Localization, camera_estimate
from robust_loc.fusion.state import State

__all__ = ["FusionConfig", "LastPose", "Localization", "LocalizationFilter", "State", "camera_estimate"]
