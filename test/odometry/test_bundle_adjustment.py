"""Projection and bundle adjustment against straightforward float64 implementations and finite differences."""

import numpy as np
import pytest
import torch
from odometry_graphs import HEIGHT, WIDTH, Graph, random_graph

from robust_loc.geometry.lie import SE3
from robust_loc.odometry import bundle_adjustment as ba
from robust_loc.odometry.bundle_adjustment import Damping, bundle_adjust
from robust_loc.odometry.projective import flow_magnitude, linearize, reproject

SIZE = (HEIGHT, WIDTH)


def project_one(T_i, T_j, x, y, d, K_i, K_j, rotate=True):
    """One pixel through two 4x4 matrices."""
    G = T_j @ np.linalg.inv(T_i)
    R = G[:3, :3] if rotate else np.eye(3)
    point = R @ [(x - K_i[2]) / K_i[0], (y - K_i[3]) / K_i[1], 1.0] + G[:3, 3] * d
    z = max(point[2], 0.1)
    return np.array([K_j[0] * point[0] / z + K_j[2], K_j[1] * point[1] / z + K_j[3]]), point[2]


def test_reprojection_agrees_with_matrices() -> None:
    g = random_graph(1)
    T, K, P = g.poses.matrix().numpy(), g.intrinsics.numpy(), g.patches.numpy()
    found = reproject(g.poses, g.patches, g.intrinsics, *g.edges)
    flow = flow_magnitude(g.poses, g.patches, g.intrinsics, *g.edges, beta=0.3)
    for e, (i, j, k) in enumerate(zip(*(t.tolist() for t in g.edges))):
        for r in range(3):
            for c in range(3):
                x, y, d = P[k, :, r, c]
                pixel, depth = project_one(T[i], T[j], x, y, d, K[i], K[j])
                shifted, _ = project_one(T[i], T[j], x, y, d, K[i], K[j], rotate=False)
                np.testing.assert_allclose(found.coords[e, r, c], pixel, atol=1e-10)
                expected = 0.3 * np.hypot(*(pixel - [x, y])) + 0.7 * np.hypot(*(shifted - [x, y]))
                assert abs(float(flow[e, r, c]) - expected) < 1e-10
        assert bool(found.valid[e]) == bool(found.depth[e, 1, 1] > 0.2)


def test_points_behind_the_camera_are_invalid_and_finite() -> None:
    g = random_graph(2)
    back = SE3.exp(torch.tensor([[0, 0, 0, 0, 3.1, 0.0]], dtype=torch.float64))
    poses = SE3(torch.cat([g.poses.data[:1], back.data, g.poses.data[2:]]))
    found = reproject(poses, g.patches, g.intrinsics, *g.edges)
    behind = (g.ii == 0) & (g.jj == 1)
    assert not found.valid[behind].any() and torch.isfinite(found.coords).all()


