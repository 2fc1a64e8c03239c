"""Which triangle does each pixel see? Compiled for the CPU.

A ray through pixel (x, y) has direction ``d(x, y)``, linear in the pixel, with unit component along the optical axis,
so that the ray parameter is the depth. With T the vector from the first corner to the camera and e1, e2 the edges,
Moller and Trumbore's (1997) solution is three functions linear in d and hence in the pixel::

    U = (e2 x T) . d      V = (T x e1) . d      W = (e2 x e1) . d       b1 = U / W,  b2 = V / W,  depth = D / W

with D = e2 . (T x e1). A triangle with D > 0 is in front where U, V and W - U - V are not negative: no clipping is
needed (Olano and Greer, "Triangle scan conversion using 2D homogeneous coordinates", 1997). That makes casting all the
rays of a pinhole image against one triangle a scan of its rows (``scan_rows``). Rays with a pose per image row
(rolling shutter) go one by one through the bounding volume hierarchy (``trace_rows``).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

OPTIONS: Any = {"cache": True, "nogil": True, "fastmath": {"contract", "reassoc", "nsz", "arcp"}}
_TOLERANCE = 1e-7  # pixels by which triangles are widened: closes the cracks that rounding leaves


@njit(**OPTIONS)
def pixel_functions(geometry, face, view, K, out):
    """Coefficients of U, V, W (x, y and constant each) and D, with the sign that makes D positive, into ``out`` (10,).

    ``view`` (3, 4) is ``body_T_cam``; ``K`` is [fx fy cx cy].
    """
    tx, ty, tz = view[0, 3] - geometry[face, 0], view[1, 3] - geometry[face, 1], view[2, 3] - geometry[face, 2]
    ax, ay, az = geometry[face, 3], geometry[face, 4], geometry[face, 5]
    bx, by, bz = geometry[face, 6], geometry[face, 7], geometry[face, 8]
    vx, vy, vz = ty * az - tz * ay, tz * ax - tx * az, tx * ay - ty * ax
    D = bx * vx + by * vy + bz * vz
    sign = 1.0 if D >= 0.0 else -1.0
    for k in range(3):
        if k == 0:
            px, py, pz = by * tz - bz * ty, bz * tx - bx * tz, bx * ty - by * tx
        elif k == 1:
            px, py, pz = vx, vy, vz
        else:
            px, py, pz = by * az - bz * ay, bz * ax - bx * az, bx * ay - by * ax
        cx = sign * (px * view[0, 0] + py * view[1, 0] + pz * view[2, 0]) / K[0]
        cy = sign * (px * view[0, 1] + py * view[1, 1] + pz * view[2, 1]) / K[1]
        out[3 * k] = cx
        out[3 * k + 1] = cy
        out[3 * k + 2] = sign * (px * view[0, 2] + py * view[1, 2] + pz * view[2, 2]) - cx * K[2] - cy * K[3]
    out[9] = sign * D


@njit(**OPTIONS)
def _outside(bounds, node, view, left, right, top, bottom):
    """Whether a node's box lies wholly outside the pyramid of the rays (slopes of its sides) or behind the camera."""
    cx, cy, cz = (
        0.5 * (bounds[node, 0] + bounds[node, 3]) - view[0, 3],
        0.5 * (bounds[node, 1] + bounds[node, 4]) - view[1, 3],
        0.5 * (bounds[node, 2] + bounds[node, 5]) - view[2, 3],
    )
    hx, hy, hz = (
        0.5 * (bounds[node, 3] - bounds[node, 0]),
        0.5 * (bounds[node, 4] - bounds[node, 1]),
        0.5 * (bounds[node, 5] - bounds[node, 2]),
    )
    for side in range(5):
        # inward normals of the sides in the camera's frame
        p, q, r = 0.0, 0.0, 1.0
        if side == 0:
            p, r = 1.0, -left
        elif side == 1:
            p, r = -1.0, right
        elif side == 2:
            q, r = 1.0, -top
        elif side == 3:
            q, r = -1.0, bottom
        nx = view[0, 0] * p + view[0, 1] * q + view[0, 2] * r
        ny = view[1, 0] * p + view[1, 1] * q + view[1, 2] * r
        nz = view[2, 0] * p + view[2, 1] * q + view[2, 2] * r
        if nx * cx + ny * cy + nz * cz + abs(nx) * hx + abs(ny) * hy + abs(nz) * hz < 0.0:
            return True
    return False


