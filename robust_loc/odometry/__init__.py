"""Patch odometry (DPVO): network, bundle adjustment and tracker."""

from robust_loc.odometry.bundle_adjustment import bundle_adjust
from robust_loc.odometry.network import FrameFeatures, PatchNetwork, PatchNetworkConfig
from robust_loc.odometry.patches import make_patches, windows, with_inverse_depth
from robust_loc.odometry.projective import flow_magnitude, reproject
from robust_loc.odometry.update import EdgeGroups, Revision

__all__ = [
    "EdgeGroups",
    "FrameFeatures",
    "PatchNetwork",
    "PatchNetworkConfig",
    "Revision",
    "bundle_adjust",
    "flow_magnitude",
    "make_patches",
    "reproject",
    "windows",
    "with_inverse_depth",
]
