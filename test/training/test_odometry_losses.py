"""The training forward pass and its gradients against an independent float64 implementation, edge by edge."""

from __future__ import annotations

import pytest
import torch

from robust_loc.geometry.lie import SE3
from robust_loc.losses.least_squares import weighted_least_squares_gradients
from robust_loc.odometry.bundle_adjustment import Damping, bundle_adjust
from robust_loc.odometry.network import FrameFeatures, PatchNetwork, PatchNetworkConfig
from robust_loc.odometry.patches import make_patches
from robust_loc.odometry.update import EdgeGroups
from robust_loc.training.odometry_data import ClipBatch, ClipConfig, ClipSampler
from robust_loc.training.odometry_losses import LossConfig, direct_terms, loss_terms, matching_loss
from robust_loc.training.odometry_unroll import Start, UnrollConfig, truth_of, unroll

N, M = 3, 2
IDENTITY = [0.0, 0, 0, 0, 0, 0, 1]


@pytest.fixture
def clip(sequences):
    batch = ClipSampler(sequences, ClipConfig(frames=N, height=64, width=96), None, seed=4).batch(1)
    return ClipBatch(batch.images, *(t.double() for t in batch[1:]))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return PatchNetwork(PatchNetworkConfig(hidden=16, features=8, width=4)).double()


def _se3(xi):
    """4x4 matrix of a tangent [tau, phi], by the matrix exponential."""
    x, y, z = xi[3:]
    o = torch.zeros_like(x)
    rows = [torch.stack([o, -z, y, xi[0]]), torch.stack([z, o, -x, xi[1]]), torch.stack([-y, x, o, xi[2]])]
    return torch.linalg.matrix_exp(torch.stack([*rows, torch.zeros(4, dtype=xi.dtype)]))


def _pixel(T_i, T_j, x, y, d, K):
    """One pixel of frame i at inverse depth d, in frame j, and its (homogeneous) depth."""
    fx, fy, cx, cy = K
    ray = torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(d), d])
    X, Y, Z, _ = T_j @ torch.linalg.inv(T_i) @ ray
    return torch.stack([fx * X / Z + cx, fy * Y / Z + cy]), Z


def _adjust(T, d, centres, K, edges, target, weight, size):
    """Two Gauss-Newton steps on the full dense system; Jacobians by automatic differentiation."""
    for _ in range(2):
        old_T, old_d = T, d

        def positions(v, old_T=old_T, old_d=old_d):
            moved = [old_T[0]] + [_se3(v[6 * n : 6 * n + 6]) @ old_T[n + 1] for n in range(N - 1)]
            depth = old_d + v[6 * (N - 1) :]
            uv = [_pixel(moved[i], moved[j], *centres[k], depth[k], K)[0] for i, j, k in edges]
            return torch.stack(uv).reshape(-1)

        zero = torch.zeros(6 * (N - 1) + N * M, dtype=torch.float64)
        J = torch.autograd.functional.jacobian(positions, zero, create_graph=True)
        u = positions(zero).reshape(-1, 2)
        r = target - u
        used = []
        for e, (i, j, k) in enumerate(edges):
            Z = _pixel(T[i], T[j], *centres[k], d[k], K)[1]
            inside = (-64 < u[e, 0] < size[1] + 64) and (-64 < u[e, 1] < size[0] + 64)
            used.append(bool(Z > 0.2 and r[e].norm() < 250 and inside))
        w = weight * torch.tensor(used)[:, None]
        H = J.T @ (w.reshape(-1, 1) * J)
        b = J.T @ (w * r).reshape(-1)
        p = 6 * (N - 1)
        C = torch.diagonal(H)[p:] + 1e-4
        S = H[:p, :p] - H[:p, p:] @ torch.diag(1 / C) @ H[p:, :p]
        H = H + torch.block_diag(torch.diag(10 + 1e-4 * torch.diagonal(S)), 1e-4 * torch.eye(N * M).double())
        step = torch.linalg.solve(H, b)
        T = [T[0]] + [_se3(step[6 * n : 6 * n + 6]) @ T[n + 1] for n in range(N - 1)]
        d = (d + step[p:]).clamp(1e-3, 10)
    return T, d


def _log_norms(E):
    """|tau|, |phi| of a 4x4 transform, by series for V^-1 at the rotation angle."""
    cos = (torch.trace(E[:3, :3]) - 1) / 2
    axis = torch.stack([E[2, 1] - E[1, 2], E[0, 2] - E[2, 0], E[1, 0] - E[0, 1]]) / 2
    theta = torch.atan2(axis.norm(), cos)
    phi = axis * theta / axis.norm()
    x, y, z = phi
    o = torch.zeros_like(x)
    P = torch.stack([torch.stack([o, -z, y]), torch.stack([z, o, -x]), torch.stack([-y, x, o])])
    V = torch.eye(3).double() + (1 - theta.cos()) / theta**2 * P + (theta - theta.sin()) / theta**3 * P @ P
    return torch.linalg.solve(V, E[:3, 3]).norm(), theta


