"""Bounding volume hierarchy over triangles, built with the binned surface area heuristic.

Wald, "On fast construction of SAH-based bounding volume hierarchies", 2007. Nodes are stored depth first: the first
child of an inner node follows it, so that ``skip`` (the node after the subtree) also allows stackless traversal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

_BINS = 16
_LEAF = 4


@dataclass(frozen=True, eq=False)
class Bvh:
    """A hierarchy over triangles reordered so that each leaf is a range.

    Attributes:
        bounds: (M, 6) float32 node boxes, min then max, rounded outwards.
        skip: (M,) int32 index of the first node after the subtree.
        first: (M,) int32 first triangle of a leaf (in the new order), undefined for inner nodes.
        count: (M,) int32 triangles of a leaf, 0 for inner nodes.
        order: (F,) int64 new position -> original triangle.
    """

    bounds: NDArray[np.float32]
    skip: NDArray[np.int32]
    first: NDArray[np.int32]
    count: NDArray[np.int32]
    order: NDArray[np.int64]


def build_bvh(corners: NDArray[np.float64]) -> Bvh:
    """Build over triangle corners (F, 3, 3), F >= 1."""
    low, high = corners.min(axis=1), corners.max(axis=1)
    order = np.arange(len(corners), dtype=np.int64)
    bounds, skip, first, count, used = _build(low, high, order)
    bounds32 = bounds[:used].astype(np.float32)
    bounds32[:, :3] = np.nextafter(bounds32[:, :3], np.float32(-np.inf))
    bounds32[:, 3:] = np.nextafter(bounds32[:, 3:], np.float32(np.inf))
    return Bvh(bounds32, skip[:used].copy(), first[:used].copy(), count[:used].copy(), order)


@njit(cache=True, nogil=True)
def _half_area(box):
    dx, dy, dz = box[3] - box[0], box[4] - box[1], box[5] - box[2]
    return dx * dy + dy * dz + dz * dx


@njit(cache=True, nogil=True)
def _grow(box, low, high):
    for k in range(3):
        box[k] = min(box[k], low[k])
        box[k + 3] = max(box[k + 3], high[k])


@njit(cache=True, nogil=True)
def _build(low, high, order):
    total = len(order)
    bounds = np.empty((2 * total, 6))
    skip = np.zeros(2 * total, np.int32)
    first = np.zeros(2 * total, np.int32)
    count = np.zeros(2 * total, np.int32)
    centre = 0.5 * (low + high)
    empty = np.array([np.inf, np.inf, np.inf, -np.inf, -np.inf, -np.inf])
    bin_box = np.empty((_BINS, 6))
    bin_count = np.empty(_BINS, np.int64)
    right_cost = np.empty(_BINS)
    # (begin, end, parent): the second child is pushed first so that the first child directly follows its parent
    stack = np.empty((128 + 2 * total, 3), np.int64)
    stack[0, 0], stack[0, 1], stack[0, 2] = 0, total, -1
    depth, used = 1, 0
    while depth > 0:
        depth -= 1
        begin, end = stack[depth, 0], stack[depth, 1]
        node = used
        used += 1
        box = empty.copy()
        span = empty.copy()
        for i in range(begin, end):
            _grow(box, low[order[i]], high[order[i]])
            _grow(span, centre[order[i]], centre[order[i]])
        bounds[node] = box
        best_cost, best_axis, best_bin = np.inf, -1, 0
        if end - begin > 1:
            for axis in range(3):
                width = span[axis + 3] - span[axis]
                if width <= 1e-9:
                    continue
                for b in range(_BINS):
                    bin_box[b] = empty
                    bin_count[b] = 0
                scale = _BINS * (1.0 - 1e-9) / width
                for i in range(begin, end):
                    b = int((centre[order[i], axis] - span[axis]) * scale)
                    bin_count[b] += 1
                    _grow(bin_box[b], low[order[i]], high[order[i]])
                running, items = empty.copy(), 0
                for b in range(_BINS - 1, 0, -1):
                    items += bin_count[b]
                    if bin_count[b] > 0:
                        _grow(running, bin_box[b, :3], bin_box[b, 3:])
                    right_cost[b] = items * _half_area(running) if items > 0 else np.inf
                running, items = empty.copy(), 0
                for b in range(_BINS - 1):
                    items += bin_count[b]
                    if bin_count[b] > 0:
                        _grow(running, bin_box[b, :3], bin_box[b, 3:])
                    if items > 0 and right_cost[b + 1] < np.inf:
                        cost = items * _half_area(running) + right_cost[b + 1]
                        if cost < best_cost:
                            best_cost, best_axis, best_bin = cost, axis, b
        leaf_cost = (end - begin) * _half_area(box)
        too_many = end - begin > _LEAF
        if best_axis < 0 and too_many:  # all centres coincide: split the list in half
            middle = (begin + end) // 2
        elif best_axis < 0 or (not too_many and leaf_cost <= best_cost + 1.5 * _half_area(box)):
            first[node], count[node] = begin, end - begin
            continue
        else:
            width = span[best_axis + 3] - span[best_axis]
            scale = _BINS * (1.0 - 1e-9) / width
            middle = begin
            for i in range(begin, end):
                if int((centre[order[i], best_axis] - span[best_axis]) * scale) <= best_bin:
                    order[i], order[middle] = order[middle], order[i]
                    middle += 1
        stack[depth, 0], stack[depth, 1], stack[depth, 2] = middle, end, node
        stack[depth + 1, 0], stack[depth + 1, 1], stack[depth + 1, 2] = begin, middle, node
        depth += 2
    # subtree ends: a leaf ends after itself; an inner node ends where its second child ends
    for node in range(used - 1, -1, -1):
        if count[node] > 0:
            skip[node] = node + 1
        else:
            skip[node] = skip[skip[node + 1]]
    return bounds, skip, first, count, used
