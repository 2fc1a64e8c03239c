"""What colour does a pixel see on its triangle? Compiled for the CPU.

Texture look-ups are anisotropic: the exact footprint of a pixel in the texture gives the number of samples along its
long side and the mip level of its short side. Pixels at silhouettes, creases and borders are refined by four samples.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from robust_loc.data.synthetic.visibility import OPTIONS, pixel_functions


@njit(inline="always", **OPTIONS)
def _texel(texels, base, k, level, u, v, weight, out):
    """Add ``weight`` times the bilinear look-up of one mip level of a texture of side 2**k to ``out``."""
    side = 1 << (k - level)
    # the texels of the finer levels: 4**k + ... + 4**(k - level + 1)
    start = base + ((1 << (2 * k + 2)) - (1 << (2 * (k - level) + 2))) // 3
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
    for c in range(3):
        out[c] += w00 * texels[i00, c] + w01 * texels[i01, c] + w10 * texels[i10, c] + w11 * texels[i11, c]


@njit(inline="always", **OPTIONS)
def _sample(texels, base, k, u, v, lod, weight, out):
    """Trilinear look-up."""
    level = int(lod)
    fraction = lod - level
    if fraction < 1.0:
        _texel(texels, base, k, level, u, v, weight * (1.0 - fraction), out)
    if fraction > 0.0:
        _texel(texels, base, k, level + 1, u, v, weight * fraction, out)


@njit(inline="always", **OPTIONS)
def _footprint(texels, base, k, u, v, ux, vx, uy, vy, taps, out):
    """Mean of the texture over a pixel whose derivatives by column and row are (ux, vx) and (uy, vy) in uv."""
    side = float(1 << k)
    squared_x, squared_y = ux * ux + vx * vx, uy * uy + vy * vy
    if squared_x >= squared_y:
        major, mu, mv = math.sqrt(squared_x) * side, ux, vx
    else:
        major, mu, mv = math.sqrt(squared_y) * side, uy, vy
    minor = abs(ux * vy - uy * vx) * side * side / max(major, 1e-12)
    count = int(min(max(math.ceil(major / max(minor, 1.0) - 1e-6), 1.0), float(taps)))
    lod = min(math.log2(max(minor, major / count, 1.0)), float(k))
    for c in range(3):
        out[c] = 0.0
    for i in range(count):
        s = (i + 0.5) / count - 0.5
        _sample(texels, base, k, u + s * mu, v + s * mv, lod, 1.0 / count, out)


@njit(**OPTIONS)
def _sky(texels, ambience, camera, K, x, y, out):
    """Colour of a ray that hits nothing."""
    for c in range(3):
        out[c] = 1.0
    if ambience[14] >= 0.0:
        kx, ky = (x - K[2]) / K[0], (y - K[3]) / K[1]
        dx = camera[0, 0] * kx + camera[0, 1] * ky + camera[0, 2]
        dy = camera[1, 0] * kx + camera[1, 1] * ky + camera[1, 2]
        dz = camera[2, 0] * kx + camera[2, 1] * ky + camera[2, 2]
        u = math.atan2(dy, dx) / (2 * math.pi)
        v = math.acos(min(max(dz / math.sqrt(dx * dx + dy * dy + dz * dz), -1.0), 1.0)) / math.pi
        k = int(ambience[15])
        for c in range(3):
            out[c] = 0.0
        lod = min(math.log2(max((1 << k) / (math.pi * K[0]), 1.0)), float(k))
        _sample(texels, int(ambience[14]), k, u, v, lod, 1.0, out)
    for c in range(3):
        out[c] *= ambience[10 + c]


@njit(inline="always", **OPTIONS)
def _light(ambience, lamps, px, py, pz, nx, ny, nz, out):
    """Multiply ``out`` by the light that a surface at p with normal n receives."""
    up = 1.0 - ambience[9] * 0.5 * (1.0 - nz)
    sun = max(nx * ambience[3] + ny * ambience[4] + nz * ambience[5], 0.0)
    r, g, b = (
        ambience[0] * up + sun * ambience[6],
        ambience[1] * up + sun * ambience[7],
        ambience[2] * up + sun * ambience[8],
    )
    for i in range(len(lamps)):
        lx, ly, lz = lamps[i, 0] - px, lamps[i, 1] - py, lamps[i, 2] - pz
        cosine = nx * lx + ny * ly + nz * lz
        if cosine > 0.0:
            squared = lx * lx + ly * ly + lz * lz
            power = cosine / (math.sqrt(squared) * (1.0 + squared / (lamps[i, 6] * lamps[i, 6])))
            r, g, b = r + power * lamps[i, 3], g + power * lamps[i, 4], b + power * lamps[i, 5]
    out[0] *= r
    out[1] *= g
    out[2] *= b


@njit(**OPTIONS)
def _shade(texels, surface, ambience, lamps, camera, body, K, face, f, x, y, taps, out):
    """Colour of ``face`` at pixel (x, y), given its ``pixel_functions`` ``f``."""
    inv = 1.0 / (f[6] * x + f[7] * y + f[8])
    b1, b2 = (f[0] * x + f[1] * y + f[2]) * inv, (f[3] * x + f[4] * y + f[5]) * inv
    depth = f[9] * inv
    for c in range(3):
        out[c] = 1.0
    base = int(surface[face, 18])
    if base >= 0:
        u0, v0 = surface[face, 0], surface[face, 1]
        u1, v1, u2, v2 = surface[face, 2] - u0, surface[face, 3] - v0, surface[face, 4] - u0, surface[face, 5] - v0
        u, v = u0 + b1 * u1 + b2 * u2, v0 + b1 * v1 + b2 * v2
        # b = U / W with U and W linear in the pixel
        p1, p2 = (f[0] - b1 * f[6]) * inv, (f[3] - b2 * f[6]) * inv
        q1, q2 = (f[1] - b1 * f[7]) * inv, (f[4] - b2 * f[7]) * inv
        ux, vx, uy, vy = p1 * u1 + p2 * u2, p1 * v1 + p2 * v2, q1 * u1 + q2 * u2, q1 * v1 + q2 * v2
        _footprint(texels, base, int(surface[face, 19]), u, v, ux, vx, uy, vy, taps, out)
    b0 = 1.0 - b1 - b2
    mx = b0 * surface[face, 6] + b1 * surface[face, 9] + b2 * surface[face, 12]
    my = b0 * surface[face, 7] + b1 * surface[face, 10] + b2 * surface[face, 13]
    mz = b0 * surface[face, 8] + b1 * surface[face, 11] + b2 * surface[face, 14]
    nx = body[0, 0] * mx + body[1, 0] * my + body[2, 0] * mz
    ny = body[0, 1] * mx + body[1, 1] * my + body[2, 1] * mz
    nz = body[0, 2] * mx + body[1, 2] * my + body[2, 2] * mz
    kx, ky = (x - K[2]) / K[0], (y - K[3]) / K[1]
    dx = camera[0, 0] * kx + camera[0, 1] * ky + camera[0, 2]
    dy = camera[1, 0] * kx + camera[1, 1] * ky + camera[1, 2]
    dz = camera[2, 0] * kx + camera[2, 1] * ky + camera[2, 2]
    scale = 1.0 / max(math.sqrt(nx * nx + ny * ny + nz * nz), 1e-12)
    if nx * dx + ny * dy + nz * dz > 0.0:  # surfaces have two sides
        scale = -scale
    px, py, pz = camera[0, 3] + depth * dx, camera[1, 3] + depth * dy, camera[2, 3] + depth * dz
    _light(ambience, lamps, px, py, pz, nx * scale, ny * scale, nz * scale, out)
    for c in range(3):
        out[c] *= surface[face, 15 + c]
    if ambience[13] > 0.0:
        clear = math.exp(-ambience[13] * depth * math.sqrt(dx * dx + dy * dy + dz * dz))
        for c in range(3):
            out[c] = clear * out[c] + (1.0 - clear) * ambience[10 + c]


@njit(**OPTIONS)
def shade_rows(scene, cameras, views, bodies, K, top, bottom, taps, face, inverse_depth, rgb, depth):
    """Fill ``rgb`` (H, W, 3) and ``depth`` (H, W) of the rows ``top`` to ``bottom`` from the triangles they see.

    ``cameras`` (1 or H, 3, 4) is ``world_T_cam``, ``views`` (1 or H, B, 3, 4) ``body_T_cam``, ``bodies`` (B, 3, 4)
    ``body_T_world``.
    """
    texels, surface, ambience, lamps = scene.texels, scene.surface, scene.ambience, scene.lamps
    geometry, owner = scene.geometry, scene.body
    f, out = np.empty(10), np.empty(3)
    for y in range(top, bottom):
        row = y if len(cameras) > 1 else 0
        camera, previous = cameras[row], -1
        body = bodies[0]
        for x in range(face.shape[1]):
            i = face[y, x]
            if i < 0:
                depth[y, x] = 0.0
                _sky(texels, ambience, camera, K, x, y, out)
            else:
                if i != previous:
                    body, previous = bodies[owner[i]], i
                    pixel_functions(geometry, i, views[row, owner[i]], K, f)
                depth[y, x] = 1.0 / inverse_depth[y, x]
                _shade(
                    texels,
                    surface,
                    ambience,
                    lamps,
                    camera,
                    body,
                    K,
                    i,
                    f,
                    x,
                    y,
                    taps,
                    out,
                )
            for c in range(3):
                rgb[y, x, c] = out[c]


@njit(**OPTIONS)
def find_edges(surface, face, inverse_depth, edge):
    """Mark the pixels for which one sample does not stand: at silhouettes, creases and borders of materials."""
    height, width = face.shape
    edge[:] = False
    for y in range(height):
        for x in range(width):
            for step in range(2):
                y2, x2 = y + step, x + 1 - step
                if y2 >= height or x2 >= width:
                    continue
                a, b = face[y, x], face[y2, x2]
                if a == b:
                    continue
                if a >= 0 and b >= 0 and surface[a, 18] == surface[b, 18]:
                    cosine = 0.0
                    for c in range(3):
                        cosine += surface[a, 6 + c] * surface[b, 6 + c]
                    p, q = inverse_depth[y, x], inverse_depth[y2, x2]
                    if cosine > 0.9 and max(p, q) < 1.05 * min(p, q):
                        continue
                edge[y, x] = True
                edge[y2, x2] = True


@njit(**OPTIONS)
def refine_rows(scene, cameras, views, bodies, K, top, bottom, near, taps, face, edge, rgb):
    """Give edge pixels the mean of 2 x 2 samples.

    A sample sees the nearest of the triangles seen by the 3 x 3 pixels around it; else the sky, if one of them sees
    the sky; else the pixel's own triangle. Each triangle is shaded once, at the mean of the samples that see it.
    """
    height, width = face.shape
    texels, surface, ambience, lamps = scene.texels, scene.surface, scene.ambience, scene.lamps
    geometry, owner = scene.geometry, scene.body
    candidate = np.empty(9, np.int64)
    f, out = np.empty((9, 10)), np.empty(3)
    covered, mean_x, mean_y = np.empty(10), np.empty(10), np.empty(10)
    for y in range(top, bottom):
        row = y if len(cameras) > 1 else 0
        for x in range(width):
            if not edge[y, x]:
                continue
            count, open_sky, own = 0, face[y, x] < 0, -1
            for y2 in range(max(y - 1, 0), min(y + 2, height)):
                for x2 in range(max(x - 1, 0), min(x + 2, width)):
                    i = face[y2, x2]
                    if i < 0:
                        open_sky = True
                        continue
                    known = False
                    for k in range(count):
                        known = known or candidate[k] == i
                    if not known:
                        if i == face[y, x]:
                            own = count
                        candidate[count] = i
                        pixel_functions(geometry, i, views[row, owner[i]], K, f[count])
                        count += 1
            covered[:] = 0.0
            mean_x[:] = 0.0
            mean_y[:] = 0.0
            for s in range(4):
                sx, sy = x - 0.25 + 0.5 * (s % 2), y - 0.25 + 0.5 * (s // 2)
                best, chosen = 0.0, -1
                for k in range(count):
                    u, v = f[k, 0] * sx + f[k, 1] * sy + f[k, 2], f[k, 3] * sx + f[k, 4] * sy + f[k, 5]
                    w = f[k, 6] * sx + f[k, 7] * sy + f[k, 8]
                    if u >= 0.0 and v >= 0.0 and w - u - v >= 0.0 and w > best * f[k, 9] and w * near < f[k, 9]:
                        best, chosen = w / f[k, 9], k
                if chosen < 0:
                    chosen = 9 if open_sky or own < 0 else own
                covered[chosen] += 0.25
                # a triangle that does not reach the sample is shaded at the pixel's centre
                mean_x[chosen] += 0.25 * (sx if best > 0.0 or chosen == 9 else x)
                mean_y[chosen] += 0.25 * (sy if best > 0.0 or chosen == 9 else y)
            r, g, b = 0.0, 0.0, 0.0
            for k in range(10):
                if covered[k] == 0.0:
                    continue
                px, py = mean_x[k] / covered[k], mean_y[k] / covered[k]
                if k == 9:
                    _sky(texels, ambience, cameras[row], K, px, py, out)
                else:
                    i = candidate[k]
                    _shade(
                        texels,
                        surface,
                        ambience,
                        lamps,
                        cameras[row],
                        bodies[owner[i]],
                        K,
                        i,
                        f[k],
                        px,
                        py,
                        taps,
                        out,
                    )
                r, g, b = r + covered[k] * out[0], g + covered[k] * out[1], b + covered[k] * out[2]
            rgb[y, x, 0], rgb[y, x, 1], rgb[y, x, 2] = r, g, b
