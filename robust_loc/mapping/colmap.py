"""COLMAP models in and out, through pycolmap. COLMAP's pixel centres lie at halves: pixels shift by half a pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from robust_loc.errors import MapFormatError
from robust_loc.features import DenseFeatures
from robust_loc.geometry import CameraCalibration, Undistorter, umeyama
from robust_loc.mapping.builder import MapBuilder, MappingConfig
from robust_loc.relocalization.map import Map
from robust_loc.types import FloatArray, Frame

HALF = 0.5
MAX_POINTS = 2000  # observations described per image


def import_colmap(
    model: str | Path,
    images: str | Path,
    features: DenseFeatures | None = None,
    config: MappingConfig | None = None,
    positions: dict[str, FloatArray] | None = None,
) -> Map:
    """A map from a COLMAP model and its images.

    Args:
        model: folder with cameras, images and points3D (binary or text). images: folder of the images.
        positions: camera positions (3,) in metres in the robot's ``map`` frame, by image name; with three or more
            the model is aligned to them (similarity) and the residual stored. Without, its own frame and scale stay.

    Raises:
        MapFormatError: no readable model, a missing image, a camera model that cannot be undistorted, or an alignment
            without enough positions.
    """
    reconstruction = _read(Path(model))
    alignment: dict[str, Any] = {"metric": False}
    if positions is not None:
        alignment = _align(reconstruction, positions)
    builder = MapBuilder(features, config)
    for image_id in sorted(reconstruction.reg_image_ids()):
        image = reconstruction.image(image_id)
        builder.add_observed(*_observed(image, reconstruction, Path(images)))
    points = {int(k): np.asarray(point.xyz, float) for k, point in reconstruction.points3D.items()}
    return builder.finish({"colmap": str(model)}, alignment, points)


def export_colmap(map: Map, folder: str | Path) -> None:
    """Write the map as a COLMAP model (binary); images are named by their stamps."""
    import pycolmap

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = pycolmap.Reconstruction()
    for index, camera in enumerate(map.info.cameras):
        parameters = [camera.fx, camera.fy, camera.cx + HALF, camera.cy + HALF]
        model.add_camera_with_trivial_rig(
            pycolmap.Camera(
                model="PINHOLE", width=camera.width, height=camera.height, params=parameters, camera_id=index + 1
            )
        )
    a = map.arrays
    start = a["observation_start"]
    tracks: dict[int, list[tuple[int, int]]] = {}
    for k in range(map.keyframes):
        rows = slice(int(start[k]), int(start[k + 1]))
        pixels = np.asarray(a["observation_pixel"][rows], float) + HALF
        for n, point in enumerate(np.asarray(a["observation_point"][rows])):
            tracks.setdefault(int(point), []).append((k + 1, n))
        cam_T_world = np.linalg.inv(a["keyframe_pose"][k])
        image = pycolmap.Image(
            name=f"{int(a['keyframe_stamp'][k])}.png",
            keypoints=pixels,
            camera_id=int(a["keyframe_camera"][k]) + 1,
            image_id=k + 1,
        )
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(cam_T_world[:3, :3]), cam_T_world[:3, 3])
        model.add_image_with_trivial_frame(image, pose)
    for point, seen in tracks.items():
        track = pycolmap.Track()
        for image_id, n in seen:
            track.add_element(image_id, n)
        model.add_point3D(np.asarray(a["points"][point], float), track, np.zeros(3, np.uint8))
    model.write(str(folder))


def _read(folder: Path) -> Any:
    import pycolmap

    if not any((folder / f"images.{kind}").is_file() for kind in ("bin", "txt")):
        raise MapFormatError(f"{folder}: holds no COLMAP model (cameras, images and points3D, .bin or .txt)")
    try:
        model = pycolmap.Reconstruction(str(folder))
    except (ValueError, RuntimeError) as error:
        raise MapFormatError(f"{folder}: cannot be read as a COLMAP model: {error}") from error
    if model.num_reg_images() == 0 or model.num_points3D() < 3:
        raise MapFormatError(
            f"{folder}: the COLMAP model has {model.num_reg_images()} images and {model.num_points3D()} points"
        )
    return model


def _align(model: Any, positions: dict[str, FloatArray]) -> dict[str, Any]:
    """Move the model into the frame of ``positions``; the residual is the RMS distance of the camera centres."""
    import pycolmap

    pairs = [
        (np.asarray(model.image(k).projection_center(), float), positions[model.image(k).name])
        for k in model.reg_image_ids()
        if model.image(k).name in positions
    ]
    if len(pairs) < 3:
        raise MapFormatError(f"alignment needs the positions of at least 3 images of the model; {len(pairs)} are known")
    source, target = (np.array(side) for side in zip(*pairs))
    fit = umeyama(source, target, with_scale=True)
    residual = target - (fit.scale * source @ fit.rotation.T + fit.translation)
    model.transform(pycolmap.Sim3d(fit.scale, pycolmap.Rotation3d(fit.rotation), fit.translation))
    rms = float(np.sqrt((residual**2).sum(1).mean()))
    return {"metric": True, "residual": rms, "positions": len(pairs), "scale": float(fit.scale)}


def _observed(image: Any, model: Any, folder: Path) -> tuple[Frame, FloatArray, FloatArray, NDArray[np.int64]]:
    """The undistorted frame of a model's image, its pose, and its observations (pixels and point ids)."""
    path = folder / image.name
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if picture is None:
        raise MapFormatError(f"{path}: the image named by the COLMAP model cannot be read")
    camera = model.camera(image.camera_id)
    undistorter = Undistorter(colmap_calibration(camera))
    size = (picture.shape[1], picture.shape[0])
    if size != (camera.width, camera.height):
        raise MapFormatError(f"{path}: is {size[0]}x{size[1]}; the model says {camera.width}x{camera.height}")
    frame = Frame(undistorter.image(np.ascontiguousarray(picture[..., ::-1])), undistorter.camera, int(image.image_id))
    seen = [p for p in image.points2D if p.has_point3D()][:MAX_POINTS]
    ids = np.array([p.point3D_id for p in seen], np.int64)
    rays = np.array([camera.cam_from_img(p.xy) for p in seen], float).reshape(-1, 2)
    pinhole = undistorter.camera
    pixels = rays * [pinhole.fx, pinhole.fy] + [pinhole.cx, pinhole.cy]
    world_T_cam = np.eye(4)
    world_T_cam[:3] = image.cam_from_world().inverse().matrix()
    return frame, world_T_cam, pixels, ids


def colmap_calibration(camera: Any) -> CameraCalibration:
    """Our calibration of a COLMAP camera."""
    name = camera.model.name
    K = camera.calibration_matrix()
    values = [float(v) for v in camera.params]
    distortions: dict[str, tuple[float, ...]] = {
        "PINHOLE": (),
        "SIMPLE_PINHOLE": (),
        "SIMPLE_RADIAL": (*values[3:4], 0.0, 0.0, 0.0, 0.0),
        "RADIAL": (*values[3:5], 0.0, 0.0, 0.0),
        "OPENCV": (*values[4:8], 0.0),
    }
    if name not in distortions:
        raise MapFormatError(f"COLMAP camera model {name} is not supported; undistort the model first")
    intrinsics = float(K[0, 0]), float(K[1, 1]), float(K[0, 2]) - HALF, float(K[1, 2]) - HALF
    return CameraCalibration(camera.width, camera.height, *intrinsics, "plumb_bob", distortions[name])
