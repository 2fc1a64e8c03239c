"""What an unrolled clip is trained on.

The published loss (DPVO, Sec. 3.3; V2V, eq. 7) looks at the estimate *after* the bundle adjustment. Further terms,
ours, look before it, where the gradient is direct and has no variance from the linear solve; they make the beginning of
training cheap: the revised position of every edge with a likelihood for its weight, and the matching of features.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robust_loc.config import Config, parameter
from robust_loc.geometry.lie import SE3
from robust_loc.losses.flow import flow_loss
from robust_loc.losses.relative_pose import relative_pose_error
from robust_loc.odometry.network import FrameFeatures
from robust_loc.odometry.projective import reproject
from robust_loc.training.odometry_unroll import Step, Truth


@dataclass(frozen=True)
class LossConfig(Config):
    """Weights of the terms; 0 switches a term off."""

    flow: float = parameter(0.1, "weight of the flow loss", minimum=0)
    pose: float = parameter(10.0, "weight of the pose loss", minimum=0)
    weighting: str = parameter("linear", "form of the weighted flow loss", choices=["none", "linear", "sqrt"])
    flow_span: int = parameter(0, "edges |i - j| in the flow loss: 0 all, n: 0 < |i - j| <= n", minimum=0)
    pose_from: int = parameter(2, "first step with a pose loss", minimum=0)
    direct: float = parameter(0.0, "weight of the error of the revised positions", minimum=0)
    confidence: float = parameter(0.0, "weight of the likelihood of the weights", minimum=0)
    deviation: float = parameter(0.1, "standard deviation of a weight of 1, quarter-resolution pixels", minimum=1e-3)
    matching: float = parameter(0.0, "weight of the matching loss of the features", minimum=0)


LARGEST_SQUARED = 64.0  # residuals beyond 8 quarter-resolution pixels are all equally wrong


class Terms(NamedTuple):
    """Sums over the steps of a clip, without their weights; ``direct`` includes the confidence term's."""

    flow: Tensor
    translation: Tensor
    rotation: Tensor
    direct: Tensor
    confidence: Tensor
    matching: Tensor


def loss_terms(steps: Iterable[Step], config: LossConfig, *, structure_only: bool = False) -> Terms:
    """Run the unroll and sum its losses."""
    step: Step | None = None
    sums: dict[str, Tensor] = {}
    truth_of: tuple[Tensor, Tensor] | None = None
    edges: Tensor | None = None
    for number, step in enumerate(steps):
        if edges is not step.kk or truth_of is None:
            truth_of, edges = _true_coordinates(step), step.kk
        new: dict[str, Tensor] = {}
        if config.flow:
            new["flow"] = _flow(step, *truth_of, config)
        if config.pose and number >= config.pose_from and not structure_only:
            new["translation"], new["rotation"] = _pose(step)
        if config.direct or config.confidence:
            new["direct"], new["confidence"] = direct_terms(
                step.before[:, 1, 1] + step.delta, step.weight, truth_of[0][:, 1, 1], truth_of[1], config.deviation
            )
        for name, value in new.items():
            sums[name] = sums[name] + value if name in sums else value
    if step is None:
        raise ValueError("the unroll has no steps")
    if config.matching:
        sums["matching"] = matching_loss(step.features, step.truth, step.length)
    zero = step.delta.new_zeros(())
    return Terms(*(sums.get(name, zero) for name in Terms._fields))


def _true_coordinates(step: Step) -> tuple[Tensor, Tensor]:
    truth = step.truth
    with torch.no_grad():
        projected = reproject(SE3(truth.poses), truth.patches, truth.intrinsics, step.ii, step.jj, step.kk)
    return projected.coords, projected.valid


def _flow(step: Step, coords: Tensor, valid: Tensor, config: LossConfig) -> Tensor:
    predicted = reproject(SE3(step.poses), step.patches, step.truth.intrinsics, step.ii, step.jj, step.kk).coords
    if config.flow_span:
        distance = (step.ii - step.jj).abs()
        valid = valid & (distance > 0) & (distance <= config.flow_span)
    return flow_loss(predicted, coords, valid, step.weight, form=config.weighting)


def _pose(step: Step) -> tuple[Tensor, Tensor]:
    """Over the active frames of each clip, mean over the clips."""
    estimated = step.poses.view(-1, step.length, 7)[:, : step.frames]
    target = step.truth.poses.view(-1, step.length, 7)[:, : step.frames]
    translation, rotation = relative_pose_error(estimated, target)
    return translation.mean(), rotation.mean()


