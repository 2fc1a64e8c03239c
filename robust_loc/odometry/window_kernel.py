"""The correlation volume without gradients, for a CPU: float32, vector instructions along image rows.

Maps are stored as ``[n, h + 16, C, w + 16]`` with a border of zeros, so that eight neighbouring pixels of one channel
lie side by side and no window needs a test of bounds. An 8x8 window of inner products then is eight vectors of eight,
which stay in registers while the channels pass; a plain loop over channels would end in 64 horizontal sums instead.
The vectors are written in LLVM's own language because its vectoriser does not find them in the loops.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

SIDE = 8  # of the window of integer positions: 2 * radius + 2
BORDER = 8  # a window that is pushed into it sees nothing
_REACH = SIDE // 2 - 1
_FAR = 1e6  # positions beyond this (or NaN) lie outside every map
_CHANNELS = 16  # taken at once for the nine pixels of a patch, whose windows overlap: what they share stays in cache

_compiled = numba.njit(nogil=True, cache=True, error_model="numpy", fastmath={"reassoc", "contract", "nsz"})


@intrinsic
def _accumulate(context: Any, f: Any, g: Any, out: Any, channels: Any, channel_step: Any, row_step: Any) -> Any:
    """``out[v, u] += sum_c g[c] * f[c * channel_step + v * row_step + u]``; f, g and out are addresses of float32."""
    signature = types.void(types.uintp, types.uintp, types.uintp, types.intp, types.intp, types.intp)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        f, g, out, channels, channel_step, row_step = arguments
        index, real = ir.IntType(64), ir.FloatType()
        vector = ir.VectorType(real, SIDE)
        undefined = ir.Constant(vector, ir.Undefined)
        every_lane = ir.Constant(ir.VectorType(ir.IntType(32), SIDE), [0] * SIDE)
        f, g = (builder.inttoptr(x, real.as_pointer()) for x in (f, g))
        out = builder.inttoptr(out, vector.as_pointer())
        places = [builder.gep(out, [ir.Constant(index, v)]) for v in range(SIDE)]
        before = builder.block
        loop, end = (builder.append_basic_block(name) for name in ("channels", "done"))
        sums = [builder.load(place) for place in places]
        for value in sums:
            value.align = 4
        builder.branch(loop)

        builder.position_at_end(loop)
        c = builder.phi(index)
        c.add_incoming(ir.Constant(index, 0), before)
        running = [builder.phi(vector) for _ in range(SIDE)]
        first = builder.insert_element(undefined, builder.load(builder.gep(g, [c])), ir.Constant(ir.IntType(32), 0))
        factor = builder.shuffle_vector(first, undefined, every_lane)
        row = builder.gep(f, [builder.mul(c, channel_step)])
        added = []
        for total in running:
            values = builder.load(builder.bitcast(row, vector.as_pointer()))
            values.align = 4
            product = builder.fmul(values, factor, flags=("contract",))
            added.append(builder.fadd(product, total, flags=("contract",)))
            row = builder.gep(row, [row_step])
        following = builder.add(c, ir.Constant(index, 1))
        c.add_incoming(following, loop)
        for total, start, result in zip(running, sums, added):
            total.add_incoming(start, before)
            total.add_incoming(result, loop)
        builder.cbranch(builder.icmp_signed("<", following, channels), loop, end)

        builder.position_at_end(end)
        for place, result in zip(places, added):
            builder.store(result, place).align = 4
        return context.get_dummy_value()

    return signature, generate


@_compiled
def forward(start, stop, order, gmap, fmap, coords, kk, jj, scale, level, out):
    """Fill ``out[e, x offset, y offset, a, b, level]`` for the edges ``order[start:stop]``.

    Edges into one frame should follow each other: its map is in the cache then.
    """
    P, C = gmap.shape[1], gmap.shape[3]
    H, W = fmap.shape[1], fmap.shape[3]
    windows = np.zeros((P * P, SIDE, SIDE), np.float32)
    blended = np.zeros((SIDE - 1, SIDE), np.float32)
    fraction = np.zeros((P * P, 2), np.float32)
    corner = np.zeros(P * P, np.int64)
    maps, patches, sums = fmap.ctypes.data, gmap.ctypes.data, windows.ctypes.data
    for n in range(start, stop):
        e = order[n]
        k, j = kk[e], jj[e]
        for p in range(P * P):
            x, y = coords[e, p // P, p % P, 0] * scale, coords[e, p // P, p % P, 1] * scale
            if not (abs(x) < _FAR and abs(y) < _FAR):
                x, y = -_FAR, -_FAR
            x0, y0 = np.floor(x), np.floor(y)
            fraction[p, 0], fraction[p, 1] = x - x0, y - y0
            left = min(max(int(x0) - _REACH + BORDER, 0), W - SIDE)
            top = min(max(int(y0) - _REACH + BORDER, 0), H - SIDE)
            corner[p] = ((j * H + top) * C) * W + left
        windows[:] = 0
        for c in range(0, C, _CHANNELS):
            for p in range(P * P):
                f, g = maps + 4 * (corner[p] + c * W), patches + 4 * ((k * P * P + p) * C + c)
                _accumulate(f, g, sums + 4 * p * SIDE * SIDE, min(_CHANNELS, C - c), W, C * W)  # type: ignore[call-arg]
        for p in range(P * P):
            fx, fy = fraction[p, 0], fraction[p, 1]
            for v in range(SIDE):
                for u in range(SIDE - 1):
                    blended[u, v] = windows[p, v, u] + fx * (windows[p, v, u + 1] - windows[p, v, u])
            for u in range(SIDE - 1):
                for v in range(SIDE - 1):
                    value = blended[u, v] + fy * (blended[u, v + 1] - blended[u, v])
                    out[e, u, v, p // P, p % P, level] = value
