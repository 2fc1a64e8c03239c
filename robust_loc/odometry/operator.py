"""What the tracker asks of whatever finds patches again: the flow operator, and the network as one."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from robust_loc.odometry.correlation import correlate
from robust_loc.odometry.network import PatchNetwork
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

    def observe(self, image: Tensor, camera: Camera, frame: Frame, generator: torch.Generator) -> Observation:
        images = image[None].to(self._device)
        centres = gradient_centres(images, self._patches, generator) if self._gradient_bias else None
        with torch.autocast(self._device.type, self._half, enabled=self._mixed):
            found = self.network.extract(images, self._patches, centres=centres, generator=generator)
        if self._size != image.shape[1:]:
            self._allocate(found.gmap, found.context, found.pyramid)
            self._size = (image.shape[1], image.shape[2])
        handle = self._free.pop()
        rows = slice(handle * self._patches, (handle + 1) * self._patches)
        self._gmap[rows], self._context[rows] = found.gmap, found.context
        for buffer, level in zip(self._pyramid, found.pyramid):
            buffer[handle] = level[0]
        return Observation(handle, found.centres[0])

    def _allocate(self, gmap: Tensor, context: Tensor, pyramid: tuple[Tensor, Tensor]) -> None:
        if len(self._free) != self._capacity:
            raise RuntimeError("the image size changed while frames of another size are in use")
        rows = self._capacity * self._patches
        self._gmap = gmap.new_zeros(rows, *gmap.shape[1:])
        self._context = context.new_zeros(rows, *context.shape[1:])
        self._pyramid = tuple(level.new_zeros(self._capacity, *level.shape[1:]) for level in pyramid)

    def release(self, handle: int) -> None:
        self._free.append(handle)

    def revise(self, hidden: Tensor, handles: Tensor, coords: Tensor, ii: Tensor, jj: Tensor, kk: Tensor) -> Revision:
        rows = handles[ii] * self._patches + (kk - ii * self._patches)
        with torch.autocast(self._device.type, self._half, enabled=self._mixed):
            volume = correlate(self._gmap, self._pyramid, coords.float(), handles[jj], rows)
            groups = EdgeGroups.of(ii, jj, kk)
            return self.network.update(hidden, self._context[rows], volume, groups)
