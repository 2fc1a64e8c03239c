"""Compiled CPU kernels of the correlation volume; see :mod:`robust_loc.odometry.correlation` for the definitions.

The kernels run without the interpreter lock, so plain threads share the work: they sleep when idle and follow
torch's thread count, where a second parallel runtime would contend with torch's own pool. Each output element is
written by one thread only.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numba
import numpy as np

from robust_loc.odometry.lanes import in_lanes, pieces

# Sums may be reordered (vector instructions); NaN and infinities keep their meaning.
_compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})
FAR = 1e6  # positions beyond this (or NaN) lie outside every map


@_compiled
def _inside_reach(x: float, y: float) -> bool:
    return abs(x) < FAR and abs(y) < FAR


@_compiled
def forward(start, stop, gmap, fmap, coords, kk, jj, scale, radius, level, out):
    """Fill ``out[e, x offset, y offset, a, b, level]`` for the edges ``start <= e < stop``."""
    P, C = gmap.shape[1], gmap.shape[3]
    h, w = fmap.shape[1], fmap.shape[2]
    side = 2 * radius + 2
    window = np.zeros((side, side), out.dtype)
    for e in range(start, stop):
        k, j = kk[e], jj[e]
        for a in range(P):
            for b in range(P):
                x, y = coords[e, a, b, 0] * scale, coords[e, a, b, 1] * scale
                if not _inside_reach(x, y):
                    out[e, :, :, a, b, level] = 0
                    continue
                x0, y0 = np.floor(x), np.floor(y)
                fx, fy = x - x0, y - y0
                left, top = int(x0) - radius, int(y0) - radius
                for v in range(side):
                    for u in range(side):
                        column, row = left + u, top + v
                        total = gmap[k, a, b, 0] * 0
                        if 0 <= column < w and 0 <= row < h:
                            for c in range(C):
                                total += gmap[k, a, b, c] * fmap[j, row, column, c]
                        window[v, u] = total
                for u in range(side - 1):
                    for v in range(side - 1):
                        upper = (1 - fx) * window[v, u] + fx * window[v, u + 1]
                        lower = (1 - fx) * window[v + 1, u] + fx * window[v + 1, u + 1]
                        out[e, u, v, a, b, level] = (1 - fy) * upper + fy * lower


@_compiled
def _spread(gradient, e, a, b, level, fx, fy, window):
    """The transpose of the bilinear blend: gradient of one pixel's 7x7 outputs -> of its 8x8 products."""
    side = window.shape[0]
    window[:] = 0
    for u in range(side - 1):
        for v in range(side - 1):
            g = gradient[e, u, v, a, b, level]
            window[v, u] += (1 - fy) * (1 - fx) * g
            window[v, u + 1] += (1 - fy) * fx * g
            window[v + 1, u] += fy * (1 - fx) * g
            window[v + 1, u + 1] += fy * fx * g


@_compiled
def backward_gmap(start, stop, order, first, fmap, coords, jj, scale, radius, level, gradient, out):
    """Add to ``out[k]`` for the patches ``start <= k < stop``; their edges are ``order[first[k]:first[k + 1]]``."""
    P, C = out.shape[1], out.shape[3]
    h, w = fmap.shape[1], fmap.shape[2]
    side = 2 * radius + 2
    window = np.zeros((side, side), out.dtype)
    for k in range(start, stop):
        for n in range(first[k], first[k + 1]):
            e = order[n]
            j = jj[e]
            for a in range(P):
                for b in range(P):
                    x, y = coords[e, a, b, 0] * scale, coords[e, a, b, 1] * scale
                    if not _inside_reach(x, y):
                        continue
                    x0, y0 = np.floor(x), np.floor(y)
                    left, top = int(x0) - radius, int(y0) - radius
                    _spread(gradient, e, a, b, level, x - x0, y - y0, window)
                    for v in range(side):
                        for u in range(side):
                            column, row = left + u, top + v
                            if 0 <= column < w and 0 <= row < h:
                                g = window[v, u]
                                for c in range(C):
                                    out[k, a, b, c] += g * fmap[j, row, column, c]


@_compiled
def backward_fmap(start, stop, order, first, gmap, coords, kk, scale, radius, level, gradient, out):
    """Add to ``out[j]`` for the frames ``start <= j < stop``; their edges are ``order[first[j]:first[j + 1]]``."""
    P, C = gmap.shape[1], gmap.shape[3]
    h, w = out.shape[1], out.shape[2]
    side = 2 * radius + 2
    window = np.zeros((side, side), out.dtype)
    for j in range(start, stop):
        for n in range(first[j], first[j + 1]):
            e = order[n]
            k = kk[e]
            for a in range(P):
                for b in range(P):
                    x, y = coords[e, a, b, 0] * scale, coords[e, a, b, 1] * scale
                    if not _inside_reach(x, y):
                        continue
                    x0, y0 = np.floor(x), np.floor(y)
                    left, top = int(x0) - radius, int(y0) - radius
                    _spread(gradient, e, a, b, level, x - x0, y - y0, window)
                    for v in range(side):
                        for u in range(side):
                            column, row = left + u, top + v
                            if 0 <= column < w and 0 <= row < h:
                                g = window[v, u]
                                for c in range(C):
                                    out[j, row, column, c] += g * gmap[k, a, b, c]


def in_threads(kernel: Callable[..., None], count: int, *arguments: Any, pieces_per_thread: int = 1) -> None:
    """Run ``kernel(start, stop, *arguments)`` over ``range(count)``, split over torch's number of threads."""
    parts = pieces(count, pieces_per_thread)
    in_lanes([partial(kernel, start, stop, *arguments) for start, stop in parts])


def grouped(index: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges sorted by ``index`` and, for each value in ``range(count + 1)``, where its edges start."""
    order = np.argsort(index, kind="stable")
    return order, np.searchsorted(index[order], np.arange(count + 1))
