"""The differentiable bundle-adjustment layer: weighted Gauss-Newton over poses and inverse depths (DPVO, equation 5).

    minimise  sum over edges  || target - u(T, d) ||^2_W ,   W = diag(weight)

with the depths eliminated by the Schur complement. Several clips may share one flat edge list: the reduced systems
of all clips are solved as one batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from robust_loc.geometry.lie import SE3, SO3
from robust_loc.odometry.patches import with_inverse_depth
from robust_loc.odometry.projective import CENTRE, VISIBLE, linearize


@dataclass(frozen=True)
class Damping:
    """Damping and limits of one bundle adjustment.

    Attributes:
        pose: absolute damping of the reduced pose system; relative: its damping relative to the diagonal.
        depth: damping of the inverse depths.
        largest_residual: edges with a longer residual are left out (quarter-resolution pixels).
        margin: edges reprojected further than this outside the image are left out.
        depth_range: inverse depths are clamped to it.
        reset_above: an inverse depth that grows beyond this starts again at 1.
    """

    pose: float = 10.0
    relative: float = 1e-4
    depth: float = 1e-4
    largest_residual: float = 250.0
    margin: float = 64.0
    depth_range: tuple[float, float] = (1e-3, 10.0)
    reset_above: float = float("inf")


TRAINING = Damping()
INFERENCE = Damping(pose=1.0, largest_residual=128.0, depth_range=(1e-4, 20.0), reset_above=20.0)


class NormalEquations(NamedTuple):
    """``[[B, E], [E^T, C]] [dx, dz] = [g, q]`` for each of ``c`` clips with ``N`` free poses and ``m`` patches.

    Attributes:
        B: [c, 6N, 6N]; E: [c, 6N, m]; C: [c, m] (diagonal); g: [c, 6N]; q: [c, m]. Unused rows are zero.
        used: [E] edges that took part.
        cost: [c] weighted squared residuals of the edges between different frames.
    """

    B: Tensor
    E: Tensor
    C: Tensor
    g: Tensor
    q: Tensor
    used: Tensor
    cost: Tensor


class Layout(NamedTuple):
    """Where each frame and each patch sits in the normal equations; computed once per graph.

    Attributes:
        clips: number of clips; poses: free poses per clip; patches: patches per clip (the largest number).
        pose: [n] slot of each frame in [0, clips * poses), -1 for a fixed one.
        clip: [n] clip of each frame.
        touched: [m'] patches with edges; slot: [m'] their place in [0, clips * patches).
        edge_patch: [E] index of each edge's patch in ``touched``.
    """

    clips: int
    poses: int
    patches: int
    pose: Tensor
    clip: Tensor
    touched: Tensor
    slot: Tensor
    edge_patch: Tensor

    @classmethod
    def of(cls, frames: int, ii: Tensor, kk: Tensor, clip: Tensor | None, free: Tensor) -> Layout:
        device = ii.device
        clip = torch.zeros(frames, dtype=torch.long, device=device) if clip is None else clip
        clips = int(clip.max()) + 1
        rank = _rank_within(clip, clips, free)
        poses = int(rank[free].max()) + 1 if bool(free.any()) else 0
        pose = torch.where(free, clip * poses + rank, -1)
        touched, edge_patch = torch.unique(kk, return_inverse=True)
        owner = torch.zeros_like(touched).index_copy(0, edge_patch, clip[ii])
        patch_rank = _rank_within(owner, clips, torch.ones_like(owner, dtype=torch.bool))
        patches = int(patch_rank.max()) + 1 if len(touched) else 0
        return cls(clips, poses, patches, pose, clip, touched, owner * patches + patch_rank, edge_patch)


def _rank_within(group: Tensor, groups: int, counted: Tensor) -> Tensor:
    """How many counted entries of the same group precede each entry."""
    member = (group[:, None] == torch.arange(groups, device=group.device)) & counted[:, None]
    before = member.long().cumsum(0) - member.long()
    return before.gather(1, group[:, None]).squeeze(1)


def normal_equations(
    poses: SE3,
    patches: Tensor,
    intrinsics: Tensor,
    target: Tensor,
    weight: Tensor,
    ii: Tensor,
    jj: Tensor,
    kk: Tensor,
    *,
    image_size: tuple[int, int],
    layout: Layout,
    damping: Damping = TRAINING,
) -> NormalEquations:
    """Linearise all edges and accumulate; arguments as in :func:`bundle_adjust`.

    On the CPU without gradients a compiled kernel does it.
    """
    floating = (poses.data, patches, intrinsics, target, weight)
    if ii.device.type == "cpu" and not (torch.is_grad_enabled() and any(x.requires_grad for x in floating)):
        return _compiled_normal_equations(*floating, ii, jj, kk, image_size, layout, damping)
    return _differentiable_normal_equations(poses, *floating[1:], ii, jj, kk, image_size, layout, damping)


def _compiled_normal_equations(
    poses: Tensor,
    patches: Tensor,
    intrinsics: Tensor,
    target: Tensor,
    weight: Tensor,
    ii: Tensor,
    jj: Tensor,
    kk: Tensor,
    image_size: tuple[int, int],
    layout: Layout,
    damping: Damping,
) -> NormalEquations:
    from robust_loc.odometry.adjustment_kernel import accumulate

    def array(x: Tensor) -> np.ndarray:
        return (x.double() if x.is_floating_point() else x).detach().contiguous().numpy()

    N, clips, m = layout.poses, layout.clips, layout.patches
    B, E, C = np.zeros((clips, 6 * N, 6 * N)), np.zeros((clips * m, 6 * N)), np.zeros(clips * m)
    g, q, used = np.zeros((clips, 6 * N)), np.zeros(clips * m), np.zeros(len(ii), np.bool_)
    cost = np.zeros(clips)
    rotation = array(SO3(poses[:, 3:].double()).rotation_matrix())
    edges = (array(ii), array(jj), array(kk), array(layout.slot[layout.edge_patch]), array(layout.pose))
    measured = (array(patches[:, :, CENTRE, CENTRE]), array(target), array(weight))
    limits = (np.asarray(image_size, np.float64), VISIBLE, damping.largest_residual, damping.margin)
    accumulate(
        rotation, array(poses[:, :3]), array(intrinsics), *measured, *edges, array(layout.clip), N, *limits,
        B, E, C, g, q, used, cost,
    )  # fmt: skip
    outputs = (
        B,
        E.reshape(clips, m, 6 * N).transpose(0, 2, 1),
        C.reshape(clips, m),
        g,
        q.reshape(clips, m),
        used,
        cost,
    )
    return NormalEquations(*(torch.from_numpy(x) for x in outputs))


def _differentiable_normal_equations(
    poses: SE3,
    patches: Tensor,
    intrinsics: Tensor,
    target: Tensor,
    weight: Tensor,
    ii: Tensor,
    jj: Tensor,
    kk: Tensor,
    image_size: tuple[int, int],
    layout: Layout,
    damping: Damping,
) -> NormalEquations:
    edge = linearize(poses, patches, intrinsics, ii, jj, kk)
    residual = target - edge.pixel
    h, w = image_size
    u, v = edge.pixel.unbind(-1)
    m = damping.margin
    used = (edge.depth > VISIBLE) & (residual.norm(dim=-1) < damping.largest_residual)
    used &= (u > -m) & (v > -m) & (u < w + m) & (v < h + m)
    W = torch.where(used[:, None], weight, torch.zeros_like(weight))
    residual = torch.where(used[:, None], residual, torch.zeros_like(residual))

    N, count, m_count = layout.poses, layout.clips, layout.patches
    J = torch.stack([edge.J_i, edge.J_j], 1)  # [E, 2 (i, j), 2, 6]
    WJ = J * W[:, None, :, None]
    slot = torch.stack([layout.pose[ii], layout.pose[jj]], 1)  # [E, 2]
    free = slot >= 0
    clip = layout.clip[ii]
    local = slot - (clip * N)[:, None]

    # One spare row takes what belongs to fixed poses.
    blocks = torch.einsum("eakx,ebky->eabxy", WJ, J)
    index = torch.where(free[:, :, None] & free[:, None, :], slot[:, :, None] * N + local[:, None, :], count * N * N)
    B = _accumulate(count * N * N, index.reshape(-1), blocks.reshape(-1, 6, 6))
    B = B.reshape(count, N, N, 6, 6).transpose(2, 3).reshape(count, 6 * N, 6 * N)

    place = layout.slot[layout.edge_patch]
    coupling = torch.einsum("eakx,ek->eax", WJ, edge.J_z)
    index = torch.where(free, place[:, None] * N + local, count * m_count * N)
    E = _accumulate(count * m_count * N, index.reshape(-1), coupling.reshape(-1, 6))
    E = E.reshape(count, m_count, 6 * N).transpose(1, 2)

    gradient = torch.einsum("eakx,ek->eax", WJ, residual)
    index = torch.where(free, slot, count * N)
    g = _accumulate(count * N, index.reshape(-1), gradient.reshape(-1, 6)).reshape(count, 6 * N)

    C = _accumulate(count * m_count, place, (W * edge.J_z * edge.J_z).sum(-1)).reshape(count, m_count)
    q = _accumulate(count * m_count, place, (W * edge.J_z * residual).sum(-1)).reshape(count, m_count)
    squared = torch.where(ii == jj, 0.0, (W * residual * residual).sum(-1))
    return NormalEquations(B, E, C, g, q, used, _accumulate(count, clip, squared))


def _accumulate(rows: int, index: Tensor, values: Tensor) -> Tensor:
    """Sum ``values`` into ``rows`` rows; the index ``rows`` is dropped."""
    return values.new_zeros(rows + 1, *values.shape[1:]).index_add(0, index, values)[:rows]


class _CholeskySolve(torch.autograd.Function):
    """``S^-1 y`` per batch entry; zero, without gradient, where ``S`` is not positive definite."""

    @staticmethod
    def forward(ctx: Any, S: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        L, info = torch.linalg.cholesky_ex(S)
        good = (info == 0)[:, None, None]
        L = torch.where(good, L, torch.eye(S.shape[-1], dtype=S.dtype, device=S.device))
        x = torch.where(good, torch.cholesky_solve(y, L), torch.zeros_like(y))
        ctx.save_for_backward(L, x, good)
        solved = good.flatten()
        ctx.mark_non_differentiable(solved)
        return x, solved

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        L, x, good = ctx.saved_tensors
        grad_y = torch.where(good, torch.cholesky_solve(gradient, L), torch.zeros_like(gradient))
        return -grad_y @ x.transpose(1, 2), grad_y


class Step(NamedTuple):
    """Attributes: dx [c, N, 6] of the free poses; dz [c, m] of the inverse depths; solved [c], False where dx is zero
    because the reduced system was not positive definite."""

    dx: Tensor
    dz: Tensor
    solved: Tensor


def solve(system: NormalEquations, damping: Damping = TRAINING) -> Step:
    """The damped Gauss-Newton step."""
    B, E, C, g, q, *_ = system
    Q = 1 / (C + damping.depth)
    if B.shape[-1] == 0:  # structure only
        solved = torch.ones(len(g), dtype=torch.bool, device=g.device)
        return Step(g.new_zeros(len(g), g.shape[1] // 6, 6), Q * q, solved)
    EQ = E * Q[:, None]
    S = B - EQ @ E.transpose(1, 2)
    S = S + torch.diag_embed(damping.pose + damping.relative * torch.diagonal(S, dim1=1, dim2=2))
    y = g[..., None] - EQ @ q[..., None]
    dx, solved = _CholeskySolve.apply(S, y)
    dz = Q * (q[..., None] - E.transpose(1, 2) @ dx).squeeze(-1)
    return Step(dx.reshape(len(g), -1, 6), dz, solved)


def bundle_adjust(
    poses: SE3,
    patches: Tensor,
    intrinsics: Tensor,
    target: Tensor,
    weight: Tensor,
    ii: Tensor,
    jj: Tensor,
    kk: Tensor,
    *,
    image_size: tuple[int, int],
    clip: Tensor | None = None,
    fixed: int = 1,
    iterations: int = 2,
    structure_only: bool = False,
    damping: Damping = TRAINING,
) -> tuple[SE3, Tensor]:
    """Gauss-Newton iterations, differentiable in every floating-point input; computed in float64.

    Args:
        poses: [n] ``cam_T_world``.
        patches: [K, 3, 3, 3].
        intrinsics: [n, 4] at quarter resolution.
        target: [E, 2] where each patch centre was found, quarter-resolution pixels.
        weight: [E, 2] per axis.
        ii, jj, kk: [E] source frame, target frame and patch of each edge.
        image_size: (height, width) at quarter resolution.
        clip: [n] index of each frame's clip, non-decreasing; None when all frames are one clip.
        fixed: the first ``fixed`` frames of each clip stay where they are.
        structure_only: only inverse depths move.

    Returns:
        Poses and patches of the input's dtype. A clip whose reduced system is not positive definite keeps its poses.
    """
    dtype = patches.dtype
    n = len(poses.data)
    index = clip if clip is not None else torch.zeros(n, dtype=torch.long, device=ii.device)
    everything = torch.ones(n, dtype=torch.bool, device=ii.device)
    free = _rank_within(index, int(index.max()) + 1, everything) >= (n if structure_only else fixed)
    layout = Layout.of(n, ii, kk, clip, free)
    moved, shape = poses.to(torch.float64), patches.to(torch.float64)
    K, target, weight = (t.to(torch.float64) for t in (intrinsics, target, weight))
    for _ in range(iterations):
        system = normal_equations(
            moved, shape, K, target, weight, ii, jj, kk, image_size=image_size, layout=layout, damping=damping
        )
        step = solve(system, damping)
        moved, shape = apply_step(moved, shape, step, layout, damping)
    return moved.to(dtype), shape.to(dtype)


def apply_step(poses: SE3, patches: Tensor, step: Step, layout: Layout, damping: Damping) -> tuple[SE3, Tensor]:
    """Retract the free poses by ``dx`` and move the touched inverse depths by ``dz``; all depths are clamped."""
    change = torch.zeros(len(patches), dtype=step.dz.dtype, device=step.dz.device)
    change = change.index_copy(0, layout.touched, step.dz.reshape(-1)[layout.slot])
    depth = patches[:, 2, CENTRE, CENTRE] + change
    depth = torch.where(depth > damping.reset_above, torch.ones_like(depth), depth).clamp(*damping.depth_range)
    if layout.poses:
        free = layout.pose >= 0
        tangent = step.dx.new_zeros(len(layout.pose), 6)
        tangent = tangent.index_copy(0, free.nonzero().squeeze(1), step.dx.reshape(-1, 6)[layout.pose[free]])
        poses = poses.retr(tangent)
    return poses, with_inverse_depth(patches, depth)
