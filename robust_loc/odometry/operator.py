"""What the tracker asks of whatever finds patches again: the flow operator, and the network as one."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from robust_loc.odometry.correlation import bordered, correlate, correlate_bordered, put_bordered
from robust_loc.odometry.lanes import in_lanes
from robust_loc.odometry.network import FrameFeatures, PatchNetwork
from robust_loc.odometry.patches import gradient_centres
from robust_loc.odometry.update import EdgeGroups, Revision
from robust_loc.types import Camera, Frame


class Observation(NamedTuple):
    """A frame known to the operator: ``handle`` names it, ``centres`` [M, 2] are its patches (quarter resolution)."""

    handle: int
    centres: Tensor


class FlowOperator(Protocol):
    """Says where patches of one frame lie in another, and how sure it is.

    The tracker drives any operator with this interface: the network, or one that knows the truth.
    """

    hidden_size: int

    def observe(self, image: Tensor, camera: Camera, frame: Frame, generator: torch.Generator) -> Observation:
        """Take in a frame: the working image [3, H, W] (uint8 RGB) with its camera, and the original frame."""
        ...

    def release(self, handle: int) -> None:
        """The tracker will not name this frame again."""
        ...

    def revise(self, hidden: Tensor, handles: Tensor, coords: Tensor, ii: Tensor, jj: Tensor, kk: Tensor) -> Revision:
        """One step over all edges.

        Args:
            hidden: [E, hidden_size], zeros for new edges.
            handles: [n] handle of each frame.
            coords: [E, 3, 3, 2] current reprojections.
            ii, jj: [E] source and target, indices into ``handles``; kk: [E] patch ``ii * M + p``.
        """
        ...


class NetworkOperator:
    """The patch network with the features of the frames in use.

    Args:
        network: its weights stay where they are moved to: ``device``.
        patches_per_frame: M.
        capacity: frames held at once.
    """

    def __init__(
        self,
        network: PatchNetwork,
        patches_per_frame: int,
        capacity: int,
        device: torch.device,
        *,
        gradient_bias: bool = False,
        mixed_precision: bool = False,
    ) -> None:
        self.network = network.to(device).eval()
        self.hidden_size = network.config.hidden
        self._patches, self._capacity, self._device = patches_per_frame, capacity, device
        self._gradient_bias, self._mixed = gradient_bias, mixed_precision
        self._half = torch.float16 if device.type == "cuda" else torch.bfloat16
        self._free = list(range(capacity))
        self._size: tuple[int, int] | None = None
        self._maps: tuple[Tensor, ...] = ()
        self._by_frame = device.type == "cpu"  # compiled kernels and lanes, in single precision

    def observe(self, image: Tensor, camera: Camera, frame: Frame, generator: torch.Generator) -> Observation:
        images = image[None].to(self._device)
        centres = gradient_centres(images, self._patches, generator) if self._gradient_bias else None
        with torch.autocast(self._device.type, self._half, enabled=self._mixed):
            found = self.network.extract(images, self._patches, centres=centres, generator=generator)
        if self._size != image.shape[1:]:
            self._allocate(found)
            self._size = (image.shape[1], image.shape[2])
        handle = self._free.pop()
        rows = slice(handle * self._patches, (handle + 1) * self._patches)
        self._gmap[rows], self._context[rows] = found.gmap, found.context
        if self._by_frame:
            put_bordered(self._maps, handle, found.pyramid)
        else:
            for buffer, level in zip(self._maps, found.pyramid):
                buffer[handle] = level[0]
        return Observation(handle, found.centres[0])

    def _allocate(self, found: FrameFeatures) -> None:
        if len(self._free) != self._capacity:
            raise RuntimeError("the image size changed while frames of another size are in use")
        rows = self._capacity * self._patches
        self._by_frame = self._by_frame and found.gmap.dtype != torch.float64
        self._gmap = found.gmap.new_zeros(rows, *found.gmap.shape[1:])
        self._context = found.context.new_zeros(rows, *found.context.shape[1:])
        if self._by_frame:
            self._gmap = self._gmap.float()
            self._maps = bordered(self._capacity, found.pyramid)
        else:
            self._maps = tuple(level.new_zeros(self._capacity, *level.shape[1:]) for level in found.pyramid)

    def release(self, handle: int) -> None:
        self._free.append(handle)

    def revise(self, hidden: Tensor, handles: Tensor, coords: Tensor, ii: Tensor, jj: Tensor, kk: Tensor) -> Revision:
        rows = handles[ii] * self._patches + (kk - ii * self._patches)
        with torch.autocast(self._device.type, self._half, enabled=self._mixed):
            volume = self.correlate(coords.float(), handles[jj], rows)
            return self.step(hidden, volume, rows, ii, jj, kk)

    def correlate(self, coords: Tensor, frames: Tensor, rows: Tensor) -> Tensor:
        """Volumes [E, 882] of patches ``rows`` in the maps ``frames``, both places in this operator's stores."""
        chosen = correlate_bordered if self._by_frame else correlate
        return chosen(self._gmap, self._maps, coords, frames, rows)

    def step(self, hidden: Tensor, volume: Tensor, rows: Tensor, ii: Tensor, jj: Tensor, kk: Tensor) -> Revision:
        """The update operator. On a CPU it takes one source frame after another: their data stay in the cache, and
        lanes share them."""
        M = self._patches
        frames = complete_frames(ii, jj, kk, M) if self._by_frame else None
        if frames is None:
            return self.network.update(hidden, self._context[rows], volume, EdgeGroups.of(ii, jj, kk))

        def of_frame(edges: slice) -> Revision:
            own = rows[edges.start : edges.start + M]
            grid = (h[edges].unflatten(0, (-1, M)) for h in (hidden, volume))
            revision = self.network.update.forward_of_frame(next(grid), self._context[own], next(grid))
            return Revision(*(x.flatten(0, 1) for x in revision))

        return Revision(*map(torch.cat, zip(*in_lanes([partial(of_frame, edges) for edges in frames]))))


def complete_frames(ii: Tensor, jj: Tensor, kk: Tensor, per_frame: int) -> list[slice] | None:
    """The edges of each source frame, when they lie in the order of (ii, jj, kk) with all patches in every target.

    None when they do not. The tensors lie on the CPU.
    """
    if len(ii) == 0 or len(ii) % per_frame:
        return None
    i, j, k = (x.numpy().reshape(-1, per_frame) for x in (ii, jj, kk))
    pair = i.astype(np.int64) * (int(j.max()) + 1) + j
    if not ((pair == pair[:, :1]).all() and (np.diff(pair[:, 0]) > 0).all()):
        return None
    if not (k == i * per_frame + np.arange(per_frame)).all():
        return None
    bounds = [0, *(np.flatnonzero(np.diff(i[:, 0])) + 1).tolist(), len(i)]
    return [slice(a * per_frame, b * per_frame) for a, b in zip(bounds, bounds[1:])]
