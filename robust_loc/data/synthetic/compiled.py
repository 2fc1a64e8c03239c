"""The ray caster compiled for the CPU; the same image as ``raycast.py`` makes in torch, an order of magnitude sooner.

Each function works on scalars of one ray. Rays are not normalised: their component along the optical axis is 1, so
that the ray parameter *is* the depth.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit

_OPTIONS: Any = {"cache": True, "nogil": True, "fastmath": {"contract", "reassoc", "nsz", "arcp"}}
_INFINITY = 1e30
_MARGIN = 1e-9  # barycentric tolerance that closes the cracks between triangles


@njit(**_OPTIONS)
def _box_entry(bounds, node, ox, oy, oz, ix, iy, iz, limit):
    """Ray parameter at which the ray enters a node's box, or infinity."""
    t1, t2 = (bounds[node, 0] - ox) * ix, (bounds[node, 3] - ox) * ix
    near, far = min(t1, t2), max(t1, t2)
    t1, t2 = (bounds[node, 1] - oy) * iy, (bounds[node, 4] - oy) * iy
    near, far = max(near, min(t1, t2)), min(far, max(t1, t2))
    t1, t2 = (bounds[node, 2] - oz) * iz, (bounds[node, 5] - oz) * iz
    near, far = max(near, min(t1, t2)), min(far, max(t1, t2))
    if near <= far and far > 0.0 and near < limit:
        return near
    return _INFINITY


@njit(**_OPTIONS)
def _hit(geometry, face, ox, oy, oz, dx, dy, dz, near):
    """Ray parameter of the hit with a triangle (Moller and Trumbore 1997), or infinity."""
    ax, ay, az = geometry[face, 3], geometry[face, 4], geometry[face, 5]
    bx, by, bz = geometry[face, 6], geometry[face, 7], geometry[face, 8]
    px, py, pz = dy * bz - dz * by, dz * bx - dx * bz, dx * by - dy * bx
    det = ax * px + ay * py + az * pz
    if det == 0.0:
        return _INFINITY
    inv = 1.0 / det
    sx, sy, sz = ox - geometry[face, 0], oy - geometry[face, 1], oz - geometry[face, 2]
    u = (sx * px + sy * py + sz * pz) * inv
    if u < -_MARGIN or u > 1.0 + _MARGIN:
        return _INFINITY
    qx, qy, qz = sy * az - sz * ay, sz * ax - sx * az, sx * ay - sy * ax
    v = (dx * qx + dy * qy + dz * qz) * inv
    if v < -_MARGIN or u + v > 1.0 + _MARGIN:
        return _INFINITY
    t = (bx * qx + by * qy + bz * qz) * inv
    if t > near:
        return t
    return _INFINITY


@njit(**_OPTIONS)
def _inverse(x):
    if abs(x) > 1e-15:
        return 1.0 / x
    return 1e15 if x >= 0.0 else -1e15


@njit(**_OPTIONS)
def _trace(scene, root, ox, oy, oz, dx, dy, dz, near, limit, stack):
    """Nearest hit (t, face) below ``limit`` in the subtree ``root``; face -1 when there is none."""
    bounds, skip, first, leaf, geometry = scene.bounds, scene.skip, scene.first, scene.leaf, scene.geometry
    ix, iy, iz = _inverse(dx), _inverse(dy), _inverse(dz)
    best, face = limit, -1
    if _box_entry(bounds, root, ox, oy, oz, ix, iy, iz, best) >= _INFINITY:
        return best, face
    node, depth = root, 0
    while True:
        if leaf[node] > 0:
            for i in range(first[node], first[node] + leaf[node]):
                t = _hit(geometry, i, ox, oy, oz, dx, dy, dz, near)
                if t < best:
                    best, face = t, i
        else:
            left = node + 1
            right = skip[left]
            tl = _box_entry(bounds, left, ox, oy, oz, ix, iy, iz, best)
            tr = _box_entry(bounds, right, ox, oy, oz, ix, iy, iz, best)
            if tl > tr:
                left, right, tl, tr = right, left, tr, tl
            if tl < _INFINITY:
                if tr < _INFINITY:
                    stack[depth] = right
                    depth += 1
                node = left
                continue
        # the next node on the stack that may still hold something nearer
        while depth > 0:
            depth -= 1
            node = stack[depth]
            if _box_entry(bounds, node, ox, oy, oz, ix, iy, iz, best) < _INFINITY:
                break
        else:
            return best, face


@njit(**_OPTIONS)
def _rotated(M, x, y, z):
    return (
        M[0, 0] * x + M[0, 1] * y + M[0, 2] * z,
        M[1, 0] * x + M[1, 1] * y + M[1, 2] * z,
        M[2, 0] * x + M[2, 1] * y + M[2, 2] * z,
    )


