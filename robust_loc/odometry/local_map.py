"""The frames tracked at present: their patch graph, and what flow and bundle adjustment say of it."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import torch

from robust_loc.geometry.lie import SE3
from robust_loc.odometry.bundle_adjustment import INFERENCE, Layout, apply_step, normal_equations, solve
from robust_loc.odometry.config import OdometryConfig
from robust_loc.odometry.covariance import increment_covariance
from robust_loc.odometry.graph import Keyframe, PatchGraph
from robust_loc.odometry.initialization import best_start
from robust_loc.odometry.operator import FlowOperator
from robust_loc.odometry.patches import STRIDE
from robust_loc.odometry.projective import flow_magnitude, reproject
from robust_loc.odometry.working_image import tracked_flow, working_image
from robust_loc.types import FloatArray, Frame

LARGEST_GAP = 5.0  # the extrapolated motion is at most this multiple of the last one


class LocalMap:
    """Poses ``cam_T_map`` of a sliding window of frames, with their patches; its unit of length is arbitrary.

    Attributes:
        graph: frames, patches and edges.
        initialized: the first map is made.
        solved: the last bundle adjustment was determined.
    """

    def __init__(
        self, config: OdometryConfig, operator: FlowOperator, generator: torch.Generator, device: torch.device
    ) -> None:
        self._config, self._operator, self._generator, self._device = config, operator, generator, device
        self.graph = PatchGraph(operator.hidden_size, device)
        self.initialized, self.solved = False, True
        self._attempts = 0
        self._image_size = (0, 0)
        self._used = torch.zeros(0, dtype=torch.bool, device=device)

    def __len__(self) -> int:
        return len(self.graph)

    # --- frames -----------------------------------------------------------------------------------------------------

    def append(self, number: int, frame: Frame) -> None:
        """Observe the frame and add it with a guess of its pose and of its patches' depths, without edges.

        Raises:
            ImageEncodingError: if the image is too small.
        """
        working = working_image(frame, self._config.image_pixels)
        image = torch.from_numpy(working.image).permute(2, 0, 1)
        seen = self._operator.observe(image, working.camera, frame, self._generator)
        self._image_size = (working.camera.height // STRIDE, working.camera.width // STRIDE)
        intrinsics = torch.from_numpy(working.camera.at_stride(STRIDE).intrinsics).to(self._device)
        M = len(seen.centres)
        if self.initialized:
            depth = self.graph.inverse_depth(-3).median().expand(M)
        else:
            depth = torch.rand(M, generator=self._generator).to(self._device)
        gray = np.asarray(cv2.cvtColor(working.image, cv2.COLOR_RGB2GRAY), np.uint8)
        keyframe = Keyframe(number, frame.stamp, seen.handle, gray)
        self.graph.append(keyframe, self.guess(frame.stamp), intrinsics, seen.centres, depth)

    def connect(self) -> None:
        """Give the newest frame its edges."""
        self.graph.connect_newest(self._config.patch_lifetime)

    def snapshot(self) -> dict[str, Any]:
        return self.graph.snapshot()

    def undo(self, before: dict[str, Any]) -> None:
        """Take the newest frame out again, as if it had not been seen."""
        self._operator.release(self.graph.frames[-1].handle)
        self.graph.restore(before)

    def remove(self, index: int) -> Keyframe:
        """Forget a frame; ``index`` -1 is the newest."""
        frame = self.graph.remove(index % len(self.graph))
        self._operator.release(frame.handle)
        return frame

    def superfluous(self) -> int | None:
        """The keyframe ``keyframe_index`` frames back, if its neighbours see little flow between them."""
        k = len(self.graph) - self._config.keyframe_index
        if k >= 1 and self.graph.mean_flow(k - 1, k + 1) < self._config.keyframe_threshold:
            return k
        return None

    def let_old_patches_go(self) -> None:
        self.graph.keep_edges(self.graph.ii >= len(self.graph) - self._config.removal_window)

    def oldest_is_done(self) -> bool:
        """The oldest frame has left the window, and no edge touches it."""
        graph = self.graph
        return len(graph) > self._config.removal_window and not ((graph.ii == 0) | (graph.jj == 0)).any()

    def release_all(self) -> None:
        for frame in self.graph.frames:
            self._operator.release(frame.handle)

    # --- flow and adjustment ------------------------------------------------------------------------------------------

    def guess(self, stamp: int) -> SE3:
        """``cam_T_map`` at a stamp: damped constant velocity from the last two keyframes."""
        n = len(self.graph)
        if n == 0:
            return SE3.Identity(1, dtype=torch.float64, device=self._device)[0]
        last = self.graph.pose(n - 1)
        if n == 1:
            return last
        a, b = (self.graph.frames[i].stamp for i in (n - 2, n - 1))
        ratio = min((stamp - b) / max(b - a, 1), LARGEST_GAP)
        motion = (last * self.graph.pose(n - 2).inv()).log()
        return last.retr(self._config.motion_damping * ratio * motion)

    def probe(self) -> float:
        """Median flow of the previous frame's patches into the newest frame, which has no edges yet.

        The larger of what the operator says at once and what tracking says: motions too large for a network's first
        step must not pass for none.
        """
        graph, n = self.graph, len(self.graph)
        kk = torch.arange((n - 2) * graph.M, (n - 1) * graph.M, device=self._device)
        ii, jj = torch.full_like(kk, n - 2), torch.full_like(kk, n - 1)
        coords = reproject(SE3(graph.poses), graph.patches, graph.intrinsics, ii, jj, kk).coords
        hidden = graph.hidden.new_zeros(graph.M, self._operator.hidden_size)
        delta = self._operator.revise(hidden, graph.handles, coords, ii, jj, kk).delta
        pixels = STRIDE * graph.patches[kk, :2, 1, 1].cpu().numpy()
        tracked = tracked_flow(graph.frames[n - 2].gray, graph.frames[n - 1].gray, pixels) / STRIDE
        return max(float(torch.quantile(delta.double().norm(dim=-1), 0.5)), tracked)

    def iterate(self) -> None:
        """One update of the flow, then bundle adjustment."""
        graph = self.graph
        coords = reproject(SE3(graph.poses), graph.patches, graph.intrinsics, *graph.edges).coords
        graph.hidden, delta, weight = self._operator.revise(graph.hidden, graph.handles, coords, *graph.edges)
        delta, weight = delta.to(coords), weight.to(coords)
        finite = torch.isfinite(delta).all(-1, keepdim=True) & torch.isfinite(weight).all(-1, keepdim=True)
        graph.target = coords[:, 1, 1] + torch.where(finite, delta, 0.0)
        graph.weight = torch.where(finite, weight, 0.0)
        self.adjust()

    def refine(self, updates: int) -> None:
        for _ in range(updates):
            self.iterate()

    def adjust(self) -> None:
        """Gauss-Newton over the depths and the newest poses, the flow held."""
        graph, n = self.graph, len(self.graph)
        first = max(n - self._config.optimization_window, 1) if self.initialized else 1
        free = torch.arange(n, device=self._device) >= first
        layout = Layout.of(n, graph.ii, graph.kk, None, free)
        poses, patches = SE3(graph.poses), graph.patches
        for _ in range(self._config.adjustments):
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
            poses, patches = apply_step(poses, patches, step, layout, INFERENCE)
        self.solved = bool(step.solved[0])
        self._used = system.used
        graph.poses, graph.patches = poses.data, patches

    def initialize(self) -> bool:
        """Make the first map from the frames collected, if the camera has moved sideways."""
        self._attempts += 1
        self.refine(self._config.initial_updates if self._attempts == 1 else 2)
        moved = self.parallax() >= self._config.minimum_parallax
        if moved or self._attempts % 4 == 1:  # a minimum without translation may be a wrong one
            best_start(self.graph, self._image_size, self._generator)
            self.refine(self._config.initial_updates)
            moved = self.parallax() >= self._config.minimum_parallax
        self.initialized = moved
        return moved

    # --- what the map says --------------------------------------------------------------------------------------------

    def support(self) -> float:
        """Mean weight of the edges by which older frames see the newest one; unused edges weigh nothing."""
        graph, n = self.graph, len(self.graph)
        chosen = (graph.jj == n - 1) & (graph.ii != n - 1)
        weight = (graph.weight.mean(-1) * self._used)[chosen]
        return float(weight.mean()) if len(weight) else 0.0

    def flow_of_newest(self) -> float:
        """Median measured flow from the keyframe before to the newest frame."""
        graph, n = self.graph, len(self.graph)
        chosen = (graph.jj == n - 1) & (graph.ii == n - 2)
        flow = graph.target[chosen] - graph.patches[graph.kk[chosen], :2, 1, 1]
        return float(flow.norm(dim=-1).median())

    def parallax(self) -> float:
        """Median flow that translation alone causes between older frames and the newest one."""
        graph, n = self.graph, len(self.graph)
        chosen = (graph.jj == n - 1) & (graph.ii != n - 1) & self._used
        ii, jj, kk = (index[chosen] for index in graph.edges)
        flow = flow_magnitude(SE3(graph.poses), graph.patches, graph.intrinsics, ii, jj, kk, beta=0.0)
        return float(flow[:, 1, 1].median()) if len(flow) else 0.0

    def relative(self, a: int, b: int) -> FloatArray:
        """``a_T_b`` [4, 4] between two frames."""
        return np.asarray((self.graph.pose(a) * self.graph.pose(b).inv()).matrix().cpu().numpy())

    def map_T_cam(self, index: int) -> FloatArray:
        """[4, 4]; the identity when the map is empty."""
        if not self.graph.frames:
            return np.eye(4)
        return np.asarray(self.graph.pose(index).inv().matrix().cpu().numpy())

    def covariance(self, a: int, b: int) -> FloatArray | None:
        """Covariance [6, 6] of ``a_T_b`` in ROS convention; None where the edges do not determine it."""
        g = self.graph
        measured = (g.patches, g.intrinsics, g.target, g.weight)
        found = increment_covariance(
            SE3(g.poses), *measured, *g.edges, image_size=self._image_size, previous=a, current=b
        )
        return None if found is None else found.covariance

    def focal(self) -> float:
        """Of the newest frame, quarter-resolution pixels; 1 when the map is empty."""
        return float(self.graph.intrinsics[-1, :2].mean()) if self.graph.frames else 1.0

    def median_depth(self) -> float:
        """Of the newest patches, in the map's unit; 1 before there is a map."""
        return 1 / float(self.graph.inverse_depth(-3).median()) if self.initialized else 1.0

    def points(self) -> tuple[FloatArray, FloatArray]:
        """The patches' centres as points [K, 3] in the map, and the number of the frame [K] each was seen in."""
        graph = self.graph
        if not graph.frames:
            return np.zeros((0, 3)), np.zeros(0)
        source = torch.arange(len(graph.frames), device=self._device).repeat_interleave(graph.M)
        x, y, d = graph.patches[:, :, 1, 1].unbind(-1)
        fx, fy, cx, cy = graph.intrinsics[source].unbind(-1)
        points = torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x)], -1) / d[:, None]
        numbers = np.repeat([frame.number for frame in graph.frames], graph.M)
        return SE3(graph.poses).inv()[source].act(points).cpu().numpy(), numbers
