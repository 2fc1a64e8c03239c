"""A scene that renders in milliseconds and a network that trains in seconds, for the tests of fine-tuning."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from scipy.spatial.transform import Rotation

from robust_loc.data import BagWriter
from robust_loc.geometry import CameraCalibration
from robust_loc.pose_regression import PoseNetwork, PoseNetworkConfig, save_network
from robust_loc.training.finetune import FinetuneConfig
from robust_loc.types import Camera, Frame

CAMERA = Camera(96, 64, 70.0, 70.0, 47.5, 31.5)
CALIBRATION = CameraCalibration(96, 64, 70.0, 70.0, 47.5, 31.5)
SHAPE = PoseNetworkConfig(
    encoder="compact", image_height=64, head_channels=16, width=16, blocks=2, heads=2, refinement=0
)
START, PERIOD = 1_000_000_000, 50_000_000
QUICK = FinetuneConfig(
    max_steps=40, map_batch=128, pose_batch=8, map_rate=5e-3, uncertainty_rate=5e-3, joint_rate=5e-3, buffer=4096,
    stretch=1.0, holdout_fraction=0.4, checkpoint_period=0.0,
)  # fmt: skip


def pose(k: int) -> np.ndarray:
    """The camera of frame k sways before the wall z = 3 m."""
    result = np.eye(4)
    result[:3, :3] = Rotation.from_euler("yx", [0.1 * np.sin(0.11 * k), 0.08 * np.cos(0.07 * k)]).as_matrix()
    result[:3, 3] = 0.5 * np.sin(0.09 * k), 0.3 * np.cos(0.13 * k), 0.2 * np.sin(0.05 * k)
    return result


def frames(count: int, first: int = 0, seed: int = 0) -> list[Frame]:
    """Frames before a painted wall; ``seed`` chooses the painting."""
    paint = np.random.default_rng(seed).uniform(0, 255, (12, 18, 3)).astype(np.float32)
    wall = cv2.resize(paint, (900, 600), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)
    wall_pixels = np.array([[100.0, 0, 450], [0, 100, 300], [0, 0, 1]])  # of a point (x, y) on the wall, metres
    result = []
    for k in range(first, first + count):
        world_T_cam = pose(k)
        R, t = world_T_cam[:3, :3].T, -world_T_cam[:3, :3].T @ world_T_cam[:3, 3]
        onto = CAMERA.matrix @ np.column_stack([R[:, 0], R[:, 1], 3.0 * R[:, 2] + t])
        image = cv2.warpPerspective(wall, onto @ np.linalg.inv(wall_pixels), (96, 64), borderMode=cv2.BORDER_REFLECT)
        result.append(Frame(image, CAMERA, START + k * PERIOD, None, world_T_cam))
    return result


def write_bag(path, labelled: list[Frame]):
    with BagWriter(path, CALIBRATION) as writer:
        for frame in labelled:
            writer.write_frame(frame)
    return path


def untrained(path, seed: int = 0):
    """Weights that know nothing yet, whose scene lies about the right place."""
    torch.manual_seed(seed)
    network = PoseNetwork(SHAPE)
    network.scene.mean.copy_(torch.tensor([0.0, 0.0, 0.0]).reshape(1, 3, 1, 1))
    save_network(network, path)
    return path
