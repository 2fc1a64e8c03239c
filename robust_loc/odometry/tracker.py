"""Patch odometry: the tracker of DPVO (Teed, Lipson, Deng 2023, section 3.3) with covariances and states."""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from robust_loc.odometry.answers import Answers
from robust_loc.odometry.config import OdometryConfig
from robust_loc.odometry.graph import PatchGraph
from robust_loc.odometry.history import TrajectoryPoint
from robust_loc.odometry.lanes import lanes
from robust_loc.odometry.local_map import LocalMap
from robust_loc.odometry.network import PatchNetwork
from robust_loc.odometry.operator import FlowOperator, NetworkOperator
from robust_loc.odometry.screening import Screen, Verdict
from robust_loc.odometry.weights import default_weights
from robust_loc.types import Estimate, FloatArray, Frame, Status
from robust_loc.uncertainty import CovarianceFactors


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

    _map: LocalMap
    _answers: Answers

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
        if c.encoders:
            from robust_loc.odometry.export import use_exported

            use_exported(network, c.encoders, self.device, torch.get_num_threads())
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
        with lanes(self.config.threads):
            estimate = self._track(frame)
        return replace(estimate, latency=time.perf_counter() - start)

    def _track(self, frame: Frame) -> Estimate:
        verdict = self._screen.judge(frame)
        # Frames that cannot be tracked are still answered.
        if verdict.ignore:
            return Estimate(frame.stamp, Status.REFUSED, verdict.reason)
        if verdict.restart:
            self._restart()
        number = self._answers.count(frame)
        if verdict.featureless:
            return self._blind(number, frame, verdict.reason)
        self._blind_frames, blind = 0, self._blind_frames
        if verdict.frozen and self.graph.frames:
            return self._answers.still(number, frame, verdict.reason)

        local_map = self._map
        before = local_map.snapshot()
        local_map.append(number, frame)
        if not local_map.initialized and len(local_map) > 1:
            flow = local_map.probe()
            if flow < self.config.motion_threshold:
                local_map.undo(before)
                return self._answers.skipped(number, frame, flow)
            self._answers.moves_on(number, flow)
        local_map.connect()
        if not local_map.initialized:
            return self._start_up(number, frame, verdict)
        local_map.iterate()
        if local_map.support() < self.config.minimum_support:
            local_map.undo(before)
            self._blind_frames = blind
            return self._blind(number, frame, "almost no patch was found again")
        if local_map.flow_of_newest() < self.config.still_threshold:
            local_map.undo(before)
            return self._answers.still(number, frame, "the camera stands still")
        estimate = self._answers.tracked(number, frame)
        self._remove_keyframe()
        return estimate

    def _start_up(self, number: int, frame: Frame, verdict: Verdict) -> Estimate:
        """Collect frames with motion; make the first map when there are enough."""
        collected, wanted = len(self._map), self.config.initial_frames
        if collected < wanted:
            reason = verdict.reason or f"{collected} of {wanted} frames with motion"
            return self._answers.initializing(number, frame, reason)
        if self._map.initialize():
            self._answers.map_begins()
            return self._answers.tracked(number, frame)
        estimate = self._answers.tracked(number, frame)
        self._hang(1)  # wait for translation
        return estimate

    def _blind(self, number: int, frame: Frame, reason: str) -> Estimate:
        """The frame could not be used: extrapolate, and after too many give up."""
        self._blind_frames += 1
        if self.initialized and self._blind_frames >= self.config.lost_after:
            self._restart()
            return Estimate(frame.stamp, Status.FAILED, f"{reason}; tracking starts again")
        return self._answers.extrapolated(number, frame, reason)

    def _remove_keyframe(self) -> None:
        """Remove a keyframe whose neighbours see little flow; let old patches go."""
        superfluous = self._map.superfluous()
        if superfluous is not None:
            self._hang(superfluous)
        self._map.let_old_patches_go()
        while self._map.oldest_is_done():
            self._settle_oldest()

    def _hang(self, index: int) -> None:
        self._answers.hang(index)
        self._map.remove(index)

    def _settle_oldest(self) -> None:
        self._answers.settle(0)
        self._map.remove(0)

    # --- life ---------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget everything; the same frames give the same answers again."""
        if hasattr(self, "_map"):
            self._map.release_all()
        self._generator = torch.Generator().manual_seed(self.config.seed)
        self._screen = Screen(self.config)
        self._answers = Answers(self.config, self._calibrated)
        self._start()

    def _calibrated(self, covariance: FloatArray) -> FloatArray:
        return self._covariance_factors.apply(self._covariance_scale * covariance)

    def _start(self) -> None:
        """An empty map where the last answer was."""
        self._map = LocalMap(self.config, self._operator, self._generator, self.device)
        self._answers.begin(self._map)
        self._blind_frames = 0

    def _restart(self) -> None:
        """Settle what is known and start a new map."""
        while self.graph.frames:
            self._settle_oldest()
        self._start()

    @property
    def graph(self) -> PatchGraph:
        """The frames, patches and edges in use."""
        return self._map.graph

    @property
    def initialized(self) -> bool:
        """The first map is made."""
        return self._map.initialized

    def trajectory(self) -> list[TrajectoryPoint]:
        """The pose of every frame that has one, as known now: later frames have refined it."""
        return self._answers.trajectory()

    @torch.no_grad()
    def terminate(self) -> list[TrajectoryPoint]:
        """Refine the frames still in the graph and return :meth:`trajectory`."""
        if self.initialized:
            with lanes(self.config.threads):
                self._map.refine(self.config.initial_updates)
        return self.trajectory()

    def points(self) -> tuple[FloatArray, FloatArray]:
        """The patches' centres as points [K, 3] in the world, and the number of the frame [K] each was seen in."""
        points, numbers = self._map.points()
        origin = self._answers.origin
        return points @ origin[:3, :3].T + origin[:3, 3], numbers
