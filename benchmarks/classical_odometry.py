"""A classical monocular visual odometry, as the number that learned odometry has to beat.

KLT tracks, an essential matrix to start from, PnP for every frame, triangulation and local bundle adjustment at
keyframes: the textbook pipeline (Scaramuzza and Fraundorfer, IEEE RAM 2011), with OpenCV for the geometry. It has no
loop closure and no scale, like the odometry it is compared with. Run it on recordings:

    python benchmarks/classical_odometry.py run1.mcap run2.mcap --seeds 5 -o benchmarks/results/classical_odometry.md
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import click
import cv2
import numpy as np
from local_adjustment import bundle_adjustment, project
from numpy.typing import NDArray

from robust_loc.config import Config, parameter
from robust_loc.data import Trajectory, open_bag
from robust_loc.data.datasets import read_folder
from robust_loc.data.files import write_atomically
from robust_loc.errors import TrajectoryError
from robust_loc.evaluation import AlignmentMode, evaluate
from robust_loc.types import Camera, FloatArray, Frame

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class ClassicalConfig(Config):
    """Settings of the baseline; pixels are of the full image."""

    features: int = parameter(1200, "tracks kept alive", minimum=50)
    contrast: float = parameter(3.0, "clip limit of the adaptive histogram equalisation, 0 for none", minimum=0.0)
    distance: int = parameter(8, "least distance between new features, pixels", minimum=1)
    quality: float = parameter(0.001, "corner quality relative to the best corner", minimum=0.0, maximum=1.0)
    start_parallax: float = parameter(20.0, "median track length before the map is started, pixels", minimum=1.0)
    keyframe_parallax: float = parameter(20.0, "median track length that makes a keyframe, pixels", minimum=1.0)
    keyframe_share: float = parameter(0.7, "share of surviving map points below which a keyframe is made")
    minimum_angle: float = parameter(0.5, "least angle between rays that are triangulated, degrees", minimum=0.0)
    inlier: float = parameter(2.0, "largest reprojection error of an inlier, pixels", minimum=0.1)
    window: int = parameter(10, "keyframes in the bundle adjustment", minimum=3)
    iterations: int = parameter(6, "iterations of the bundle adjustment", minimum=1)


@dataclass
class Keyframe:
    """A keyframe's pose and the tracks seen in it."""

    cam_T_world: FloatArray
    ids: IntArray
    pixels: FloatArray


