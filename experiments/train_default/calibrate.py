"""Fits the factor on the odometry's covariances to held-out rendered clips and writes it into the weights' header.

    python experiments/train_default/calibrate.py WEIGHTS --clips FOLDER [--limit 14]

Each increment is compared with the true motion after a scale fitted to ten increments (a monocular camera has none of
its own); the factor is the median NEES over the median of a chi-square with six degrees of freedom.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from scipy.stats import chi2
from tqdm import tqdm

from robust_loc.data.synthetic import Clip, list_clips
from robust_loc.odometry import Odometry, OdometryConfig, PatchNetwork
from robust_loc.types import Frame, Status
from robust_loc.uncertainty import pose_error

STRETCH = 10


def squared_errors(network: PatchNetwork, clip: Clip, preset: str) -> list[float]:
    """NEES (6 degrees of freedom, not divided) of the odometry's increments on one clip."""
    odometry = Odometry(OdometryConfig.preset(preset), network)
    increments, covariances, truth = [], [], []
    for k in range(len(clip)):
        answer = odometry.update(Frame(clip.image(k), clip.camera, int(clip.stamps[k])))
        if answer is None or answer.status is not Status.OK or answer.increment is None:
            continue
        increments.append(answer.increment)
        covariances.append(answer.increment_covariance)
        truth.append(np.linalg.inv(clip.world_T_cam[k - 1]) @ clip.world_T_cam[k])
    found = []
    for start in range(0, len(increments) - STRETCH + 1, STRETCH):
        part = slice(start, start + STRETCH)
        moved, true = np.array(increments[part]), np.array(truth[part])
        scale = (moved[:, :3, 3] * true[:, :3, 3]).sum() / max((moved[:, :3, 3] ** 2).sum(), 1e-18)
        moved[:, :3, 3] *= scale
        unit = np.diag([scale] * 3 + [1.0] * 3)
        for error, covariance in zip(pose_error(moved, true), covariances[part]):
            found.append(float(error @ np.linalg.solve(unit @ covariance @ unit, error)))
    return found


@click.command()
@click.argument("weights", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--clips", required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--limit", default=14, show_default=True, help="Clips to use.")
@click.option("--preset", default="cpu", show_default=True)
def main(weights: Path, clips: Path, limit: int, preset: str) -> None:
    """Calibrate WEIGHTS in place on rendered clips that it was not trained on."""
    torch.set_num_threads(1)
    network = PatchNetwork.from_checkpoint(weights)
    network.covariance_scale = 1.0
    errors = [e for path in tqdm(list_clips(clips)[:limit]) for e in squared_errors(network, Clip(path), preset)]
    factor = float(np.median(errors) / chi2.median(6))
    with safe_open(str(weights), framework="pt") as file:
        metadata = dict(file.metadata())
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    partial = weights.with_name(weights.name + ".part")
    save_file(state, str(partial), {**metadata, "covariance_scale": repr(round(factor, 2))})
    partial.replace(weights)
    click.echo(f"{weights}: factor {factor:.2f} on the covariances, from {len(errors)} increments")


if __name__ == "__main__":
    main()
