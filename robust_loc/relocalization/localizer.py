"""The relocalizer: one image and a map to an absolute pose, its covariance, and whether to believe it.

The seven steps of the method (NRE, sections 3-4 and appendix D):
 1 describe the query;  2 retrieve keyframes and gather their points;  3 coarse loss maps;  4 MSAC;  5 coarse GNC;
 6 fine loss maps around the projections and fine GNC;  7 covariance and verdict.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from robust_loc.config import Config, parameter
from robust_loc.errors import MapFormatError
from robust_loc.features import COARSE_STRIDE, FINE_STRIDE, DenseFeatures, FeatureMaps, HandmadeFeatures
from robust_loc.relocalization.covariance import pose_covariance
from robust_loc.relocalization.gnc import refine, sigma_schedule
from robust_loc.relocalization.loss_maps import LossMaps, correspondence_maps, project_points, refine_maps
from robust_loc.relocalization.map import Landmarks, Map
from robust_loc.relocalization.msac import MsacConfig, msac
from robust_loc.relocalization.retrieval import global_descriptor, propose
from robust_loc.relocalization.verdict import Evidence, Verdict
from robust_loc.types import Camera, Estimate, FloatArray, Frame, Status
from robust_loc.uncertainty import CovarianceFactors

SMALLEST_IMAGE = 96  # pixels: six coarse cells
SCENE_DEPTH = 2.5  # metres: how far apart two views are per radian of rotation, for choosing keyframes


@dataclass(frozen=True)
class RelocalizerConfig(Config):
    """How hard the relocalizer searches, and what it answers."""

    proposals: int = parameter(20, "keyframes retrieved per query", minimum=1)
    hypotheses: int = parameter(5, "groups of keyframes tried at most", minimum=1)
    points: int = parameter(450, "points per hypothesis", minimum=3)
    fine_points: int = parameter(400, "points of the final pose", minimum=3)
    good_enough: float = parameter(0.4, "soft inlier ratio at which no other group is tried", minimum=0.0, maximum=1.0)
    min_probability: float = parameter(0.9, "a less probable pose is refused", minimum=0.0, maximum=1.0)
    min_support: int = parameter(12, "points that must agree with the pose; three always fit", minimum=4)
    window: int = parameter(64, "side of the fine windows in fine pixels", minimum=16)
    max_iterations: int = parameter(1500, "MSAC samples per hypothesis at most", minimum=1)
    seed: int = parameter(0, "of the sampling; every query starts from it")


class Query(NamedTuple):
    """The described image, at the scale it was described at."""

    camera: Camera
    features: FeatureMaps
    descriptor: NDArray[np.float32]


class Candidate(NamedTuple):
    """A coarse pose and what speaks for it."""

    cam_T_world: FloatArray
    keyframes: list[int]
    ratio: float
    margin: float


class Answer(NamedTuple):
    """A final pose before the verdict."""

    cam_T_world: FloatArray
    covariance: FloatArray
    evidence: Evidence


class Relocalizer:
    """Estimates ``world_T_cam`` of single frames in a map.

    Raises:
        MapFormatError: when the map was made with other features.
    """

    def __init__(
        self, map: Map, features: DenseFeatures | None = None, config: RelocalizerConfig | None = None
    ) -> None:
        self.map = map
        self.features = features or HandmadeFeatures()
        self.config = config or RelocalizerConfig()
        if map.info.features != self.features.identity:
            raise MapFormatError(
                f"{map.source}: was made with the features {map.info.features}, not {self.features.identity}; "
                "use the same features, or rebuild the map"
            )
        calibration = map.info.calibration
        self.verdict = Verdict.from_dict(calibration["verdict"]) if "verdict" in calibration else Verdict()
        self.factors = CovarianceFactors(**calibration.get("covariance", {}))
        self.ignored = np.zeros(map.keyframes, bool)  # keyframes left out, for held-out calibration

    def reset(self) -> None:
        """Nothing to forget: every frame is localized on its own."""

    def update(self, frame: Frame, prior: Estimate | None = None) -> Estimate:
        """Localize one frame.

        Args:
            prior: a predicted pose; the keyframes around it are tried first.

        Returns:
            An estimate with a pose, or one that is REFUSED or FAILED and says why. ``probability`` is that of a pose
            within 0.25 m and 5 degrees, ``in_map_score`` the similarity to the most similar keyframe.
        """
        began = time.perf_counter()
        if min(frame.camera.width, frame.camera.height) < SMALLEST_IMAGE:
            size = f"{frame.camera.width}x{frame.camera.height}"
            return _without_pose(frame, Status.FAILED, f"the image is {size}; at least {SMALLEST_IMAGE} wanted", began)
        query = self.describe(frame)
        proposals = propose(query.descriptor, self.map.arrays["keyframe_global"], self.config.proposals)
        similarity = float(np.clip(proposals.similarity[0], 0, 1))
        best = self._search(query, proposals.keyframes, prior)
        if best is None:
            cause = "fewer than three map points stand out in the image: dark, blurred, textureless, or another place"
            return _without_pose(frame, Status.REFUSED, cause, began, similarity)
        return self._judge(frame, self._fine_pose(query, best), similarity, began)

    def answer(self, frame: Frame) -> Answer | None:
        """The best pose of a frame before the verdict, with its evidence: what the verdict is calibrated on."""
        query = self.describe(frame)
        proposals = propose(query.descriptor, self.map.arrays["keyframe_global"], self.config.proposals)
        best = self._search(query, proposals.keyframes, None)
        return None if best is None else self._fine_pose(query, best)

    def describe(self, frame: Frame) -> Query:
        """Step 1: dense descriptors, of the image at the map's focal length when the query's is far from it."""
        camera, image = frame.camera, frame.image
        scale = self.map.focal / camera.fx
        if not 0.7 < scale < 1.4:
            size = max(round(camera.width * scale), SMALLEST_IMAGE), max(round(camera.height * scale), SMALLEST_IMAGE)
            how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            camera, image = camera.resized(*size), np.asarray(cv2.resize(image, size, interpolation=how), np.uint8)
        features = self.features.extract(image)
        descriptor = global_descriptor(features.coarse.numpy(), np.asarray(self.map.arrays["codebook"], np.float32))
        return Query(camera, features, descriptor)

    def _search(self, query: Query, proposed: NDArray[np.int64], prior: Estimate | None) -> Candidate | None:
        """Steps 2 to 5: the best coarse pose over the groups of keyframes; the first good one ends the search."""
        best: Candidate | None = None
        for keyframes in self._hypotheses(proposed, prior):
            candidate = self._coarse_pose(query, keyframes)
            if candidate is not None and (best is None or candidate.ratio > best.ratio):
                best = candidate
                if best.ratio >= self.config.good_enough:
                    break
        return best

    def _hypotheses(self, proposed: NDArray[np.int64], prior: Estimate | None) -> Iterator[list[int]]:
        """Step 2: groups of keyframes to try: around the prior, then each proposal with what it is covisible with."""
        if prior is not None and prior.world_T_cam is not None:
            yield self._nearest(prior.world_T_cam, 3)
        covered: set[int] = set()
        tried = 0
        for keyframe in proposed:
            if int(keyframe) in covered or self.ignored[keyframe]:
                continue
            group = [int(keyframe), *self._covisible(int(keyframe))[:2]]
            covered.update(group)
            yield group
            tried += 1
            if tried >= self.config.hypotheses:
                return

    def _coarse_pose(self, query: Query, keyframes: list[int]) -> Candidate | None:
        """Steps 3 to 5: coarse loss maps, MSAC, coarse GNC."""
        landmarks = self.map.gather(keyframes, self.config.points)
        maps, _ = self._coarse_maps(query, landmarks)
        intrinsics = query.camera.at_stride(COARSE_STRIDE).intrinsics
        search = MsacConfig(max_iterations=self.config.max_iterations)
        found = msac(maps, landmarks.points, intrinsics, np.random.default_rng(self.config.seed), search)
        if found.cam_T_world is None:
            return None
        pose = refine(maps, landmarks.points, intrinsics, found.cam_T_world, sigma_schedule(2.0, 0.6)).cam_T_world
        return Candidate(pose, keyframes, found.inlier_ratio, found.inlier_ratio - found.rival_ratio)

    def _fine_pose(self, query: Query, coarse: Candidate) -> Answer:
        """Step 6: the points that the coarse pose sees, their fine maps, fine GNC from that pose."""
        pose = coarse.cam_T_world
        pool = set(coarse.keyframes).union(*(self._covisible(k) for k in coarse.keyframes))
        near = self._nearest(np.asarray(np.linalg.inv(pose), np.float64), 4, sorted(pool))
        landmarks = self.map.gather(near, self.config.fine_points, pose)
        maps, dense = self._coarse_maps(query, landmarks)
        grid = query.camera.at_stride(COARSE_STRIDE).intrinsics
        pose = refine(maps, landmarks.points, grid, pose, sigma_schedule(2.0, 0.6)).cam_T_world
        intrinsics = query.camera.at_stride(FINE_STRIDE).intrinsics
        pixels, _ = project_points(landmarks.points, intrinsics, pose)
        fine = refine_maps(
            torch.from_numpy(landmarks.fine), query.features.fine, dense, pixels, window=self.config.window
        )
        pose = refine(fine, landmarks.points, intrinsics, pose, sigma_schedule(8.0, 0.6)).cam_T_world
        covariance = pose_covariance(fine, landmarks.points, intrinsics, pose)
        return Answer(pose, covariance, _evidence(coarse, fine, landmarks.points, intrinsics, pose))

    def _judge(self, frame: Frame, answer: Answer, similarity: float, began: float) -> Estimate:
        """Step 7: the probability that the pose is right; an improbable one is refused."""
        probability = self.verdict.probability(answer.evidence)
        support = round(10**answer.evidence.support) - 1
        if support < self.config.min_support:
            cause = f"only {support} points agree with the best pose; {self.config.min_support} are needed"
            return _without_pose(frame, Status.REFUSED, cause, began, similarity, min(probability, 0.5))
        if probability < self.config.min_probability or not np.all(np.isfinite(answer.cam_T_world)):
            cause = f"the best pose is right with a probability of only {probability:.2f}: outside the map?"
            return _without_pose(frame, Status.REFUSED, cause, began, similarity, probability)
        return Estimate(
            frame.stamp,
            Status.OK,
            world_T_cam=np.asarray(np.linalg.inv(answer.cam_T_world), np.float64),
            covariance=self.factors.apply(answer.covariance),
            probability=probability,
            in_map_score=similarity,
            latency=time.perf_counter() - began,
        )

    def _coarse_maps(self, query: Query, landmarks: Landmarks) -> tuple[LossMaps, torch.Tensor]:
        """Step 3: loss maps and dense correspondence maps of the landmarks."""
        dense = correspondence_maps(torch.from_numpy(landmarks.coarse), query.features.coarse)
        return LossMaps.from_dense(dense, width=dense.shape[2], height=dense.shape[1]), dense

    def _covisible(self, keyframe: int) -> list[int]:
        return [k for k in self.map.covisible(keyframe) if not self.ignored[k]]

    def _nearest(self, world_T_cam: FloatArray, count: int, pool: list[int] | None = None) -> list[int]:
        """The keyframes whose views are nearest to a pose: metres, plus the rotation at the scene's depth."""
        index = np.flatnonzero(~self.ignored) if pool is None else np.array(pool)
        poses = np.asarray(self.map.arrays["keyframe_pose"][index])
        distance = np.linalg.norm(poses[:, :3, 3] - world_T_cam[:3, 3], axis=1)
        trace = np.einsum("kij,ij->k", poses[:, :3, :3], world_T_cam[:3, :3])
        angle = np.arccos(np.clip((trace - 1) / 2, -1, 1))
        return [int(k) for k in index[np.argsort(distance + 0.5 * SCENE_DEPTH * angle, kind="stable")[:count]]]


def _evidence(
    coarse: Candidate, fine: LossMaps, points: FloatArray, intrinsics: FloatArray, pose: FloatArray
) -> Evidence:
    losses = fine.cost(points, intrinsics, pose[None, :3, :3], pose[None, :3, 3])[0]
    pixels, front = project_points(points, intrinsics, pose)
    inside = front & np.all((pixels >= 0) & (pixels <= [fine.width - 1, fine.height - 1]), axis=1)
    agreement = 1 - losses[inside] / fine.ceiling
    ratio = float(agreement.mean()) if len(agreement) else 0.0
    return Evidence(coarse.ratio, coarse.margin, ratio, float(np.log10(1 + (agreement > 0.25).sum())))


def _without_pose(
    frame: Frame,
    status: Status,
    reason: str,
    began: float,
    similarity: float | None = None,
    probability: float | None = None,
) -> Estimate:
    latency = time.perf_counter() - began
    return Estimate(frame.stamp, status, reason, probability=probability, in_map_score=similarity, latency=latency)
