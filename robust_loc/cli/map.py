"""``robust-loc map``: a relocalization map from a recording or a COLMAP model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from tqdm import tqdm

if TYPE_CHECKING:
    from robust_loc.data.bag import Bag
    from robust_loc.data.trajectory import Trajectory
    from robust_loc.relocalization.map import Map

HELD_OUT = 40  # frames that the calibration asks for


@click.command()
@click.argument("bag", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The map: a folder.")
@click.option("--poses", help="Pose or odometry topic, /tf:parent.child, a TUM file, or 'odometry' (run here); "
              "default: the recording's ground truth.")  # fmt: skip
@click.option("--align-to", help="Metric poses (topic, TUM file, 'ground truth') into whose frame the map is moved.")
@click.option("--depth", help="Depth topic; default: found by type and name.")
@click.option("--image-topic", help="The camera's topic, where the recording has several.")
@click.option("--points-from", type=click.Choice(["auto", "depth", "tracks"]), default="auto", show_default=True,
              help="Corners with measured depth, corners tracked and triangulated; auto: all there are.")  # fmt: skip
@click.option(
    "--features", default="handmade", show_default=True, help="Descriptors: handmade, compact, or a weights file."
)
@click.option("--descriptors", type=click.Choice(["float16", "int8"]), default="float16", show_default=True,
              help="How descriptors are stored.")  # fmt: skip
@click.option("--keyframe-distance", type=click.FloatRange(min=0), help="Metres between keyframes.")
@click.option("--keyframe-angle", type=click.FloatRange(min=0), help="Radians between keyframes.")
@click.option("--colmap", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Import this COLMAP model instead of a recording.")  # fmt: skip
@click.option("--images", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Folder of the COLMAP model's images.")  # fmt: skip
@click.option("--to-colmap", type=click.Path(file_okay=False, path_type=Path),
              help="Write the map as a COLMAP model too.")  # fmt: skip
@click.option("--from-frame", type=click.IntRange(min=0), default=0, help="First frame of the map.")
@click.option("--until-frame", type=click.IntRange(min=0), help="First frame not in the map any more.")
@click.option("--calibrate/--no-calibrate", default=True, show_default=True,
              help="Fit covariance and verdict on held-out frames.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(bag: Path | None, output: Path, as_json: bool, **options: Any) -> None:
    """Build a map from the recording BAG with known poses, or from a COLMAP model.

    The map lies in the frame of the given poses, in metres when they are.
    """
    from robust_loc.errors import ConfigurationError
    from robust_loc.features import load_features
    from robust_loc.mapping import MappingConfig
    from robust_loc.mapping.colmap import export_colmap, import_colmap

    features = load_features(options["features"])
    values = {"points_from": options["points_from"], "descriptors": options["descriptors"]}
    values |= {k: options[k] for k in ("keyframe_distance", "keyframe_angle") if options[k] is not None}
    config = MappingConfig.from_mapping(values)
    summary: dict[str, Any] = {"map": str(output)}
    if options["colmap"] is not None:
        if options["images"] is None:
            raise ConfigurationError("--colmap needs --images, the folder of the model's images")
        map_ = import_colmap(options["colmap"], options["images"], features, config)
    elif bag is not None:
        map_, calibration = _from_bag(bag, features, config, options, as_json)
        if calibration is not None:
            summary["calibration"] = map_.info.calibration
    else:
        raise ConfigurationError("name a recording, or a COLMAP model with --colmap and --images")
    map_.save(output)
    if options["to_colmap"] is not None:
        export_colmap(map_, options["to_colmap"])
    summary |= {"keyframes": map_.keyframes, "points": len(map_), "observations": map_.observations}
    summary["alignment"] = map_.info.alignment
    if as_json:
        click.echo(json.dumps(summary))
        return
    click.echo(f"{output}: {map_.describe()}")
    click.echo("alignment: " + ", ".join(f"{k} {v}" for k, v in map_.info.alignment.items()))
    if map_.info.alignment.get("metric") is False:
        click.echo("the map is not metric: its unit is the odometry's; depth or --align-to would give it a scale")
    if options["colmap"] is None and calibration is not None:
        click.echo(f"calibration: {calibration}")


def _from_bag(path: Path, features: Any, config: Any, options: dict[str, Any], quiet: bool) -> tuple[Map, Any]:
    import numpy as np

    from robust_loc.data import Trajectory, open_bag
    from robust_loc.errors import BagTopicError
    from robust_loc.mapping import MapBuilder
    from robust_loc.mapping.calibration import calibrate
    from robust_loc.mapping.poses import mapping_poses

    bag = open_bag(path, options["image_topic"], depth_topic=options["depth"])
    span = (options["from_frame"], options["until_frame"])
    poses, alignment = mapping_poses(bag, options["poses"], options["align_to"], span)
    if not alignment["metric"]:
        config = replace(config, points_from="tracks")  # depth is of no use before the scale is known
    builder = MapBuilder(features, config)
    keyframes, stamps = set(), []
    for frame in tqdm(bag.frames(*span), desc="mapping", unit="frame", disable=quiet or None):
        world_T_cam = poses.at(frame.stamp)
        if world_T_cam is None:
            continue
        stamps.append(frame.stamp)
        if builder.add(frame, world_T_cam):
            keyframes.add(frame.stamp)
    if not stamps:
        raise BagTopicError(f"{path}: the poses cover none of the images; same clock?")
    provenance = {"recording": str(path), "poses": options["poses"] or "ground truth"}
    provenance |= {"from_frame": span[0], "until_frame": span[1]}
    map_ = builder.finish(provenance, alignment)
    if map_.info.alignment.get("to") == "depth":  # the held-out poses get the scale that the depth gave
        poses = Trajectory(poses.stamps, _scaled(poses.world_T_cam, map_.info.alignment["scale"]))
    if not options["calibrate"]:
        return map_, None
    spare = [stamp for stamp in stamps if stamp not in keyframes]
    chosen = set(np.array(spare)[np.linspace(0, len(spare) - 1, min(HELD_OUT, len(spare))).astype(int)].tolist())
    held_out = _held_out(bag, poses, span, chosen, quiet)
    return calibrate(map_, held_out, features, without=builder.without)


def _scaled(world_T_cam: Any, scale: float) -> Any:
    moved = world_T_cam.copy()
    moved[:, :3, 3] *= scale
    return moved


def _held_out(bag: Bag, poses: Trajectory, span: tuple[int, int | None], chosen: set[int], quiet: bool) -> Any:
    with tqdm(total=len(chosen), desc="calibrating", unit="frame", disable=quiet or None) as bar:
        for frame in bag.frames(*span):
            if frame.stamp in chosen:
                yield frame, poses.at(frame.stamp)
                bar.update()
