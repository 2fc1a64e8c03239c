"""Weights of labels that many samples share, such as the pose of a frame with all its pixels.

A wrong pose spoils every sample of its frame, and one sample says little about it. So errors are averaged over a
label's samples first, whatever loss is being minimised, and the labels are weighted as ``RobustNLL`` weights residuals.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from robust_loc.losses.contamination import ResidualMixture


class LabelWeights(nn.Module):
    """Boltzmann weights ``exp(-E^2 / 2T)`` of labels with running errors E, the temperature adapted to their spread.

    Args:
        count: number of labels.
        memory: number of a label's samples that its running error is averaged over.
        dimension: of the residuals that ``E`` is the length of; a pixel error has two.

    Usage, with any per-sample loss::

        weights = LabelWeights(frames)
        loss = (weights(frame_of_sample, error_of_sample) * loss_of_sample).mean()
    """

    error: Tensor

    def __init__(self, count: int, memory: float = 64.0, dimension: int = 2) -> None:
        super().__init__()
        if count < 1 or memory <= 0:
            raise ValueError(f"count={count} and memory={memory}; both must be positive")
        self.memory, self.dimension = memory, dimension
        self.register_buffer("error", torch.full((count,), torch.nan))
        self.mixture = ResidualMixture()

    @torch.no_grad()
    def forward(self, label: Tensor, error: Tensor) -> Tensor:
        """Observe errors (n,), not negative, of samples with labels (n,); answers their weights (n,).

        The weights of all labels have about the mean one.
        """
        error = error.detach().to(self.error)
        count = torch.zeros_like(self.error).index_add_(0, label, torch.ones_like(error))
        total = torch.zeros_like(self.error).index_add_(0, label, error)
        share = count / (count + self.memory)
        mean = total / count.clamp_min(1)
        unknown = self.error.isnan()
        updated = torch.where(
            unknown, torch.where(count > 0, mean, self.error), (1 - share) * self.error + share * mean
        )
        self.error.copy_(updated)
        return self.of_labels()[label]

    @torch.no_grad()
    def of_labels(self) -> Tensor:
        """The weights of all labels; those not seen yet count as the middle one."""
        squared = torch.where(self.error.isnan(), self.error.nanmedian(), self.error).square()
        weighting = self.mixture.fit(squared, self.dimension)
        return (torch.exp(-squared / (2 * weighting.temperature)) / weighting.mean_weight).to(self.error)
