"""Small graphs with known geometry for the odometry tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from robust_loc.geometry.lie import SE3
from robust_loc.odometry.patches import make_patches, random_centres

HEIGHT, WIDTH = 24, 32  # quarter resolution


@dataclass
class Graph:
    poses: SE3
    patches: Tensor
    intrinsics: Tensor
    ii: Tensor
    jj: Tensor
    kk: Tensor
    target: Tensor
    weight: Tensor

    @property
    def edges(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.ii, self.jj, self.kk


def random_graph(seed: int = 0, frames: int = 4, per_frame: int = 5, noise: float = 0.5) -> Graph:
    """All patches into all frames, in float64; targets are the reprojections plus noise; intrinsics differ by frame."""
    g = torch.Generator().manual_seed(seed)
    centres = random_centres(frames, per_frame, HEIGHT, WIDTH, g).double()
    patches = make_patches(centres, 0.2 + torch.rand(frames, per_frame, generator=g, dtype=torch.float64))
    motion = torch.randn(frames, 6, generator=g, dtype=torch.float64) * torch.tensor([0.1] * 3 + [0.03] * 3)
    poses = SE3.exp(motion)
    K = torch.tensor([30.0, 32.0, 15.0, 11.0], dtype=torch.float64) + torch.rand(frames, 4, generator=g) * 2
    kk = torch.arange(frames * per_frame).repeat_interleave(frames)
    ii, jj = kk // per_frame, torch.arange(frames).repeat(frames * per_frame)
    from robust_loc.odometry.projective import reproject

    target = reproject(poses, patches, K, ii, jj, kk).coords[:, 1, 1]
    target = target + noise * torch.randn(target.shape, generator=g, dtype=torch.float64)
    weight = torch.rand(target.shape, generator=g, dtype=torch.float64)
    return Graph(poses, patches, K, ii, jj, kk, target, weight)
