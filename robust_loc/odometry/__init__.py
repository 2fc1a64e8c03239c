"""Patch odometry (DPVO): network, bundle adjustment and tracker."""

from robust_loc.odometry.bundle_adjustment import bundle_adjust
from robust_loc.odometry.config import OdometryConfig
from robust_loc.odometry.history import TrajectoryPoint
from robust_loc.odometry.network import FrameFeatures, PatchNetwork, PatchNetworkConfig
from robust_loc.odometry.operator import FlowOperator, NetworkOperator, Observation
from robust_loc.odometry.oracle import OracleOperator
from robust_loc.odometry.patches import make_patches, windows, with_inverse_depth
from robust_loc.odometry.projective import flow_magnitude, reproject
from robust_loc.odometry.tracker import Odometry
from robust_loc.odometry.update import EdgeGroups, Revision

__all__ = [
    "EdgeGroups",
    "FlowOperator",
    "FrameFeatures",
    "NetworkOperator",
    "Observation",
    "Odometry",
    "OdometryConfig",
    "OracleOperator",
    "PatchNetwork",
    "PatchNetworkConfig",
    "Revision",
    "TrajectoryPoint",
    "bundle_adjust",
    "flow_magnitude",
    "make_patches",
    "reproject",
    "windows",
    "with_inverse_depth",
]
