"""The training forward pass of patch odometry: recurrent updates and bundle adjustment over a batch of clips.

Non-streaming: all frames from the start, a fixed number of updates. Streaming: eight frames at first, then one more per
update, as the tracker sees them (DPVO, Sec. 3.3).

Clips lie in one flat edge list: frame ``n`` of clip ``b`` has index ``b N + n``, its patches ``(b N + n) M + p``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from robust_loc.config import Config, parameter
from robust_loc.geometry.lie import SE3
from robust_loc.odometry.bundle_adjustment import bundle_adjust
from robust_loc.odometry.network import FrameFeatures, PatchNetwork
from robust_loc.odometry.patches import make_patches, random_centres, windows, with_inverse_depth
from robust_loc.odometry.projective import reproject
from robust_loc.odometry.update import EdgeGroups
from robust_loc.training.odometry_data import ClipBatch

LEAVING = 4  # the frame that may be dropped when frame n enters is n - 4, as the tracker's keyframe test does


@dataclass(frozen=True)
class UnrollConfig(Config):
    steps: int = parameter(18, "updates per clip", minimum=1, maximum=64)
    first: int = parameter(8, "frames at the start; the others enter one per update", minimum=2, maximum=64)
    patches: int = parameter(80, "patches per frame", minimum=1, maximum=512)
    drop: float = parameter(0.1, "probability that a frame is dropped when another enters", minimum=0, maximum=1)
    backward_fraction: float = parameter(0.2, "fraction of edges that train the matching features", minimum=0.01)
    bfloat16: bool = parameter(False, "run the network (not the bundle adjustment) in bfloat16")


class Start(NamedTuple):
    """Where the estimate begins: poses [B N, 7] ``cam_T_world``, inverse depths [B N M]."""

    poses: Tensor
    inverse_depth: Tensor


class Truth(NamedTuple):
    """poses [B N, 7]; patches [B N M, 3, 3, 3] with the inverse depth of each pixel; intrinsics [B N, 4];
    inverse_depth [B N, h, w]."""

    poses: Tensor
    patches: Tensor
    intrinsics: Tensor
    inverse_depth: Tensor


StartRule = Callable[[Truth, int, torch.Generator], Start]  # truth, frames per clip, generator


class Step(NamedTuple):
    """One update of the unrolled network.

    Attributes:
        frames: number of active frames per clip, of ``length`` in all.
        ii, jj, kk: [E] edges.
        before: [E, 3, 3, 2] reprojections the network saw (no gradient).
        delta, weight: [E, 2] the network's revision and its confidence.
        poses: [B N, 7], patches: [B N M, 3, 3, 3] after the bundle adjustment.
        features: of the clips (the same object in every step).
        truth: ground truth of the clips.
    """

    frames: int
    length: int
    ii: Tensor
    jj: Tensor
    kk: Tensor
    before: Tensor
    delta: Tensor
    weight: Tensor
    poses: Tensor
    patches: Tensor
    features: FrameFeatures
    truth: Truth


def unroll(
    network: PatchNetwork,
    batch: ClipBatch,
    config: UnrollConfig,
    generator: torch.Generator,
    *,
    structure_only: bool = False,
    through_adjustment: bool = True,
    start: StartRule | None = None,
) -> Iterator[Step]:
    """Run the network over a batch of clips, one :class:`Step` per update.

    Poses and depths are detached between steps; the hidden state is not.

    Args:
        network: in training or evaluation mode.
        batch: on the network's device.
        config: lengths and sizes; ``first`` is cut to the length of the clips.
        generator: on the CPU; draws patches, depths, dropped frames.
        structure_only: poses are the true ones and stay.
        through_adjustment: False: the bundle adjustment only moves the estimate on and gives no gradient.
        start: by default identity poses (the true ones if ``structure_only``) and inverse depths U[0, 1).
    """
    clips, length = batch.images.shape[:2]
    M, device = config.patches, batch.images.device
    height, width = batch.inverse_depth.shape[-2:]
    centres = random_centres(clips * length, M, height, width, generator).to(batch.poses)
    with _precision(config, device):
        features = network.extract(batch.images.flatten(0, 1), M, centres=centres)
    dtype = batch.poses.dtype  # of everything outside the network
    features = _converted(features, dtype)
    truth = truth_of(batch, centres)
    if start is None:
        poses, depths = _cold_start(truth, centres, structure_only, generator)
    else:
        poses, depths = start(truth, length, generator)
    patches = make_patches(centres, depths)
    clip = torch.arange(clips, device=device).repeat_interleave(length)

    n = min(config.first, length)
    edges = _Edges.complete(clips, length, n, M, device)
    hidden = torch.zeros(len(edges.ii), network.config.hidden, dtype=dtype, device=device)
    groups = EdgeGroups.of(edges.ii, edges.jj, edges.kk)
    for step in range(config.steps):
        poses, patches = poses.detach(), patches.detach()
        if step >= config.first and n < length:
            poses, patches = _enter(poses, patches, clips, length, n, M, move=not structure_only)
            new = _Edges.entering(clips, length, n, M, device)
            hidden = torch.cat([hidden.new_zeros(len(new.ii), hidden.shape[1]), hidden])
            edges = _Edges(*(torch.cat(pair) for pair in zip(new, edges)))
            leaving = torch.rand(clips, generator=generator).to(device) < config.drop
            keep = edges.without(torch.arange(clips, device=device) * length + n - LEAVING, leaving, length)
            edges, hidden = _Edges(*(index[keep] for index in edges)), hidden[keep]
            groups = EdgeGroups.of(edges.ii, edges.jj, edges.kk)
            n += 1
        with torch.no_grad():
            before = reproject(SE3(poses), patches, truth.intrinsics, *edges).coords
        with _precision(config, device):
            hidden, delta, weight = network.revise(
                hidden, features, before, *edges,
                groups=groups, backward_fraction=config.backward_fraction, generator=generator,
            )  # fmt: skip
        hidden, delta, weight = hidden.to(dtype), delta.to(dtype), weight.to(dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() and through_adjustment):
            moved, patches = bundle_adjust(
                SE3(poses), patches, truth.intrinsics, before[:, 1, 1] + delta, weight, *edges,
                image_size=(height, width), clip=clip, structure_only=structure_only,
            )  # fmt: skip
        poses = moved.data
        yield Step(n, length, *edges, before, delta, weight, poses, patches, features, truth)


class _Edges(NamedTuple):
    ii: Tensor
    jj: Tensor
    kk: Tensor

    @classmethod
    def complete(cls, clips: int, length: int, n: int, M: int, device: torch.device) -> _Edges:
        """All patches of the first ``n`` frames of each clip into all these frames, themselves included."""
        b, i, p, j = (t.reshape(-1) for t in _grid(clips, n, M, n, device=device))
        return cls(b * length + i, b * length + j, (b * length + i) * M + p)

    @classmethod
    def entering(cls, clips: int, length: int, n: int, M: int, device: torch.device) -> _Edges:
        """Patches of the frames before ``n`` into frame ``n``, and patches of frame ``n`` into 0..n."""
        b, i, p = (t.reshape(-1) for t in _grid(clips, n, M, device=device))
        into = cls(b * length + i, b * length + n, (b * length + i) * M + p)
        b, p, j = (t.reshape(-1) for t in _grid(clips, M, n + 1, device=device))
        back = cls(b * length + n, b * length + j, (b * length + n) * M + p)
        return cls(*(torch.cat(pair) for pair in zip(into, back)))

    def without(self, frames: Tensor, leaving: Tensor, length: int) -> Tensor:
        """[E] True for edges that do not touch ``frames[b]`` of the clips b with ``leaving[b]``."""
        clip = self.ii // length
        touched = (self.ii == frames[clip]) | (self.jj == frames[clip])
        return ~(touched & leaving[clip])


def _grid(*sizes: int, device: torch.device) -> list[Tensor]:
    return list(torch.meshgrid(*(torch.arange(s, device=device) for s in sizes), indexing="ij"))


def truth_of(batch: ClipBatch, centres: Tensor) -> Truth:
    """The truth of a batch for patches at ``centres`` [B N, M, 2]."""
    poses, depth = batch.poses.flatten(0, 1), batch.inverse_depth.flatten(0, 1)
    return Truth(poses, true_patches(batch, centres), batch.intrinsics.flatten(0, 1), depth)


def true_patches(batch: ClipBatch, centres: Tensor) -> Tensor:
    """Patches [B N M, 3, 3, 3] with the true inverse depth of each pixel; centres [B N, M, 2]."""
    depth = windows(batch.inverse_depth.flatten(0, 1)[:, None], centres, radius=1).flatten(0, 1)
    position = make_patches(centres, centres.new_zeros(centres.shape[:2]))[:, :2]
    return torch.cat([position, depth], 1)


def _cold_start(truth: Truth, centres: Tensor, structure_only: bool, generator: torch.Generator) -> Start:
    depths = torch.rand(centres.shape[:2], generator=generator).to(centres).flatten()
    identity = SE3.Identity(len(truth.poses), dtype=centres.dtype, device=centres.device).data
    return Start(truth.poses if structure_only else identity, depths)


def _enter(
    poses: Tensor, patches: Tensor, clips: int, length: int, n: int, M: int, *, move: bool
) -> tuple[Tensor, Tensor]:
    """Frame ``n`` begins at the pose of the frame before it, at the median depth of the last two frames."""
    poses = poses.clone()
    if move:
        by_clip = poses.view(clips, length, 7)
        by_clip[:, n] = by_clip[:, n - 1]
    depth = patches[:, 2, 1, 1].clone().view(clips, length, M)
    depth[:, n] = depth[:, n - 2 : n].flatten(1).median(1).values[:, None]
    return poses, with_inverse_depth(patches, depth.flatten())


def _precision(config: UnrollConfig, device: torch.device) -> contextlib.AbstractContextManager[object]:
    if not config.bfloat16:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _converted(features: FrameFeatures, dtype: torch.dtype) -> FrameFeatures:
    centres, gmap, context, (fine, coarse) = features
    return FrameFeatures(centres.to(dtype), gmap.to(dtype), context.to(dtype), (fine.to(dtype), coarse.to(dtype)))