def _reference(network, clip, depths, centres, steps, form, span):
    """(sum of flow losses, of translation errors, of rotation errors) from loops over edges and pixels."""
    features = network.extract(clip.images[0], M, centres=centres)
    K = clip.intrinsics[0, 0]
    size = clip.inverse_depth.shape[-2:]
    edges = [(i, j, i * M + p) for i in range(N) for p in range(M) for j in range(N)]
    ii, jj, kk = torch.tensor(edges).unbind(1)
    flat = centres.reshape(-1, 2)
    G = list(SE3(clip.poses[0]).matrix())
    T, d = [torch.eye(4).double() for _ in range(N)], depths
    hidden = torch.zeros(len(edges), 16, dtype=torch.float64)
    flow, translation, rotation = [], [], []
    offsets = [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)]  # row, column
    for s in range(steps):
        T, d = [t.detach() for t in T], d.detach()
        before = torch.stack([
            torch.stack([_pixel(T[i], T[j], flat[k, 0] + b, flat[k, 1] + a, d[k], K)[0] for a, b in offsets])
            for i, j, k in edges
        ]).reshape(-1, 3, 3, 2).detach()  # fmt: skip
        hidden, delta, weight = network.revise(hidden, features, before, ii, jj, kk, groups=EdgeGroups.of(ii, jj, kk))
        T, d = _adjust(T, d, flat, K, edges, before[:, 1, 1] + delta, weight, size)
        errors = []
        for e, (i, j, k) in enumerate(edges):
            if span and not 0 < abs(i - j) <= span:
                continue
            x, y = flat[k].long().tolist()
            if not _pixel(G[i], G[j], *flat[k], clip.inverse_depth[0, i, y, x], K)[1] > 0.2:
                continue
            w = weight[e].detach() if form == "linear" else torch.ones(2).double()
            pixels = []
            for a, b in offsets:
                u = _pixel(T[i], T[j], flat[k, 0] + b, flat[k, 1] + a, d[k], K)[0]
                true_depth = clip.inverse_depth[0, i, y + a, x + b]
                v = _pixel(G[i], G[j], flat[k, 0] + b, flat[k, 1] + a, true_depth, K)[0]
                pixels.append((w * (u - v)).norm())
            errors.append(torch.stack(pixels).min())
        flow.append(torch.stack(errors).mean())
        if s >= 1:
            P, Q = [torch.linalg.inv(t) for t in T], [torch.linalg.inv(g) for g in G]
            p, q = torch.stack([t[:3, 3] for t in P]), torch.stack([t[:3, 3] for t in Q])
            H = (q - q.mean(0)).T @ (p - p.mean(0)) / N
            c = min(float((q - q.mean(0)).square().sum(1).mean() / torch.linalg.svdvals(H.detach()).sum()), 10.0)
            scaled = []
            for t in P:
                t = t.clone()
                t[:3, 3] = t[:3, 3] * c
                scaled.append(t)
            pairs = [(i, j) for i in range(N) for j in range(N) if i != j]
            inverse = torch.linalg.inv
            norms = [_log_norms(inverse(scaled[i]) @ scaled[j] @ inverse(inverse(Q[i]) @ Q[j])) for i, j in pairs]
            translation.append(torch.stack([n[0] for n in norms]).mean())
            rotation.append(torch.stack([n[1] for n in norms]).mean())
    return sum(flow), sum(translation), sum(rotation)


@pytest.mark.parametrize(("form", "span"), [("none", 2), ("linear", 0)], ids=["plain (DPVO)", "weighted (V2V)"])
def test_both_losses_and_their_gradients_agree_with_an_independent_implementation(network, clip, form, span):
    generator = torch.Generator().manual_seed(3)
    depths = 0.3 + 0.7 * torch.rand(N * M, generator=generator, dtype=torch.float64)
    poses = torch.tensor(IDENTITY, dtype=torch.float64).repeat(N, 1)
    config = LossConfig(weighting=form, flow_span=span, pose_from=1)
    steps = list(
        unroll(
            network, clip, UnrollConfig(steps=2, first=N, patches=M, backward_fraction=1.0), generator,
            start=lambda *_: Start(poses, depths),
        )
    )  # fmt: skip
    terms = loss_terms(steps, config)
    total = 0.1 * terms.flow + 10 * (terms.translation + terms.rotation)
    parameters = dict(network.named_parameters())
    names = [n for n in parameters if not n.endswith(("norm1", "norm2"))]
    gradient = torch.autograd.grad(total, [parameters[n] for n in names])

    flow, translation, rotation = _reference(network, clip, depths, steps[0].features.centres, 2, form, span)
    assert float(terms.flow) == pytest.approx(float(flow), rel=1e-6)
    assert float(terms.translation) == pytest.approx(float(translation), rel=1e-6)
    assert float(terms.rotation) == pytest.approx(float(rotation), rel=1e-6)
    reference = torch.autograd.grad(
        0.1 * flow + 10 * (translation + rotation), [parameters[n] for n in names], allow_unused=True
    )
    scale = max(float(r.abs().max()) for r in reference if r is not None)
    for name, a, b in zip(names, gradient, reference):
        assert b is not None, name
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7 * scale, msg=lambda m, name=name: f"{name}: {m}")


