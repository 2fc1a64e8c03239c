"""The flow loss, the pose loss and their balance against independent float64 implementations."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from robust_loc.geometry.lie import SE3
from robust_loc.losses.balance import GradientNormBalance
from robust_loc.losses.flow import flow_error, flow_loss
from robust_loc.losses.least_squares import weighted_least_squares_gradients
from robust_loc.losses.relative_pose import relative_pose_error


@pytest.fixture
def edges():
    g = torch.Generator().manual_seed(0)
    predicted, target = (torch.randn(20, 3, 3, 2, generator=g, dtype=torch.float64) for _ in range(2))
    weight = torch.rand(20, 2, generator=g, dtype=torch.float64)
    valid = torch.rand(20, generator=g) < 0.7
    return predicted, target, valid, weight


@pytest.mark.parametrize("form", ["none", "linear", "sqrt"])
def test_flow_loss_is_the_mean_over_valid_edges_of_the_smallest_pixel_error(edges, form):
    predicted, target, valid, weight = edges
    total, count = 0.0, 0
    for e in range(len(valid)):
        if not valid[e]:
            continue
        errors = []
        for a in range(3):
            for b in range(3):
                rx, ry = (predicted[e, a, b] - target[e, a, b]).tolist()
                wx, wy = weight[e].tolist()
                factor = {"none": (1.0, 1.0), "linear": (wx, wy), "sqrt": (wx**0.5, wy**0.5)}[form]
                errors.append(((factor[0] * rx) ** 2 + (factor[1] * ry) ** 2) ** 0.5)
        total, count = total + min(errors), count + 1
    assert float(flow_loss(predicted, target, valid, weight, form=form)) == pytest.approx(total / count, rel=1e-12)


def test_no_gradient_reaches_the_weights(edges):
    predicted, target, valid, weight = edges
    predicted, weight = predicted.requires_grad_(), weight.requires_grad_()
    flow_loss(predicted, target, valid, weight).backward()
    assert weight.grad is None
    assert predicted.grad is not None and torch.isfinite(predicted.grad).all()


def test_gradient_of_the_flow_loss_agrees_with_finite_differences(edges):
    predicted, target, valid, weight = edges
    predicted = predicted.requires_grad_()
    assert torch.autograd.gradcheck(lambda p: flow_loss(p, target, valid, weight), (predicted,))


def test_loss_without_valid_edges_is_zero_and_its_gradient_finite(edges):
    predicted, target, _, weight = edges
    predicted = predicted.requires_grad_()
    loss = flow_loss(predicted, target, torch.zeros(20, dtype=torch.bool), weight)
    loss.backward()
    assert float(loss.detach()) == 0 and torch.equal(predicted.grad, torch.zeros_like(predicted))


def test_exact_prediction_has_a_finite_gradient(edges):
    _, target, valid, weight = edges
    predicted = target.clone().requires_grad_()
    flow_loss(predicted, target, valid, weight).backward()
    assert torch.isfinite(predicted.grad).all()


def test_unknown_form_is_refused(edges):
    predicted, target, _, weight = edges
    with pytest.raises(ValueError, match="squared"):
        flow_error(predicted, target, weight, form="squared")


def _random_poses(g: np.random.Generator, n: int) -> torch.Tensor:
    rotation = Rotation.from_rotvec(g.normal(0, 0.4, (n, 3))).as_quat()
    return torch.from_numpy(np.column_stack([g.normal(0, 1, (n, 3)), rotation]))


def test_pose_error_agrees_with_matrices_and_logarithms():
    from scipy.linalg import logm

    g = np.random.default_rng(1)
    estimated, target = _random_poses(g, 5), _random_poses(g, 5)
    P, G = (np.linalg.inv(SE3(p).matrix().numpy()) for p in (estimated, target))
    a, b = G[:, :3, 3] - G[:, :3, 3].mean(0), P[:, :3, 3] - P[:, :3, 3].mean(0)
    scale = min((a**2).sum(1).mean() / np.linalg.svd(a.T @ b / 5)[1].sum(), 10.0)
    P[:, :3, 3] *= scale
    translation, rotation = [], []
    for i in range(5):
        for j in range(5):
            if i != j:
                E = np.linalg.inv(P[i]) @ P[j] @ np.linalg.inv(np.linalg.inv(G[i]) @ G[j])
                L = np.real(logm(E))
                translation.append(np.linalg.norm(L[:3, 3]))
                rotation.append(np.linalg.norm([L[2, 1], L[0, 2], L[1, 0]]))
    got = relative_pose_error(estimated, target)
    assert float(got[0]) == pytest.approx(np.mean(translation), rel=1e-9)
    assert float(got[1]) == pytest.approx(np.mean(rotation), rel=1e-9)


def test_pose_error_of_a_scaled_truth_is_zero():
    target = _random_poses(np.random.default_rng(2), 6)
    estimated = target.clone()
    estimated[:, :3] *= 0.2
    translation, rotation = relative_pose_error(estimated, target)
    assert float(translation) < 1e-6 and float(rotation) < 1e-6


def test_pose_error_is_finite_for_an_estimate_that_never_moved():
    target = _random_poses(np.random.default_rng(3), 4)
    estimated = SE3.Identity(4, dtype=torch.float64).data.requires_grad_()
    sum(relative_pose_error(estimated, target)).backward()
    assert torch.isfinite(estimated.grad).all()


def test_balance_makes_the_gradients_equal():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    balance = GradientNormBalance(period=5, clip=100.0, window=3)
    assert not balance.due(0) and not balance.due(4) and balance.due(5)
    reference, term = 6 * x.sum(), 2 * x.sum()
    assert balance.measure(reference, term, x) == pytest.approx(3.0)


def test_balance_is_clipped_averaged_and_survives_nan():
    balance = GradientNormBalance(clip=10.0, window=2)
    assert balance.update(1e9) == pytest.approx(10.0)
    assert balance.update(float("nan")) == pytest.approx(10.0)
    assert balance.update(30.0) == pytest.approx(20.0)
    assert balance.update(40.0) == pytest.approx(35.0)
    copy = GradientNormBalance(clip=10.0, window=2)
    copy.load_state_dict(balance.state_dict())
    assert copy.update(1.0) == pytest.approx(balance.update(1.0))


def test_closed_form_gradients_of_least_squares_agree_with_autograd_and_finite_differences():
    g = torch.Generator().manual_seed(4)
    J = torch.randn(12, 4, generator=g, dtype=torch.float64)
    w = torch.rand(12, generator=g, dtype=torch.float64).requires_grad_()
    r = torch.randn(12, generator=g, dtype=torch.float64).requires_grad_()

    def loss(w, r):
        x = torch.linalg.solve(J.T @ (w[:, None] * J), J.T @ (w * r))
        return (x**3).sum()

    assert torch.autograd.gradcheck(loss, (w, r))
    grad_w, grad_r = torch.autograd.grad(loss(w, r), (w, r))
    with torch.no_grad():
        x = torch.linalg.solve(J.T @ (w[:, None] * J), J.T @ (w * r))
        closed_r, closed_w = weighted_least_squares_gradients(J, w, r, 3 * x**2)
    torch.testing.assert_close(closed_r, grad_r)
    torch.testing.assert_close(closed_w, grad_w)
