"""The relocalization map: points, their descriptors, the keyframes that saw them, and where it all came from.

On disk a map is a folder: ``map.json`` (format version, cameras, provenance, calibration, and the name, type, shape and
SHA-256 of every array) and one ``.npy`` file per array. The arrays are memory-mapped, so that a query reads only the
keyframes it visits. A folder is written under another name and renamed: a reader never sees half a map.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from robust_loc.errors import CameraError, MapFormatError
from robust_loc.types import Camera, FloatArray
from robust_loc.uncertainty import CovarianceCalibration, CovarianceFactors

FORMAT = 1
HEADER = "map.json"
IntArray = NDArray[np.integer]

# array -> (kind of dtype, number of dimensions)
ARRAYS = {
    "points": ("f", 2),
    "keyframe_pose": ("f", 3),
    "keyframe_stamp": ("i", 1),
    "keyframe_camera": ("i", 1),
    "keyframe_global": ("f", 2),
    "codebook": ("f", 2),
    "covisible": ("i", 2),
    "observation_start": ("i", 1),
    "observation_point": ("i", 1),
    "observation_pixel": ("f", 2),
    "coarse": ("fi", 2),
    "fine": ("fi", 2),
    "coarse_scale": ("f", 1),
    "fine_scale": ("f", 1),
}


@dataclass(frozen=True)
class MapInfo:
    """What a map says of itself.

    Attributes:
        features: identity of the descriptors; a query must use the same.
        cameras: the cameras of the keyframes.
        provenance: recording, frames, options, package version.
        alignment: residual of the alignment to the given poses, metres, and whether the map is metric.
        calibration: held-out statistics: factors on the covariance and coefficients of the verdict.
    """

    features: str
    cameras: tuple[Camera, ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)
    alignment: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)


class Landmarks(NamedTuple):
    """Points gathered for a query: ``rows`` [N] of the map, ``points`` [N, 3], descriptors [N, D] float32."""

    rows: IntArray
    points: FloatArray
    coarse: NDArray[np.float32]
    fine: NDArray[np.float32]


class Map:
    """A relocalization map; its world is the robot's ``map`` frame, in metres.

    Arrays (by name): ``points`` (P, 3); per keyframe ``keyframe_pose`` (K, 4, 4) world_T_cam, ``keyframe_stamp``,
    ``keyframe_camera``, ``keyframe_global`` (K, G), ``covisible`` (K, C) nearest keyframes (-1: none); observations of
    keyframe ``k`` at rows ``observation_start[k]:observation_start[k + 1]`` of ``observation_point``,
    ``observation_pixel`` and of the descriptors ``coarse``, ``fine`` (float16, or int8 with a scale per row);
    ``codebook`` (W, Dc) of the global descriptors.

    Raises:
        MapFormatError: when the arrays do not fit together, or the map is empty.
    """

    def __init__(self, info: MapInfo, arrays: Mapping[str, NDArray[Any]], source: str = "map") -> None:
        self.info = info
        self.source = source
        self.arrays = dict(arrays)
        self._check()

    def __len__(self) -> int:
        """Number of points."""
        return len(self.arrays["points"])

    @property
    def keyframes(self) -> int:
        return len(self.arrays["keyframe_pose"])

    @property
    def observations(self) -> int:
        return len(self.arrays["observation_point"])

    @property
    def focal(self) -> float:
        """Median focal length of the keyframes' cameras, pixels."""
        return float(np.median([camera.fx for camera in self.info.cameras]))

    def describe(self) -> str:
        size = sum(array.nbytes for array in self.arrays.values()) / 2**20
        return f"{self.keyframes} keyframes, {len(self)} points, {self.observations} observations, {size:.1f} MiB"

    def covisible(self, keyframe: int) -> list[int]:
        """The keyframes that see most of what ``keyframe`` sees, best first."""
        return [int(k) for k in self.arrays["covisible"][keyframe] if k >= 0]

    def gather(self, keyframes: list[int], limit: int, cam_T_world: FloatArray | None = None) -> Landmarks:
        """Up to ``limit`` distinct points of the keyframes, an equal share of each; earlier keyframes' views first.

        Args:
            cam_T_world: with it, only points in front of that camera are taken.
        """
        share = -(-limit // max(len(keyframes), 1))
        rows: list[int] = []
        taken: set[int] = set()
        start = self.arrays["observation_start"]
        for keyframe in keyframes:
            first, last = int(start[keyframe]), int(start[keyframe + 1])
            candidates = np.asarray(self.arrays["observation_point"][first:last])
            keep = np.ones(len(candidates), bool)
            if cam_T_world is not None:
                local = self.arrays["points"][candidates] @ cam_T_world[:3, :3].T + cam_T_world[:3, 3]
                keep = local[:, 2] > 0.05
            count = 0
            for row in np.flatnonzero(keep):  # rows are stored in a random order: the first ones are spread evenly
                point = int(candidates[row])
                if point not in taken:
                    taken.add(point)
                    rows.append(first + int(row))
                    count += 1
                    if count >= share or len(rows) >= limit:
                        break
        index = np.array(rows, np.int64)
        points = np.asarray(self.arrays["observation_point"][index])
        return Landmarks(
            points,
            np.asarray(self.arrays["points"][points], np.float64),
            self._descriptors("coarse", index),
            self._descriptors("fine", index),
        )

    def save(self, path: str | Path) -> None:
        """Write the map to the folder ``path``, replacing a map that is there.

        Raises:
            MapFormatError: when ``path`` exists and is no map.
        """
        path = Path(path)
        if path.exists() and not (path / HEADER).is_file():
            raise MapFormatError(f"{path}: exists and is no map; it is not overwritten")
        partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.partial")
        partial.mkdir(parents=True)
        try:
            listing = {}
            for name, array in self.arrays.items():
                np.save(partial / f"{name}.npy", np.ascontiguousarray(array))
                digest = _sha256(partial / f"{name}.npy")
                listing[name] = {"dtype": str(array.dtype), "shape": list(array.shape), "sha256": digest}
            header = {"format": FORMAT, "arrays": listing} | _plain(self.info)
            header["checksum"] = _checksum(header)
            (partial / HEADER).write_text(json.dumps(header, indent=2))
            if path.exists():
                old = path.with_name(f".{path.name}.{uuid.uuid4().hex}.old")
                os.replace(path, old)
                os.replace(partial, path)
                shutil.rmtree(old, ignore_errors=True)
            else:
                os.replace(partial, path)
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    @classmethod
    def load(cls, path: str | Path, verify: bool = True) -> Map:
        """Open a map; its arrays stay on disk until they are read.

        Covariance factors that ``robust-loc calibrate-covariance --store`` left in the folder count on top of those
        that the map was made with.

        Args:
            verify: compare every file with its checksum (reads them once).

        Raises:
            MapFormatError: not a map, of another format version, damaged, incomplete or empty.
            ConfigurationError: the stored covariance factors cannot be read.
        """
        path = Path(path)
        if not (path / HEADER).is_file():
            raise MapFormatError(f"{path}: is no map (a folder with a {HEADER}); make one with 'robust-loc map'")
        try:
            header = json.loads((path / HEADER).read_text())
            version = header["format"]
            if version != FORMAT:
                raise MapFormatError(f"{path}: is a map of format {version}; this version reads {FORMAT}: rebuild it")
            if header.pop("checksum") != _checksum(header):
                raise MapFormatError(f"{path}/{HEADER}: does not match its checksum: the map is damaged")
            cameras = tuple(Camera(**camera) for camera in header["cameras"])
            calibration = _with_stored_factors(path, header["calibration"])
            facts = (header["provenance"], header["alignment"], calibration)
            info, listing = MapInfo(header["features"], cameras, *facts), header["arrays"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, CameraError) as error:
            raise MapFormatError(f"{path}/{HEADER}: is damaged: {error!r}") from error
        arrays = {name: _open_array(path, name, entry, verify) for name, entry in listing.items()}
        return cls(info, arrays, str(path))

    def _descriptors(self, name: str, rows: IntArray) -> NDArray[np.float32]:
        values = np.asarray(self.arrays[name][rows], np.float32)
        scale = self.arrays.get(f"{name}_scale")
        return values if scale is None else values * np.asarray(scale[rows], np.float32)[:, None]

    def _check(self) -> None:
        def fail(cause: str) -> None:
            raise MapFormatError(f"{self.source}: {cause}")

        for name, (kinds, dimensions) in ARRAYS.items():
            array = self.arrays.get(name)
            if array is None:
                if not name.endswith("_scale"):
                    fail(f"array {name!r} is missing")
            elif array.dtype.kind not in kinds or array.ndim != dimensions:
                fail(f"array {name!r} is {array.dtype} with {array.ndim} dimensions")
        a = self.arrays
        points, keyframes, observations = len(a["points"]), len(a["keyframe_pose"]), len(a["observation_point"])
        if points < 3 or keyframes < 1 or observations < 3:
            fail(f"is empty: {keyframes} keyframes, {points} points, {observations} observations")
        expected = {name: keyframes for name in a if name.startswith("keyframe_") or name == "covisible"}
        expected |= {"observation_start": keyframes + 1}
        expected |= dict.fromkeys(("observation_pixel", "coarse", "fine", "coarse_scale", "fine_scale"), observations)
        for name, count in expected.items():
            if name in a and len(a[name]) != count:
                fail(f"array {name!r} has {len(a[name])} rows; expected {count}")
        if a["points"].shape[1] != 3 or a["keyframe_pose"].shape[1:] != (4, 4):
            fail("points or poses have a wrong shape")
        start = a["observation_start"]
        if start[0] != 0 or start[-1] != observations or np.any(np.diff(start) < 0):
            fail("observation_start does not partition the observations")
        if not 0 <= int(a["observation_point"].min()) <= int(a["observation_point"].max()) < points:
            fail("an observation names a point that is not there")
        if not np.all(np.isfinite(a["keyframe_pose"])):
            fail("a keyframe pose is not finite")
        if int(a["keyframe_camera"].max()) >= len(self.info.cameras) or int(a["covisible"].max()) >= keyframes:
            fail("a keyframe names a camera or keyframe that is not there")


def quantized(descriptors: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """8-bit descriptors [N, D] and the scale [N] of each row."""
    scale = np.maximum(np.abs(descriptors).max(1), 1e-12) / 127
    return np.rint(descriptors / scale[:, None]).astype(np.int8), scale.astype(np.float32)


def _with_stored_factors(path: Path, calibration: dict[str, Any]) -> dict[str, Any]:
    """``MapInfo.calibration`` with the covariance factors stored beside the map taken in."""
    stored = CovarianceCalibration.load_beside(path)
    if "relocalizer" not in stored.factors:
        return calibration
    own = CovarianceFactors(**calibration.get("covariance", {}))
    return {**calibration, "covariance": asdict(own.times(stored.of("relocalizer")))}


def _plain(info: MapInfo) -> dict[str, Any]:
    plain = asdict(info)
    plain["cameras"] = [asdict(camera) for camera in info.cameras]
    return plain


def _checksum(header: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _open_array(path: Path, name: str, entry: Mapping[str, Any], verify: bool) -> NDArray[Any]:
    file = path / f"{name}.npy"
    try:
        if name not in ARRAYS:
            raise MapFormatError(f"{path}: array {name!r} is not known to this version")
        if verify and _sha256(file) != entry["sha256"]:
            raise MapFormatError(f"{file}: does not match its checksum: the map is damaged")
        array = np.load(file, mmap_mode="r", allow_pickle=False)
        if str(array.dtype) != entry["dtype"] or list(array.shape) != entry["shape"]:
            raise MapFormatError(f"{file}: is {array.dtype} {array.shape}, not what {HEADER} says")
        return array
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise MapFormatError(f"{file}: cannot be read: {error}") from error
