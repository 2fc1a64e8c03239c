"""``robust-loc localize``: every frame of a recording through the whole system, one trajectory per source."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from tqdm import tqdm


@click.command()
@click.argument("bag", type=click.Path(exists=True, path_type=Path))
@click.option("--map", "map_path", type=click.Path(exists=True, path_type=Path), help="Map for the relocalizer.")
@click.option("--features", default="handmade", show_default=True, help="Descriptors of the map.")
@click.option("--regressor", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Scene weights for the regressor.")  # fmt: skip
@click.option("--odometry/--no-odometry", "with_odometry", default=True, show_default=True,
              help="Use the camera's odometry.")  # fmt: skip
@click.option("--odometry-weights", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Odometry network: .safetensors or an official dpvo.pth; default: the package's.")  # fmt: skip
@click.option("--preset", type=click.Choice(["default", "fast", "cpu"]), help="Of the odometry, without CONFIG.")
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path),
              help="Results folder.")  # fmt: skip
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="ROS parameter file: sections odometry, relocalizer, regressor, fusion.")  # fmt: skip
@click.option("--every", type=(click.Choice(["relocalizer", "regressor"]), click.IntRange(min=1)), multiple=True,
              metavar="SOURCE N", help="Ask a source at every N-th frame only.")  # fmt: skip
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
    image_topic: str | None,
    from_frame: int,
    until_frame: int | None,
    device: str,
    seed: int,
    as_json: bool,
) -> None:
    """Localize the frames of the recording BAG with odometry, map and regressor, as many as are named, and fuse them.

    Writes OUTPUT/<source>.tum and what each source said of every frame; the source ``fusion`` holds the fused pose and
    its state. The camera's frame is taken for the robot's.
    """
    from robust_loc.cli.estimators import make_odometry, make_regressor, make_relocalizer
    from robust_loc.data import open_bag
    from robust_loc.errors import ConfigurationError
    from robust_loc.evaluation.pipeline import localize, record
    from robust_loc.evaluation.replay import Estimator
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
    configuration["fusion"] = fusion.to_dict()
    configuration["every"] = asked
    last = len(recording) if until_frame is None else min(until_frame, len(recording))
    frames = tqdm(
        recording.frames(from_frame, until_frame),
        total=max(last - from_frame, 0),
        desc=bag.name,
        unit="frame",
        disable=as_json or None,
    )
    answers = localize(frames, LocalizationFilter(fusion), odometry=odometry, absolute=absolute, every=asked)
    counts = record(output, answers, configuration, seed, bag, (from_frame, until_frame))
    total = sum(counts.values())
    if as_json:
        click.echo(json.dumps({"frames": total, "output": str(output), "states": counts}))
        return
    told = ", ".join(f"{100 * count / max(total, 1):.1f} % {state}" for state, count in counts.items())
    click.echo(f"{output}: {total} frames, {told}")
