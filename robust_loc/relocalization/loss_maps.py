"""Correspondence maps and loss maps (NRE, sections 3.2-3.3 and appendix D.1), stored sparsely.

A map point ``n`` with descriptor ``h_n`` has in the query image a *correspondence map* ``C_n = softmax_p <h_n, H(p)>``:
the probability that the point projects at pixel ``p``. Its *loss map* is ``L_n(p) = -ln C_n(p)``, truncated at the
loss ``ln|O|`` of the uniform distribution over the ``|O| = width * height + 1`` places a point can be (every pixel,
or outside). Only the pixels below that ceiling are stored. Pixels are cells of the feature grid, centres integers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

from robust_loc.types import FloatArray

EPSILON = float(np.finfo(np.float32).eps)  # inside the logarithm: -ln saturates at 15.94
MIN_DEPTH = 1e-4  # a point nearer than this to the camera plane is not seen
DENSE_CELLS = 4_000_000  # cells of all maps together up to which they may be filled for scoring
ONE_HOT_LOSS = 1e-3  # loss at the peak of a one-hot map: the reprojection-error case of eq. 11


@dataclass(frozen=True, eq=False)
class LossMaps:
    """N sparse loss maps over one feature grid.

    Attributes:
        starts: (N + 1,) int64; map ``n`` owns the entries ``starts[n]:starts[n + 1]``.
        x, y: (M,) int32 pixels with ``L < ln|O|``, in row-major order within each map.
        loss: (M,) float32 their losses; every other pixel, and outside the grid, costs ``ceiling``.
        width, height: size of the feature grid.
    """

    starts: NDArray[np.int64]
    x: NDArray[np.int32]
    y: NDArray[np.int32]
    loss: NDArray[np.float32]
    width: int
    height: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def ceiling(self) -> float:
        """``ln|O|``: the loss of knowing nothing."""
        return math.log(self.width * self.height + 1)

    @classmethod
    def from_dense(
        cls, probabilities: Tensor, *, width: int, height: int, origin: NDArray[np.int64] | None = None
    ) -> LossMaps:
        """Truncate (eq. 7) dense probabilities [N, h, w]; ``origin`` [N, 2] is each window's top-left pixel (x, y).

        Window pixels outside the grid must have probability 0.
        """
        ceiling = math.log(width * height + 1)
        # Selecting on C first spares a logarithm of every pixel.
        index, row, column = torch.nonzero(probabilities + EPSILON > math.exp(-ceiling), as_tuple=True)
        loss = -torch.log(probabilities[index, row, column].double() + EPSILON)
        counts = torch.bincount(index, minlength=len(probabilities)).numpy()
        x, y, n = column.numpy(), row.numpy(), index.numpy()
        if origin is not None:
            x, y = x + origin[n, 0], y + origin[n, 1]
        return cls(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            x.astype(np.int32),
            y.astype(np.int32),
            loss.clamp(min=0.0).numpy().astype(np.float32),
            width,
            height,
        )

    @classmethod
    def one_hot(cls, pixels: NDArray[np.integer], *, width: int, height: int) -> LossMaps:
        """Maps that are certain of one pixel (x, y) each: NRE then is a robust reprojection error (eq. 11)."""
        n = len(pixels)
        return cls(
            np.arange(n + 1, dtype=np.int64),
            pixels[:, 0].astype(np.int32),
            pixels[:, 1].astype(np.int32),
            np.full(n, ONE_HOT_LOSS, np.float32),
            width,
            height,
        )

    def peaks(self) -> tuple[NDArray[np.int32], FloatArray]:
        """The least costly pixel [N, 2] of each map and its loss [N]; an empty map has ``(-1, -1)``, ``ceiling``."""
        pixels = np.full((len(self), 2), -1, np.int32)
        losses = np.full(len(self), self.ceiling)
        _peaks(self.starts, self.x, self.y, self.loss, pixels, losses)
        return pixels, losses

    def to_peaks(self) -> LossMaps:
        """The one-hot maps at the peaks; empty maps stay empty."""
        pixels, _ = self.peaks()
        seen = pixels[:, 0] >= 0
        hot = LossMaps.one_hot(pixels[seen], width=self.width, height=self.height)
        starts = np.concatenate([[0], np.cumsum(seen)]).astype(np.int64)
        return LossMaps(starts, hot.x, hot.y, hot.loss, self.width, self.height)

    def select(self, index: NDArray[np.integer]) -> LossMaps:
        """The maps of ``index``, in its order."""
        counts = np.diff(self.starts)[index]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        entries = np.repeat(self.starts[:-1][index] - starts[:-1], counts) + np.arange(starts[-1])
        return LossMaps(starts, self.x[entries], self.y[entries], self.loss[entries], self.width, self.height)

    def interpolate(self, pixels: FloatArray) -> FloatArray:
        """Bilinear interpolation of the truncated maps at ``pixels`` [N, 2] (eq. 6); ``ceiling`` outside the grid."""
        out = np.empty(len(self))
        _interpolate(self.starts, self.x, self.y, self.loss, self.width, self.height, self.ceiling, pixels, out)
        return out

    def cost(self, points: FloatArray, intrinsics: FloatArray, R: FloatArray, t: FloatArray) -> FloatArray:
        """NRE of each point under each pose (eq. 6) [P, N].

        Args:
            points: [N, 3] world points.
            intrinsics: [4] ``fx fy cx cy`` of the feature grid.
            R, t: [P, 3, 3] and [P, 3] of ``cam_T_world``.
        """
        out = np.empty((len(R), len(self)))
        if len(R) > 8 and len(self) * self.width * self.height <= DENSE_CELLS:
            # Many poses on small grids: looking pixels up in dense maps is worth filling them once.
            _cost_dense(self._dense, self.ceiling, points, intrinsics, R, t, out)
        else:
            grid = (self.width, self.height, self.ceiling)
            _cost(self.starts, self.x, self.y, self.loss, *grid, points, intrinsics, R, t, out)
        return out

    @cached_property
    def _dense(self) -> NDArray[np.float32]:
        """The maps with their ceilings filled in [N, H, W]; only ever of coarse grids."""
        dense = np.full((len(self), self.height, self.width), self.ceiling, np.float32)
        dense[np.repeat(np.arange(len(self)), np.diff(self.starts)), self.y, self.x] = self.loss
        return dense


def correspondence_maps(descriptors: Tensor, features: Tensor) -> Tensor:
    """Softmax over the grid of the dot products of ``descriptors`` [N, D] and ``features`` [H, W, D]: [N, H, W]."""
    height, width, channels = features.shape
    scores = descriptors.float() @ features.reshape(-1, channels).float().T
    return torch.softmax(scores, -1).view(-1, height, width)


def refine_maps(
    descriptors: Tensor,
    features: Tensor,
    coarse: Tensor,
    pixels: FloatArray,
    *,
    window: int = 64,
    ratio: int = 8,
) -> LossMaps:
    """Fine loss maps in a window around each predicted projection (appendix D.1).

    The softmax over the window is scaled by the mass that the coarse map gives to the window, and divided by the area
    ratio of the pixels (``ratio**2``), as the paper does; the division makes the truncation stricter, not the pose.

    Args:
        descriptors: [N, D] fine descriptors of the points.
        features: [H, W, D] fine features of the query.
        coarse: [N, h, w] coarse correspondence maps; cell ``i`` is centred on fine pixel ``ratio * i``.
        pixels: [N, 2] predicted projections on the fine grid; not finite where the point is behind the camera.
        window: side of the window in fine pixels, a multiple of ``ratio``.

    Returns:
        Loss maps over the whole fine grid.
    """
    height, width, _ = features.shape
    finite = np.isfinite(pixels).all(1, keepdims=True)
    # A window that lies wholly outside the grid gives an empty map.
    centre = np.where(finite, np.clip(pixels, -1e6, 1e6), -1e6)
    origin = np.floor(centre + 0.5).astype(np.int64) - window // 2
    scores = np.empty((len(pixels), window, window), np.float32)
    _window_scores(_float32(descriptors), _float32(features), origin, scores)
    flat = torch.from_numpy(scores).view(len(scores), -1)
    local = torch.softmax(flat, -1).nan_to_num_(0.0)
    mass = torch.from_numpy(_window_mass(_float32(coarse), origin, window, ratio))
    local *= (mass / ratio**2)[:, None]
    return LossMaps.from_dense(local.view(-1, window, window), width=width, height=height, origin=origin)


def project_points(
    points: FloatArray, intrinsics: FloatArray, cam_T_world: FloatArray
) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Pixels [N, 2] of world points [N, 3], NaN where the point is not in front of the camera, and that mask [N]."""
    local = points @ cam_T_world[:3, :3].T + cam_T_world[:3, 3]
    front = local[:, 2] > MIN_DEPTH
    depth = np.where(front, local[:, 2], np.nan)[:, None]
    return intrinsics[:2] * local[:, :2] / depth + intrinsics[2:], front


