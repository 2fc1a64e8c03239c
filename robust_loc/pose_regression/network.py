"""The whole network: image to pose and the information matrix of its error."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_loc.pose_regression.config import PoseNetworkConfig
from robust_loc.pose_regression.encoders import make_encoder
from robust_loc.pose_regression.refinement import refine_pose
from robust_loc.pose_regression.scene_coordinates import SceneCoordinateHead
from robust_loc.pose_regression.scene_gate import SceneGate, agreement
from robust_loc.pose_regression.tangent import (
    FACTOR_NUMBERS,
    covariance_of_factor,
    information_factor,
    numbers_for_sigma,
)
from robust_loc.pose_regression.transformer import PoseTransformer


class Prediction(NamedTuple):
    """What the network says of a batch.

    Attributes:
        poses: ``world_T_cam`` (B, 4, 4) of every stage, the final one last.
        factor: (B, 6, 6) lower triangular, ``factor factor^T`` is the information of the final pose's body error.
    """

    poses: list[Tensor]
    factor: Tensor

    @property
    def world_T_cam(self) -> Tensor:
        return self.poses[-1]


class Location(NamedTuple):
    """The final answer for a batch.

    Attributes:
        world_T_cam: (B, 4, 4).
        body_covariance: (B, 6, 6) of its body error (:mod:`robust_loc.pose_regression.tangent`).
        agreement: (B,) fraction of the cells whose point lies on their ray (:mod:`~.scene_gate`).
    """

    world_T_cam: Tensor
    body_covariance: Tensor
    agreement: Tensor


class UncertaintyHead(nn.Module):
    """Pooled features to the Cholesky factor of the information matrix; off-diagonals start at zero."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, FACTOR_NUMBERS)
        )
        last = self.layers[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        with torch.no_grad():
            last.bias[:6] = numbers_for_sigma(translation=0.3, rotation=0.15)

    def forward(self, features: Tensor) -> Tensor:
        return information_factor(self.layers(features))


class PoseNetwork(nn.Module):
    """Encoder (shared), scene-coordinate head (per scene), pose transformer (shared) and uncertainty head."""

    def __init__(self, config: PoseNetworkConfig | None = None) -> None:
        super().__init__()
        self.config = config or PoseNetworkConfig()
        self.encoder = make_encoder(self.config.encoder)
        self.scene = SceneCoordinateHead(self.encoder.channels, self.config.head_channels, self.config.head_blocks)
        self.transformer = PoseTransformer(
            self.config.width, self.config.blocks, self.config.heads, self.config.blocks_per_stage
        )
        self.uncertainty = UncertaintyHead(self.config.width)
        self.gate = SceneGate(self.encoder.channels)

    @property
    def stride(self) -> int:
        return self.encoder.stride

    def forward(self, images: Tensor, intrinsics: Tensor) -> Prediction:
        """RGB images (B, 3, H, W) in [0, 255] and intrinsics (B, 4) of that size to poses and information."""
        return self.pose_of_points(self.scene(self.encoder(images)), intrinsics)

    def pose_of_points(
        self, points: Tensor, intrinsics: Tensor, mask: Tensor | None = None, detach_features: bool = False
    ) -> Prediction:
        """World points (B, 3, h, w) to poses and information.

        ``detach_features`` keeps the gradient of the uncertainty head to itself (step 1 of the training).
        """
        centre = self.scene.mean
        poses, features = self.transformer(points - centre, intrinsics, self.stride, mask)
        shift = F.pad(centre.reshape(1, 3, 1), (3, 0, 0, 1))
        factor = self.uncertainty(features.detach() if detach_features else features)
        return Prediction([pose + shift for pose in poses], factor)

    @torch.no_grad()
    def locate(self, points: Tensor, intrinsics: Tensor) -> Location:
        """The pose of world points (B, 3, h, w), refined on them if configured, where that makes more of them agree.

        An unrefined pose has the covariance of the uncertainty head.
        """
        prediction = self.pose_of_points(points, intrinsics)
        pixels = self.cell_pixels(*points.shape[-2:]).to(points)
        pose, covariance = prediction.world_T_cam, covariance_of_factor(prediction.factor)
        agreed = agreement(points, pose, intrinsics, pixels)
        if self.config.refinement:
            flat, flat_pixels = points.flatten(2).mT, pixels.flatten(1).T
            refined, refined_covariance = refine_pose(flat, flat_pixels, intrinsics, pose, self.config.refinement)
            refined_agreed = agreement(points, refined, intrinsics, pixels)
            better = refined.flatten(1).isfinite().all(-1) & (refined_agreed > agreed)
            pose = torch.where(better[:, None, None], refined, pose)
            covariance = torch.where(better[:, None, None], refined_covariance, covariance)
            agreed = torch.where(better, refined_agreed, agreed)
        return Location(pose, covariance, agreed)

    def cell_pixels(self, height: int, width: int) -> Tensor:
        """The pixel (x, y) each cell stands for in the reprojection error: (2, height, width)."""
        rows = torch.arange(height) * self.stride + self.encoder.cell_offset
        columns = torch.arange(width) * self.stride + self.encoder.cell_offset
        y, x = torch.meshgrid(rows, columns, indexing="ij")
        return torch.stack([x, y]).float()
