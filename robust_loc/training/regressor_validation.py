"""What a trained regressor answers on labelled images that it was not trained on."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from scipy.stats import chi2

from robust_loc.pose_regression.network import PoseNetwork
from robust_loc.pose_regression.scene_gate import describe
from robust_loc.training.regressor_data import PosedImages, plain_batch
from robust_loc.types import FloatArray
from robust_loc.uncertainty import CovarianceFactors, fit_factors, from_body_tangent, nees, pose_error


class HeldOut(NamedTuple):
    """Answers for labelled images: ``world_T_cam`` (n, 4, 4), ``covariance`` (n, 6, 6) in ROS convention, ``error``
    (n, 6) of the same convention; ``similarity`` and ``agreement`` (n,) as the scene gate sees them."""

    world_T_cam: FloatArray
    covariance: FloatArray
    error: FloatArray
    similarity: FloatArray
    agreement: FloatArray


@torch.no_grad()
def answer(network: PoseNetwork, images: PosedImages, device: str = "cpu") -> HeldOut:
    """The network's poses and covariances for labelled images, without calibration."""
    network.eval()
    poses, covariances, similarities, agreements = [], [], [], []
    for chunk in np.array_split(np.arange(len(images)), math.ceil(len(images) / 32)):
        batch = plain_batch(images, chunk)
        features = network.encoder(batch.rgb.to(device))
        points = network.scene(features)
        location = network.locate(points, batch.intrinsics.to(device))
        poses.append(location.world_T_cam.double().cpu().numpy())
        covariances.append(location.body_covariance.double().cpu().numpy())
        similarities.append(network.gate.similarity(describe(features)).cpu().numpy())
        agreements.append(location.agreement.cpu().numpy())
    world_T_cam = np.concatenate(poses)
    covariance = np.stack([from_body_tangent(c, p) for c, p in zip(np.concatenate(covariances), world_T_cam)])
    error = pose_error(world_T_cam, images.world_T_cam.double().numpy())
    return HeldOut(world_T_cam, covariance, error, np.concatenate(similarities), np.concatenate(agreements))


def calibrate(network: PoseNetwork, held_out: PosedImages, device: str = "cpu") -> CovarianceFactors:
    """Factors on the standard deviations from frames that no stage has seen."""
    answers = answer(network, held_out, device)
    return fit_factors(answers.error, answers.covariance)


def summary(
    network: PoseNetwork, images: PosedImages, factors: CovarianceFactors, device: str = "cpu"
) -> dict[str, float]:
    """Median errors (m, degrees), and ANEES and 90 % coverage of the calibrated covariances, on labelled images."""
    answers = answer(network, images, device)
    covariance = factors.apply(answers.covariance)
    return {
        "translation": float(np.median(np.linalg.norm(answers.error[:, :3], axis=1))),
        "rotation_deg": float(np.degrees(np.median(np.linalg.norm(answers.error[:, 3:], axis=1)))),
        "anees": float(np.mean(nees(answers.error, covariance)) / 6),
        "coverage_90": float(np.mean(nees(answers.error, covariance) < chi2.ppf(0.9, 6))),
    }
