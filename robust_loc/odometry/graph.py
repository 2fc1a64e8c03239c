"""The patch graph: the keyframes in use, their patches, and the edges between patches and frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust_loc.geometry.lie import SE3
from robust_loc.odometry.patches import make_patches
from robust_loc.odometry.projective import flow_magnitude


@dataclass
class Keyframe:
    """What the graph remembers of a frame besides its geometry: ``number`` counts input frames; ``gray`` is the
    working image."""

    number: int
    stamp: int
    handle: int
    gray: NDArray[np.uint8]


class PatchGraph:
    """Frames 0..n-1 with M patches each, and edges (source frame i, target frame j, patch k).

    Geometry is float64. Patch ``k`` belongs to frame ``k // M``.

    Attributes:
        frames: keyframes, oldest first.
        poses [n, 7]: ``cam_T_graph``; intrinsics [n, 4]; patches [n M, 3, 3, 3].
        ii, jj, kk [E]; hidden [E, D]; target, weight [E, 2]: the edges, in the order of (ii, jj, kk). A pair of frames
            has an edge for every patch of its source.
    """

    def __init__(self, hidden_size: int, device: torch.device) -> None:
        self.M, self.device = 0, device
        exact = torch.zeros(0, dtype=torch.float64, device=device)
        self.frames: list[Keyframe] = []
        self.poses, self.intrinsics = exact.new_zeros(0, 7), exact.new_zeros(0, 4)
        self.patches = exact.new_zeros(0, 3, 3, 3)
        self.ii, self.jj, self.kk = (torch.zeros(0, dtype=torch.long, device=device) for _ in range(3))
        self.hidden = torch.zeros(0, hidden_size, device=device)
        self.target, self.weight = exact.new_zeros(0, 2), exact.new_zeros(0, 2)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def edges(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.ii, self.jj, self.kk

    @property
    def handles(self) -> Tensor:
        return torch.tensor([frame.handle for frame in self.frames], device=self.device)

    def pose(self, index: int) -> SE3:
        """``cam_T_graph`` of one frame."""
        return SE3(self.poses[index])

    def inverse_depth(self, first: int = 0, last: int | None = None) -> Tensor:
        """[frames, M] inverse depths of the frames ``first..last-1``."""
        depth = self.patches[:, 2, 0, 0].reshape(len(self.frames), self.M)
        return depth[first:last]

    def append(self, frame: Keyframe, pose: SE3, intrinsics: Tensor, centres: Tensor, inverse_depth: Tensor) -> None:
        """Add a frame at the end, without edges; every frame has the same number M of patches."""
        self.M = len(centres)
        patches = make_patches(centres[None].to(self.patches), inverse_depth[None].to(self.patches))
        self.frames.append(frame)
        self.poses = torch.cat([self.poses, pose.data[None].to(self.poses)])
        self.intrinsics = torch.cat([self.intrinsics, intrinsics[None].to(self.intrinsics)])
        self.patches = torch.cat([self.patches, patches])

    def snapshot(self) -> dict[str, Any]:
        """The present state; no operation changes its tensors in place."""
        return {**vars(self), "frames": list(self.frames)}

    def restore(self, snapshot: dict[str, Any]) -> None:
        vars(self).update(snapshot)

    def connect_newest(self, lifetime: int) -> None:
        """Edges of recent patches into the newest frame, and of its patches into recent frames and itself."""
        n = len(self)
        first = max(n - lifetime, 0)
        forward_k = torch.arange(first * self.M, (n - 1) * self.M, device=self.device)
        own = torch.arange((n - 1) * self.M, n * self.M, device=self.device)
        recent = torch.arange(first, n, device=self.device)
        kk = torch.cat([forward_k, own.repeat_interleave(len(recent))])
        jj = torch.cat([torch.full_like(forward_k, n - 1), recent.repeat(self.M)])
        self.ii, self.jj, self.kk = (torch.cat(p) for p in zip(self.edges, (kk // self.M, jj, kk)))
        self.hidden = torch.cat([self.hidden, self.hidden.new_zeros(len(kk), self.hidden.shape[1])])
        none = self.target.new_zeros(len(kk), 2)
        self.target, self.weight = torch.cat([self.target, none]), torch.cat([self.weight, none])
        self.keep_edges(torch.argsort((self.ii * n + self.jj) * n * self.M + self.kk))

    def keep_edges(self, keep: Tensor) -> None:
        """Drop the edges where ``keep`` [E] is False; or an order of those to keep."""
        self.ii, self.jj, self.kk = (index[keep] for index in self.edges)
        self.hidden, self.target, self.weight = self.hidden[keep], self.target[keep], self.weight[keep]

    def remove(self, index: int) -> Keyframe:
        """Remove a frame with its patches and every edge that touches it; later frames move up."""
        self.keep_edges((self.ii != index) & (self.jj != index))
        self.ii = self.ii - (self.ii > index).long()
        self.jj = self.jj - (self.jj > index).long()
        self.kk = self.kk - self.M * (self.kk >= (index + 1) * self.M).long()
        rows = torch.arange(len(self), device=self.device) != index
        self.poses, self.intrinsics = self.poses[rows], self.intrinsics[rows]
        self.patches = self.patches[rows.repeat_interleave(self.M)]
        return self.frames.pop(index)

    def mean_flow(self, first: int, second: int) -> float:
        """Mean flow between two frames over the edges in both directions, half of it by translation alone.

        NaN when a direction has no edges.
        """
        flows = []
        for i, j in ((first, second), (second, first)):
            chosen = (self.ii == i) & (self.jj == j)
            ii, jj, kk = (index[chosen] for index in self.edges)
            flows.append(flow_magnitude(SE3(self.poses), self.patches, self.intrinsics, ii, jj, kk).mean())
        return float((flows[0] + flows[1]) / 2)
