"""Group axioms, derivatives and agreement with matrix exponentials, for every available backend."""

import importlib.util

import pytest
import torch

from robust_loc.geometry.lie import (
    SE3,
    SO3,
    lie_groups,
    quaternion_from_matrix,
    quaternion_to_matrix,
    skew,
)

has_lietorch = importlib.util.find_spec("lietorch") is not None
BACKENDS = ["torch", pytest.param("lietorch", marks=pytest.mark.skipif(not has_lietorch, reason="no lietorch"))]
SCALES = [1e-9, 1e-4, 0.3, 0.49, 0.51, 2.0]


@pytest.fixture(params=["SO3", "SE3", "Sim3"])
def group(request, backend):
    return getattr(lie_groups(backend), request.param)


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def tangents(group, scale, n=50, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(n, group.manifold_dim, generator=generator, dtype=torch.float64).clamp(-1.2, 1.2)


def generator_matrix(a):
    """4x4 generator of a tangent [phi], [tau, phi] or [tau, phi, sigma]."""
    d = a.shape[-1]
    phi = a[..., :3] if d == 3 else a[..., 3:6]
    M = torch.zeros(*a.shape[:-1], 4, 4, dtype=a.dtype)
    M[..., :3, :3] = skew(phi)
    if d > 3:
        M[..., :3, 3] = a[..., :3]
    if d == 7:
        M[..., :3, :3] += a[..., 6, None, None] * torch.eye(3, dtype=a.dtype)
    return M


@pytest.mark.parametrize("scale", SCALES)
def test_exp_is_the_matrix_exponential(group, scale):
    a = tangents(group, scale)
    torch.testing.assert_close(group.exp(a).matrix(), torch.linalg.matrix_exp(generator_matrix(a)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", SCALES)
def test_log_inverts_exp(group, scale):
    a = tangents(group, scale) * (0.9 if scale > 1 else 1.0)
    phi = a[..., :3] if group.manifold_dim == 3 else a[..., 3:6]
    a = a[phi.norm(dim=-1) < 3.1]
    torch.testing.assert_close(group.exp(a).log(), a, rtol=1e-10, atol=1e-12)


def test_inverse_and_product_follow_the_matrices(group):
    X, Y = group.exp(tangents(group, 0.8)), group.exp(tangents(group, 0.8, seed=1))
    torch.testing.assert_close((X * Y).matrix(), X.matrix() @ Y.matrix(), rtol=0, atol=1e-12)
    torch.testing.assert_close(X.inv().matrix(), torch.linalg.inv(X.matrix()), rtol=0, atol=1e-11)


def test_action_follows_the_matrix(group):
    X, p = group.exp(tangents(group, 0.8)), torch.randn(50, 3, dtype=torch.float64)
    homogeneous = torch.cat([p, torch.full((50, 1), 0.7, dtype=torch.float64)], -1)
    expected = (X.matrix() @ homogeneous[..., None]).squeeze(-1)
    torch.testing.assert_close(X.act(homogeneous), expected, rtol=0, atol=1e-12)
    ones = torch.cat([p, torch.ones(50, 1, dtype=torch.float64)], -1)
    torch.testing.assert_close(X * p, (X.matrix() @ ones[..., None])[:, :3, 0], rtol=0, atol=1e-12)


def test_adjoint_moves_a_tangent_across_an_element(group):
    X, a = group.exp(tangents(group, 0.8)), tangents(group, 0.3, seed=2)
    left, right = X * group.exp(a), group.exp(X.adj(a)) * X
    torch.testing.assert_close(left.matrix(), right.matrix(), rtol=0, atol=1e-11)
    b = tangents(group, 1.0, seed=3)
    torch.testing.assert_close((b * X.adj(a)).sum(-1), (X.adjT(b) * a).sum(-1), rtol=0, atol=1e-11)


def test_retraction_is_on_the_left(group):
    X, a = group.exp(tangents(group, 0.8)), tangents(group, 0.3, seed=2)
    torch.testing.assert_close(X.retr(a).matrix(), group.exp(a).matrix() @ X.matrix(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-6, 0.3, 0.6])
def test_gradients_agree_with_finite_differences(scale):
    for group in (SO3, SE3, lie_groups().Sim3):
        a = tangents(group, scale, n=2).requires_grad_()
        point = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
        assert torch.autograd.gradcheck(lambda t, g=group, p=point: g.exp(t).act(p), a)
        base = group.exp(tangents(group, 0.4, n=2, seed=9))
        assert torch.autograd.gradcheck(lambda t, g=group, b=base: (g.exp(t) * b).log(), a)


def test_float32_keeps_its_digits_at_every_angle():
    direction = torch.nn.functional.normalize(torch.tensor([0.3, -0.5, 0.8], dtype=torch.float64), dim=0)
    angles = torch.logspace(-7, 0.45, 200, dtype=torch.float64)[:, None]
    a = torch.cat([torch.ones(200, 3, dtype=torch.float64), angles * direction], -1)
    exact, single = SE3.exp(a).data, SE3.exp(a.float()).data.double()
    torch.testing.assert_close(single, exact, rtol=0, atol=5e-7)


def test_quaternion_survives_half_turns():
    for axis in torch.eye(3, dtype=torch.float64):
        R = torch.linalg.matrix_exp(skew(axis * 3.14159))
        torch.testing.assert_close(quaternion_to_matrix(quaternion_from_matrix(R)), R, rtol=0, atol=1e-12)


def test_identity_indexing_and_shape_errors():
    X = SE3.Identity(4, 2, dtype=torch.float64)
    assert X.shape == (4, 2) and X[1].shape == (2,) and X[:, 0].shape == (4,)
    assert X.log().abs().max() == 0
    with pytest.raises(ValueError, match="not 7"):
        SE3(torch.zeros(3, 6))
    with pytest.raises(ValueError, match="unknown Lie group backend"):
        lie_groups("numpy")
