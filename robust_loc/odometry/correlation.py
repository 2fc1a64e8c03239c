"""Correlation of patches with the feature maps around their reprojections (DPVO, equation 2).

For edge (i, j, k), patch pixel (a, b) and offsets dx, dy in -3..3

    corr[dx, dy, a, b] = < gmap[k, a, b],  fmap_j( u_ab + (dx, dy) ) >        (bilinear, zero outside the map)

at two levels: stride 4, and stride 16 with ``u / 4``. An edge's volume is [7 (dx), 7 (dy), 3, 3, 2 (level)], flattened.
Gradients go to ``gmap`` and ``fmap``, not to the coordinates.

The autograd function keeps its inputs only and computes windows again in the backward pass: on the CPU compiled kernels
never build them in memory, on a GPU they are gathered chunk by chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from robust_loc.odometry.patches import PATCH

RADIUS = 3
LEVEL_SCALES = (1.0, 0.25)
DIMENSION = (2 * RADIUS + 1) ** 2 * PATCH**2 * len(LEVEL_SCALES)  # 882
_CHUNK = 4096  # edges gathered at once on a GPU


def feature_pyramid(features: Tensor) -> tuple[Tensor, Tensor]:
    """Features [n, C, h, w] -> channels-last maps [n, h, w, C] and [n, h // 4, w // 4, C]."""
    coarse = functional.avg_pool2d(features, 4, 4)
    return features.permute(0, 2, 3, 1).contiguous(), coarse.permute(0, 2, 3, 1).contiguous()


def correlate(
    gmap: Tensor,
    pyramid: Sequence[Tensor],
    coords: Tensor,
    jj: Tensor,
    kk: Tensor,
    *,
    backward_fraction: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The correlation volumes [E, 882] of all edges.

    Args:
        gmap: [K, 3, 3, C] patch features.
        pyramid: maps [n, h, w, C] of :func:`feature_pyramid`.
        coords: [E, 3, 3, 2] reprojected pixels (x, y) at quarter resolution; not differentiated.
        jj: [E] target frame (row of the maps); kk: [E] patch (row of ``gmap``).
        backward_fraction: in the backward pass only this random fraction of the edges contributes (not rescaled).
    """
    keep = None
    if backward_fraction < 1.0 and torch.is_grad_enabled():
        keep = torch.rand(len(jj), generator=generator).to(jj.device) < backward_fraction
    volume = _Correlation.apply(gmap, coords.detach(), jj, kk, keep, *pyramid)
    return volume.flatten(1)


def bordered(capacity: int, pyramid: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Room for ``capacity`` frames' maps like those of ``pyramid``, as :func:`correlate_bordered` reads them."""
    from robust_loc.odometry.window_kernel import BORDER

    return tuple(
        torch.zeros(capacity, level.shape[1] + 2 * BORDER, level.shape[3], level.shape[2] + 2 * BORDER)
        for level in pyramid
    )


def put_bordered(rooms: Sequence[Tensor], frame: int, pyramid: Sequence[Tensor]) -> None:
    """Store one frame's pyramid [1, h, w, C] in rooms of :func:`bordered`."""
    from robust_loc.odometry.window_kernel import BORDER

    for room, level in zip(rooms, pyramid):
        room[frame, BORDER:-BORDER, :, BORDER:-BORDER] = level[0].transpose(1, 2)


def correlate_bordered(gmap: Tensor, rooms: Sequence[Tensor], coords: Tensor, jj: Tensor, kk: Tensor) -> Tensor:
    """:func:`correlate` on a CPU, in float32 and without gradients: twice as fast. ``rooms`` come from
    :func:`bordered`."""
    from robust_loc.odometry import correlation_kernels, window_kernel

    g, *maps, uv, j, k = _arrays(gmap, rooms, coords, jj, kk)
    order = np.argsort(j, kind="stable")
    out = torch.empty(_shape(len(jj)))
    for level, (fmap, scale) in enumerate(zip(maps, LEVEL_SCALES)):
        arguments = (order, g, fmap, uv, k, j, scale, level, out.numpy())
        correlation_kernels.in_threads(window_kernel.forward, len(j), *arguments, pieces_per_thread=4)
    return out.flatten(1)


def correlate_reference(gmap: Tensor, pyramid: Sequence[Tensor], coords: Tensor, jj: Tensor, kk: Tensor) -> Tensor:
    """The same from plain differentiable torch operations; it holds every window in memory."""
    levels = []
    for fmap, scale in zip(pyramid, LEVEL_SCALES):
        rows, inside, fraction = _window_rows(fmap, coords.detach() * scale, jj)
        levels.append(_blend(_products(gmap[kk], fmap, rows, inside), fraction))
    return torch.stack(levels, -1).flatten(1)


class _Correlation(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, gmap: Tensor, coords: Tensor, jj: Tensor, kk: Tensor, keep: Tensor | None, *pyramid: Tensor
    ) -> Tensor:
        ctx.save_for_backward(gmap, coords, jj, kk, keep, *pyramid)
        return (_forward_cpu if gmap.device.type == "cpu" else _forward_chunked)(gmap, pyramid, coords, jj, kk)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        gmap, coords, jj, kk, keep, *pyramid = ctx.saved_tensors
        if keep is not None:
            coords, jj, kk, gradient = coords[keep], jj[keep], kk[keep], gradient[keep]
        backward = _backward_cpu if gmap.device.type == "cpu" else _backward_chunked
        grad_gmap, grad_pyramid = backward(gmap, pyramid, coords, jj, kk, gradient)
        return grad_gmap, None, None, None, None, *grad_pyramid


def _shape(edges: int) -> tuple[int, ...]:
    return (edges, 2 * RADIUS + 1, 2 * RADIUS + 1, PATCH, PATCH, len(LEVEL_SCALES))


# --- CPU: compiled kernels ------------------------------------------------------------------------------------------


def _arrays(gmap: Tensor, pyramid: Sequence[Tensor], *others: Tensor) -> list[Any]:
    """Tensors as contiguous numpy arrays; half precision, which the kernels lack, becomes float32."""
    dtype = gmap.dtype if gmap.dtype == torch.float64 else torch.float32
    tensors = [gmap, *pyramid, *others]
    return [(t.to(dtype) if t.is_floating_point() else t).detach().contiguous().numpy() for t in tensors]


def _forward_cpu(gmap: Tensor, pyramid: Sequence[Tensor], coords: Tensor, jj: Tensor, kk: Tensor) -> Tensor:
    from robust_loc.odometry import correlation_kernels as kernels

    g, *maps, uv, j, k = _arrays(gmap, pyramid, coords, jj, kk)
    out = torch.empty(_shape(len(jj)), dtype=torch.from_numpy(g).dtype)
    for level, (fmap, scale) in enumerate(zip(maps, LEVEL_SCALES)):
        kernels.in_threads(kernels.forward, len(j), g, fmap, uv, k, j, scale, RADIUS, level, out.numpy())
    return out.to(gmap.dtype)


def _backward_cpu(
    gmap: Tensor, pyramid: Sequence[Tensor], coords: Tensor, jj: Tensor, kk: Tensor, gradient: Tensor
) -> tuple[Tensor, list[Tensor]]:
    from robust_loc.odometry import correlation_kernels as kernels

    g, *maps, uv, grad, j, k = _arrays(gmap, pyramid, coords, gradient, jj, kk)
    grad_gmap = torch.zeros(g.shape, dtype=torch.from_numpy(g).dtype)
    grad_maps = [torch.zeros(m.shape, dtype=grad_gmap.dtype) for m in maps]
    by_patch, by_frame = kernels.grouped(k, len(g)), kernels.grouped(j, len(maps[0]))
    for level, (fmap, scale, grad_map) in enumerate(zip(maps, LEVEL_SCALES, grad_maps)):
        common = (scale, RADIUS, level, grad)
        kernels.in_threads(kernels.backward_gmap, len(g), *by_patch, fmap, uv, j, *common, grad_gmap.numpy())
        kernels.in_threads(
            kernels.backward_fmap, len(fmap), *by_frame, g, uv, k, *common, grad_map.numpy(), pieces_per_thread=4
        )
    return grad_gmap.to(gmap.dtype), [m.to(p.dtype) for m, p in zip(grad_maps, pyramid)]


# --- GPU, and the reference: gathered windows -----------------------------------------------------------------------


def _window_rows(fmap: Tensor, coords: Tensor, jj: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of ``fmap.reshape(-1, C)`` in each pixel's 8x8 window.

    Returns:
        rows [E, 3, 3, 8 (y), 8 (x)], inside (same shape, bool) and the fractional position [E, 3, 3, 2].
    """
    n, h, w, _ = fmap.shape
    coords = torch.where((coords.abs() < 1e6).all(-1, keepdim=True), coords, torch.full_like(coords, -1e6))
    corner = torch.floor(coords)
    offsets = torch.arange(2 * RADIUS + 2, device=fmap.device) - RADIUS
    x = corner[..., 0].long()[..., None, None] + offsets[None, :]
    y = corner[..., 1].long()[..., None, None] + offsets[:, None]
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
    rows = (jj[:, None, None, None, None] * h + y.clamp(0, h - 1)) * w + x.clamp(0, w - 1)
    return rows, inside, coords - corner


def _products(patch: Tensor, fmap: Tensor, rows: Tensor, inside: Tensor) -> Tensor:
    """<patch [E, 3, 3, C], fmap[rows]>: [E, 3, 3, 8, 8]."""
    window = fmap.reshape(-1, fmap.shape[-1])[rows.flatten(3)]  # [E, 3, 3, 64, C]
    return ((window @ patch[..., None]).squeeze(-1) * inside.flatten(3)).unflatten(3, rows.shape[3:])


def _blend(products: Tensor, fraction: Tensor) -> Tensor:
    """Bilinear: products [E, 3, 3, 8 (y), 8 (x)] -> [E, 7 (x), 7 (y), 3, 3]."""
    fx, fy = fraction.to(products.dtype)[..., None, None, :].unbind(-1)
    blended = (1 - fx) * products[..., :-1] + fx * products[..., 1:]
    blended = (1 - fy) * blended[..., :-1, :] + fy * blended[..., 1:, :]
    return blended.permute(0, 4, 3, 1, 2)


def _blend_transposed(gradient: Tensor, fraction: Tensor) -> Tensor:
    """The adjoint of :func:`_blend`: [E, 7 (x), 7 (y), 3, 3] -> [E, 3, 3, 8 (y), 8 (x)]."""
    fx, fy = fraction.to(gradient.dtype)[..., None, None, :].unbind(-1)
    g = gradient.permute(0, 3, 4, 2, 1)
    g = functional.pad((1 - fy) * g, (0, 0, 0, 1)) + functional.pad(fy * g, (0, 0, 1, 0))
    return functional.pad((1 - fx) * g, (0, 1)) + functional.pad(fx * g, (1, 0))


def _chunks(count: int) -> Iterator[slice]:
    return (slice(start, start + _CHUNK) for start in range(0, count, _CHUNK))


def _forward_chunked(gmap: Tensor, pyramid: Sequence[Tensor], coords: Tensor, jj: Tensor, kk: Tensor) -> Tensor:
    out = torch.empty(_shape(len(jj)), dtype=gmap.dtype, device=gmap.device)
    for part in _chunks(len(jj)):
        for level, (fmap, scale) in enumerate(zip(pyramid, LEVEL_SCALES)):
            rows, inside, fraction = _window_rows(fmap, coords[part] * scale, jj[part])
            out[part, ..., level] = _blend(_products(gmap[kk[part]], fmap, rows, inside), fraction)
    return out


def _backward_chunked(
    gmap: Tensor, pyramid: Sequence[Tensor], coords: Tensor, jj: Tensor, kk: Tensor, gradient: Tensor
) -> tuple[Tensor, list[Tensor]]:
    exact = torch.promote_types(gmap.dtype, torch.float32)  # sums over many edges
    grad_gmap = torch.zeros(gmap.shape, dtype=exact, device=gmap.device)
    grad_maps = [torch.zeros(m.shape, dtype=exact, device=m.device) for m in pyramid]
    for part in _chunks(len(jj)):
        for level, (fmap, scale) in enumerate(zip(pyramid, LEVEL_SCALES)):
            C = fmap.shape[-1]
            rows, inside, fraction = _window_rows(fmap, coords[part] * scale, jj[part])
            g = _blend_transposed(gradient[part, ..., level].to(gmap.dtype), fraction) * inside
            window = fmap.reshape(-1, C)[rows.flatten(3)]
            grad_patch = (g.flatten(3)[..., None, :] @ window).squeeze(-2)
            grad_gmap.index_add_(0, kk[part], grad_patch.to(exact))
            spread = g.flatten(3)[..., None] * gmap[kk[part]][..., None, :]
            grad_maps[level].view(-1, C).index_add_(0, rows.reshape(-1), spread.reshape(-1, C).to(exact))
    return grad_gmap.to(gmap.dtype), [m.to(p.dtype) for m, p in zip(grad_maps, pyramid)]