@njit(**_OPTIONS)
def _cast(scene, bodies, ox, oy, oz, dx, dy, dz, near, guess, stack):
    """Nearest hit (t, face, body) over all bodies; ``guess`` is a static face that is likely to be hit."""
    limit, face, body = _INFINITY, -1, 0
    if guess >= 0:
        t = _hit(scene.geometry, guess, ox, oy, oz, dx, dy, dz, near)
        if t < limit:
            limit, face = t, guess
    t, found = _trace(scene, scene.roots[0], ox, oy, oz, dx, dy, dz, near, limit, stack)
    if found >= 0:
        limit, face = t, found
    for b in range(1, len(scene.roots)):
        M = bodies[b]
        px, py, pz = _rotated(M, ox, oy, oz)
        px, py, pz = px + M[0, 3], py + M[1, 3], pz + M[2, 3]
        ex, ey, ez = _rotated(M, dx, dy, dz)
        cx, cy, cz = scene.spheres[b, 0] - px, scene.spheres[b, 1] - py, scene.spheres[b, 2] - pz
        along = cx * ex + cy * ey + cz * ez
        squared = cx * cx + cy * cy + cz * cz - along * along / (ex * ex + ey * ey + ez * ez)
        if squared > scene.spheres[b, 3] ** 2:
            continue
        t, found = _trace(scene, scene.roots[b], px, py, pz, ex, ey, ez, near, limit, stack)
        if found >= 0:
            limit, face, body = t, found, b
    return limit, face, body


@njit(**_OPTIONS)
def _texel(scene, texture, level, u, v, out, weight):
    """Add ``weight`` times the bilinear look-up of one mip level to ``out``."""
    k = scene.log_size[texture]
    side = 1 << (k - level)
    # sum of 4**k ... 4**(k - level + 1): the texels of the finer levels
    start = scene.base[texture] + ((1 << (2 * k + 2)) - (1 << (2 * (k - level) + 2))) // 3
    x, y = u * side - 0.5, v * side - 0.5
    fx, fy = math.floor(x), math.floor(y)
    ax, ay = x - fx, y - fy
    mask = side - 1
    x0, y0 = int(fx) & mask, int(fy) & mask
    x1, y1 = (x0 + 1) & mask, (y0 + 1) & mask
    i00, i01, i10, i11 = start + y0 * side + x0, start + y0 * side + x1, start + y1 * side + x0, start + y1 * side + x1
    weight /= 255.0
    w00, w01 = weight * (1 - ax) * (1 - ay), weight * ax * (1 - ay)
    w10, w11 = weight * (1 - ax) * ay, weight * ax * ay
    texels = scene.texels
    for c in range(3):
        out[c] += w00 * texels[i00, c] + w01 * texels[i01, c] + w10 * texels[i10, c] + w11 * texels[i11, c]


@njit(**_OPTIONS)
def _sample(scene, texture, u, v, lod, out, weight):
    """Trilinear look-up."""
    top = scene.log_size[texture]
    lod = min(max(lod, 0.0), float(top))
    level = int(lod)
    fraction = lod - level
    if fraction < 1.0:
        _texel(scene, texture, level, u, v, out, weight * (1.0 - fraction))
    if fraction > 0.0:
        _texel(scene, texture, level + 1, u, v, out, weight * fraction)


@njit(**_OPTIONS)
def _sky(scene, dx, dy, dz, spread, out):
    """Colour of a ray that hits nothing; ``spread`` is the angle of a pixel."""
    texture = int(scene.sky[4])
    if texture < 0:
        for c in range(3):
            out[c] = scene.sky[c]
        return
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    u = math.atan2(dy, dx) / (2 * math.pi)
    v = math.acos(min(max(dz / length, -1.0), 1.0)) / math.pi
    side = 1 << scene.log_size[texture]
    for c in range(3):
        out[c] = 0.0
    _sample(scene, texture, u, v, math.log2(max(spread * side / math.pi, 1.0)), out, 1.0)
    for c in range(3):
        out[c] *= scene.sky[c]