def test_jacobians_agree_with_automatic_differentiation() -> None:
    g = random_graph(3)

    def centres(xi: torch.Tensor, dz: torch.Tensor) -> torch.Tensor:
        patches = g.patches.clone()
        patches[:, 2] = patches[:, 2] + dz[:, None, None]
        return reproject(g.poses.retr(xi), patches, g.intrinsics, *g.edges).coords[:, 1, 1]

    zeros = torch.zeros(4, 6, dtype=torch.float64), torch.zeros(len(g.patches), dtype=torch.float64)
    J_pose, J_depth = torch.autograd.functional.jacobian(centres, zeros)
    edge = linearize(g.poses, g.patches, g.intrinsics, *g.edges)
    for e, (i, j, k) in enumerate(zip(*(t.tolist() for t in g.edges))):
        expected_i, expected_j = J_pose[e, :, i], J_pose[e, :, j]
        if i == j:
            torch.testing.assert_close(edge.J_i[e] + edge.J_j[e], expected_i, atol=1e-9, rtol=0)
        else:
            torch.testing.assert_close(edge.J_i[e], expected_i, atol=1e-9, rtol=1e-9)
            torch.testing.assert_close(edge.J_j[e], expected_j, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(edge.J_z[e], J_depth[e, :, k], atol=1e-9, rtol=1e-9)


def gauss_newton(g: Graph, damping: Damping, fixed: int, iterations: int) -> tuple[SE3, torch.Tensor]:
    """The full system over poses and depths, by automatic differentiation, without Schur complement.

    The damping of the reduced system is written as damping of its pose block.
    """
    poses, depth = g.poses, g.patches[:, 2, 1, 1].clone()
    n, m = len(poses.data), len(depth)
    for _ in range(iterations):

        def pixels(xi: torch.Tensor, dz: torch.Tensor, poses=poses, depth=depth) -> torch.Tensor:
            full = torch.cat([torch.zeros(fixed, 6, dtype=torch.float64), xi])
            patches = g.patches.clone()
            patches[:, 2] = (depth + dz)[:, None, None]
            return reproject(poses.retr(full), patches, g.intrinsics, *g.edges).coords[:, 1, 1]

        zeros = torch.zeros(n - fixed, 6, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
        u = pixels(*zeros)
        J = torch.cat([part.flatten(2) for part in torch.autograd.functional.jacobian(pixels, zeros)], -1)
        patches = g.patches.clone()
        patches[:, 2] = depth[:, None, None]
        z = reproject(poses, patches, g.intrinsics, *g.edges).depth[:, 1, 1]
        r = g.target - u
        used = (z > 0.2) & (r.norm(dim=-1) < damping.largest_residual)
        used &= ((u > -damping.margin) & (u < torch.tensor([WIDTH, HEIGHT]) + damping.margin)).all(-1)
        W = (g.weight * used[:, None]).reshape(-1)
        A, b = J.reshape(-1, J.shape[-1]), r.reshape(-1)
        H, rhs = A.T @ (W[:, None] * A), A.T @ (W * b)
        p = 6 * (n - fixed)
        H[p:, p:] += damping.depth * torch.eye(m, dtype=torch.float64)
        S = H[:p, :p] - H[:p, p:] @ torch.linalg.inv(H[p:, p:]) @ H[p:, :p]
        H[:p, :p] += torch.diag(damping.pose + damping.relative * S.diagonal())
        step = torch.linalg.solve(H, rhs)
        poses = poses.retr(torch.cat([torch.zeros(6 * fixed, dtype=torch.float64), step[:p]]).reshape(n, 6))
        depth = (depth + step[p:]).clamp(*damping.depth_range)
    return poses, depth


@pytest.mark.parametrize("clip", [None, torch.tensor([0, 0, 1, 1])])
def test_compiled_normal_equations_agree_with_the_differentiable_ones(clip) -> None:
    g = random_graph(9, per_frame=6)
    g.target[5] += 500.0
    g.poses.data[3] = SE3.exp(torch.tensor([0, 0, 0, 0, 3.1, 0.0], dtype=torch.float64)).data  # looks backwards
    keep = torch.ones(len(g.ii), dtype=torch.bool) if clip is None else clip[g.ii] == clip[g.jj]
    edges = [t[keep] for t in (g.target, g.weight, *g.edges)]
    layout = ba.Layout.of(4, edges[2], edges[4], clip, torch.tensor([False, True, clip is None, True]))
    inputs = (g.patches, g.intrinsics, *edges, SIZE, layout, ba.INFERENCE)
    expected = ba._differentiable_normal_equations(g.poses, *inputs)
    found = ba._compiled_normal_equations(g.poses.data, *inputs)
    assert expected.used.sum() < len(edges[0])
    for name in ("B", "E", "C", "g", "q", "cost"):
        scale = float(getattr(expected, name).abs().max())
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-10, atol=1e-11 * scale)
    assert torch.equal(found.used, expected.used)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("fixed", [1, 2])
@pytest.mark.parametrize("differentiable", [False, True])
def test_step_agrees_with_the_full_system(seed: int, fixed: int, differentiable: bool) -> None:
    g = random_graph(seed, noise=1.0)
    g.target[3] += 400.0  # beyond the largest residual: left out
    weight = g.weight.requires_grad_(differentiable)
    poses, patches = bundle_adjust(
        g.poses, g.patches, g.intrinsics, g.target, weight, *g.edges, image_size=SIZE, fixed=fixed
    )
    poses, patches, g.weight = poses.detach(), patches.detach(), weight.detach()
    expected, depth = gauss_newton(g, ba.TRAINING, fixed, iterations=2)
    torch.testing.assert_close(poses.matrix(), expected.matrix(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(patches[:, 2, 1, 1], depth, rtol=1e-9, atol=1e-9)
    assert (patches[:, 2] == patches[:, 2, :1, :1]).all()
    assert torch.equal(poses.data[:fixed], g.poses.data[:fixed]) or torch.allclose(
        poses.data[:fixed], g.poses.data[:fixed], atol=1e-15
    )


def test_lightly_damped_iterations_reach_the_true_geometry() -> None:
    """Noiseless targets: starting elsewhere, poses and depths are found up to scale."""
    g = random_graph(5, frames=5, per_frame=20, noise=0.0)
    start = g.poses.retr(0.02 * torch.randn(5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))
    start.data[0] = g.poses.data[0]
    light = Damping(pose=1e-6, relative=1e-8, depth=1e-9)
    poses, _ = bundle_adjust(
        start, g.patches, g.intrinsics, g.target, g.weight, *g.edges, image_size=SIZE, iterations=30, damping=light
    )
    relative, truth = (p * p[0].inv() for p in (poses, g.poses))
    scale = truth.data[:, :3].norm() / relative.data[:, :3].norm()
    torch.testing.assert_close(relative.data[:, :3] * scale, truth.data[:, :3], atol=1e-5, rtol=0)
    torch.testing.assert_close(relative.data[:, 3:], truth.data[:, 3:], atol=1e-6, rtol=0)


def test_gradients_agree_with_finite_differences() -> None:
    g = random_graph(4, frames=3, per_frame=3)

    def adjust(T: torch.Tensor, d: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        patches = torch.cat([g.patches[:, :2], d[:, None, None, None].expand(-1, 1, 3, 3)], 1)
        poses = SE3(g.poses.data).retr(T)
        poses, patches = bundle_adjust(poses, patches, g.intrinsics, target, weight, *g.edges, image_size=SIZE)
        return torch.cat([poses.log().flatten(), patches[:, 2, 1, 1]])

    inputs = (torch.zeros(3, 6, dtype=torch.float64), g.patches[:, 2, 1, 1].clone(), g.target, g.weight)
    assert torch.autograd.gradcheck(adjust, tuple(t.clone().requires_grad_() for t in inputs), atol=1e-6)


def test_clips_in_one_edge_list_are_adjusted_as_if_alone() -> None:
    graphs = [random_graph(1, frames=3, per_frame=4), random_graph(2, frames=5, per_frame=4)]
    alone = [
        bundle_adjust(g.poses, g.patches, g.intrinsics, g.target, g.weight, *g.edges, image_size=SIZE) for g in graphs
    ]
    poses = SE3(torch.cat([g.poses.data for g in graphs]))
    ii, jj = (torch.cat([getattr(graphs[0], n), getattr(graphs[1], n) + 3]) for n in ("ii", "jj"))
    kk = torch.cat([graphs[0].kk, graphs[1].kk + 12])
    patches, K, target, weight = (
        torch.cat([getattr(g, n) for g in graphs]) for n in ("patches", "intrinsics", "target", "weight")
    )
    shuffle = torch.randperm(len(ii), generator=torch.Generator().manual_seed(0))
    together = bundle_adjust(
        poses,
        patches,
        K,
        target[shuffle],
        weight[shuffle],
        ii[shuffle],
        jj[shuffle],
        kk[shuffle],
        image_size=SIZE,
        clip=torch.tensor([0, 0, 0, 1, 1, 1, 1, 1]),
    )
    torch.testing.assert_close(together[0].data, torch.cat([a[0].data for a in alone]), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(together[1], torch.cat([a[1] for a in alone]), rtol=1e-9, atol=1e-12)


def test_structure_only_moves_depths_alone() -> None:
    g = random_graph(6)
    poses, patches = bundle_adjust(
        g.poses, g.patches, g.intrinsics, g.target, g.weight, *g.edges, image_size=SIZE, structure_only=True
    )
    assert torch.equal(poses.data, g.poses.data)
    assert not torch.allclose(patches[:, 2], g.patches[:, 2])


def test_failed_factorisation_gives_no_step_and_no_gradient() -> None:
    S = torch.stack([2 * torch.eye(6), torch.eye(6)]).double()
    S[1, 2, 2] = -1.0
    S.requires_grad_()
    y = torch.ones(2, 6, 1, dtype=torch.float64, requires_grad=True)
    x, solved = ba._CholeskySolve.apply(S, y)
    assert solved.tolist() == [True, False]
    torch.testing.assert_close(x[0], torch.full((6, 1), 0.5, dtype=torch.float64))
    assert (x[1] == 0).all()
    grad_S, grad_y = torch.autograd.grad(x.sum(), [S, y])
    assert (grad_S[1] == 0).all() and (grad_y[1] == 0).all()
    torch.testing.assert_close(grad_S[0], torch.full((6, 6), -0.25, dtype=torch.float64))


def test_frames_without_edges_stay() -> None:
    g = random_graph(7)
    extra = SE3.exp(0.1 * torch.ones(2, 6, dtype=torch.float64))
    poses = SE3(torch.cat([g.poses.data, extra.data]))
    K = torch.cat([g.intrinsics, g.intrinsics[:2]])
    moved, _ = bundle_adjust(poses, g.patches, K, g.target, g.weight, *g.edges, image_size=SIZE)
    torch.testing.assert_close(moved.data[4:], extra.data)
