"""``robust-loc localize``: every frame of a recording through the estimators, one trajectory per source."""

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
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path),
              help="Results folder.")  # fmt: skip
@click.option("--config", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="ROS parameter file.")
@click.option("--image-topic", help="The camera's topic, where the recording has several.")
@click.option("--from-frame", type=click.IntRange(min=0), default=0, help="First frame to localize.")
@click.option("--until-frame", type=click.IntRange(min=0), help="First frame not to localize any more.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    bag: Path,
    map_path: Path | None,
    features: str,
    output: Path,
    config: Path | None,
    image_topic: str | None,
    from_frame: int,
    until_frame: int | None,
    as_json: bool,
) -> None:
    """Localize the frames of the recording BAG; writes OUTPUT/<source>.tum and what each source said of every frame."""
    from robust_loc.data import open_bag
    from robust_loc.data.results import ResultsWriter
    from robust_loc.errors import ConfigurationError

    recording = open_bag(bag, image_topic)
    sources: dict[str, Any] = {}
    configuration: dict[str, Any] = {}
    if map_path is not None:
        sources["relocalizer"], configuration["relocalizer"] = _relocalizer(map_path, features, config)
    if not sources:
        raise ConfigurationError("nothing to localize with: name a map with --map")
    counts = dict.fromkeys(sources, 0)
    frames = 0
    seed = configuration.get("relocalizer", {}).get("seed", 0)
    with ResultsWriter(output, configuration, seed, bag) as results:
        span = recording.frames(from_frame, until_frame)
        for frame in tqdm(span, desc="localizing", unit="frame", disable=as_json or None):
            frames += 1
            for name, estimator in sources.items():
                estimate = estimator.update(frame)
                if estimate is not None:
                    results.add(name, estimate)
                    counts[name] += estimate.has_pose
    if as_json:
        click.echo(json.dumps({"frames": frames, "output": str(output), "localized": counts}))
    else:
        told = ", ".join(f"{name} {count} of {frames}" for name, count in counts.items())
        click.echo(f"{output}: localized by {told}")


def _relocalizer(path: Path, features: str, config: Path | None) -> tuple[Any, dict[str, Any]]:
    from robust_loc.features import load_features
    from robust_loc.relocalization import Map, Relocalizer, RelocalizerConfig

    settings = RelocalizerConfig() if config is None else RelocalizerConfig.from_yaml(config, "relocalizer")
    relocalizer = Relocalizer(Map.load(path), load_features(features), settings)
    return relocalizer, {"map": str(path), "features": features, **settings.to_dict()}
