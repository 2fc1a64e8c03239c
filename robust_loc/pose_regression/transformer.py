"""The pose transformer: scene coordinates and intrinsics to a camera pose, the same for every scene.

marepo (Chen et al., CVPR 2024): self-attention blocks with linear attention and long skips; the pose is read off after
every stage of blocks by one shared head, coarse to fine. Inference uses the last stage.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust_loc.pose_regression.encoding import PositionEncoding
from robust_loc.pose_regression.scene_coordinates import dehomogenize


def linear_attention(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention with the feature map ``elu + 1``, linear in the number of tokens (Katharopoulos et al., 2020).

    Args:
        queries, keys, values: (B, L, heads, channels).
        mask: (B, L), True for tokens that take part.
    """
    q, k = F.elu(queries) + 1, F.elu(keys) + 1
    if mask is not None:
        kept = mask[:, :, None, None].to(q.dtype)
        q, k, values = q * kept, k * kept, values * kept
    length = values.shape[1]
    summary = torch.einsum("blhc,blhd->bhcd", k, values / length)
    normaliser = 1 / (torch.einsum("blhc,bhc->blh", q, k.sum(1)) + 1e-6)
    return torch.einsum("blhc,bhcd,blh->blhd", q, summary, normaliser) * length


class AttentionBlock(nn.Module):
    """Self-attention, then an MLP on the token beside its message (LoFTR's block and names)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.merge = nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(
            nn.Linear(2 * width, 2 * width, bias=False), nn.ReLU(), nn.Linear(2 * width, width, bias=False)
        )
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """(B, L, width) to the same."""
        shape = (*x.shape[:2], self.heads, -1)
        message = linear_attention(
            self.q_proj(x).view(shape), self.k_proj(x).view(shape), self.v_proj(x).view(shape), mask
        )
        message = self.norm1(self.merge(message.flatten(2)))
        return x + self.norm2(self.mlp(torch.cat([x, message], -1)))


class PoseHead(nn.Module):
    """Tokens to a pose: residual 1x1 convolutions, average over all cells, MLP, translation and 6D rotation."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.res_conv1 = nn.Conv2d(width, width, 1)
        self.res_conv2 = nn.Conv2d(width, width, 1)
        self.res_conv3 = nn.Conv2d(width, width, 1)
        self.more_mlps = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.fc_t = nn.Linear(width, 4)
        self.fc_rot = nn.Linear(width, 6)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(B, width, h, w) to poses (B, 4, 4) in the centred frame, and the features (B, width) they were read from."""
        x = F.relu(self.res_conv1(tokens))
        x = F.relu(self.res_conv2(x))
        x = F.relu(self.res_conv3(x))
        features = self.more_mlps((tokens + x).mean((-2, -1)))
        translation = dehomogenize(self.fc_t(features))
        return pose_matrix(rotation_from_6d(self.fc_rot(features)), translation), features


def rotation_from_6d(values: Tensor) -> Tensor:
    """Gram-Schmidt of (..., 6) to rotations (..., 3, 3) whose **rows** are the basis (Zhou et al., 2019)."""
    first = F.normalize(values[..., :3], dim=-1)
    second = values[..., 3:] - (first * values[..., 3:]).sum(-1, keepdim=True) * first
    second = F.normalize(second, dim=-1)
    return torch.stack([first, second, torch.linalg.cross(first, second)], -2)


def pose_matrix(rotation: Tensor, translation: Tensor) -> Tensor:
    """(..., 3, 3) and (..., 3) to (..., 4, 4)."""
    top = torch.cat([rotation, translation[..., None]], -1)
    bottom = top.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(*top.shape[:-2], 1, 4)
    return torch.cat([top, bottom], -2)


class PoseTransformer(nn.Module):
    """Scene coordinates (about the scene's centre) and intrinsics to ``world_T_cam`` about the same centre."""

    def __init__(self, width: int = 256, blocks: int = 12, heads: int = 8, blocks_per_stage: int = 4) -> None:
        super().__init__()
        self.blocks_per_stage = blocks_per_stage
        self.pos_encoding = PositionEncoding(width)
        self.layers = nn.ModuleList(AttentionBlock(width, heads) for _ in range(blocks))
        self.head = PoseHead(width)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)

    def forward(
        self, points: Tensor, intrinsics: Tensor, stride: int, mask: Tensor | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """The poses of all stages, the final one last, and the final stage's pooled features.

        Args:
            points: (B, 3, h, w) metres, the scene's centre subtracted.
            intrinsics: (B, 4) ``fx fy cx cy`` in pixels of the image whose features these are.
            stride: of the grid, in pixels.
            mask: (B, h, w), True where a point is valid.
        """
        height, width = points.shape[-2:]
        x = self.pos_encoding(points, intrinsics, stride).flatten(2).transpose(1, 2)
        flat_mask = None if mask is None else mask.flatten(1)
        skip, poses = x, []
        for number, layer in enumerate(self.layers, 1):
            x = layer(x, flat_mask)
            if number % self.blocks_per_stage == 0 or number == len(self.layers):
                x = skip + x
                skip = x
                pose, features = self.head(x.transpose(1, 2).unflatten(2, (height, width)))
                poses.append(pose)
        return poses, features


def coarse_to_fine_loss(poses: list[Tensor], truth: Tensor) -> Tensor:
    """Sum over the stages of each sample's L1 translation error (metres, mean of 3 axes) and rotation angle: (B,)."""
    total = torch.zeros(len(truth), device=truth.device)
    for pose in poses:
        relative = pose[:, :3, :3].transpose(-1, -2) @ truth[:, :3, :3]
        cosine = (torch.diagonal(relative, dim1=-2, dim2=-1).sum(-1) - 1) / 2
        angle = torch.acos(cosine.clamp(-0.99999, 0.99999))
        total = total + (pose - truth)[:, :3, 3].abs().mean(-1) + angle
    return total
