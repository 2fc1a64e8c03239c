"""A small world for the trainers' tests: a camera before a textured wall with relief."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from robust_loc.training.odometry_data import FrameSequence
from robust_loc.types import Camera, Frame

SIZE = (96, 128)


def wall_sequence(seed: int, frames: int = 16) -> FrameSequence:
    """A camera that circles in front of two fronto-parallel layers (2 m and 4 m) of random texture."""
    g = np.random.default_rng(seed)
    height, width = SIZE
    camera = Camera(width, height, 100.0, 100.0, (width - 1) / 2, (height - 1) / 2)
    textures = [cv2.GaussianBlur(g.uniform(0, 255, (400, 600, 3)).astype(np.float32), (0, 0), 1.5) for _ in range(2)]
    textures = [np.clip((t - t.mean()) * 4 + 128, 0, 255).astype(np.uint8) for t in textures]
    radius, phase = g.uniform(0.4, 0.6), g.uniform(0, 2 * np.pi)
    result = []
    for k in range(frames):
        pose = np.eye(4)
        angle = phase + 0.18 * k  # a circle: the trajectory determines its alignment
        pose[:3, 3] = radius * np.cos(angle), radius * np.sin(angle), 0.1 * np.sin(2 * angle)
        u, v = np.meshgrid(np.arange(width), np.arange(height))
        image, depth = np.zeros((height, width, 3), np.uint8), np.full((height, width), 4.0, np.float32)
        for layer, z in ((0, 4.0), (1, 2.0)):
            distance = z - pose[2, 3]
            X = (u - camera.cx) / camera.fx * distance + pose[0, 3]
            Y = (v - camera.cy) / camera.fy * distance + pose[1, 3]
            x, y = (X * 50 + 300).astype(np.float32), (Y * 50 + 200).astype(np.float32)
            colour = cv2.remap(textures[layer], x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
            shown = np.ones_like(depth, bool) if layer == 0 else (np.floor(X / 0.5) + np.floor(Y / 0.5)) % 2 == 0
            image[shown], depth[shown] = colour[shown], distance
        result.append(Frame(image, camera, k * 10**8, depth, pose))
    return FrameSequence(result, f"wall {seed}")


@pytest.fixture(autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def sequences() -> list[FrameSequence]:
    return [wall_sequence(seed) for seed in range(3)]
