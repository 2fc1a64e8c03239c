"""``robust-loc localize``: every frame of a recording through the whole system, one trajectory per source."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

if TYPE_CHECKING:
    from robust_loc.data.bag import Bag
    from robust_loc.evaluation.pipeline import Answers
    from robust_loc.evaluation.rerun_view import RerunView
    from robust_loc.types import FloatArray, Frame


@click.command()
@click.argument("bag", type=click.Path(exists=True, path_type=Path))
@click.option("--map", "map_path", type=click.Path(exists=True, path_type=Path), help="Map for the relocalizer.")
@click.option("--features", default="handmade", show_default=True, help="Of the map: handmade, compact, a file.")
@click.option("--regressor", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Scene weights for the regressor.")  # fmt: skip
@click.option("--odometry/--no-odometry", "with_odometry", default=True, show_default=True,
              help="Use the camera's odometry.")  # fmt: skip
@click.option("--odometry-weights", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Odometry network: .safetensors or an official dpvo.pth; default: the package's.")  # fmt: skip
@click.option("--preset", type=click.Choice(["default", "fast", "cpu"]),
              help="Of the odometry; default: by CONFIG, else by DEVICE.")  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path),
              help="Results folder.")  # fmt: skip
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="ROS parameter file: sections odometry, relocalizer, regressor, fusion.")  # fmt: skip
@click.option("--every", type=(click.Choice(["relocalizer", "regressor"]), click.IntRange(min=1)), multiple=True,
              metavar="SOURCE N", help="Ask a source at every N-th frame only.")  # fmt: skip
@click.option("--odom-topic", help="Metric odometry of the robot in BAG, like wheels.")
@click.option("--base-from-camera", type=(float,) * 7, metavar="X Y Z QX QY QZ QW",
              help="The camera in the robot's frame; default: by TF with --odom-topic, else identity.")  # fmt: skip
@click.option("--calibration", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Covariance factors for the fusion, of calibrate-covariance.")  # fmt: skip
@click.option("--rerun", "view_path", type=click.Path(dir_okay=False, path_type=Path),
              help="Also write the view as a Rerun recording (needs rerun-sdk).")  # fmt: skip
@click.option("--image-topic", help="The camera's topic, where the recording has several.")
@click.option("--from-frame", type=click.IntRange(min=0), default=0, help="First frame to localize.")
@click.option("--until-frame", type=click.IntRange(min=0), help="First frame not to localize any more.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    bag: Path,
    map_path: Path | None,
    features: str,
    regressor: Path | None,
    with_odometry: bool,
    odometry_weights: Path | None,
    preset: str | None,
    output: Path,
    config: Path | None,
    every: tuple[tuple[str, int], ...],
    odom_topic: str | None,
    base_from_camera: tuple[float, ...] | None,
    calibration: Path | None,
    view_path: Path | None,
    image_topic: str | None,
    from_frame: int,
    until_frame: int | None,
    device: str,
    seed: int,
    as_json: bool,
) -> None:
    """Localize the frames of the recording BAG with odometry, map and regressor, as many as are named, and fuse them.

    Writes OUTPUT/<source>.tum and what each source said of every frame; the source ``fusion`` holds the fused pose and
    its state. All poses written are the camera's.
    """
    import contextlib
    from dataclasses import replace

    from robust_loc.cli.estimators import make_odometry, make_regressor, make_relocalizer
    from robust_loc.data import open_bag
    from robust_loc.errors import ConfigurationError
    from robust_loc.evaluation.pipeline import localize, record
    from robust_loc.evaluation.replay import Estimator
    from robust_loc.evaluation.rerun_view import RerunView
    from robust_loc.fusion import FusionConfig, LocalizationFilter

    recording = open_bag(bag, image_topic)
    absolute: dict[str, Any] = {}
    configuration: dict[str, Any] = {}
    if map_path is not None:
        made = make_relocalizer(map_path, features, config, device, seed)
        absolute["relocalizer"], configuration["relocalizer"] = made
    if regressor is not None:
        absolute["regressor"], configuration["regressor"] = make_regressor(regressor, config, device)
    if not absolute:
        raise ConfigurationError("nothing to localize with: name a map with --map, or weights with --regressor")
    asked = dict(every)
    if unknown := sorted(set(asked) - set(absolute)):
        raise ConfigurationError(f"--every {unknown[0]}: there is none in this run")
    odometry: Estimator | None = None
    if with_odometry:
        odometry, configuration["odometry"] = make_odometry(odometry_weights, preset, config, device, seed)
    fusion = FusionConfig() if config is None else FusionConfig.from_yaml(config, "fusion")
    if calibration is not None:
        fusion = replace(fusion, calibration_file=str(calibration))
    configuration["fusion"] = fusion.to_dict()
    base_T_cam = base_pose(recording, odom_topic, base_from_camera)
    configuration["base_T_cam"], configuration["odom_topic"] = base_T_cam.tolist(), odom_topic or ""
    wheels = [] if odom_topic is None else base_motion(recording, odom_topic)
    configuration["every"] = asked
    last = len(recording) if until_frame is None else min(until_frame, len(recording))
    frames = tqdm(
        recording.frames(from_frame, until_frame),
        total=max(last - from_frame, 0),
        desc=bag.name,
        unit="frame",
        disable=as_json or None,
    )
    localizer = LocalizationFilter(fusion, base_T_cam)
    with contextlib.ExitStack() as stack:
        kept: list[Frame] = []
        answers = localize(
            remembered(frames, kept) if view_path else frames,
            localizer,
            odometry=odometry,
            absolute=absolute,
            every=asked,
            metric_odometry=wheels,
        )
        if view_path is not None:
            points = absolute["relocalizer"].map.arrays["points"] if "relocalizer" in absolute else None
            view = stack.enter_context(RerunView(view_path, points))
            answers = shown(answers, kept, view, odometry)
        counts = record(output, answers, configuration, seed, bag, (from_frame, until_frame))
    total = sum(counts.values())
    if as_json:
        click.echo(json.dumps({"frames": total, "output": str(output), "states": counts}))
        return
    told = ", ".join(f"{100 * count / max(total, 1):.1f} % {state}" for state, count in counts.items())
    click.echo(f"{output}: {total} frames, {told}")


def base_pose(recording: Bag, odom_topic: str | None, given: Sequence[float] | None) -> FloatArray:
    """``base_T_cam`` (4, 4): as given, else where the recording's TF has the camera in the frame that odometry moves.

    Raises:
        BagTopicError: there is an odometry topic whose frame the recording's TF does not join to the camera's.
        ConfigurationError: ``given`` is no pose.
    """
    import numpy as np
    from scipy.spatial.transform import Rotation

    from robust_loc.errors import ConfigurationError

    pose = np.eye(4)
    if given is not None:
        if not np.isfinite(given).all() or np.linalg.norm(given[3:]) < 1e-6:
            raise ConfigurationError(f"--base-from-camera {given}: expected x y z and a quaternion x y z w")
        pose[:3, :3], pose[:3, 3] = Rotation.from_quat(given[3:]).as_matrix(), given[:3]
    elif odom_topic is not None:
        # The camera's trajectory by that topic is the base's carried over by TF.
        carried, moved = recording.trajectory(odom_topic), base_motion(recording, odom_topic)
        pose = np.linalg.inv(moved[0][1]) @ carried.world_T_cam[0]
    return pose


def base_motion(recording: Bag, odom_topic: str) -> list[tuple[int, FloatArray]]:
    """(stamp, ``odom_T_base``) as the topic has them; BagTopicError when there is no such odometry."""
    own = recording.trajectory(odom_topic, body_frame=recording.camera_frame)
    return [(int(stamp), pose) for stamp, pose in zip(own.stamps, own.world_T_cam)]


def remembered(frames: Iterable[Frame], newest: list[Frame]) -> Iterator[Frame]:
    """The frames, the newest of them also in ``newest``."""
    for frame in frames:
        newest[:] = [frame]
        yield frame


def shown(answers: Iterable[Answers], newest: list[Frame], view: RerunView, odometry: Any) -> Iterator[Answers]:
    """The answers, each also written to the view with its frame."""
    for answer in answers:
        view.show(newest[0], answer, None if odometry is None else odometry.points()[0])
        yield answer
