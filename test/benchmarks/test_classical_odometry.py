"""The classical baseline is itself right: its bundle adjustment and its trajectory on a rendered wall."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from robust_loc.data.trajectory import Trajectory
from robust_loc.evaluation import AlignmentMode, evaluate
from robust_loc.types import Camera, Frame


@pytest.fixture(autouse=True, scope="module")
def benchmarks():
    folder = str(Path(__file__).parents[2] / "benchmarks")
    sys.path.insert(0, folder)
    yield
    sys.path.remove(folder)


def test_the_bundle_adjustment_recovers_poses_and_points_from_exact_observations():
    from local_adjustment import bundle_adjustment, perturbation, project

    rng = np.random.default_rng(0)
    k = Camera(640, 480, 500.0, 510.0, 320.0, 240.0).matrix
    points = rng.uniform([-2, -2, 4], [2, 2, 8], (60, 3))
    poses = np.tile(np.eye(4), (5, 1, 1))
    poses[:, :3, :3] = Rotation.from_rotvec(rng.normal(size=(5, 3)) * 0.05).as_matrix()
    poses[:, 0, 3] = -0.3 * np.arange(5)
    camera, point = (index.ravel() for index in np.meshgrid(np.arange(5), np.arange(60)))
    pixels = project(poses[camera], points[point], k)
    start = poses.copy()
    for index in range(2, 5):
        start[index] = perturbation(rng.normal(size=6) * 0.01) @ poses[index]
    found, moved = bundle_adjustment(
        start, points + rng.normal(size=points.shape) * 0.03, camera, point, pixels, k, fixed=2, iterations=30
    )
    np.testing.assert_allclose(found, poses, atol=1e-5)
    np.testing.assert_allclose(moved, points, atol=1e-4)
    np.testing.assert_array_equal(found[:2], poses[:2])


def test_a_camera_moving_along_two_textured_walls_is_followed():
    from classical_odometry import ClassicalConfig, run

    rng = np.random.default_rng(1)
    camera = Camera(320, 240, 260.0, 260.0, 159.5, 119.5)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (900, 1600), dtype=np.uint8), (0, 0), 2.0)
    texture = cv2.normalize(texture, None, 0, 255, cv2.NORM_MINMAX)
    k, poses, frames = camera.matrix, [], []
    for index in range(30):
        world_T_cam = np.eye(4)
        world_T_cam[:3, :3] = Rotation.from_euler("y", 0.004 * index).as_matrix()
        world_T_cam[:3, 3] = [0.06 * index, 0.02 * np.sin(0.3 * index), 0.0]
        cam_T_world = np.linalg.inv(world_T_cam)
        image = np.zeros((240, 320), np.uint8)
        for depth, rows in ((6.0, slice(0, 120)), (4.0, slice(120, 240))):  # the lower wall is nearer
            # texture pixel (u, v) lies at ((u - 800) / 100, (v - 450) / 100, depth)
            plane = np.array([[0.01, 0, -8.0], [0, 0.01, -4.5], [0, 0, depth]])
            homography = k @ (cam_T_world[:3, :3] @ plane + np.outer(cam_T_world[:3, 3], [0, 0, 1]))
            image[rows] = cv2.warpPerspective(texture, homography, (320, 240))[rows]
        poses.append(world_T_cam)
        frames.append(Frame(np.repeat(image[:, :, None], 3, axis=2), camera, 1000 + index * 33_000_000))
    odometry = run(frames, seed=0, config=ClassicalConfig())
    truth = Trajectory(np.array([frame.stamp for frame in frames]), np.array(poses))
    summary = evaluate(odometry.trajectory, truth, alignment=AlignmentMode.SIM3).summary
    assert odometry.losses == 0 and summary["estimated"] == 30
    assert summary["ate"]["sim3"]["rmse"] < 0.01 * truth.path_length