@dataclass
class ClassicalOdometry:
    """Feed frames with ``update``, then read ``trajectory``.

    Tracks have consecutive ids; ``points[id]`` is NaN until the track is triangulated.
    """

    camera: Camera
    config: ClassicalConfig = field(default_factory=ClassicalConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        # OpenCV samples with a generator of its own that no seed reaches; the order of the points does
        self._generator = np.random.default_rng(self.seed)
        self.points: FloatArray = np.zeros((0, 3))
        self.birth: IntArray = np.zeros(0, dtype=np.int64)  # keyframe a track was first seen in
        self.ids: IntArray = np.zeros(0, dtype=np.int64)
        self.pixels: FloatArray = np.zeros((0, 2))
        self.keyframes: list[Keyframe] = []
        self.started = False
        self.losses = 0
        self._image: NDArray[np.uint8] | None = None
        self._velocity = np.eye(4)
        self._waiting: list[tuple[int, IntArray, FloatArray]] = []  # frames before the map is started
        self._poses: dict[int, tuple[int, FloatArray]] = {}  # stamp -> (keyframe, cam_T_keyframe)

    def update(self, frame: Frame) -> None:
        """Track one frame: follow the tracks, solve the pose, and make a keyframe when the view has changed."""
        image = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
        if self.config.contrast > 0:
            image = cv2.createCLAHE(self.config.contrast, (8, 8)).apply(image)
        if self._image is not None:
            self._follow(self._image, image)
        self._image = image
        if not self.keyframes:
            self._add_keyframe(np.eye(4), frame.stamp)
        elif not self.started:
            self._try_start(frame.stamp)
        else:
            self._localize(frame.stamp)

    @property
    def trajectory(self) -> Trajectory:
        """The camera's path; frames that were never localized are absent."""
        stamps = sorted(self._poses)
        poses = [
            np.linalg.inv(cam_T_keyframe @ self.keyframes[index].cam_T_world)
            for index, cam_T_keyframe in (self._poses[stamp] for stamp in stamps)
        ]
        return Trajectory(np.array(stamps, dtype=np.int64), np.array(poses).reshape(-1, 4, 4))

    def _follow(self, before: NDArray[np.uint8], now: NDArray[np.uint8]) -> None:
        """KLT forward and back; tracks that do not return to where they came from end."""
        if not len(self.ids):
            return
        start = self.pixels.astype(np.float32).reshape(-1, 1, 2)
        options = {"winSize": (21, 21), "maxLevel": 4}
        there, good, _ = cv2.calcOpticalFlowPyrLK(before, now, start, None, **options)
        back, good_back, _ = cv2.calcOpticalFlowPyrLK(now, before, there, None, **options)
        pixels = there.reshape(-1, 2).astype(np.float64)
        returned = np.linalg.norm((back - start).reshape(-1, 2), axis=1) < 0.7
        inside = (pixels >= 4).all(axis=1) & (pixels < [self.camera.width - 4, self.camera.height - 4]).all(axis=1)
        kept = returned & inside & (good.ravel() > 0) & (good_back.ravel() > 0)
        self.ids, self.pixels = self.ids[kept], pixels[kept]

    def _try_start(self, stamp: int) -> None:
        """Start the map from the last keyframe and this frame once the tracks are long enough."""
        base = self.keyframes[-1]
        before, now, ids = _matches(base, self.ids, self.pixels)
        order = self._generator.permutation(len(ids))
        before, now, ids = before[order], now[order], ids[order]
        self._waiting.append((stamp, self.ids, self.pixels))
        if len(ids) < 50:  # the view was lost before there was enough parallax: start over from here
            self._add_keyframe(base.cam_T_world, stamp)
            return
        if np.median(np.linalg.norm(now - before, axis=1)) < self.config.start_parallax:
            return
        k = self.camera.matrix
        essential, mask = cv2.findEssentialMat(before, now, k, cv2.USAC_MAGSAC, 0.999, 1.0)
        if essential is None or essential.shape != (3, 3):
            return
        _, rotation, translation, mask = cv2.recoverPose(essential, before, now, k, mask=mask)
        cam_T_base = np.eye(4)
        cam_T_base[:3, :3], cam_T_base[:3, 3] = rotation, translation.ravel()
        kept = mask.ravel() > 0
        points, valid = self._triangulate(np.eye(4), cam_T_base, before[kept], now[kept])
        if valid.sum() < 50:
            return
        step = np.linalg.norm(self._velocity[:3, 3]) * len(self._waiting)  # after a loss: go on at the last speed
        scale = step if self.losses and step > 0 else 1.0 / np.median(points[valid, 2])
        cam_T_base[:3, 3] *= scale
        base_T_world = base.cam_T_world
        world_T_base = np.linalg.inv(base_T_world)
        self.points[ids[kept][valid]] = scale * points[valid] @ world_T_base[:3, :3].T + world_T_base[:3, 3]
        self.started = True
        guess = base_T_world
        for waiting, seen, pixels in self._waiting[:-1]:  # the frames in between, now that there is a map
            found = self._solve(seen, pixels, guess)
            if found is not None:
                guess = found[0]
                self._poses[waiting] = (len(self.keyframes) - 1, guess @ np.linalg.inv(base_T_world))
        self._waiting = []
        self._velocity = np.eye(4)
        self._add_keyframe(cam_T_base @ base_T_world, stamp)

    def _localize(self, stamp: int) -> None:
        """PnP from a constant-velocity guess; a keyframe where the view has changed."""
        previous = self._last_pose()
        found = self._solve(self.ids, self.pixels, self._velocity @ previous)
        if found is None:
            self._lose(previous, stamp)
            return
        cam_T_world, inliers, mapped = found
        self._velocity = cam_T_world @ np.linalg.inv(previous)
        last = self.keyframes[-1]
        before, now, ids = _matches(last, self.ids, self.pixels)
        survived = len(ids) / max(len(last.ids), 1)
        moved = float(np.median(np.linalg.norm(now - before, axis=1))) if len(ids) else np.inf
        # outliers of this frame's pose end here
        self.ids, self.pixels = self.ids[~mapped | inliers], self.pixels[~mapped | inliers]
        if survived < self.config.keyframe_share or moved > self.config.keyframe_parallax:
            self._add_keyframe(cam_T_world, stamp)
        else:
            self._poses[stamp] = (len(self.keyframes) - 1, cam_T_world @ np.linalg.inv(last.cam_T_world))

    def _solve(
        self, ids: IntArray, pixels: FloatArray, guess: FloatArray
    ) -> tuple[FloatArray, NDArray[np.bool_], NDArray[np.bool_]] | None:
        """``cam_T_world``, which tracks are inliers and which have a map point; None with too few inliers."""
        mapped = np.isfinite(self.points[ids, 0])
        if mapped.sum() < 15:
            return None
        points, seen, k = self.points[ids[mapped]], pixels[mapped], self.camera.matrix
        order = self._generator.permutation(len(points))
        rotation, translation = cv2.Rodrigues(guess[:3, :3])[0], guess[:3, 3:].copy()
        ok, rotation, translation, kept = cv2.solvePnPRansac(
            points[order], seen[order], k, None, rotation, translation, True, 200, 2 * self.config.inlier, 0.999
        )
        if not ok or kept is None or len(kept) < 15:
            return None
        kept = order[kept.ravel()]
        rotation, translation = cv2.solvePnPRefineLM(points[kept], seen[kept], k, None, rotation, translation)
        cam_T_world = np.eye(4)
        cam_T_world[:3, :3], cam_T_world[:3, 3] = cv2.Rodrigues(rotation)[0], translation.ravel()
        error = np.linalg.norm(project(cam_T_world, points, k) - seen, axis=1)
        inliers = np.zeros(len(ids), dtype=bool)
        inliers[np.flatnonzero(mapped)[error < 2 * self.config.inlier]] = True
        return (cam_T_world, inliers, mapped) if inliers.sum() >= 15 else None

    def _add_keyframe(self, cam_T_world: FloatArray, stamp: int) -> None:
        """Keep this view: triangulate, adjust the window, look for new features."""
        self.keyframes.append(Keyframe(cam_T_world, self.ids, self.pixels))
        index = len(self.keyframes) - 1
        self._poses[stamp] = (index, np.eye(4))
        if self.started:
            self._extend_map()
            self._adjust()
        mask = np.full(self._image.shape, 255, np.uint8)  # type: ignore[union-attr]
        for x, y in self.pixels:
            cv2.circle(mask, (round(x), round(y)), self.config.distance, 0, -1)
        wanted = self.config.features - len(self.ids)
        found = None
        if wanted > 0:
            found = cv2.goodFeaturesToTrack(
                self._image, wanted, self.config.quality, self.config.distance, mask=mask, blockSize=5
            )
        if found is not None:
            new = np.arange(len(self.birth), len(self.birth) + len(found))
            self.points = np.vstack([self.points, np.full((len(found), 3), np.nan)])
            self.birth = np.concatenate([self.birth, np.full(len(found), index)])
            self.ids = np.concatenate([self.ids, new])
            self.pixels = np.vstack([self.pixels, found.reshape(-1, 2).astype(np.float64)])
        self.keyframes[-1].ids, self.keyframes[-1].pixels = self.ids, self.pixels

    def _extend_map(self) -> None:
        """Triangulate the tracks without a point between the keyframe they were born in and the newest one."""
        newest = self.keyframes[-1]
        missing = np.isnan(self.points[newest.ids, 0])
        for birth in np.unique(self.birth[newest.ids[missing]]):
            if birth == len(self.keyframes) - 1:
                continue
            chosen = missing & (self.birth[newest.ids] == birth)
            before, now, ids = _matches(self.keyframes[birth], newest.ids[chosen], newest.pixels[chosen])
            if len(ids):
                first = self.keyframes[birth].cam_T_world
                points, valid = self._triangulate(first, newest.cam_T_world, before, now)
                self.points[ids[valid]] = points[valid]

    def _triangulate(
        self, first: FloatArray, second: FloatArray, before: FloatArray, now: FloatArray
    ) -> tuple[FloatArray, NDArray[np.bool_]]:
        """World points of matched pixels, and which lie in front, under enough parallax, where they were seen."""
        k = self.camera.matrix
        homogeneous = cv2.triangulatePoints(k @ first[:3], k @ second[:3], before.T, now.T)
        with np.errstate(divide="ignore", invalid="ignore"):
            points = (homogeneous[:3] / homogeneous[3]).T
        valid = np.isfinite(points).all(axis=1)
        points[~valid] = 0
        rays = []
        for pose, pixels in ((first, before), (second, now)):
            in_camera = points @ pose[:3, :3].T + pose[:3, 3]
            valid &= in_camera[:, 2] > 0
            valid &= np.linalg.norm(project(pose, points, k) - pixels, axis=1) < self.config.inlier
            ray = points - np.linalg.inv(pose)[:3, 3]
            rays.append(ray / np.maximum(np.linalg.norm(ray, axis=1, keepdims=True), 1e-12))
        angle = np.degrees(np.arccos(np.clip((rays[0] * rays[1]).sum(axis=1), -1, 1)))
        return points, valid & (angle > self.config.minimum_angle)

    def _adjust(self) -> None:
        """Bundle adjustment of the newest keyframes and their points; the two oldest ones hold the gauge."""
        window = self.keyframes[-self.config.window :]
        ids = np.concatenate([keyframe.ids for keyframe in window])
        camera = np.repeat(np.arange(len(window)), [len(keyframe.ids) for keyframe in window])
        pixels = np.vstack([keyframe.pixels for keyframe in window])
        seen = np.isfinite(self.points[ids, 0])
        ids, camera, pixels = ids[seen], camera[seen], pixels[seen]
        known, point, count = np.unique(ids, return_inverse=True, return_counts=True)
        kept = count[point] >= 2
        if kept.sum() < 50 or len(window) < 3:
            return
        known, point = np.unique(ids[kept], return_inverse=True)
        poses, points = bundle_adjustment(
            np.array([keyframe.cam_T_world for keyframe in window]),
            self.points[known],
            camera[kept],
            point,
            pixels[kept],
            self.camera.matrix,
            fixed=2,
            iterations=self.config.iterations,
        )
        for keyframe, pose in zip(window, poses):
            keyframe.cam_T_world = pose
        error = np.linalg.norm(project(poses[camera[kept]], points[point], self.camera.matrix) - pixels[kept], axis=1)
        bad = np.unique(point[~(error < 2 * self.config.inlier)])
        points[bad] = np.nan
        self.points[known] = points

    def _last_pose(self) -> FloatArray:
        index, cam_T_keyframe = self._poses[max(self._poses)]
        return cam_T_keyframe @ self.keyframes[index].cam_T_world

    def _lose(self, previous: FloatArray, stamp: int) -> None:
        """Forget the map and start a new one at the predicted pose."""
        self.losses += 1
        self.started = False
        self._waiting = []
        self.points[:] = np.nan
        self.ids, self.pixels = self.ids[:0], self.pixels[:0]
        self._add_keyframe(self._velocity @ previous, stamp)


def _matches(keyframe: Keyframe, ids: IntArray, pixels: FloatArray) -> tuple[FloatArray, FloatArray, IntArray]:
    """Pixels in the keyframe, pixels now and ids of the tracks that both hold."""
    common, i, j = np.intersect1d(keyframe.ids, ids, return_indices=True)
    return keyframe.pixels[i], pixels[j], common


def run(frames: Iterable[Frame], seed: int, config: ClassicalConfig) -> ClassicalOdometry:
    """The odometry after all frames."""
    odometry = None
    for frame in frames:
        odometry = odometry or ClassicalOdometry(frame.camera, config, seed)
        odometry.update(frame)
    if odometry is None:
        raise TrajectoryError("the recording holds no frame")
    return odometry


@click.command()
@click.argument("recordings", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--seeds", default=5, show_default=True, help="Runs per recording.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown table to write.")
def main(recordings: tuple[Path, ...], seeds: int, output: Path | None) -> None:
    """Sim(3) ATE of the classical odometry on RECORDINGS: bags, or folders with a frames.csv."""
    cv2.setNumThreads(1)
    config = ClassicalConfig()
    lines = [
        "| recording | frames | path (m) | ATE Sim(3) median (m) | min - max (m) | % of path | frames localized | "
        "losses |",
        "|---|---|---|---|---|---|---|---|",
    ]
    click.echo("\n".join(lines))
    for path in recordings:
        if (path / "frames.csv").exists():
            recording = read_folder(path)
            frames, truth, name = list(recording), recording.ground_truth, path.name
        else:
            bag = open_bag(path)
            frames, truth, name = list(bag), bag.ground_truth_at_images(), path.stem
        if truth is None:
            raise TrajectoryError(f"{path}: no ground truth to judge by")
        errors, localized, losses = [], [], []
        for seed in range(seeds):
            odometry = run(frames, seed, config)
            found = odometry.trajectory
            losses.append(odometry.losses)
            localized.append(len(found) / len(frames))
            errors.append(evaluate(found, truth, alignment=AlignmentMode.SIM3).summary["ate"]["sim3"]["rmse"])
        median = float(np.median(errors))
        lines.append(
            f"| {name} | {len(frames)} | {truth.path_length:.2f} | {median:.4f} "
            f"| {min(errors):.4f} - {max(errors):.4f} | {100 * median / truth.path_length:.2f} "
            f"| {100 * np.median(localized):.0f} % | {np.median(losses):.0f} |"
        )
        click.echo(lines[-1])
    if output is not None:
        head = (
            "# Classical monocular odometry\n\n"
            "KLT, essential matrix, PnP, local bundle adjustment; `python benchmarks/classical_odometry.py`, "
            f"OpenCV {cv2.__version__}, {seeds} seeds (of the random sampling), "
            "absolute trajectory error (RMSE) after Sim(3) alignment.\n\n"
        )
        write_atomically(output, head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
