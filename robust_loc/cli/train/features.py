"""``robust-loc train features``."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click


@click.command()
@click.argument("data", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(file_okay=False, path_type=Path), default=Path("features_training"),
              show_default=True, help="Folder of the run.")  # fmt: skip
@click.option("--validation", help="Held-out clips or recording; default: the last tenth of DATA.")
@click.option("--steps", type=click.IntRange(min=1), help="Length of the schedule.")
@click.option("--pairs", type=click.IntRange(min=1), help="Image pairs per step.")
@click.option("--fine-pairs", type=click.IntRange(min=1), help="Of these, pairs that train the fine descriptor too.")
@click.option("--learning-rate", type=click.FloatRange(min=0), help="Peak of the schedule.")
@click.option("--seconds", type=click.FloatRange(min=0), default=math.inf, help="Stop (resumably) after this time.")
@click.option("--save-every", type=click.IntRange(min=1), help="Steps between checkpoints.")
@click.option("--resume", is_flag=True, help="Go on from the newest checkpoint in the output folder.")
@click.option("--device", default="cpu", show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def command(
    data: tuple[str, ...],
    output: Path,
    validation: str | None,
    seconds: float,
    resume: bool,
    device: str,
    as_json: bool,
    **options: float | None,
) -> None:
    """Train the compact descriptors on DATA: folders of rendered clips, bags, or dataset folders as KIND:FOLDER.

    Bags and datasets (tum, 7scenes, tartanair, folder, ...) need depth and ground truth. The output folder receives
    checkpoints, log.jsonl and features.safetensors: give it to "robust-loc map --features".
    """
    from robust_loc.errors import ConfigurationError
    from robust_loc.training.checkpoint import checkpoints
    from robust_loc.training.features import FeatureTrainingConfig, train_features

    if not resume and checkpoints(output):
        raise ConfigurationError(f"{output}: holds a run; give --resume to go on with it, or another folder")
    config = FeatureTrainingConfig.from_mapping({k: v for k, v in options.items() if v is not None})
    losses = train_features(
        list(data), output, config, validation, resume, device, seconds, report=lambda line: click.echo(line, err=True)
    )
    weights = output / "features.safetensors"
    if as_json:
        click.echo(json.dumps({"weights": str(weights), **losses}))
    else:
        click.echo(f"{weights}: NRE {losses['coarse']:.2f} nats coarse, {losses['fine']:.2f} fine on held-out pairs")
