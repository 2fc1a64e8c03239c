"""The normal equations of bundle adjustment as one compiled loop over edges (CPU, float64, no gradients).

It computes what :func:`robust_loc.odometry.bundle_adjustment.normal_equations` computes with batched torch operations,
without their temporaries; a test holds the two together.
"""

from __future__ import annotations

import numba
import numpy as np

_compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@_compiled
def accumulate(
    R,
    t,
    K,
    centre,
    target,
    weight,
    ii,
    jj,
    kk,
    place,
    pose,
    clip,
    N,
    size,
    visible,
    largest_residual,
    margin,
    B,
    E,
    C,
    g,
    q,
    used,
    cost,
):
    """Add every edge to ``B, E, C, g, q``.

    Args:
        R [n, 3, 3], t [n, 3]: ``cam_T_world``; K [n, 4]; centre [K, 3]: x, y, inverse depth.
        place: [E] row of each edge's patch in E, C, q; pose: [n] slot of each frame, -1 when fixed; clip: [n].
        N: free poses per clip; size: (height, width).
        B [clips, 6N, 6N], E [clips * m, 6N], C [clips * m], g [clips, 6N], q [clips * m], used [E],
            cost [clips]: outputs.
    """
    J = np.zeros((2, 2, 6))  # pose i or j, pixel axis, tangent
    slots = np.zeros(2, np.int64)
    G, s = np.zeros((3, 3)), np.zeros(3)
    for e in range(len(ii)):
        i, j, k = ii[e], jj[e], kk[e]
        if i == j:  # a patch in its own frame says nothing of poses or depth
            used[e] = True
            continue
        for a in range(3):  # G_ij = T_j T_i^-1 = [G, s]
            s[a] = t[j, a]
            for b in range(3):
                G[a, b] = R[j, a, 0] * R[i, b, 0] + R[j, a, 1] * R[i, b, 1] + R[j, a, 2] * R[i, b, 2]
                s[a] -= G[a, b] * t[i, b]
        x, y, d = (centre[k, 0] - K[i, 2]) / K[i, 0], (centre[k, 1] - K[i, 3]) / K[i, 1], centre[k, 2]
        X = G[0, 0] * x + G[0, 1] * y + G[0, 2] + s[0] * d
        Y = G[1, 0] * x + G[1, 1] * y + G[1, 2] + s[1] * d
        Z = G[2, 0] * x + G[2, 1] * y + G[2, 2] + s[2] * d
        if not visible < Z:
            continue
        inverse = 1 / Z
        fx, fy = K[j, 0] * inverse, K[j, 1] * inverse
        u, v = fx * X + K[j, 2], fy * Y + K[j, 3]
        ru, rv = target[e, 0] - u, target[e, 1] - v
        inside = u > -margin and v > -margin and u < size[1] + margin and v < size[0] + margin
        if not (inside and np.sqrt(ru * ru + rv * rv) < largest_residual):
            continue
        used[e] = True
        # rows of d(pixel)/d(point), then by [tau, phi] of pose j, then of pose i through -Ad(G)
        p, r = -X * inverse, -Y * inverse
        J[1, 0, 0], J[1, 0, 1], J[1, 0, 2] = fx * d, 0.0, fx * p * d
        J[1, 0, 3], J[1, 0, 4], J[1, 0, 5] = fx * p * Y, fx * (Z - p * X), -fx * Y
        J[1, 1, 0], J[1, 1, 1], J[1, 1, 2] = 0.0, fy * d, fy * r * d
        J[1, 1, 3], J[1, 1, 4], J[1, 1, 5] = fy * (r * Y - Z), -fy * r * X, fy * X
        for axis in range(2):
            tau, phi = J[1, axis, :3], J[1, axis, 3:]
            w0 = tau[1] * s[2] - tau[2] * s[1] + phi[0]
            w1 = tau[2] * s[0] - tau[0] * s[2] + phi[1]
            w2 = tau[0] * s[1] - tau[1] * s[0] + phi[2]
            for c in range(3):
                J[0, axis, c] = -(tau[0] * G[0, c] + tau[1] * G[1, c] + tau[2] * G[2, c])
                J[0, axis, 3 + c] = -(w0 * G[0, c] + w1 * G[1, c] + w2 * G[2, c])
        Ju, Jv = fx * (s[0] + p * s[2]), fy * (s[1] + r * s[2])
        wu, wv = weight[e, 0], weight[e, 1]
        k = place[e]
        C[k] += wu * Ju * Ju + wv * Jv * Jv
        q[k] += wu * Ju * ru + wv * Jv * rv
        c = clip[i]
        cost[c] += wu * ru * ru + wv * rv * rv
        slots[0], slots[1] = pose[i], pose[j]
        for first in range(2):
            if slots[first] < 0:
                continue
            row = 6 * (slots[first] - c * N)
            for m in range(6):
                hu, hv = wu * J[first, 0, m], wv * J[first, 1, m]
                g[c, row + m] += hu * ru + hv * rv
                E[k, row + m] += hu * Ju + hv * Jv
                for second in range(2):
                    if slots[second] >= 0:
                        column = 6 * (slots[second] - c * N)
                        for n in range(6):
                            B[c, row + m, column + n] += hu * J[second, 0, n] + hv * J[second, 1, n]
