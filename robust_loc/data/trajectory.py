"""Trajectories: poses over time, their files, association and interpolation."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

from robust_loc.data.files import write_atomically
from robust_loc.errors import TrajectoryError

FloatArray = NDArray[np.float64]
StampArray = NDArray[np.int64]

COVARIANCE_SUFFIX = ".cov.csv"


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Camera poses over time.

    Attributes:
        stamps: (N,) int64 nanoseconds, non-decreasing.
        world_T_cam: (N, 4, 4) float64 rigid transforms.
        covariances: optional (N, 6, 6) of ``world_T_cam`` in ROS convention (position, then rotation about the fixed
            world axes); rows of NaN where an estimate came without one.

    Raises:
        TrajectoryError: on wrong shapes, values that are not finite, or stamps that decrease.
    """

    stamps: StampArray
    world_T_cam: FloatArray
    covariances: FloatArray | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "stamps", np.asarray(self.stamps, dtype=np.int64).reshape(-1))
        object.__setattr__(self, "world_T_cam", np.asarray(self.world_T_cam, dtype=np.float64))
        count = len(self.stamps)
        if self.world_T_cam.shape != (count, 4, 4):
            raise TrajectoryError(f"{count} stamps with poses of shape {self.world_T_cam.shape}; expected (N, 4, 4)")
        if not np.all(np.isfinite(self.world_T_cam)):
            raise TrajectoryError("a pose holds a value that is not finite")
        if np.any(np.diff(self.stamps) < 0):
            raise TrajectoryError("stamps decrease; sort the trajectory by time")
        if self.covariances is not None:
            object.__setattr__(self, "covariances", np.asarray(self.covariances, dtype=np.float64))
            if self.covariances.shape != (count, 6, 6):
                raise TrajectoryError(
                    f"{count} stamps with covariances of shape {self.covariances.shape}; expected (N, 6, 6)"
                )

    def __len__(self) -> int:
        return len(self.stamps)

    @classmethod
    def from_quaternions(cls, stamps: StampArray, positions: FloatArray, quaternions: FloatArray) -> Trajectory:
        """From positions (N, 3) and quaternions (N, 4) ``x y z w``; sorts by time (stable).

        Raises:
            TrajectoryError: on a zero or non-finite quaternion.
        """
        norms = np.linalg.norm(quaternions, axis=1) if len(quaternions) else np.ones(0)
        if not np.all(np.isfinite(norms)) or np.any(norms < 1e-6):
            index = int(np.argmax(~np.isfinite(norms) | (norms < 1e-6)))
            raise TrajectoryError(f"pose {index} has the quaternion {quaternions[index]}, which is no rotation")
        poses = np.tile(np.eye(4), (len(stamps), 1, 1))
        if len(stamps):
            poses[:, :3, :3] = Rotation.from_quat(quaternions).as_matrix()
            poses[:, :3, 3] = positions
        order = np.argsort(stamps, kind="stable")
        return cls(np.asarray(stamps, dtype=np.int64)[order], poses[order])

    @property
    def positions(self) -> FloatArray:
        """(N, 3) camera centres in the world."""
        return self.world_T_cam[:, :3, 3]

    @property
    def rotations(self) -> FloatArray:
        """(N, 3, 3) camera-to-world rotations."""
        return self.world_T_cam[:, :3, :3]

    @property
    def quaternions(self) -> FloatArray:
        """(N, 4) ``x y z w`` with ``w >= 0``."""
        if not len(self):
            return np.zeros((0, 4))
        quaternions = Rotation.from_matrix(self.rotations).as_quat()
        return quaternions * np.where(quaternions[:, 3:] < 0, -1.0, 1.0)

    @property
    def path_length(self) -> float:
        """Sum of the distances between consecutive positions, metres."""
        return float(np.linalg.norm(np.diff(self.positions, axis=0), axis=1).sum())

    def select(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> Trajectory:
        """The poses at ``index`` (slice, integer or boolean array)."""
        covariances = None if self.covariances is None else self.covariances[index]
        return Trajectory(self.stamps[index], self.world_T_cam[index], covariances)

    def in_frame(self, other_T_world: FloatArray) -> Trajectory:
        """The same motion seen from another, rigidly placed world: ``other_T_cam``; covariances turn along."""
        covariances = self.covariances
        if covariances is not None:
            turn = np.kron(np.eye(2), other_T_world[:3, :3])  # position and fixed-axes rotation turn alike
            covariances = turn @ covariances @ turn.T
        return Trajectory(self.stamps, other_T_world @ self.world_T_cam, covariances)

    def of_child(self, cam_T_child: FloatArray) -> Trajectory:
        """The trajectory of a body rigidly fixed to the camera, without covariances."""
        return Trajectory(self.stamps, self.world_T_cam @ cam_T_child)

    def at(self, stamp: int, maximum_gap: int = 200_000_000) -> FloatArray | None:
        """The pose at ``stamp``, linear in position and slerp in rotation.

        None outside the trajectory, or inside a gap of more than ``maximum_gap`` ns.
        """
        after = int(np.searchsorted(self.stamps, stamp))
        if after < len(self) and self.stamps[after] == stamp:
            return self.world_T_cam[after]
        if after == 0 or after == len(self):
            return None
        start, end = int(self.stamps[after - 1]), int(self.stamps[after])
        if end - start > maximum_gap:
            return None
        weight = (stamp - start) / (end - start)
        pose = np.eye(4)
        pose[:3, 3] = (1 - weight) * self.positions[after - 1] + weight * self.positions[after]
        pair = Rotation.from_matrix(self.rotations[after - 1 : after + 1])
        pose[:3, :3] = Slerp([0.0, 1.0], pair)(weight).as_matrix()
        return pose


def associate(
    first: Trajectory, second: Trajectory, tolerance: int = 10_000_000, unique: bool = False
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Index arrays ``(i, j)`` of poses close in time: ``|first.stamps[i] - second.stamps[j]| <= tolerance`` ns.

    Each pose of the shorter trajectory takes the nearest one of the longer; an exact tie falls as it does in
    double-precision seconds, so that the pairs are those of the common tools. With ``unique``, of several that would
    take the same one only the nearest keeps it.
    """
    swap = len(first) > len(second)
    short, long = (second.stamps, first.stamps) if swap else (first.stamps, second.stamps)
    if not len(short):
        return np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp)
    right = np.minimum(np.searchsorted(long, short), len(long) - 1)
    left = np.maximum(right - 1, 0)
    to_left, to_right = np.abs(long[left] - short), np.abs(long[right] - short)
    tie = np.abs(_seconds(long[left]) - _seconds(short)) <= np.abs(_seconds(long[right]) - _seconds(short))
    nearest = np.where((to_left < to_right) | ((to_left == to_right) & tie), left, right)
    distance = np.abs(long[nearest] - short)
    kept = np.flatnonzero(distance <= tolerance)
    if unique:
        by_quality = kept[np.lexsort((distance[kept], nearest[kept]))]
        _, first_of_each = np.unique(nearest[by_quality], return_index=True)
        kept = np.sort(by_quality[first_of_each])
    return (nearest[kept], kept) if swap else (kept, nearest[kept])


def _seconds(stamps: StampArray) -> FloatArray:
    return stamps // 1_000_000_000 + (stamps % 1_000_000_000) * 1e-9


def parse_stamp(text: str) -> int:
    """Decimal seconds as integer nanoseconds, exactly (a float64 of a Unix time resolves only 0.2 microseconds)."""
    return int(Decimal(text).scaleb(9).to_integral_value())


def format_stamp(stamp: int) -> str:
    """Integer nanoseconds as decimal seconds with nine digits."""
    sign = "-" if stamp < 0 else ""
    return f"{sign}{abs(stamp) // 1_000_000_000}.{abs(stamp) % 1_000_000_000:09d}"


def read_tum(path: str | Path) -> Trajectory:
    """Read ``timestamp tx ty tz qx qy qz qw`` lines; covariances from ``<path>.cov.csv`` where that file exists.

    Raises:
        TrajectoryError: the file is missing, or a line is malformed (named by its number).
    """
    path = Path(path)
    stamps: list[int] = []
    values: list[list[float]] = []
    for number, line in _lines(path):
        parts = line.replace(",", " ").split()
        if len(parts) < 8:
            raise TrajectoryError(f"{path}:{number}: {len(parts)} values; expected timestamp tx ty tz qx qy qz qw")
        try:
            stamps.append(parse_stamp(parts[0]))
            values.append([float(part) for part in parts[1:8]])
        except (InvalidOperation, ValueError) as error:
            raise TrajectoryError(f"{path}:{number}: not a number in {line[:80]!r}") from error
    table = np.array(values).reshape(-1, 7)
    if not np.all(np.isfinite(table)):
        raise TrajectoryError(f"{path}: pose {int(np.argmax(~np.isfinite(table).all(axis=1)))} is not finite")
    try:
        trajectory = Trajectory.from_quaternions(np.array(stamps, dtype=np.int64), table[:, :3], table[:, 3:])
    except TrajectoryError as error:
        raise TrajectoryError(f"{path}: {error}") from error
    sidecar = path.with_name(path.name + COVARIANCE_SUFFIX)
    return replace(trajectory, covariances=_read_covariances(sidecar, trajectory)) if sidecar.exists() else trajectory


def write_tum(path: str | Path, trajectory: Trajectory) -> None:
    """Write a TUM file and, where the trajectory has covariances, ``<path>.cov.csv`` beside it.

    The sidecar holds one line per pose that has a covariance: ``timestamp`` and the 36 row-major entries in ROS
    convention. Both files are written under a temporary name first; a stale sidecar of an earlier run is removed.
    """
    path = Path(path)
    poses = np.concatenate([trajectory.positions, trajectory.quaternions], axis=1)
    lines = ["# timestamp tx ty tz qx qy qz qw"]
    lines += [
        f"{format_stamp(int(stamp))} " + " ".join(f"{value:.9f}" for value in pose)
        for stamp, pose in zip(trajectory.stamps, poses)
    ]
    sidecar = path.with_name(path.name + COVARIANCE_SUFFIX)
    if trajectory.covariances is not None:
        header = "timestamp," + ",".join(f"c{i}{j}" for i in range(1, 7) for j in range(1, 7))
        rows = [
            format_stamp(int(stamp)) + "," + ",".join(f"{value:.9e}" for value in covariance.ravel())
            for stamp, covariance in zip(trajectory.stamps, trajectory.covariances)
            if np.all(np.isfinite(covariance))
        ]
        write_atomically(sidecar, "\n".join([header, *rows]) + "\n")
    elif sidecar.exists():
        os.remove(sidecar)
    write_atomically(path, "\n".join(lines) + "\n")


def read_kitti_poses(path: str | Path, times: str | Path | None = None) -> Trajectory:
    """Read KITTI pose lines (12 row-major numbers of ``world_T_cam``, or 13 with a leading frame number).

    Stamps come from ``times`` (seconds, one per line); without it the frame number is taken as seconds.
    """
    path = Path(path)
    frames: list[int] = []
    poses: list[FloatArray] = []
    for number, line in _lines(path):
        try:
            numbers = [float(part) for part in line.split()]
        except ValueError as error:
            raise TrajectoryError(f"{path}:{number}: not a number in {line[:80]!r}") from error
        if len(numbers) not in (12, 13):
            raise TrajectoryError(f"{path}:{number}: {len(numbers)} numbers; expected 12, or 13 with a frame number")
        frames.append(int(numbers[0]) if len(numbers) == 13 else len(frames))
        poses.append(np.vstack([np.reshape(numbers[-12:], (3, 4)), [0.0, 0.0, 0.0, 1.0]]))
    if times is None:
        stamps = np.array(frames, dtype=np.int64) * 1_000_000_000
    else:
        clock = [parse_stamp(line.split()[0]) for _, line in _lines(Path(times))]
        if frames and max(frames) >= len(clock):
            raise TrajectoryError(f"{times}: {len(clock)} times; {path} needs {max(frames) + 1}")
        stamps = np.array([clock[frame] for frame in frames], dtype=np.int64)
    return Trajectory(stamps, np.array(poses).reshape(-1, 4, 4))


def _lines(path: Path) -> list[tuple[int, str]]:
    """Numbered non-empty lines without comments."""
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise TrajectoryError(f"{path}: cannot be read: {error}") from error
    stripped = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def _read_covariances(path: Path, trajectory: Trajectory) -> FloatArray:
    """The covariances of ``path`` in the order of the trajectory; NaN where a pose has none."""
    by_stamp: dict[int, FloatArray] = {}
    for number, line in _lines(path):
        if line.startswith("timestamp"):
            continue
        parts = line.split(",")
        try:
            by_stamp[parse_stamp(parts[0])] = np.array([float(part) for part in parts[1:]]).reshape(6, 6)
        except (InvalidOperation, ValueError) as error:
            raise TrajectoryError(f"{path}:{number}: expected a timestamp and 36 numbers") from error
    unknown = np.full((6, 6), np.nan)
    return np.array([by_stamp.get(int(stamp), unknown) for stamp in trajectory.stamps]).reshape(-1, 6, 6)