@njit(**OPTIONS)
def _row_range(geometry, face, view, K, top, bottom):
    """Rows [first, last] that the triangle may cover; all of them when it reaches behind the camera."""
    low, high = 1e30, -1e30
    behind = 0
    for k in range(3):
        x, y, z = geometry[face, 0] - view[0, 3], geometry[face, 1] - view[1, 3], geometry[face, 2] - view[2, 3]
        if k > 0:
            x += geometry[face, 3 * k]
            y += geometry[face, 3 * k + 1]
            z += geometry[face, 3 * k + 2]
        depth = view[0, 2] * x + view[1, 2] * y + view[2, 2] * z
        if depth <= 1e-6:
            behind += 1
            continue
        row = (view[0, 1] * x + view[1, 1] * y + view[2, 1] * z) / depth * K[1] + K[3]
        low, high = min(low, row), max(high, row)
    if behind == 3:
        return bottom, top - 1
    if behind > 0:
        return top, bottom - 1
    return max(top, int(np.ceil(max(low, -1e6) - 1e-6))), min(bottom - 1, int(np.floor(min(high, 1e6) + 1e-6)))


@njit(**OPTIONS)
def scan_rows(geometry, bounds, skip, first, leaf, roots, views, K, top, bottom, near, face, inverse_depth):
    """Nearest triangle (H, W; -1: none) and inverse depth (H, W; 0: none) of the pixels of rows ``top`` to ``bottom``.

    ``views`` (B, 3, 4) is ``body_T_cam``; the other arrays are those of ``PackedScene``.
    """
    width = face.shape[1]
    f = np.empty(10)
    face[top:bottom] = -1
    inverse_depth[top:bottom] = 0.0
    left, right = -K[2] / K[0], (width - 1 - K[2]) / K[0]
    above, below = (top - K[3]) / K[1], (bottom - 1 - K[3]) / K[1]
    for body in range(len(roots)):
        view = views[body]
        node = roots[body]
        end = skip[node]
        while node < end:
            if _outside(bounds, node, view, left, right, above, below):
                node = skip[node]
                continue
            for i in range(first[node], first[node] + leaf[node]):
                y0, y1 = _row_range(geometry, i, view, K, top, bottom)
                if y1 < y0:
                    continue
                pixel_functions(geometry, i, view, K, f)
                if f[9] <= 0.0:
                    continue
                _scan_triangle(f, y0, y1, width, near, i, face, inverse_depth)
            node += 1


@njit(**OPTIONS)
def _scan_triangle(f, y0, y1, width, near, index, face, inverse_depth):
    limit, scale = 1.0 / max(near, 1e-12), 1.0 / f[9]
    ux, vx, wx = f[0], f[3], f[6]
    sx = wx - ux - vx
    for y in range(y0, y1 + 1):
        u, v, w = f[1] * y + f[2], f[4] * y + f[5], f[7] * y + f[8]
        s = w - u - v
        low, high = 0.0, width - 1.0
        # the part of the row where each of the three functions c + g x is not negative
        for k in range(3):
            c = u if k == 0 else (v if k == 1 else s)
            g = ux if k == 0 else (vx if k == 1 else sx)
            if g > 0.0:
                low = max(low, -c / g - _TOLERANCE)
            elif g < 0.0:
                high = min(high, -c / g + _TOLERANCE)
            elif c < 0.0:
                high = -1.0
        if high < low:
            continue
        row_depth, row_face = inverse_depth[y], face[y]
        for x in range(int(np.ceil(low)), int(np.floor(high)) + 1):
            z = (w + wx * x) * scale
            if z > row_depth[x] and z < limit:
                row_depth[x] = z
                row_face[x] = index


