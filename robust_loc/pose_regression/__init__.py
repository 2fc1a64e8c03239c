"""Absolute pose regression: scene coordinates, pose transformer, uncertainty head and the estimator over them."""

from robust_loc.pose_regression.config import PoseNetworkConfig, PoseRegressorConfig
from robust_loc.pose_regression.network import PoseNetwork, Prediction
from robust_loc.pose_regression.regressor import PoseRegressor
from robust_loc.pose_regression.reprojection import reprojection_loss
from robust_loc.pose_regression.tangent import body_error, covariance_of_factor, information_factor
from robust_loc.pose_regression.transformer import PoseTransformer, coarse_to_fine_loss
from robust_loc.pose_regression.weights import load_network, load_published, save_network

__all__ = [
    "PoseNetwork",
    "PoseNetworkConfig",
    "PoseRegressor",
    "PoseRegressorConfig",
    "PoseTransformer",
    "Prediction",
    "body_error",
    "coarse_to_fine_loss",
    "covariance_of_factor",
    "information_factor",
    "load_network",
    "load_published",
    "reprojection_loss",
    "save_network",
]
