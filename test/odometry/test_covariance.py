"""The covariance of increments: against a dense derivation, and against errors of known noise."""

from dataclasses import replace

import numpy as np
import torch
from odometry_frames import sequence
from odometry_graphs import HEIGHT, WIDTH, random_graph
from test_tracker import CONFIG

from robust_loc.geometry import umeyama
from robust_loc.geometry.lie import SE3
from robust_loc.odometry import Odometry, OracleOperator
from robust_loc.odometry.covariance import increment_covariance
from robust_loc.odometry.motion import Belief
from robust_loc.odometry.projective import reproject
from robust_loc.types import Status
from robust_loc.uncertainty import anees, nees
from robust_loc.uncertainty.conversions import pose_error


def test_covariance_agrees_with_a_dense_constrained_inverse() -> None:
    """Jacobians by automatic differentiation, the gauge by a Lagrange multiplier, the increment by perturbing poses."""
    g = random_graph(3, frames=5, per_frame=8, noise=0.3)
    n, m = 5, len(g.patches)

    def pixels(xi: torch.Tensor, dz: torch.Tensor) -> torch.Tensor:
        patches = g.patches.clone()
        patches[:, 2] = patches[:, 2] + dz[:, None, None]
        poses = g.poses.retr(torch.cat([torch.zeros(1, 6, dtype=torch.float64), xi]))
        return reproject(poses, patches, g.intrinsics, *g.edges).coords[:, 1, 1]

    zeros = torch.zeros(n - 1, 6, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
    J = torch.cat([part.flatten(2) for part in torch.autograd.functional.jacobian(pixels, zeros)], -1)
    other = g.ii != g.jj
    A, W = J[other].reshape(-1, J.shape[-1]).numpy(), g.weight[other].reshape(-1).numpy()
    H = A.T @ (W[:, None] * A)
    constraint = np.zeros(len(H))
    depth = g.patches[:, 2, 1, 1].numpy()
    constraint[-m:] = np.diag(H)[-m:] * depth
    bordered = np.block([[H, constraint[:, None]], [constraint[None], np.zeros((1, 1))]])
    marginal = np.linalg.inv(bordered)[: 6 * (n - 1), : 6 * (n - 1)]
    r = (g.target - pixels(*zeros))[other].reshape(-1).numpy()
    factor = (W * r * r).sum() / ((W > 1e-3).sum() - 6 * (n - 1) - m)

    def motion(xi: np.ndarray) -> np.ndarray:
        poses = g.poses.retr(torch.cat([torch.zeros(1, 6), torch.from_numpy(xi).reshape(n - 1, 6)]))
        return (poses[3] * poses[4].inv()).matrix().numpy()

    step, start = 1e-6, motion(np.zeros(6 * (n - 1)))
    D = np.stack([pose_error(start, motion(step * e)) / step for e in np.eye(6 * (n - 1))], 1)
    expected = factor * D @ marginal @ D.T
    found = increment_covariance(
        g.poses, g.patches, g.intrinsics, g.target, g.weight, *g.edges,
        image_size=(HEIGHT, WIDTH), previous=3, current=4,
    )  # fmt: skip
    assert found is not None
    np.testing.assert_allclose(found.variance_factor, factor, rtol=1e-9)
    np.testing.assert_allclose(found.covariance, expected, atol=1e-5 * np.abs(expected).max())


def test_edges_without_weight_are_no_measurements() -> None:
    """They neither add information nor dilute the variance factor."""
    g = random_graph(4, frames=4, per_frame=8)
    mute = torch.arange(len(g.ii)) % 3 == 0
    weight = torch.where(mute[:, None], 0.0, g.weight)
    size = {"image_size": (HEIGHT, WIDTH), "previous": 2, "current": 3}
    whole = increment_covariance(g.poses, g.patches, g.intrinsics, g.target, weight, *g.edges, **size)
    kept = [t[~mute] for t in (g.target, g.weight, *g.edges)]
    thin = increment_covariance(g.poses, g.patches, g.intrinsics, *kept, **size)
    np.testing.assert_allclose(whole.covariance, thin.covariance, rtol=1e-8, atol=1e-12)


def test_undetermined_motion_has_no_covariance() -> None:
    g = random_graph(5, frames=4, per_frame=6)
    size = {"image_size": (HEIGHT, WIDTH), "previous": 2, "current": 3}
    apart = (g.ii != 3) & (g.jj != 3)
    few = [t[apart] for t in (g.target, g.weight, *g.edges)]
    assert increment_covariance(g.poses, g.patches, g.intrinsics, *few, **size) is None
    nothing = torch.zeros_like(g.weight)
    assert increment_covariance(g.poses, g.patches, g.intrinsics, g.target, nothing, *g.edges, **size) is None


def test_increments_are_as_uncertain_as_they_say() -> None:
    """Flow noise of known sigma per edge, said by the weights: the ANEES of increments lies in its chi-square band.

    Every sixth increment, so that values are nearly independent.
    """
    frames = sequence(54)
    truth = np.stack([frame.world_T_cam for frame in frames])
    errors, covariances = [], []
    for seed in range(5):
        operator = OracleOperator(CONFIG.patches_per_frame, sigma=0.05, spread=2.0, seed=seed)
        odometry = Odometry(replace(CONFIG, seed=seed), operator)
        estimates = [odometry.update(frame) for frame in frames]
        found = np.stack([e.world_T_cam for e in estimates])
        scale = umeyama(found[10:, :3, 3], truth[10:, :3, 3], with_scale=True).scale
        for k in range(14, len(frames), 6):
            if estimates[k].status == Status.OK:
                true = np.linalg.inv(truth[k - 1]) @ truth[k]
                true[:3, 3] /= scale
                errors.append(pose_error(estimates[k].increment, true))
                covariances.append(estimates[k].increment_covariance)
    assert len(errors) > 25
    result = anees(nees(np.array(errors), np.array(covariances)), 6, level=0.99)
    assert result.contains_value, result


def test_weights_alone_do_not_change_the_covariance() -> None:
    """Only their ratios carry information: the variance factor absorbs a common factor."""
    g = random_graph(6, frames=4, per_frame=8)
    size = {"image_size": (HEIGHT, WIDTH), "previous": 2, "current": 3}
    one = increment_covariance(g.poses, g.patches, g.intrinsics, g.target, 0.5 + 0.5 * g.weight, *g.edges, **size)
    tenth = increment_covariance(
        g.poses, g.patches, g.intrinsics, g.target, 0.1 * (0.5 + 0.5 * g.weight), *g.edges, **size
    )
    np.testing.assert_allclose(one.covariance, tenth.covariance, rtol=1e-6)


def test_increments_between_answers_are_composed() -> None:
    """An answer beside the graph, then one in it: the second increment starts where the first ended."""
    belief = Belief(1e-12 * np.eye(6))
    guess = SE3.exp(torch.tensor([0.1, 0.0, 0.2, 0.0, 0.1, 0.0], dtype=torch.float64)).matrix().numpy()
    arrival = SE3.exp(torch.tensor([0.3, 0.1, 0.2, 0.0, 0.2, 0.1], dtype=torch.float64)).matrix().numpy()
    first = belief.move(np.eye(4), guess, 0.04 * np.eye(6))
    second = belief.move(np.eye(4), arrival, 0.0001 * np.eye(6))
    np.testing.assert_allclose(first.increment @ second.increment, arrival, atol=1e-12)
    assert np.trace(second.increment_covariance) > np.trace(first.increment_covariance)
    assert np.trace(second.pose_covariance) < 0.1 * np.trace(first.pose_covariance)
    belief.advance(np.eye(4))
    third = belief.stay(arrival, 1e-6 * np.eye(6))
    np.testing.assert_allclose(third.increment, np.eye(4))
    again = belief.stay(arrival, 1e-6 * np.eye(6))
    np.testing.assert_allclose(third.pose_covariance, again.pose_covariance)