def _float32(values: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(values.detach().float().numpy())


@njit(cache=True)
def _peaks(starts, x, y, loss, pixels, losses):
    for n in range(len(starts) - 1):
        for m in range(starts[n], starts[n + 1]):
            if loss[m] < losses[n]:
                losses[n] = loss[m]
                pixels[n, 0] = x[m]
                pixels[n, 1] = y[m]


@njit(cache=True)
def _lookup(first, last, x, y, loss, ceiling, column, row):
    """Loss at one pixel by bisection in the row-major entries ``first:last``."""
    end = last
    while first < last:
        middle = (first + last) // 2
        if y[middle] < row or (y[middle] == row and x[middle] < column):
            first = middle + 1
        else:
            last = middle
    if first < end and x[first] == column and y[first] == row:
        return float(loss[first])
    return ceiling


@njit(cache=True)
def _bilinear(first, last, x, y, loss, width, height, ceiling, u, v):
    if not (0.0 <= u <= width - 1.0 and 0.0 <= v <= height - 1.0):  # also when not finite
        return ceiling
    if first == last:
        return ceiling
    column, row = int(math.floor(u)), int(math.floor(v))
    a, b = u - column, v - row
    value = (1 - a) * (1 - b) * _lookup(first, last, x, y, loss, ceiling, column, row)
    value += a * (1 - b) * _lookup(first, last, x, y, loss, ceiling, column + 1, row)
    value += (1 - a) * b * _lookup(first, last, x, y, loss, ceiling, column, row + 1)
    value += a * b * _lookup(first, last, x, y, loss, ceiling, column + 1, row + 1)
    return value


@njit(cache=True)
def _interpolate(starts, x, y, loss, width, height, ceiling, pixels, out):
    for n in range(len(starts) - 1):
        u, v = pixels[n, 0], pixels[n, 1]
        out[n] = _bilinear(starts[n], starts[n + 1], x, y, loss, width, height, ceiling, u, v)


@njit(cache=True)
def _cost(starts, x, y, loss, width, height, ceiling, points, k, R, t, out):
    for p in range(len(R)):
        for n in range(len(starts) - 1):
            X, Y, Z = points[n, 0], points[n, 1], points[n, 2]
            z = R[p, 2, 0] * X + R[p, 2, 1] * Y + R[p, 2, 2] * Z + t[p, 2]
            if z <= MIN_DEPTH:
                out[p, n] = ceiling
                continue
            u = k[0] * (R[p, 0, 0] * X + R[p, 0, 1] * Y + R[p, 0, 2] * Z + t[p, 0]) / z + k[2]
            v = k[1] * (R[p, 1, 0] * X + R[p, 1, 1] * Y + R[p, 1, 2] * Z + t[p, 1]) / z + k[3]
            out[p, n] = _bilinear(starts[n], starts[n + 1], x, y, loss, width, height, ceiling, u, v)


@njit(cache=True)
def _cost_dense(maps, ceiling, points, k, R, t, out):
    height, width = maps.shape[1:]
    for n in range(len(maps)):  # one map stays in the cache for all poses
        X, Y, Z = points[n, 0], points[n, 1], points[n, 2]
        for p in range(len(R)):
            out[p, n] = ceiling
            z = R[p, 2, 0] * X + R[p, 2, 1] * Y + R[p, 2, 2] * Z + t[p, 2]
            if z <= MIN_DEPTH:
                continue
            u = k[0] * (R[p, 0, 0] * X + R[p, 0, 1] * Y + R[p, 0, 2] * Z + t[p, 0]) / z + k[2]
            v = k[1] * (R[p, 1, 0] * X + R[p, 1, 1] * Y + R[p, 1, 2] * Z + t[p, 1]) / z + k[3]
            if not (0.0 <= u <= width - 1.0 and 0.0 <= v <= height - 1.0):
                continue
            column, row = int(u), int(v)
            a, b = u - column, v - row
            right, below = min(column + 1, width - 1), min(row + 1, height - 1)
            top = (1 - a) * maps[n, row, column] + a * maps[n, row, right]
            bottom = (1 - a) * maps[n, below, column] + a * maps[n, below, right]
            out[p, n] = (1 - b) * top + b * bottom


@njit(cache=True, fastmath={"contract", "reassoc"})
def _window_scores(descriptors, features, origin, out):
    """Dot products of each descriptor with its window of the features; -inf outside the grid."""
    height, width, channels = features.shape
    for n in range(len(descriptors)):
        for i in range(out.shape[1]):
            row = origin[n, 1] + i
            for j in range(out.shape[2]):
                column = origin[n, 0] + j
                if row < 0 or row >= height or column < 0 or column >= width:
                    out[n, i, j] = -np.inf
                    continue
                total = np.float32(0.0)
                for c in range(channels):
                    total += descriptors[n, c] * features[row, column, c]
                out[n, i, j] = total


@njit(cache=True)
def _window_mass(coarse, origin, window, ratio):
    """Coarse probability of the cells whose centres lie in each window."""
    height, width = coarse.shape[1:]
    mass = np.zeros(len(origin), np.float32)
    for n in range(len(origin)):
        left, top = -(-origin[n, 0] // ratio), -(-origin[n, 1] // ratio)
        for row in range(max(top, 0), min(top + window // ratio, height)):
            for column in range(max(left, 0), min(left + window // ratio, width)):
                mass[n] += coarse[n, row, column]
    return mass