def direct_terms(
    revised: Tensor, weight: Tensor, target: Tensor, valid: Tensor, deviation: float
) -> tuple[Tensor, Tensor]:
    """Errors of the revised positions, and the likelihood of their weights; means over the valid edges.

    The first is ``log(1 + distance)``, distance in quarter-resolution pixels: edges whose target is still out of reach
    of the correlation window cannot be learned from and must not outweigh the others. The second takes a weight w for
    the precision ``w / deviation^2`` of the position that came out, per axis: ``r^2 w / (2 deviation^2) - log(w) / 2``,
    whose minimum over w is ``min(1, deviation^2 / r^2)``; no gradient flows into the position.

    Args:
        revised, target: [E, 2]; weight: [E, 2]; valid: [E], other edges count neither way.
    """
    count = valid.sum().clamp(min=1)
    residual = torch.where(valid[:, None], revised - target, torch.zeros_like(revised))
    distance = (residual.square().sum(-1) + 1e-4).sqrt()
    squared = residual.detach().square().clamp(max=LARGEST_SQUARED)
    likelihood = 0.5 * (squared * weight / deviation**2 - weight.clamp(min=1e-6).log())
    return (distance.log1p() * valid).sum() / count, (likelihood.mean(-1) * valid).sum() / count


def matching_loss(
    features: FrameFeatures, truth: Truth, length: int, generator: torch.Generator | None = None, patches: int = 48
) -> Tensor:
    """Cross-entropy of finding patch centres in the other frames of their clip by the features alone.

    The logits are the correlations with *all* positions of a frame, as they enter the correlation volume, so this also
    sets their scale; both levels of the pyramid count. The target is spread bilinearly over the four pixels around the
    true position. Points that are hidden in the other frame are left out.

    Args:
        features, truth: of clips of ``length`` frames.
        generator: draws the patches, ``patches`` of its clip for each frame.
    """
    frames, M = features.centres.shape[:2]
    fine, coarse = features.pyramid
    rows = torch.randint(0, length * M, (frames, patches), generator=generator).to(fine.device)
    frame = torch.arange(frames, device=fine.device)
    kk = (rows + (frame // length * length * M)[:, None]).flatten()
    jj = frame.repeat_interleave(patches)
    with torch.no_grad():
        projected = reproject(SE3(truth.poses), truth.patches, truth.intrinsics, kk // M, jj, kk)
        position = projected.coords[:, 1, 1]
        seen = visible(truth, position, projected.depth[:, 1, 1], jj, kk)
    if not bool(seen.any()):
        return fine.new_zeros(())
    descriptors = features.gmap[kk, 1, 1].view(frames, patches, -1)
    terms = []
    for level, scale in ((fine, 1.0), (coarse, 0.25)):
        logits = torch.bmm(descriptors, level.flatten(1, 2).transpose(1, 2)).flatten(0, 1)
        terms.append(_spread_cross_entropy(logits.float(), position * scale, level.shape[1:3]))
    return (torch.stack(terms).mean(0) * seen).sum() / seen.sum()


def visible(truth: Truth, position: Tensor, depth: Tensor, jj: Tensor, kk: Tensor, margin: float = 0.05) -> Tensor:
    """[E] whether the point is in the image of frame j and is the surface seen there (inverse depths agree).

    Args:
        position: [E, 2], depth: [E] of the reprojected patch centres (homogeneous, as :func:`reproject` gives it).
    """
    h, w = truth.inverse_depth.shape[-2:]
    x, y = position.round().long().unbind(-1)
    inside = (x >= 0) & (x < w) & (y >= 0) & (y < h) & (depth > 0.05)
    there = truth.inverse_depth[jj, y.clamp(0, h - 1), x.clamp(0, w - 1)]
    here = truth.patches[kk, 2, 1, 1] / depth.clamp(min=0.05)
    return inside & ((here - there).abs() < margin * torch.maximum(here, there) + 0.01)


def _spread_cross_entropy(logits: Tensor, position: Tensor, size: tuple[int, ...]) -> Tensor:
    """Cross-entropy [E] of logits [E, h w] against the bilinear weights of ``position`` [E, 2]."""
    h, w = size
    x = position[:, 0].clamp(0, w - 1.001)
    y = position[:, 1].clamp(0, h - 1.001)
    x0, y0 = x.floor(), y.floor()
    fx, fy = x - x0, y - y0
    corner = (y0 * w + x0).long()
    index = torch.stack([corner, corner + 1, corner + w, corner + w + 1], 1)
    share = torch.stack([(1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy], 1)
    expected = (share * logits.gather(1, index.clamp(max=h * w - 1))).sum(1)
    return torch.logsumexp(logits, 1) - expected
