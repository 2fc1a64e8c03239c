"""The recurrent update operator: from correlations to flow revisions with weights (DPVO, section 3.2)."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class Revision(NamedTuple):
    """Attributes: hidden [E, D]; delta [E, 2] quarter-resolution pixels (x, y); weight [E, 2] in (0, 1), per axis."""

    hidden: Tensor
    delta: Tensor
    weight: Tensor


class _ClipGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return torch.nan_to_num(gradient, nan=0.0, posinf=torch.inf, neginf=-torch.inf).clamp(-0.01, 0.01)


class GradientClip(nn.Module):
    """Identity; in the backward pass NaN becomes 0 and each component is clamped to +-0.01."""

    def forward(self, x: Tensor) -> Tensor:
        return _ClipGradient.apply(x)


class GatedResidual(nn.Module):
    """``x + sigmoid(gate(x)) * res(x)``."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(dim, dim), nn.Sigmoid())
        self.res = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(inplace=True), nn.Linear(dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.gate(x) * self.res(x)


class SoftAggregation(nn.Module):
    """Softmax-weighted mean over groups of edges, per channel, given back to each member."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.f, self.g, self.h = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, x: Tensor, group: Tensor, count: int) -> Tensor:
        """x [E, D], group [E] in [0, count) -> [E, D]."""
        logits = self.g(x)
        index = group[:, None].expand_as(logits)
        with torch.no_grad():  # the softmax does not depend on the shift
            shift = logits.new_full((count, logits.shape[1]), -torch.inf).scatter_reduce_(0, index, logits, "amax")
        unnormalized = torch.exp(logits - shift[group])
        numerator = logits.new_zeros(count, logits.shape[1]).index_add(0, group, (unnormalized * self.f(x)).to(logits))
        denominator = logits.new_zeros(count, logits.shape[1]).index_add(0, group, unnormalized.to(logits))
        return self.h(numerator / denominator)[group]

    def along(self, x: Tensor, dim: int) -> Tensor:
        """The same where the groups are the lines of ``x`` along ``dim``: one entry of that dimension for each."""
        return self.h((torch.softmax(self.g(x), dim) * self.f(x)).sum(dim, keepdim=True))


class EdgeGroups(NamedTuple):
    """How the edges of a graph are related; :meth:`of` computes it once per graph.

    Attributes:
        previous, following: [E] edge of the same patch with the next smaller / larger frame j, -1 if none.
        patch, patches: [E] group of each edge by patch, and the number of groups.
        pair, pairs: the same by frame pair (i, j).
    """

    previous: Tensor
    following: Tensor
    patch: Tensor
    patches: int
    pair: Tensor
    pairs: int

    @classmethod
    def of(cls, ii: Tensor, jj: Tensor, kk: Tensor) -> EdgeGroups:
        frames = int(torch.maximum(ii, jj).max()) + 1 if len(ii) else 1
        order = torch.argsort(kk * frames + jj, stable=True)
        same = kk[order][1:] == kk[order][:-1]
        previous, following = torch.full_like(kk, -1), torch.full_like(kk, -1)
        previous[order[1:]] = torch.where(same, order[:-1], -1)
        following[order[:-1]] = torch.where(same, order[1:], -1)
        patches, patch = torch.unique(kk, return_inverse=True)
        pairs, pair = torch.unique(ii * frames + jj, return_inverse=True)
        return cls(previous, following, patch, len(patches), pair, len(pairs))


def _neighbour(hidden: Tensor, index: Tensor) -> Tensor:
    """hidden[index], zero where the index is -1."""
    return hidden[index] * (index >= 0)[:, None]


def _mlp(dim_in: int, dim: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim_in, dim), nn.ReLU(inplace=True), nn.Linear(dim, dim))


class UpdateOperator(nn.Module):
    """One recurrent step over all edges.

    Args:
        dim: size D of the hidden state and of the context features.
        correlation_dim: size of an edge's flattened correlation volume.
    """

    def __init__(self, dim: int, correlation_dim: int) -> None:
        super().__init__()
        self.c1, self.c2 = _mlp(dim, dim), _mlp(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-3)
        self.agg_kk, self.agg_ij = SoftAggregation(dim), SoftAggregation(dim)
        self.gru = nn.Sequential(
            nn.LayerNorm(dim, eps=1e-3), GatedResidual(dim), nn.LayerNorm(dim, eps=1e-3), GatedResidual(dim)
        )
        self.corr = nn.Sequential(
            nn.Linear(correlation_dim, dim),
            nn.ReLU(inplace=True),
            nn.Linear(dim, dim),
            nn.LayerNorm(dim, eps=1e-3),
            nn.ReLU(inplace=True),
            nn.Linear(dim, dim),
        )
        self.d = nn.Sequential(nn.ReLU(), nn.Linear(dim, 2), GradientClip())
        self.w = nn.Sequential(nn.ReLU(), nn.Linear(dim, 2), GradientClip(), nn.Sigmoid())

    def forward(self, hidden: Tensor, context: Tensor, correlation: Tensor, groups: EdgeGroups) -> Revision:
        """hidden [E, D] (zeros for new edges), context [E, D] of each edge's patch, correlation [E, F]."""
        hidden = self.norm(hidden + context + self.corr(correlation))
        hidden = hidden + self.c1(_neighbour(hidden, groups.previous))
        hidden = hidden + self.c2(_neighbour(hidden, groups.following))
        hidden = hidden + self.agg_kk(hidden, groups.patch, groups.patches)
        hidden = hidden + self.agg_ij(hidden, groups.pair, groups.pairs)
        hidden = self.gru(hidden)
        return Revision(hidden, self.d(hidden), self.w(hidden))

    def forward_of_frame(self, hidden: Tensor, context: Tensor, correlation: Tensor) -> Revision:
        """The same step for the edges of one source frame, all M patches into J frames in their order.

        No edge of another source frame has a part in it, and every group is a line of a regular grid.

        Args:
            hidden: [J, M, D]; context: [M, D]; correlation: [J, M, F].
        """
        hidden = self.norm(hidden + context + self.corr(correlation))
        nothing = hidden.new_zeros(1, *hidden.shape[1:])
        hidden = hidden + self.c1(torch.cat([nothing, hidden[:-1]]))
        hidden = hidden + self.c2(torch.cat([hidden[1:], nothing]))
        hidden = hidden + self.agg_kk.along(hidden, 0)
        hidden = hidden + self.agg_ij.along(hidden, 1)
        hidden = self.gru(hidden)
        return Revision(hidden, self.d(hidden), self.w(hidden))
