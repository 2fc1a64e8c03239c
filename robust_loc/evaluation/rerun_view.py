"""The rviz view as a Rerun recording: image, map points, path, pose with its ellipsoid, patches and state.

``rerun FILE.rrd`` opens it, on any machine. ``rerun-sdk`` (MIT or Apache-2.0) is optional.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from robust_loc.data.images import rgb_jpeg
from robust_loc.errors import ConfigurationError
from robust_loc.evaluation.pipeline import Answers
from robust_loc.fusion import State
from robust_loc.types import FloatArray, Frame

COLOURS = {
    State.INITIALIZING: (180, 180, 180),
    State.LOCALIZED: (47, 158, 98),
    State.DEGRADED: (240, 162, 60),
    State.LOST: (197, 48, 48),
}
_SIGMAS = 2.0  # half axes of the ellipsoid


class RerunView:
    """Writes one ``.rrd`` file; use it as a context manager. The file is complete when the context is left.

    Args:
        path: file to write, replacing one that is there.
        map_points: (n, 3) points of the map, shown once.

    Raises:
        ConfigurationError: ``rerun-sdk`` is not installed.
    """

    def __init__(self, path: str | Path, map_points: FloatArray | None = None) -> None:
        try:
            self._rr: Any = importlib.import_module("rerun")
        except ImportError as error:
            raise ConfigurationError("a Rerun recording needs rerun-sdk: pip install 'robust_loc[rerun]'") from error
        self.path = Path(path)
        self._partial = self.path.with_name(f".{self.path.name}.part")
        self._positions: list[FloatArray] = []
        self._map_points = map_points

    def __enter__(self) -> RerunView:
        rr = self._rr
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._stream = rr.RecordingStream("robust_loc", recording_id=self.path.stem)
        self._stream.save(self._partial)
        if self._map_points is not None:
            self._stream.log("map/points", rr.Points3D(self._map_points, colors=(150, 150, 150)), static=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.flush()
        self._stream.disconnect()
        del self._stream
        if kind is None:
            self._partial.replace(self.path)
        else:
            self._partial.unlink(missing_ok=True)

    def show(self, frame: Frame, answers: Answers, patches: FloatArray | None = None) -> None:
        """One image and what was said of it.

        Args:
            patches: (n, 3) tracked points in the odometry's unscaled world.
        """
        rr, said, stream = self._rr, answers.localization, self._stream
        stream.set_time("image", timestamp=np.datetime64(frame.stamp, "ns"))
        stream.log("image", rr.EncodedImage(contents=rgb_jpeg(frame.image, 80), media_type="image/jpeg"))
        text = said.state.name + (f": {said.reason}" if said.reason else "")
        stream.log("state", rr.TextLog(text, color=COLOURS[said.state]))
        if said.covariance is not None and said.state is not State.LOST:
            for name, block in (("position", slice(0, 3)), ("rotation", slice(3, 6))):
                sigma = float(np.sqrt(np.trace(said.covariance[block, block])))
                stream.log(f"sigma/{name}", rr.Scalars(sigma))
        world_T_cam, covariance = answers.fusion.world_T_cam, answers.fusion.covariance
        if world_T_cam is None or covariance is None:
            stream.log("map/pose", rr.Clear(recursive=True))
            return
        self._show_pose(frame, world_T_cam, covariance, COLOURS[said.state])
        odometry = answers.by_source.get("odometry")
        if patches is not None and len(patches) and odometry is not None and odometry.world_T_cam is not None:
            local = (patches - odometry.world_T_cam[:3, 3]) @ odometry.world_T_cam[:3, :3] * said.scale
            stream.log("map/patches", rr.Points3D(local @ world_T_cam[:3, :3].T + world_T_cam[:3, 3]))

    def _show_pose(self, frame: Frame, world_T_cam: FloatArray, covariance: FloatArray, colour: Any) -> None:
        rr, stream, camera = self._rr, self._stream, frame.camera
        position = world_T_cam[:3, 3]
        self._positions.append(position)
        stream.log("map/path", rr.LineStrips3D([np.array(self._positions)], colors=(31, 111, 178)))
        half_axes, axes = ellipsoid(covariance[:3, :3])
        stream.log("map/pose/camera", rr.Transform3D(translation=position, mat3x3=world_T_cam[:3, :3]))
        focal, centre = [camera.fx, camera.fy], [camera.cx, camera.cy]
        pinhole = rr.Pinhole(width=camera.width, height=camera.height, focal_length=focal, principal_point=centre,
                             image_plane_distance=0.2)  # fmt: skip
        stream.log("map/pose/camera", pinhole)
        stream.log("map/pose/ellipsoid", rr.Transform3D(translation=position, mat3x3=axes))
        stream.log("map/pose/ellipsoid", rr.Ellipsoids3D(half_sizes=[half_axes], colors=[colour]))


def ellipsoid(covariance: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Half axes (3,) of two sigmas and a right-handed frame (3, 3) with the axes as columns."""
    values, vectors = np.linalg.eigh(covariance)
    if np.linalg.det(vectors) < 0:
        vectors[:, 0] = -vectors[:, 0]
    return _SIGMAS * np.sqrt(np.maximum(values, 0.0)), vectors