@njit(**_OPTIONS)
def _shade(scene, bodies, face, body, t, o, d, gx, gy, taps, out):
    """Colour of a hit. ``gx``, ``gy`` are the derivatives of the ray ``d`` by the pixel's column and row."""
    g = scene.geometry[face]
    M = bodies[body]
    ox, oy, oz = _rotated(M, o[0], o[1], o[2])
    ox, oy, oz = ox + M[0, 3] - g[0], oy + M[1, 3] - g[1], oz + M[2, 3] - g[2]
    dx, dy, dz = _rotated(M, d[0], d[1], d[2])
    # barycentrics are ratios linear in the ray: b_i = (d . A_i) / (d . B), so their derivatives are exact
    Bx, By, Bz = g[7] * g[5] - g[8] * g[4], g[8] * g[3] - g[6] * g[5], g[6] * g[4] - g[7] * g[3]
    Ux, Uy, Uz = g[7] * oz - g[8] * oy, g[8] * ox - g[6] * oz, g[6] * oy - g[7] * ox
    Vx, Vy, Vz = oy * g[5] - oz * g[4], oz * g[3] - ox * g[5], ox * g[4] - oy * g[3]
    inv = 1.0 / (dx * Bx + dy * By + dz * Bz)
    b1, b2 = (dx * Ux + dy * Uy + dz * Uz) * inv, (dx * Vx + dy * Vy + dz * Vz) * inv
    texture = scene.texture[face]
    for c in range(3):
        out[c] = 1.0
    if texture >= 0:
        uv = scene.uv[face]
        u1, v1, u2, v2 = uv[2] - uv[0], uv[3] - uv[1], uv[4] - uv[0], uv[5] - uv[1]
        u, v = uv[0] + b1 * u1 + b2 * u2, uv[1] + b1 * v1 + b2 * v2
        side = float(1 << scene.log_size[texture])
        hx, hy, hz = _rotated(M, gx[0], gx[1], gx[2])
        slope = hx * Bx + hy * By + hz * Bz
        p1 = (hx * Ux + hy * Uy + hz * Uz - b1 * slope) * inv
        p2 = (hx * Vx + hy * Vy + hz * Vz - b2 * slope) * inv
        ux, vx = (p1 * u1 + p2 * u2) * side, (p1 * v1 + p2 * v2) * side
        hx, hy, hz = _rotated(M, gy[0], gy[1], gy[2])
        slope = hx * Bx + hy * By + hz * Bz
        p1 = (hx * Ux + hy * Uy + hz * Uz - b1 * slope) * inv
        p2 = (hx * Vx + hy * Vy + hz * Vz - b2 * slope) * inv
        uy, vy = (p1 * u1 + p2 * u2) * side, (p1 * v1 + p2 * v2) * side
        # the pixel's footprint in texels: samples along its long side, mip level by its short side
        lx, ly = math.sqrt(ux * ux + vx * vx), math.sqrt(uy * uy + vy * vy)
        if lx >= ly:
            major, mu, mv = lx, ux / side, vx / side
        else:
            major, mu, mv = ly, uy / side, vy / side
        minor = abs(ux * vy - uy * vx) / max(major, 1e-12)
        count = int(min(max(math.ceil(major / max(minor, 1.0) - 1e-6), 1.0), float(taps)))
        lod = math.log2(max(minor, major / count, 1.0))
        for c in range(3):
            out[c] = 0.0
        for i in range(count):
            s = (i + 0.5) / count - 0.5
            _sample(scene, texture, u + s * mu, v + s * mv, lod, out, 1.0 / count)
    n = scene.normals[face]
    b0 = 1.0 - b1 - b2
    mx, my, mz = b0 * n[0] + b1 * n[3] + b2 * n[6], b0 * n[1] + b1 * n[4] + b2 * n[7], b0 * n[2] + b1 * n[5] + b2 * n[8]
    nx = M[0, 0] * mx + M[1, 0] * my + M[2, 0] * mz
    ny = M[0, 1] * mx + M[1, 1] * my + M[2, 1] * mz
    nz = M[0, 2] * mx + M[1, 2] * my + M[2, 2] * mz
    scale = 1.0 / max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
    if nx * d[0] + ny * d[1] + nz * d[2] > 0.0:
        scale = -scale
    nx, ny, nz = nx * scale, ny * scale, nz * scale
    light = scene.light
    up = 1.0 - light[9] * 0.5 * (1.0 - nz)
    sun = max(nx * light[3] + ny * light[4] + nz * light[5], 0.0)
    r, gr, b = light[0] * up + sun * light[6], light[1] * up + sun * light[7], light[2] * up + sun * light[8]
    for i in range(len(scene.lamps)):
        lamp = scene.lamps[i]
        lx, ly, lz = lamp[0] - o[0] - t * d[0], lamp[1] - o[1] - t * d[1], lamp[2] - o[2] - t * d[2]
        squared = lx * lx + ly * ly + lz * lz
        cosine = (nx * lx + ny * ly + nz * lz) / max(math.sqrt(squared), 1e-9)
        if cosine > 0.0:
            power = cosine / (1.0 + squared / (lamp[6] * lamp[6]))
            r, gr, b = r + power * lamp[3], gr + power * lamp[4], b + power * lamp[5]
    out[0] *= r * scene.colour[face, 0]
    out[1] *= gr * scene.colour[face, 1]
    out[2] *= b * scene.colour[face, 2]
    if scene.sky[3] > 0.0:
        distance = t * math.sqrt(d[0] * d[0] + d[1] * d[1] + d[2] * d[2])
        clear = math.exp(-scene.sky[3] * distance)
        for c in range(3):
            out[c] = clear * out[c] + (1.0 - clear) * scene.sky[c]


