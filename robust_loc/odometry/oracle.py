"""An operator that knows the truth: flow from ground-truth depth and poses, with noise of known size.

It proves the tracker without a trained network, and shows what a perfect network would reach.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robust_loc.errors import DatasetError
from robust_loc.odometry.operator import Observation
from robust_loc.odometry.patches import STRIDE, random_centres
from robust_loc.odometry.update import Revision
from robust_loc.types import Camera, Frame


@dataclass(frozen=True, eq=False)
class _Known:
    """One frame: depth map, ``cam_T_world``, working camera, scale from working to original pixels, patches."""

    depth: np.ndarray
    cam_T_world: np.ndarray
    camera: Camera
    scale: np.ndarray
    points: np.ndarray  # [M, 3] patch centres in the world, NaN where depth is unknown


class OracleOperator:
    """True flow of patch centres, plus noise.

    Args:
        patches_per_frame: M.
        sigma: standard deviation of the noise per axis, quarter-resolution pixels.
        spread: each edge's own sigma lies within this factor of ``sigma``; its weight is proportional to ``1/sigma^2``.
        seed: of the noise. The noise of an edge is drawn once, however often the edge is revised.
        margin: reprojections further than this outside the target image (quarter-resolution pixels) get no weight.
        occlusion: relative depth difference beyond which a patch counts as hidden and gets no weight.

    Frames need ``depth`` and ``world_T_cam``.
    """

    hidden_size = 1

    def __init__(
        self,
        patches_per_frame: int,
        sigma: float = 0.0,
        spread: float = 1.0,
        seed: int = 0,
        *,
        margin: float = 0.0,
        occlusion: float = 0.05,
    ) -> None:
        self._patches, self._sigma, self._spread, self._seed = patches_per_frame, sigma, spread, seed
        self._margin, self._occlusion = margin, occlusion
        self._frames: dict[int, _Known] = {}
        self._drawn: dict[tuple[int, int], np.ndarray] = {}
        self._next = 0

    def observe(self, image: Tensor, camera: Camera, frame: Frame, generator: torch.Generator) -> Observation:
        """Raises DatasetError when the frame lacks depth or pose."""
        if frame.depth is None or frame.world_T_cam is None:
            raise DatasetError(f"the frame at {frame.stamp} ns has no ground truth; the oracle needs depth and pose")
        height, width = camera.height // STRIDE, camera.width // STRIDE
        centres = random_centres(1, self._patches, height, width, generator)[0]
        # a working image is either a scaled or a cropped one; focal lengths tell
        scale = np.array([frame.camera.fx / camera.fx, frame.camera.fy / camera.fy])
        known = _Known(frame.depth, np.linalg.inv(frame.world_T_cam), camera, scale, np.zeros((0, 3)))
        pixels = STRIDE * centres.double().numpy()
        depth = _sample(known, pixels)
        rays = (pixels - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
        points = np.concatenate([rays, np.ones((len(rays), 1))], 1) * np.where(depth > 0, depth, np.nan)[:, None]
        points = points @ frame.world_T_cam[:3, :3].T + frame.world_T_cam[:3, 3]
        handle, self._next = self._next, self._next + 1
        self._frames[handle] = _Known(known.depth, known.cam_T_world, camera, scale, points)
        return Observation(handle, centres)

    def release(self, handle: int) -> None:
        del self._frames[handle]
        self._drawn = {pair: table for pair, table in self._drawn.items() if handle not in pair}

    def revise(self, hidden: Tensor, handles: Tensor, coords: Tensor, ii: Tensor, jj: Tensor, kk: Tensor) -> Revision:
        source, into, p = handles[ii].numpy(), handles[jj].numpy(), (kk - ii * self._patches).numpy()
        points = np.stack([self._frames[h].points for h in handles.tolist()])[ii.numpy(), p]
        target, visible = np.zeros((len(ii), 2)), np.zeros(len(ii), bool)
        for b in np.unique(into):
            chosen = into == b
            own = source[chosen] == b
            target[chosen], visible[chosen] = self._project(points[chosen], self._frames[b], own)
        noise, sigma = self._noise(source, into, p)
        relative = (self._sigma / self._spread / sigma) ** 2 if self._sigma else np.ones_like(noise)
        delta = torch.from_numpy(target / STRIDE + noise).to(coords) - coords[:, 1, 1]
        return Revision(hidden, torch.nan_to_num(delta), torch.from_numpy(relative * visible[:, None]))

    def _project(self, points: np.ndarray, into: _Known, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """World points -> working pixels [.., 2] and whether each is seen there (the frame's own patches are)."""
        seen = points @ into.cam_T_world[:3, :3].T + into.cam_T_world[:3, 3]
        camera = into.camera
        with np.errstate(invalid="ignore", divide="ignore"):
            u = seen[:, :2] / seen[:, 2:] * [camera.fx, camera.fy] + [camera.cx, camera.cy]
            slack = STRIDE * self._margin
            last = np.array([camera.width, camera.height]) - 1
            visible = ((u >= -slack) & (u <= last + slack)).all(1) & (seen[:, 2] > 0.05)
        surface = _sample(into, np.where(visible[:, None], u, 0.0))
        close = np.abs(seen[:, 2] - surface) < self._occlusion * np.where(visible, seen[:, 2], 1.0)
        outside = (u < 0).any(1) | (u > last).any(1)
        return np.where(np.isfinite(u), u, 0.0), visible & (close | outside | own)

    def _noise(self, source: np.ndarray, into: np.ndarray, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Noise [.., 2] and its sigma of patches ``p`` of frames ``source`` in frames ``into``: the same every time."""
        if not self._sigma:
            return np.zeros((len(p), 2)), np.ones((len(p), 2))
        pairs, which = np.unique(np.stack([source, into], 1), axis=0, return_inverse=True)
        tables = np.stack([self._pair_noise(int(a), int(b)) for a, b in pairs])
        noise, sigma = tables[which.reshape(-1), :, p].swapaxes(0, 1)
        return noise, sigma

    def _pair_noise(self, a: int, b: int) -> np.ndarray:
        """[2 (noise, sigma), M, 2]."""
        if (a, b) not in self._drawn:
            g = np.random.default_rng([self._seed, a, b])
            sigma = self._sigma * self._spread ** g.uniform(-1, 1, (self._patches, 2))
            self._drawn[a, b] = np.stack([sigma * g.standard_normal((self._patches, 2)), sigma])
        return self._drawn[a, b]


def _sample(frame: _Known, pixels: np.ndarray) -> np.ndarray:
    """Depth at working pixels [.., 2]; 0 where unknown. Inverse depth is linear on planes, so that is interpolated;
    across depth edges the nearest pixel is taken."""
    height, width = frame.depth.shape
    u = np.clip(frame.scale * (pixels + 0.5) - 0.5, 0, [width - 1, height - 1])
    x0, y0 = (np.minimum(np.floor(u[:, a]).astype(int), n - 2) for a, n in ((0, width), (1, height)))
    fx, fy = u[:, 0] - x0, u[:, 1] - y0
    corners = np.stack([frame.depth[y0 + b, x0 + a] for b in (0, 1) for a in (0, 1)], -1).astype(np.float64)
    weights = np.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], -1)
    smooth = (corners > 0).all(-1) & (corners.max(-1) < 1.05 * corners.min(-1))
    blended = 1 / np.where(smooth, (weights / np.where(corners > 0, corners, 1.0)).sum(-1), 1.0)
    nearest = np.take_along_axis(corners, weights.argmax(-1)[:, None], 1)[:, 0]
    return np.where(smooth, blended, nearest)
