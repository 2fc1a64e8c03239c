"""Training of the compact descriptors with the NRE loss (eq. 10).

For each correspondence, the loss is the bilinearly interpolated ``-ln C`` at the true projection, with ``C`` the
softmax over the whole target grid: no truncation, no negatives to mine. Both heads are trained over the shared trunk.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robust_loc.config import Config, parameter
from robust_loc.errors import DatasetError
from robust_loc.features.compact import CompactNetwork
from robust_loc.features.dense import COARSE_STRIDE, FINE_STRIDE
from robust_loc.features.network import normalised, save_compact
from robust_loc.training.checkpoint import checkpoints, load_checkpoint, save_checkpoint
from robust_loc.training.feature_pairs import FeaturePair, PairSampler
from robust_loc.training.feature_sources import training_clips

VALIDATION_PAIRS = 48
WARM_UP = 0.05  # of the schedule


@dataclass(frozen=True)
class FeatureTrainingConfig(Config):
    """Schedule of the training of compact descriptors."""

    steps: int = parameter(3000, "optimisation steps", minimum=1)
    pairs: int = parameter(4, "image pairs per step", minimum=1)
    fine_pairs: int = parameter(1, "of these, pairs that train the fine head too (most of a step's time)", minimum=1)
    width: int = parameter(320, "of the training images, pixels", minimum=96)
    height: int = parameter(240, "of the training images, pixels", minimum=96)
    points: int = parameter(64, "correspondences per pair", minimum=8)
    learning_rate: float = parameter(2e-3, "peak learning rate (short warm-up, cosine)", minimum=0.0)
    fine_weight: float = parameter(0.5, "weight of the fine loss beside the coarse one", minimum=0.0)
    coarse_channels: int = parameter(128, "length of the coarse descriptor", minimum=8)
    fine_channels: int = parameter(48, "length of the fine descriptor", minimum=8)
    save_every: int = parameter(100, "steps between checkpoints and validations", minimum=1)
    seed: int = parameter(0, "of the network and the pairs")


def nre_loss(source: Tensor, target: Tensor, source_pixels: Tensor, target_pixels: Tensor, stride: int) -> Tensor:
    """Mean NRE (eq. 10) of the correspondences of one pair, in nats.

    Args:
        source, target: [D, h, w] descriptors. source_pixels, target_pixels: [N, 2] image pixels.
    """
    channels, height, width = target.shape
    descriptors = _bilinear(source, source_pixels / stride)
    log_map = torch.log_softmax(descriptors @ target.reshape(channels, -1), -1).view(-1, height, width)
    at = target_pixels / stride
    x0 = at[:, 0].floor().long().clamp(0, max(width - 2, 0))
    y0 = at[:, 1].floor().long().clamp(0, max(height - 2, 0))
    x1, y1 = (x0 + 1).clamp(max=width - 1), (y0 + 1).clamp(max=height - 1)
    # Beyond the last cell, whose centre may lie before the last pixel, its own value holds.
    a, b = (at[:, 0] - x0).clamp(0, 1), (at[:, 1] - y0).clamp(0, 1)
    n = torch.arange(len(at), device=at.device)
    top = (1 - a) * log_map[n, y0, x0] + a * log_map[n, y0, x1]
    bottom = (1 - a) * log_map[n, y1, x0] + a * log_map[n, y1, x1]
    return -((1 - b) * top + b * bottom).mean()


def train_features(
    data: str | Path | Sequence[str | Path],
    output: str | Path,
    config: FeatureTrainingConfig | None = None,
    validation: str | Path | None = None,
    resume: bool = True,
    device: str = "cpu",
    seconds: float = math.inf,
    report: Callable[[str], None] = print,
) -> dict[str, float]:
    """Train a compact network on clips and recordings with depth and poses.

    Args:
        data: one or more folders of clips, bags, or dataset folders (see :mod:`.feature_sources`).
        validation: the same, of other sequences (the last tenth of the clips if None).
        output: folder of the run: checkpoints, ``features.safetensors`` and ``log.jsonl``.
        resume: go on from the newest checkpoint of ``output``.
        seconds: stop, resumably, after the step that passes this time.

    Returns:
        The last validation losses, in nats: ``coarse`` and ``fine``.

    Raises:
        DatasetError: when there are too few clips.
    """
    config = config or FeatureTrainingConfig()
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    sources = [data] if isinstance(data, str | Path) else list(data)
    train_clips, validation_clips = _split(sources, validation, output / "clips", report)
    torch.manual_seed(config.seed)
    network = CompactNetwork(config.coarse_channels, config.fine_channels)
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.Adam(network.parameters(), config.learning_rate)
    start = 0
    if resume and checkpoints(output):
        start, state = load_checkpoint(output)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        report(f"resumed at step {start}")

    size = (config.width, config.height)
    rng = np.random.default_rng(1)
    held_out = PairSampler(validation_clips, config.points, size=size)
    fixed = [held_out.draw(rng) for _ in range(VALIDATION_PAIRS)]
    sampler = PairSampler(train_clips, config.points, size=size)
    losses: dict[str, float] = {}
    running: list[tuple[float, float]] = []
    began = time.monotonic()
    for step in range(start, config.steps):
        rng = np.random.default_rng([config.seed, step])  # a resumed run draws what the whole one would have drawn
        pairs = [sampler.draw(rng) for _ in range(config.pairs)]
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * learning_rate_factor(step / config.steps)
        coarse, fine = pair_losses(network.train(), pairs, config.fine_pairs)
        optimizer.zero_grad()
        (coarse + config.fine_weight * fine).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        running.append((float(coarse.detach()), float(fine.detach())))
        spent = time.monotonic() - began > seconds
        if spent or (step + 1) % config.save_every == 0 or step + 1 == config.steps:
            losses = _validate(network, fixed)
            state = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            save_checkpoint(output, step + 1, state)
            facts: dict[str, Any] = {"steps": step + 1, **losses}
            written: dict[str, Any] = {name: str(value) for name, value in facts.items()}
            save_compact(output / "features.safetensors", network, **written)
            means = np.mean(running, axis=0)
            running.clear()
            facts |= {"train_coarse": float(means[0]), "train_fine": float(means[1])}
            facts["seconds"] = round(time.monotonic() - began, 1)
            with (output / "log.jsonl").open("a") as log:
                log.write(json.dumps(facts) + "\n")
            report("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in facts.items()))
        if spent:
            break
    return losses


def learning_rate_factor(progress: float) -> float:
    """Of the peak learning rate: a linear warm-up over the first twentieth, then a cosine down to one hundredth."""
    if progress < WARM_UP:
        return 0.05 + 0.95 * progress / WARM_UP
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min((progress - WARM_UP) / (1 - WARM_UP), 1.0)))


def pair_losses(
    network: CompactNetwork, pairs: list[FeaturePair], fine_pairs: int | None = None
) -> tuple[Tensor, Tensor]:
    """Mean coarse and fine NRE of a batch of pairs of one image size.

    Args:
        fine_pairs: the fine loss is that of the first so many pairs; of all if None.
    """
    fine_pairs = min(fine_pairs or len(pairs), len(pairs))
    images = np.stack([image for pair in pairs for image in (pair.source, pair.target)])
    device = next(network.parameters()).device
    batch = normalised(torch.from_numpy(images).to(device).permute(0, 3, 1, 2))
    two, four, coarse = network.trunk(batch.contiguous(memory_format=torch.channels_last))
    fine = network.fine(two[: 2 * fine_pairs], four[: 2 * fine_pairs])
    total_coarse, total_fine = torch.zeros((), device=device), torch.zeros((), device=device)
    for k, pair in enumerate(pairs):
        here = torch.from_numpy(pair.source_pixels).float().to(device)
        there = torch.from_numpy(pair.target_pixels).float().to(device)
        total_coarse = total_coarse + nre_loss(coarse[2 * k], coarse[2 * k + 1], here, there, COARSE_STRIDE)
        if k < fine_pairs:
            total_fine = total_fine + nre_loss(fine[2 * k], fine[2 * k + 1], here, there, FINE_STRIDE)
    return total_coarse / len(pairs), total_fine / fine_pairs


def _validate(network: CompactNetwork, pairs: list[FeaturePair]) -> dict[str, float]:
    network.eval()
    with torch.inference_mode():
        values = [pair_losses(network, [pair]) for pair in pairs]
    network.train()
    return {
        "coarse": float(np.mean([float(c) for c, _ in values])),
        "fine": float(np.mean([float(f) for _, f in values])),
    }


def _split(
    data: list[str | Path], validation: str | Path | None, folder: Path, report: Callable[[str], None]
) -> tuple[list[Path], list[Path]]:
    clips = training_clips(data, folder, report)
    if validation is not None:
        held_out = training_clips([validation], folder, report)
    else:
        held_out = clips[-max(1, len(clips) // 10) :]
        clips = clips[: -len(held_out)] if len(clips) > 1 else []
    if not clips or not held_out:
        names = ", ".join(map(str, data))
        raise DatasetError(f"{names}: holds {len(clips)} clips to train on and {len(held_out)} to validate; need both")
    return clips, held_out


def _bilinear(features: Tensor, at: Tensor) -> Tensor:
    """[N, D] samples of [D, h, w] at cells [N, 2]."""
    _, height, width = features.shape
    grid = 2 * at / torch.tensor([max(width - 1, 1), max(height - 1, 1)], device=at.device) - 1
    sampled = torch.nn.functional.grid_sample(
        features[None], grid[None, None], padding_mode="border", align_corners=True
    )
    return sampled[0, :, 0].T