@njit(**_OPTIONS)
def _ray(rotation, kx, ky, d):
    for k in range(3):
        d[k] = rotation[k, 0] * kx + rotation[k, 1] * ky + rotation[k, 2]


@njit(**_OPTIONS)
def render_rows(scene, bodies, rows, K, top, bottom, near, taps, rgb, depth, face):
    """One ray per pixel of rows ``top`` to ``bottom``, through the pixel's centre.

    ``rows`` (H, 3, 4) is ``world_T_cam`` of each row, ``bodies`` (B, 3, 4) ``body_T_world``, ``K`` = [fx fy cx cy].
    Fills ``rgb`` (H, W, 3), ``depth`` (H, W; 0: nothing hit) and ``face`` (H, W; -1: nothing hit).
    """
    width = rgb.shape[1]
    stack = np.empty(128, np.int32)
    o, d, gx, gy, out = np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    spread = 1.0 / K[0]
    for y in range(top, bottom):
        row = rows[y]
        guess = -1
        for k in range(3):
            o[k], gx[k], gy[k] = row[k, 3], row[k, 0] / K[0], row[k, 1] / K[1]
        for x in range(width):
            _ray(row, (x - K[2]) / K[0], (y - K[3]) / K[1], d)
            t, hit, body = _cast(scene, bodies, o[0], o[1], o[2], d[0], d[1], d[2], near, guess, stack)
            face[y, x] = hit
            if hit < 0:
                depth[y, x] = 0.0
                _sky(scene, d[0], d[1], d[2], spread, out)
            else:
                depth[y, x] = t
                _shade(scene, bodies, hit, body, t, o, d, gx, gy, taps, out)
                if body == 0:
                    guess = hit
            rgb[y, x, 0], rgb[y, x, 1], rgb[y, x, 2] = out[0], out[1], out[2]


@njit(**_OPTIONS)
def find_edges(scene, depth, face, edge):
    """Mark the pixels at silhouettes, creases and material borders: where one ray does not stand for the pixel."""
    height, width = face.shape
    edge[:] = False
    for y in range(height):
        for x in range(width):
            for step in range(2):
                y2, x2 = y + step, x + 1 - step
                if y2 >= height or x2 >= width or face[y, x] == face[y2, x2]:
                    continue
                a, b = face[y, x], face[y2, x2]
                if a >= 0 and b >= 0 and scene.texture[a] == scene.texture[b]:
                    m, n = scene.normals[a], scene.normals[b]
                    smooth = m[0] * n[0] + m[1] * n[1] + m[2] * n[2] > 0.9
                    near, far = min(depth[y, x], depth[y2, x2]), max(depth[y, x], depth[y2, x2])
                    if smooth and far < 1.05 * near:
                        continue
                edge[y, x] = True
                edge[y2, x2] = True


@njit(**_OPTIONS)
def refine_rows(scene, bodies, rows, K, top, bottom, near, taps, rgb, face, edge):
    """Replace the colour of edge pixels by the mean of 2 x 2 rays inside the pixel."""
    width = rgb.shape[1]
    stack = np.empty(128, np.int32)
    o, d, gx, gy, out = np.empty(3), np.empty(3), np.empty(3), np.empty(3), np.empty(3)
    spread = 1.0 / K[0]
    for y in range(top, bottom):
        row = rows[y]
        for k in range(3):
            o[k], gx[k], gy[k] = row[k, 3], row[k, 0] / K[0], row[k, 1] / K[1]
        for x in range(width):
            if not edge[y, x]:
                continue
            r, g, b = 0.0, 0.0, 0.0
            for s in range(4):
                kx, ky = (x - 0.25 + 0.5 * (s % 2) - K[2]) / K[0], (y - 0.25 + 0.5 * (s // 2) - K[3]) / K[1]
                _ray(row, kx, ky, d)
                t, hit, body = _cast(scene, bodies, o[0], o[1], o[2], d[0], d[1], d[2], near, -1, stack)
                if hit < 0:
                    _sky(scene, d[0], d[1], d[2], spread, out)
                else:
                    _shade(scene, bodies, hit, body, t, o, d, gx, gy, taps, out)
                r, g, b = r + 0.25 * out[0], g + 0.25 * out[1], b + 0.25 * out[2]
            rgb[y, x, 0], rgb[y, x, 1], rgb[y, x, 2] = r, g, b
