"""Every covariance conversion against Monte Carlo."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from robust_loc.geometry import SE3
from robust_loc.uncertainty import conversions as conv

SAMPLES = 200_000


def random_pose(rng):
    T = np.eye(4)
    T[:3, :3] = Rotation.random(random_state=rng.integers(1 << 30)).as_matrix()
    T[:3, 3] = rng.normal(size=3) * 2
    return T


def random_covariance(rng, sigma=2e-3):
    A = rng.normal(size=(6, 6))
    return sigma**2 * (A @ A.T + 0.1 * np.eye(6))


def sampled(rng, covariance):
    return rng.multivariate_normal(np.zeros(6), covariance, size=SAMPLES)


def exp(rotvec):
    return Rotation.from_rotvec(rotvec).as_matrix()


def left_tangent(T, xi, rng):
    cam_T_world = SE3.from_matrix(torch.tensor(np.linalg.inv(T)))
    return cam_T_world.retr(torch.tensor(xi)).inv().matrix().numpy()


def decoupled_tangent(T, xi, rng):
    cam_T_world = np.repeat(np.linalg.inv(T)[None], len(xi), 0)
    cam_T_world[:, :3, :3] = exp(xi[:, :3]) @ cam_T_world[:, :3, :3]
    cam_T_world[:, :3, 3] += xi[:, 3:]
    return np.linalg.inv(cam_T_world)


def body_tangent(T, xi, rng):
    moved = np.repeat(T[None], len(xi), 0)
    moved[:, :3, 3] += xi[:, :3] @ T[:3, :3].T
    moved[:, :3, :3] = T[:3, :3] @ exp(xi[:, 3:])
    return moved


@pytest.mark.parametrize(
    ("convert", "sample"),
    [
        (conv.from_left_tangent, left_tangent),
        (conv.from_decoupled_tangent, decoupled_tangent),
        (conv.from_body_tangent, body_tangent),
    ],
)
def test_tangent_covariance_becomes_the_ros_covariance(convert, sample):
    rng = np.random.default_rng(3)
    T, covariance = random_pose(rng), random_covariance(rng)
    errors = conv.pose_error(T, sample(T, sampled(rng, covariance), rng))
    assert_same_covariance(convert(covariance, T), errors)


def test_poses_compose_invert_and_change_frames():
    rng = np.random.default_rng(4)
    A, B, P, Q = random_pose(rng), random_pose(rng), random_covariance(rng), random_covariance(rng)
    As, Bs = conv.perturb(A, sampled(rng, P)), conv.perturb(B, sampled(rng, Q))
    C, covariance = conv.compose(A, P, B, Q)
    np.testing.assert_allclose(C, A @ B, atol=1e-12)
    assert_same_covariance(covariance, conv.pose_error(C, As @ Bs))
    inverse, covariance = conv.invert(A, P)
    np.testing.assert_allclose(inverse @ A, np.eye(4), atol=1e-12)
    assert_same_covariance(covariance, conv.pose_error(inverse, np.linalg.inv(As)))
    assert_same_covariance(conv.change_world(Q, A), conv.pose_error(A @ B, A @ Bs))
    assert_same_covariance(conv.change_body(P, A, B), conv.pose_error(A @ B, As @ B))


def test_perturb_inverts_pose_error():
    rng = np.random.default_rng(5)
    T, e = random_pose(rng), rng.normal(size=(20, 6)) * 0.5
    np.testing.assert_allclose(conv.pose_error(T, conv.perturb(T, e)), e, atol=1e-12)


def assert_same_covariance(expected, errors):
    """Whitened sample covariance within 5 standard errors of the identity."""
    whitener = np.linalg.inv(np.linalg.cholesky(expected))
    white = errors @ whitener.T
    np.testing.assert_allclose(white.T @ white / len(white), np.eye(6), atol=5 * np.sqrt(2 / len(white)) + 0.01)
