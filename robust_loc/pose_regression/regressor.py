"""``PoseRegressor``: one image to an absolute pose and its covariance, every frame, in a scene it was trained on."""

from __future__ import annotations

import time
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from robust_loc.pose_regression.config import PoseRegressorConfig
from robust_loc.pose_regression.encoders import ExportedEncoder
from robust_loc.pose_regression.network import PoseNetwork
from robust_loc.pose_regression.scene_gate import describe
from robust_loc.pose_regression.weights import load_network
from robust_loc.types import Camera, Estimate, FloatArray, Frame, Status
from robust_loc.uncertainty import CovarianceCalibration, CovarianceFactors, from_body_tangent

_BLANK = 2.0  # grey levels of standard deviation


class Answer(NamedTuple):
    """The network's raw answer for one frame.

    Attributes:
        world_T_cam: (4, 4).
        body_covariance: (6, 6) of the body-frame error (:mod:`robust_loc.pose_regression.tangent`).
        similarity, agreement: see :mod:`robust_loc.pose_regression.scene_gate`.
    """

    world_T_cam: FloatArray
    body_covariance: FloatArray
    similarity: float
    agreement: float


class PoseRegressor:
    """Estimator of the absolute camera pose, with the contract ``update(frame, prior=None)`` and ``reset()``.

    Args:
        config: with ``weights`` naming a scene's file, unless ``network`` is given.
        network: a trained network, used as it is.
        calibration: factors on the covariance; by default those stored beside the weights.

    Raises:
        WeightsError: if the weights cannot be used.
    """

    def __init__(
        self,
        config: PoseRegressorConfig | None = None,
        network: PoseNetwork | None = None,
        calibration: CovarianceFactors | None = None,
    ) -> None:
        self.config = config or PoseRegressorConfig()
        if network is None:
            network = load_network(self.config.weights, self.config.device)
            calibration = calibration or CovarianceCalibration.load_beside(self.config.weights).of("regressor")
        self.network = network.to(self.config.device).eval()
        if self.config.encoder:
            exported = ExportedEncoder(self.config.encoder, network.encoder, self.config.device)
            self.network.add_module("encoder", exported)
        self.calibration = calibration or CovarianceFactors()

    def reset(self) -> None:
        """Nothing to forget: every frame is answered by itself."""

    def update(self, frame: Frame, prior: Estimate | None = None) -> Estimate | None:
        """Answer a frame. ``prior`` is not used: the answer stays independent of the filter's.

        A blank image and an image of another place get an estimate without a pose that says why.
        """
        start = time.perf_counter()
        if frame.image.std() < _BLANK:
            return Estimate(frame.stamp, Status.FAILED, "the image is blank", latency=time.perf_counter() - start)
        answer = self._answer(frame)
        refusal = self._refusal(answer)
        latency = time.perf_counter() - start
        if refusal:
            return Estimate(frame.stamp, Status.REFUSED, refusal, in_map_score=answer.similarity, latency=latency)
        covariance = self.calibration.apply(from_body_tangent(answer.body_covariance, answer.world_T_cam))
        return Estimate(
            frame.stamp,
            Status.OK,
            world_T_cam=answer.world_T_cam,
            covariance=covariance,
            in_map_score=answer.similarity,
            latency=latency,
        )

    @torch.inference_mode()
    def _answer(self, frame: Frame) -> Answer:
        image, camera = resize_to_height(frame.image, frame.camera, self.network.config.image_height)
        rgb, intrinsics = network_input(image, camera, self.config.device)
        features = self.network.encoder(rgb)
        points = self.network.scene(features)
        location = self.network.locate(points, intrinsics)
        return Answer(
            proper_pose(location.world_T_cam[0]),
            location.body_covariance[0].double().cpu().numpy(),
            self.network.gate.similarity(describe(features)).item(),
            location.agreement.item(),
        )

    def _refusal(self, answer: Answer) -> str:
        """Why the answer must not be published, or an empty string."""
        if not (np.isfinite(answer.world_T_cam).all() and np.isfinite(answer.body_covariance).all()):
            return "the network's answer is not finite"
        if not self.config.gate:
            return ""
        least = self.config.minimum_score if self.config.minimum_score >= 0 else self.network.gate.minimum_similarity
        if answer.similarity < float(least):
            return f"similarity to the training images is {answer.similarity:.2f}, below {float(least):.2f}"
        least = float(self.network.gate.minimum_agreement)
        if answer.agreement < least:
            return f"{100 * answer.agreement:.0f} % of the scene points agree with the pose, below {100 * least:.0f} %"
        return ""


def resize_to_height(image: NDArray[np.uint8], camera: Camera, height: int) -> tuple[NDArray[np.uint8], Camera]:
    """The image (H, W[, 3]) resampled to ``height`` at the same aspect, and its camera."""
    if camera.height == height:
        return image, camera
    width = round(camera.width * height / camera.height)
    method = cv2.INTER_AREA if height < camera.height else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8), camera.resized(width, height)


def network_input(image: NDArray[np.uint8], camera: Camera, device: str) -> tuple[Tensor, Tensor]:
    """RGB (1, 3, H, W) float in [0, 255] and intrinsics (1, 4) of an image."""
    rgb = torch.from_numpy(np.ascontiguousarray(image)).to(device).permute(2, 0, 1)[None]
    return rgb.float(), torch.from_numpy(camera.intrinsics).float().to(device)[None]


def proper_pose(pose: Tensor) -> FloatArray:
    """(4, 4) in double precision with an exactly orthonormal rotation."""
    result = pose.double().cpu().numpy().copy()
    if np.isfinite(result).all():
        U, _, Vt = np.linalg.svd(result[:3, :3])
        result[:3, :3] = U @ Vt
    return result