def test_gradients_through_the_bundle_adjustment_are_those_of_weighted_least_squares():
    """Equations 6a and 6b against autograd through the layer and against finite differences.

    One frame moves before points of known depth: without damping the layer is a weighted least-squares problem.
    """
    g = torch.Generator().manual_seed(0)
    m = 12
    centres = torch.stack([torch.randint(4, 28, (m,), generator=g), torch.randint(4, 20, (m,), generator=g)], -1)
    depth = 0.4 + torch.rand(m, generator=g, dtype=torch.float64)
    patches = make_patches(centres[None].double(), depth)
    K = torch.tensor([[30.0, 30, 16, 12]], dtype=torch.float64).repeat(2, 1)
    poses = SE3(torch.tensor([IDENTITY, IDENTITY], dtype=torch.float64))
    ii, jj, kk = torch.zeros(m, dtype=torch.long), torch.ones(m, dtype=torch.long), torch.arange(m)
    # depths are held by an enormous damping of their own
    damping = Damping(pose=0.0, relative=0.0, depth=1e15)
    weight = (0.1 + torch.rand(m, 2, generator=g, dtype=torch.float64)).requires_grad_()
    target = (centres.double() + torch.randn(m, 2, generator=g, dtype=torch.float64)).requires_grad_()
    direction = torch.randn(7, generator=g, dtype=torch.float64)

    def solution(target, weight):
        moved, _ = bundle_adjust(
            poses, patches, K, target, weight, ii, jj, kk, image_size=(24, 32), iterations=1, damping=damping
        )
        return moved.data[1]

    loss = lambda t, w: solution(t, w) @ direction  # noqa: E731
    assert torch.autograd.gradcheck(loss, (target, weight), atol=1e-6, rtol=1e-4)
    grad_target, grad_weight = torch.autograd.grad(loss(target, weight), (target, weight))

    from robust_loc.odometry.projective import linearize

    with torch.no_grad():
        edge = linearize(poses, patches, K, ii, jj, kk)
        J = edge.J_j.reshape(-1, 6)
        r = (target - edge.pixel).reshape(-1)
        x = torch.linalg.solve(J.T @ (weight.reshape(-1, 1) * J), J.T @ (weight.reshape(-1) * r))
    x = x.requires_grad_()
    (grad_x,) = torch.autograd.grad(SE3.exp(x).data @ direction, x)
    closed_r, closed_w = weighted_least_squares_gradients(J, weight.detach().reshape(-1), r, grad_x)
    torch.testing.assert_close(grad_target.reshape(-1), closed_r, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(grad_weight.reshape(-1), closed_w, rtol=1e-6, atol=1e-9)


def test_weight_of_least_likelihood_loss_is_the_precision_of_the_residual():
    residual = torch.tensor([[0.05, 0.5], [1.0, 4.0]])
    weight = torch.full((2, 2), 0.3).logit().requires_grad_()
    optimizer = torch.optim.Adam([weight], lr=0.2)
    for _ in range(400):
        optimizer.zero_grad()
        direct_terms(residual, weight.sigmoid(), torch.zeros(2, 2), torch.ones(2, dtype=torch.bool), 0.1)[1].backward()
        optimizer.step()
    expected = (0.1**2 / residual**2).clamp(max=1.0)
    torch.testing.assert_close(weight.sigmoid().detach(), expected, rtol=0.05, atol=0.02)


def test_matching_loss_is_small_only_where_features_name_their_place(sequences):
    """A camera that stands still before pixels with a code each: right codes match, shifted ones do not."""
    batch = ClipSampler(sequences, ClipConfig(frames=3, height=64, width=96), None, seed=4).batch(1)
    still = batch._replace(poses=torch.tensor(IDENTITY).repeat(1, 3, 1), inverse_depth=torch.ones(1, 3, 16, 24))
    centres = torch.stack(torch.meshgrid(torch.arange(2.0, 20), torch.arange(2.0, 14), indexing="xy"), -1)
    centres = centres.reshape(1, -1, 2).expand(3, -1, -1)
    truth = truth_of(still, centres)

    def loss(shift):
        codes = 6 * torch.eye(16 * 24).reshape(16, 24, -1)
        fine = torch.stack([codes, codes.roll(shift, 1), codes.roll(2 * shift, 1)])
        coarse = torch.nn.functional.avg_pool2d(fine.permute(0, 3, 1, 2), 4, 4).permute(0, 2, 3, 1)
        x, y = centres.long().unbind(-1)
        gmap = torch.stack([fine[f, y[f], x[f]] for f in range(3)]).flatten(0, 1)
        features = FrameFeatures(centres, gmap[:, None, None].expand(-1, 3, 3, -1), gmap, (fine, coarse))
        return float(matching_loss(features, truth, 3, torch.Generator().manual_seed(1)))

    assert loss(0) < 0.3 * loss(3)
