"""A map from frames with known poses: keyframes are chosen by motion, points come from depth, from tracks, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robust_loc import __version__
from robust_loc.config import Config, parameter
from robust_loc.errors import MapFormatError
from robust_loc.features import COARSE_STRIDE, FINE_STRIDE, DenseFeatures, HandmadeFeatures, sample
from robust_loc.mapping.points import corners, depth_at, world_points
from robust_loc.mapping.tracks import Tracker
from robust_loc.relocalization.map import Map, MapInfo, quantized
from robust_loc.relocalization.retrieval import global_descriptor, learn_codebook
from robust_loc.types import Camera, FloatArray, Frame

COVISIBLE = 10  # neighbours kept per keyframe
MIN_RATIOS = 30  # corners with measured and triangulated depth that a scale needs
PROBES = 40  # points per keyframe that are projected into the others to measure covisibility


@dataclass(frozen=True)
class MappingConfig(Config):
    """How dense a map is."""

    keyframe_distance: float = parameter(0.06, "metres between keyframes", minimum=0.0)
    keyframe_angle: float = parameter(0.06, "radians between keyframes", minimum=0.0)
    points_per_keyframe: int = parameter(400, "corners described per keyframe", minimum=3)
    points_from: str = parameter(
        "auto",
        "depth: corners with measured depth; tracks: corners followed and triangulated; auto: all there are",
        choices=["auto", "depth", "tracks"],
    )
    descriptors: str = parameter("float16", "storage of the descriptors", choices=["float16", "int8"])
    words: int = parameter(32, "size of the codebook of the global descriptors", minimum=1)
    seed: int = parameter(0, "of the codebook and the order of the points")


class _Keyframe(NamedTuple):
    stamp: int
    camera: Camera
    world_T_cam: FloatArray
    coarse_map: NDArray[np.float16]
    points: FloatArray  # [N, 3], NaN where a track will give it
    tracks: NDArray[np.int64]  # [N], -1 for points from depth
    pixels: FloatArray
    coarse: NDArray[np.float16]
    fine: NDArray[np.float16]
    depth: FloatArray  # [N] measured at tracked corners, 0 where unknown: the scale of poses that have none


class MapBuilder:
    """Collects frames and makes a map of them."""

    def __init__(self, features: DenseFeatures | None = None, config: MappingConfig | None = None) -> None:
        self.features = features or HandmadeFeatures()
        self.config = config or MappingConfig()
        self.frames = 0
        self._keyframes: list[_Keyframe] = []
        self._tracker = Tracker(self.config.points_per_keyframe + 200)
        self._scale = 1.0  # metres per unit of the given poses
        self._track_of_point = np.empty(0, np.int64)  # of the finished map's points, -1: from depth

    def add(self, frame: Frame, world_T_cam: FloatArray) -> bool:
        """Take one frame at its pose; True when it became a keyframe.

        With points from depth alone, only frames with depth can be keyframes.
        """
        self.frames += 1
        wanted = self.config.points_from
        use_depth = frame.depth is not None and wanted in ("auto", "depth")
        use_tracks = wanted in ("auto", "tracks")
        chosen = self._moved(world_T_cam) and (use_depth or use_tracks)
        if use_tracks:
            self._tracker.add(frame, world_T_cam, replenish=chosen or not self._keyframes)
        if chosen:
            self._keyframes.append(self._keyframe(frame, world_T_cam, use_depth, use_tracks))
        return chosen

    def add_observed(self, frame: Frame, world_T_cam: FloatArray, pixels: FloatArray, ids: NDArray[np.int64]) -> None:
        """Take a keyframe whose observations are known: pixels [N, 2] and ids [N] of points given to ``finish``."""
        self.frames += 1
        points = np.full((len(ids), 3), np.nan)
        self._keyframes.append(self._described(frame, world_T_cam, points, ids, pixels, np.zeros(len(ids))))

    def finish(
        self,
        provenance: Mapping[str, Any] | None = None,
        alignment: Mapping[str, Any] | None = None,
        points_by_id: Mapping[int, FloatArray] | None = None,
    ) -> Map:
        """The map of everything added.

        Args:
            provenance, alignment: facts for ``MapInfo``.
            points_by_id: world points of the keyframes taken by ``add_observed``.

        Raises:
            MapFormatError: when the frames give no usable points (no texture, no motion, no depth).
        """
        if points_by_id is None:
            tracks, triangulated = self._tracker.triangulate()
        else:
            tracks = np.array(list(points_by_id), np.int64)
            triangulated = np.array(list(points_by_id.values()), float).reshape(-1, 3)
        alignment = dict(alignment or {})
        if alignment.get("metric") is False:
            self._scale = self._metric_scale(tracks, triangulated, alignment)
            triangulated = triangulated * self._scale
        from_track = dict(zip(tracks.tolist(), range(len(tracks))))
        points = [triangulated]
        total = len(triangulated)
        rng = np.random.default_rng(self.config.seed)
        columns: dict[str, list[Any]] = {"point": [], "pixel": [], "coarse": [], "fine": []}
        counts = []
        for keyframe in self._keyframes:
            index = np.array([from_track.get(int(track), -1) for track in keyframe.tracks], np.int64)
            own = np.flatnonzero(keyframe.tracks < 0)
            index[own] = total + np.arange(len(own))
            points.append(keyframe.points[own])
            total += len(own)
            kept = rng.permutation(np.flatnonzero(index >= 0))
            counts.append(len(kept))
            columns["point"].append(index[kept])
            columns["pixel"].append(keyframe.pixels[kept])
            columns["coarse"].append(keyframe.coarse[kept])
            columns["fine"].append(keyframe.fine[kept])
        if not self._keyframes or sum(counts) < 3:
            raise MapFormatError(
                f"{self.frames} frames gave {len(self._keyframes)} keyframes and {sum(counts)} points: "
                "a map needs texture and either depth or motion"
            )
        joined = {name: np.concatenate(parts) for name, parts in columns.items()}
        origin = np.concatenate([tracks, np.full(total - len(tracks), -1)])
        self._track_of_point = origin[np.unique(joined["point"])]
        arrays = self._arrays(np.concatenate(points), np.concatenate([[0], np.cumsum(counts)]), joined)
        cameras, camera_index = _distinct([keyframe.camera for keyframe in self._keyframes])
        arrays["keyframe_camera"] = np.array(camera_index, np.int32)
        facts = {"package": __version__, "frames": self.frames, "mapping": self.config.to_dict(), **(provenance or {})}
        return Map(MapInfo(self.features.identity, cameras, facts, alignment), arrays)

    def without(self, map: Map, left_out: Callable[[NDArray[np.int64], FloatArray], NDArray[np.bool_]]) -> Map:
        """The finished map as if some frames had not been there, for held-out queries.

        Points are triangulated from the other frames; those that these do not support lose their observations.

        Args:
            left_out: takes the stamps [F] and world_T_cam [F, 4, 4] of frames and tells which are left out.
        """
        poses = self._tracker.poses
        poses[:, :3, 3] *= self._scale
        frames = left_out(self._tracker.stamps, poses)
        tracks, triangulated = self._tracker.triangulate(frames)
        place = dict(zip(tracks.tolist(), triangulated * self._scale))
        points = np.array(map.arrays["points"])
        lost = np.zeros(len(points), bool)
        for row in np.flatnonzero(np.isin(self._track_of_point, self._tracker.observed_in(frames))):
            point = place.get(int(self._track_of_point[row]))
            lost[row] = point is None
            points[row] = points[row] if point is None else point
        kept = ~lost[map.arrays["observation_point"]]
        arrays = dict(map.arrays) | {"points": points}
        for name in ("observation_point", "observation_pixel", "coarse", "fine", "coarse_scale", "fine_scale"):
            if name in arrays:
                arrays[name] = arrays[name][kept]
        arrays["observation_start"] = np.concatenate([[0], np.cumsum(kept)])[map.arrays["observation_start"]]
        return Map(map.info, arrays, map.source)

    def _arrays(
        self, points: FloatArray, start: NDArray[Any], rows: dict[str, NDArray[Any]]
    ) -> dict[str, NDArray[Any]]:
        poses = np.array([keyframe.world_T_cam for keyframe in self._keyframes])
        dense = [np.asarray(keyframe.coarse_map, np.float32) for keyframe in self._keyframes]
        pool = np.concatenate([grid.reshape(-1, grid.shape[-1]) for grid in dense])
        rng = np.random.default_rng(self.config.seed)
        pool = pool[rng.permutation(len(pool))[:20000]]
        codebook = learn_codebook(pool, self.config.words, self.config.seed)
        cameras = [keyframe.camera for keyframe in self._keyframes]
        used, compact = np.unique(rows["point"], return_inverse=True)
        arrays: dict[str, NDArray[Any]] = {
            "points": points[used],
            "keyframe_pose": poses,
            "keyframe_stamp": np.array([keyframe.stamp for keyframe in self._keyframes], np.int64),
            "keyframe_global": np.stack([global_descriptor(grid, codebook) for grid in dense]).astype(np.float16),
            "codebook": codebook,
            "covisible": covisibility(points[used], start, compact, poses, cameras),
            "observation_start": start.astype(np.int64),
            "observation_point": compact.astype(np.int32),
            "observation_pixel": rows["pixel"].astype(np.float32),
        }
        for name in ("coarse", "fine"):
            if self.config.descriptors == "int8":
                arrays[name], arrays[f"{name}_scale"] = quantized(rows[name].astype(np.float32))
            else:
                arrays[name] = rows[name].astype(np.float16)
        return arrays

    def _metric_scale(self, tracks: NDArray[np.int64], points: FloatArray, alignment: dict[str, Any]) -> float:
        """Metres per unit of poses without a scale: measured depth over triangulated depth; moves the keyframes along.

        1 where fewer than ``MIN_RATIOS`` corners have both; ``alignment`` tells which it was.
        """
        place = dict(zip(tracks.tolist(), points))
        ratios: list[float] = []
        for keyframe in self._keyframes:
            for track, depth in zip(keyframe.tracks.tolist(), keyframe.depth):
                if depth > 0 and track in place:
                    offset = place[track] - keyframe.world_T_cam[:3, 3]
                    z = float(offset @ keyframe.world_T_cam[:3, 2])
                    if z > 1e-6:
                        ratios.append(depth / z)
        if len(ratios) < MIN_RATIOS:
            return 1.0
        scale = float(np.median(ratios))
        spread = float(np.median(np.abs(np.array(ratios) / scale - 1)))
        alignment.update(metric=True, to="depth", scale=scale, scale_spread=spread)
        for keyframe in self._keyframes:
            keyframe.world_T_cam[:3, 3] *= scale
        return scale

    def _moved(self, world_T_cam: FloatArray) -> bool:
        if not self._keyframes:
            return True
        last = self._keyframes[-1].world_T_cam
        distance = float(np.linalg.norm(world_T_cam[:3, 3] - last[:3, 3]))
        angle = np.arccos(np.clip((np.trace(last[:3, :3].T @ world_T_cam[:3, :3]) - 1) / 2, -1, 1))
        return distance >= self.config.keyframe_distance or float(angle) >= self.config.keyframe_angle

    def _keyframe(self, frame: Frame, world_T_cam: FloatArray, use_depth: bool, use_tracks: bool) -> _Keyframe:
        pixels, tracks = np.empty((0, 2)), np.empty(0, np.int64)
        points = np.empty((0, 3))
        if use_tracks:
            pixels, tracks = self._tracker.pixels, self._tracker.ids
            points = np.full((len(tracks), 3), np.nan)
        measured = np.zeros(len(tracks))
        if frame.depth is not None and len(tracks):
            measured = depth_at(frame.depth, pixels)
        if use_depth:
            assert frame.depth is not None
            found = corners(frame.image, self.config.points_per_keyframe)
            depth = depth_at(frame.depth, found)
            found, depth = found[depth > 0], depth[depth > 0]
            pixels = np.concatenate([pixels, found])
            tracks = np.concatenate([tracks, np.full(len(found), -1)])
            points = np.concatenate([points, world_points(found, depth, frame.camera, world_T_cam)])
            measured = np.concatenate([measured, np.zeros(len(found))])
        return self._described(frame, world_T_cam, points, tracks, pixels, measured)

    def _described(
        self,
        frame: Frame,
        world_T_cam: FloatArray,
        points: FloatArray,
        tracks: NDArray[np.int64],
        pixels: FloatArray,
        measured: FloatArray,
    ) -> _Keyframe:
        maps = self.features.extract(frame.image)
        coarse = sample(maps.coarse, pixels, COARSE_STRIDE).numpy()
        fine = sample(maps.fine, pixels, FINE_STRIDE).numpy()
        # Zero descriptors lie beyond the last cell: they would match everything alike.
        seen = (np.abs(coarse).max(1, initial=0) > 0) & (np.abs(fine).max(1, initial=0) > 0)
        return _Keyframe(
            frame.stamp,
            frame.camera,
            np.array(world_T_cam, float),
            maps.coarse.numpy().astype(np.float16),
            points[seen],
            tracks[seen],
            pixels[seen],
            coarse[seen].astype(np.float16),
            fine[seen].astype(np.float16),
            measured[seen],
        )


def covisibility(
    points: FloatArray,
    start: NDArray[Any],
    observed: NDArray[Any],
    world_T_cam: FloatArray,
    cameras: list[Camera],
) -> NDArray[np.int32]:
    """The keyframes [K, COVISIBLE] into which most points of each keyframe project, best first; -1 where there is none.

    Nearness of the view weighs in: a keyframe that sees the same from afar comes later.
    """
    count = len(world_T_cam)
    out = np.full((count, COVISIBLE), -1, np.int32)
    cam_T_world = np.linalg.inv(world_T_cam)
    k = np.array([camera.intrinsics for camera in cameras])
    size = np.array([[camera.width - 1, camera.height - 1] for camera in cameras], float)
    for first in range(count):
        probes = points[observed[start[first] : start[first + 1]][:PROBES]]
        if not len(probes):
            continue
        local = np.einsum("kij,nj->kni", cam_T_world[:, :3, :3], probes) + cam_T_world[:, None, :3, 3]
        z = np.maximum(local[..., 2:], 1e-6)
        pixels = k[:, None, :2] * local[..., :2] / z + k[:, None, 2:]
        inside = (local[..., 2] > 0.05) & np.all((pixels >= 0) & (pixels <= size[:, None]), -1)
        distance = np.linalg.norm(world_T_cam[:, :3, 3] - world_T_cam[first, :3, 3], axis=1)
        depth = max(float(np.median(local[first, :, 2])), 0.1)
        score = inside.mean(1) / (1 + distance / depth)
        score[first] = 0.0
        best = np.argsort(-score, kind="stable")[:COVISIBLE]
        best = best[score[best] > 0.2]
        out[first, : len(best)] = best
    return out


def _distinct(cameras: list[Camera]) -> tuple[tuple[Camera, ...], list[int]]:
    known: dict[Camera, int] = {}
    index = [known.setdefault(camera, len(known)) for camera in cameras]
    return tuple(known), index