@njit(**OPTIONS)
def _entry(bounds, node, o, inv, limit):
    """Ray parameter at which a ray enters a node's box, or 1e30."""
    near, far = 0.0, limit
    for k in range(3):
        t1, t2 = (bounds[node, k] - o[k]) * inv[k], (bounds[node, k + 3] - o[k]) * inv[k]
        near, far = max(near, min(t1, t2)), min(far, max(t1, t2))
    return near if near <= far else 1e30


@njit(**OPTIONS)
def _hit(geometry, face, o, d):
    """Ray parameter of the hit with a triangle, or 1e30."""
    ax, ay, az = geometry[face, 3], geometry[face, 4], geometry[face, 5]
    bx, by, bz = geometry[face, 6], geometry[face, 7], geometry[face, 8]
    px, py, pz = d[1] * bz - d[2] * by, d[2] * bx - d[0] * bz, d[0] * by - d[1] * bx
    det = ax * px + ay * py + az * pz
    if det == 0.0:
        return 1e30
    inv = 1.0 / det
    tx, ty, tz = o[0] - geometry[face, 0], o[1] - geometry[face, 1], o[2] - geometry[face, 2]
    u = (tx * px + ty * py + tz * pz) * inv
    if u < -1e-9 or u > 1.0 + 1e-9:
        return 1e30
    qx, qy, qz = ty * az - tz * ay, tz * ax - tx * az, tx * ay - ty * ax
    v = (d[0] * qx + d[1] * qy + d[2] * qz) * inv
    if v < -1e-9 or u + v > 1.0 + 1e-9:
        return 1e30
    return (bx * qx + by * qy + bz * qz) * inv


@njit(**OPTIONS)
def _trace(geometry, bounds, skip, first, leaf, root, o, d, inv, near, limit, stack):
    """Nearest hit (t, face) below ``limit`` in one body, nearer children first; face -1 when there is none."""
    best, face = limit, -1
    for k in range(3):
        inv[k] = 1.0 / d[k] if abs(d[k]) > 1e-15 else 1e15
    stack[0] = root
    depth = 1
    while depth > 0:
        depth -= 1
        node = stack[depth]
        if _entry(bounds, node, o, inv, best) >= 1e30:
            continue
        while leaf[node] == 0:
            left = node + 1
            right = skip[left]
            a, b = _entry(bounds, left, o, inv, best), _entry(bounds, right, o, inv, best)
            if a > b:
                left, right, a, b = right, left, b, a
            if a >= 1e30:
                break
            if b < 1e30:
                stack[depth] = right
                depth += 1
            node = left
        for i in range(first[node], first[node] + leaf[node]):
            t = _hit(geometry, i, o, d)
            if t > near and t < best:
                best, face = t, i
    return best, face


@njit(**OPTIONS)
def trace_rows(geometry, bounds, skip, first, leaf, roots, views, K, top, bottom, near, face, inverse_depth):
    """As ``scan_rows``, with a pose per row: ``views`` is (H, B, 3, 4)."""
    stack = np.empty(256, np.int32)
    o, d, inv = np.empty(3), np.empty(3), np.empty(3)
    for y in range(top, bottom):
        ky = (y - K[3]) / K[1]
        for x in range(face.shape[1]):
            kx = (x - K[2]) / K[0]
            best, found = 1e30, -1
            for body in range(len(roots)):
                view = views[y, body]
                for k in range(3):
                    o[k] = view[k, 3]
                    d[k] = view[k, 0] * kx + view[k, 1] * ky + view[k, 2]
                t, i = _trace(geometry, bounds, skip, first, leaf, roots[body], o, d, inv, near, best, stack)
                if i >= 0:
                    best, found = t, i
            face[y, x] = found
            inverse_depth[y, x] = 1.0 / best if found >= 0 else 0.0
