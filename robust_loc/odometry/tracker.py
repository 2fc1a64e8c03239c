"""Patch odometry: the tracker of DPVO (Teed, Lipson, Deng 2023, section 3.3) with covariances and states."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import torch

from robust_loc.geometry.lie import SE3
from robust_loc.odometry.bundle_adjustment import INFERENCE, Layout, apply_step, normal_equations, solve
from robust_loc.odometry.config import OdometryConfig
from robust_loc.odometry.covariance import increment_covariance
from robust_loc.odometry.graph import Keyframe, PatchGraph
from robust_loc.odometry.history import History, NoHistory, TrajectoryPoint
from robust_loc.odometry.initialization import best_start
from robust_loc.odometry.lanes import lanes
from robust_loc.odometry.motion import Belief, Motion
from robust_loc.odometry.network import PatchNetwork
from robust_loc.odometry.operator import FlowOperator, NetworkOperator
from robust_loc.odometry.patches import STRIDE
from robust_loc.odometry.projective import flow_magnitude, reproject
from robust_loc.odometry.screening import Screen, Verdict
from robust_loc.odometry.weights import default_weights
from robust_loc.odometry.working_image import WorkingImage, tracked_flow, working_image
from robust_loc.types import Estimate, FloatArray, Frame, Status
from robust_loc.uncertainty import CovarianceFactors
from robust_loc.uncertainty.conversions import compose

LARGEST_GAP = 5.0  # the extrapolated motion is at most this multiple of the last one


class Odometry:
    """Monocular odometry up to scale: ``update`` answers every frame with the camera's pose and increment.

    The world frame is the first camera; its unit of length is arbitrary. ``network`` is a :class:`PatchNetwork`
    (default: the package's own weights), or any :class:`~robust_loc.odometry.operator.FlowOperator`.

    What an estimate's status means here:
        INITIALIZING: the map is not made yet; the pose is a guess with a wide covariance.
        NO_MOTION: the camera stands still; the increment is the identity.
        DEGENERATE: it turns without moving; rotation is known, translation hardly.
        UNRELIABLE: the frame could not be tracked; the motion is extrapolated.
        FAILED: tracking is lost and starts again (a new scale); no pose.
        REFUSED: the frame was ignored (duplicate or late stamp); no pose.
    """

    def __init__(
        self, config: OdometryConfig | None = None, network: PatchNetwork | FlowOperator | None = None
    ) -> None:
        self.config = config or OdometryConfig()
        name = self.config.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.device(name)
        network = network or PatchNetwork.from_checkpoint(default_weights())
        self._covariance_scale = self.config.covariance_scale * getattr(network, "covariance_scale", 1.0)
        self._covariance_factors = getattr(network, "covariance_factors", CovarianceFactors())
        self._operator = self._as_operator(network)
        self.reset()

    def _as_operator(self, network: PatchNetwork | FlowOperator) -> FlowOperator:
        if not isinstance(network, PatchNetwork):
            return network
        c = self.config
        return NetworkOperator(
            network,
            c.patches_per_frame,
            c.removal_window + c.patch_lifetime + 3,
            self.device,
            gradient_bias=c.gradient_bias,
            mixed_precision=c.mixed_precision,
        )

    # --- the algorithm ----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def update(self, frame: Frame, prior: Estimate | None = None) -> Estimate:
        """Track one frame; ``prior`` is not used. Frames must come in the order of their stamps.

        Raises:
            ImageEncodingError: if the image is too small.
        """
        start = time.perf_counter()
        with lanes():
            estimate = self._track(frame)
        return replace(estimate, latency=time.perf_counter() - start)

    def _track(self, frame: Frame) -> Estimate:
        verdict = self._screen.judge(frame)
        # Frames that cannot be tracked are still answered.
        if verdict.ignore:
            return Estimate(frame.stamp, Status.REFUSED, verdict.reason)
        if verdict.restart:
            self._restart()
        number = self._count(frame)
        if verdict.featureless:
            return self._blind(number, frame, verdict.reason)
        if verdict.frozen and self.graph.frames:
            return self._still(number, frame, verdict.reason)

        working = working_image(frame, self.config.image_width)
        before = self.graph.snapshot()
        self._append(number, frame, working)
        if not self.initialized and len(self.graph) > 1 and self._probe() < self.config.motion_threshold:
            self._undo(before)
            return self._still(number, frame, "the camera has not moved enough yet")
        self.graph.connect_newest(self.config.patch_lifetime)
        if not self.initialized:
            return self._start_up(number, frame, verdict)
        self._iterate()
        if self._support() < self.config.minimum_support:
            self._undo(before)
            return self._blind(number, frame, "almost no patch was found again")
        if self._flow_of_newest() < self.config.still_threshold:
            self._undo(before)
            return self._still(number, frame, "the camera stands still")
        estimate = self._tracked(number, frame)
        self._remove_keyframe()
        return estimate

    def _start_up(self, number: int, frame: Frame, verdict: Verdict) -> Estimate:
        """Collect frames with motion; make the first map when there are enough."""
        if len(self.graph) < self.config.initial_frames:
            return self._initializing(number, frame, verdict)
        self.initialized = self._initialize()
        estimate = self._tracked(number, frame)
        if not self.initialized:
            self._remove(1)  # wait for translation
        return estimate

    def _append(self, number: int, frame: Frame, working: WorkingImage) -> None:
        """Observe the frame and add it to the graph with a guess of its pose and of its patches' depths."""
        image = torch.from_numpy(working.image).permute(2, 0, 1)
        seen = self._operator.observe(image, working.camera, frame, self._generator)
        quarter = working.camera.at_stride(4)
        self._image_size = (working.camera.height // 4, working.camera.width // 4)
        intrinsics = torch.from_numpy(quarter.intrinsics).to(self.device)
        M = len(seen.centres)
        if self.initialized:
            depth = self.graph.inverse_depth(-3).median().expand(M)
        else:
            depth = torch.rand(M, generator=self._generator).to(self.device)
        pose = self._guess(frame.stamp)
        gray = np.asarray(cv2.cvtColor(working.image, cv2.COLOR_RGB2GRAY), np.uint8)
        self.graph.append(Keyframe(number, frame.stamp, seen.handle, gray), pose, intrinsics, seen.centres, depth)

    def _guess(self, stamp: int) -> SE3:
        """Damped constant velocity from the last two keyframes."""
        n = len(self.graph)
        if n == 0:
            return SE3.Identity(1, dtype=torch.float64, device=self.device)[0]
        last = self.graph.pose(n - 1)
        if n == 1:
            return last
        a, b = (self.graph.frames[i].stamp for i in (n - 2, n - 1))
        ratio = min((stamp - b) / max(b - a, 1), LARGEST_GAP)
        motion = (last * self.graph.pose(n - 2).inv()).log()
        return last.retr(self.config.motion_damping * ratio * motion)

    def _probe(self) -> float:
        """Median flow of the previous frame's patches into the newest frame.

        The larger of what the operator says at once and what tracking says: motions too large for a network's first
        step must not pass for none.
        """
        graph, n = self.graph, len(self.graph)
        kk = torch.arange((n - 2) * graph.M, (n - 1) * graph.M, device=self.device)
        ii, jj = torch.full_like(kk, n - 2), torch.full_like(kk, n - 1)
        coords = reproject(SE3(graph.poses), graph.patches, graph.intrinsics, ii, jj, kk).coords
        hidden = graph.hidden.new_zeros(graph.M, self._operator.hidden_size)
        delta = self._operator.revise(hidden, graph.handles, coords, ii, jj, kk).delta
        pixels = STRIDE * graph.patches[kk, :2, 1, 1].cpu().numpy()
        tracked = tracked_flow(graph.frames[n - 2].gray, graph.frames[n - 1].gray, pixels) / STRIDE
        return max(float(torch.quantile(delta.double().norm(dim=-1), 0.5)), tracked)

    def _iterate(self) -> None:
        """One update of the flow, then bundle adjustment."""
        graph = self.graph
        coords = reproject(SE3(graph.poses), graph.patches, graph.intrinsics, *graph.edges).coords
        graph.hidden, delta, weight = self._operator.revise(graph.hidden, graph.handles, coords, *graph.edges)
        delta, weight = delta.to(coords), weight.to(coords)
        finite = torch.isfinite(delta).all(-1, keepdim=True) & torch.isfinite(weight).all(-1, keepdim=True)
        graph.target = coords[:, 1, 1] + torch.where(finite, delta, 0.0)
        graph.weight = torch.where(finite, weight, 0.0)
        self._adjust()

    def _adjust(self) -> None:
        graph, n = self.graph, len(self.graph)
        first = max(n - self.config.optimization_window, 1) if self.initialized else 1
        free = torch.arange(n, device=self.device) >= first
        layout = Layout.of(n, graph.ii, graph.kk, None, free)
        poses, patches = SE3(graph.poses), graph.patches
        for _ in range(self.config.adjustments):
            system = normal_equations(
                poses,
                patches,
                graph.intrinsics,
                graph.target,
                graph.weight,
                *graph.edges,
                image_size=self._image_size,
                layout=layout,
                damping=INFERENCE,
            )
            step = solve(system, INFERENCE)
            self.solved = bool(step.solved[0])
            poses, patches = apply_step(poses, patches, step, layout, INFERENCE)
        self._used = system.used
        graph.poses, graph.patches = poses.data, patches

    def _initialize(self) -> bool:
        """Make the first map, if the camera has moved sideways; the previous answer's pose is known from here on."""
        self._attempts += 1
        self._refine(self.config.initial_updates if self._attempts == 1 else 2)
        moved = self._parallax() >= self.config.minimum_parallax
        if moved or self._attempts % 4 == 1:  # a minimum without translation may be a wrong one
            best_start(self.graph, self._image_size, self._generator)
            self._refine(self.config.initial_updates)
            moved = self._parallax() >= self.config.minimum_parallax
        if not moved:
            return False
        covariance = self._covariance(0, len(self.graph) - 2)
        if covariance is not None:
            origin = (self._origin, self._start_covariance)
            covariance = compose(*origin, self._relative(0, len(self.graph) - 2), covariance)[1]
            self._belief = Belief(covariance)
        return True

    def _refine(self, updates: int) -> None:
        for _ in range(updates):
            self._iterate()

    def _remove_keyframe(self) -> None:
        """Remove the keyframe ``keyframe_index`` frames back if its neighbours see little flow; let old patches go."""
        graph, c = self.graph, self.config
        k = len(graph) - c.keyframe_index
        if k >= 1 and graph.mean_flow(k - 1, k + 1) < c.keyframe_threshold:
            self._remove(k)
        graph.keep_edges(graph.ii >= len(graph) - c.removal_window)
        while len(graph) > c.removal_window and not ((graph.ii == 0) | (graph.jj == 0)).any():
            self._settle_oldest()

    def _remove(self, index: int) -> None:
        """Remove a keyframe; its pose hangs on the one before."""
        before, before_T_cam = self.graph.frames[index - 1].number, self._relative(index - 1, index)
        removed = self.graph.remove(index)
        self._operator.release(removed.handle)
        self._history.hang(removed.number, before, before_T_cam)

    # --- answers ----------------------------------------------------------------------------------------------------

    def _tracked(self, number: int, frame: Frame) -> Estimate:
        """The estimate of a frame that is in the graph."""
        n = len(self.graph)
        reference_T_cam = self._relative(n - 2, n - 1)
        found = self._covariance(n - 2, n - 1)
        if found is None or not self.solved:
            covariance = self._guessed_covariance(reference_T_cam)
            reason = "the bundle adjustment is not determined"
            return self._moved(number, frame, Status.UNRELIABLE, reason, reference_T_cam, covariance)
        if self._parallax() < self.config.minimum_parallax:
            unseen = self.config.minimum_parallax / self._focal() * self._median_depth()
            found[:3, :3] += unseen**2 * np.eye(3)
            reason = "the camera turns without moving: translation is not observed"
            return self._moved(number, frame, Status.DEGENERATE, reason, reference_T_cam, found)
        return self._moved(number, frame, Status.OK, "", reference_T_cam, found)

    def _initializing(self, number: int, frame: Frame, verdict: Verdict) -> Estimate:
        reason = verdict.reason or f"{len(self.graph)} of {self.config.initial_frames} frames with motion"
        covariance = self._floor() if number == 0 else np.eye(6)
        return self._moved(number, frame, Status.INITIALIZING, reason, np.eye(4), covariance)

    def _moved(
        self,
        number: int,
        frame: Frame,
        status: Status,
        reason: str,
        reference_T_cam: FloatArray,
        covariance: FloatArray,
    ) -> Estimate:
        """The frame is the newest in the graph, ``reference_T_cam`` from the keyframe before it."""
        newest = len(self.graph) - 1
        world_T_reference = self._world_T(max(newest - 1, 0))
        motion = self._belief.move(world_T_reference, reference_T_cam, covariance)
        self._belief.advance(world_T_reference)
        self._blind_frames = 0
        return self._estimate(number, frame, status, reason, self._world_T(newest), motion)

    def _still(self, number: int, frame: Frame, reason: str) -> Estimate:
        """Identity motion; its covariance is what flow below the threshold could hide."""
        threshold = self.config.still_threshold if self.initialized else self.config.motion_threshold / 2
        rotation = threshold / self._focal()
        sigmas = np.repeat([rotation * self._median_depth(), rotation], 3)
        motion = self._belief.stay(self._world_T(-1), np.diag(sigmas**2) + self._floor())
        self._blind_frames = 0
        return self._beside(number, frame, Status.NO_MOTION, reason, motion)

    def _blind(self, number: int, frame: Frame, reason: str) -> Estimate:
        """The frame could not be used: extrapolate, and after too many give up."""
        self._blind_frames += 1
        if not self.initialized:
            motion = self._belief.move(self._world_T(-1), self._belief.reference_T_last, np.eye(6))
            return self._beside(number, frame, Status.INITIALIZING, reason, motion)
        if self._blind_frames >= self.config.lost_after:
            self._restart()
            return Estimate(frame.stamp, Status.FAILED, f"{reason}; tracking starts again")
        guess = self._guess(frame.stamp)
        reference_T_cam = (self.graph.pose(-1) * guess.inv()).matrix().cpu().numpy()
        covariance = self._guessed_covariance(reference_T_cam)
        motion = self._belief.move(self._world_T(-1), reference_T_cam, covariance)
        return self._beside(number, frame, Status.UNRELIABLE, reason, motion)

    def _beside(self, number: int, frame: Frame, status: Status, reason: str, motion: Motion) -> Estimate:
        """The estimate of a frame that is not in the graph: it hangs on the newest keyframe."""
        reference_T_cam = self._belief.reference_T_last
        world_T_cam = self._world_T(-1) @ reference_T_cam
        if self.graph.frames:
            self._history.hang(number, self.graph.frames[-1].number, reference_T_cam)
        else:
            self._history.settle(number, world_T_cam)
        return self._estimate(number, frame, status, reason, world_T_cam, motion)

    def _estimate(
        self, number: int, frame: Frame, status: Status, reason: str, world_T_cam: FloatArray, motion: Motion
    ) -> Estimate:
        self._last_pose, self._last_covariance = world_T_cam, motion.pose_covariance
        first = number == 0
        return Estimate(
            frame.stamp,
            status,
            reason,
            world_T_cam,
            motion.pose_covariance,
            None if first else motion.increment,
            None if first else motion.increment_covariance,
        )

    # --- what the graph says ----------------------------------------------------------------------------------------

    def _relative(self, a: int, b: int) -> FloatArray:
        """``a_T_b`` between two frames of the graph."""
        return np.asarray((self.graph.pose(a) * self.graph.pose(b).inv()).matrix().cpu().numpy())

    def _world_T(self, index: int) -> FloatArray:
        """``world_T_cam`` of a frame of the graph; the origin when the graph is empty."""
        if not self.graph.frames:
            return self._origin
        return np.asarray(self._origin @ self.graph.pose(index).inv().matrix().cpu().numpy())

    def _covariance(self, a: int, b: int) -> FloatArray | None:
        """Calibrated covariance of ``a_T_b``."""
        g = self.graph
        measured = (g.patches, g.intrinsics, g.target, g.weight)
        found = increment_covariance(
            SE3(g.poses), *measured, *g.edges, image_size=self._image_size, previous=a, current=b
        )
        if found is None:
            return None
        return self._covariance_factors.apply(self._covariance_scale * found.covariance) + self._floor()

    def _floor(self) -> FloatArray:
        """Keeps every covariance positive definite."""
        return np.diag(np.repeat([(1e-6 * self._median_depth()) ** 2, 1e-12], 3))

    def _guessed_covariance(self, reference_T_cam: FloatArray) -> FloatArray:
        """Of an extrapolated motion: as wide as the motion itself, and 0.05 rad or median depths more."""
        moved = float(np.linalg.norm(reference_T_cam[:3, 3])) + 0.05 * self._median_depth()
        turned = float(np.arccos(np.clip((np.trace(reference_T_cam[:3, :3]) - 1) / 2, -1, 1))) + 0.05
        return np.diag(np.repeat([moved**2, turned**2], 3))

    def _focal(self) -> float:
        return float(self.graph.intrinsics[-1, :2].mean()) if self.graph.frames else 1.0

    def _median_depth(self) -> float:
        """Of the newest patches, in the map's unit; 1 before there is a map."""
        return 1 / float(self.graph.inverse_depth(-3).median()) if self.initialized else 1.0

    def _support(self) -> float:
        """Sum of the weights of the edges by which older frames see the newest one."""
        graph, n = self.graph, len(self.graph)
        chosen = (graph.jj == n - 1) & (graph.ii != n - 1) & self._used
        return float(graph.weight[chosen].mean(-1).sum())

    def _flow_of_newest(self) -> float:
        """Median measured flow from the keyframe before to the newest frame."""
        graph, n = self.graph, len(self.graph)
        chosen = (graph.jj == n - 1) & (graph.ii == n - 2)
        flow = graph.target[chosen] - graph.patches[graph.kk[chosen], :2, 1, 1]
        return float(flow.norm(dim=-1).median())

    def _parallax(self) -> float:
        """Median flow that translation alone causes between older frames and the newest one."""
        graph, n = self.graph, len(self.graph)
        chosen = (graph.jj == n - 1) & (graph.ii != n - 1) & self._used
        ii, jj, kk = (index[chosen] for index in graph.edges)
        flow = flow_magnitude(SE3(graph.poses), graph.patches, graph.intrinsics, ii, jj, kk, beta=0.0)
        return float(flow[:, 1, 1].median()) if len(flow) else 0.0

    # --- life ---------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget everything; the same frames give the same answers again."""
        if hasattr(self, "graph"):
            self._release_all()
        self._generator = torch.Generator().manual_seed(self.config.seed)
        self._screen = Screen(self.config)
        self._history = History() if self.config.keep_trajectory else NoHistory()
        self._numbers = 0
        self._origin = self._last_pose = np.eye(4)
        self._last_covariance = 1e-12 * np.eye(6)
        self._start()

    def _start(self) -> None:
        """An empty map at ``_origin``."""
        self.graph = PatchGraph(self._operator.hidden_size, self.device)
        self.initialized, self.solved = False, True
        self._blind_frames = self._attempts = 0
        self._start_covariance: FloatArray = self._last_covariance
        self._belief = Belief(self._start_covariance)

    def _restart(self) -> None:
        """Settle what is known and start a new map where the last answer was."""
        while self.graph.frames:
            self._settle_oldest()
        self._origin = self._last_pose
        self._start()

    def _count(self, frame: Frame) -> int:
        number = self._numbers
        self._numbers += 1
        self._history.add(number, frame.stamp)
        return number

    def _settle_oldest(self) -> None:
        world_T_cam = self._world_T(0)
        frame = self.graph.remove(0)
        self._operator.release(frame.handle)
        self._history.settle(frame.number, world_T_cam)

    def _undo(self, before: dict[str, Any]) -> None:
        """Take the newest frame out again, as if it had not been seen: standing still moves nothing."""
        self._operator.release(self.graph.frames[-1].handle)
        self.graph.restore(before)

    def _release_all(self) -> None:
        for frame in self.graph.frames:
            self._operator.release(frame.handle)

    def trajectory(self) -> list[TrajectoryPoint]:
        """The pose of every frame that has one, as known now: later frames have refined it."""
        in_graph = {frame.number: self._world_T(i) for i, frame in enumerate(self.graph.frames)}
        return self._history.trajectory(in_graph)

    @torch.no_grad()
    def terminate(self) -> list[TrajectoryPoint]:
        """Refine the frames still in the graph and return :meth:`trajectory`."""
        if self.initialized:
            self._refine(self.config.initial_updates)
        return self.trajectory()

    def points(self) -> tuple[FloatArray, FloatArray]:
        """The patches' centres as points [K, 3] in the world, and the number of the frame [K] each was seen in."""
        graph = self.graph
        if not graph.frames:
            return np.zeros((0, 3)), np.zeros(0)
        source = torch.arange(len(graph.frames), device=self.device).repeat_interleave(graph.M)
        x, y, d = graph.patches[:, :, 1, 1].unbind(-1)
        fx, fy, cx, cy = graph.intrinsics[source].unbind(-1)
        points = torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x)], -1) / d[:, None]
        points_world = SE3(graph.poses).inv()[source].act(points).cpu().numpy()
        numbers = np.repeat([frame.number for frame in graph.frames], graph.M)
        return points_world @ self._origin[:3, :3].T + self._origin[:3, 3], numbers
