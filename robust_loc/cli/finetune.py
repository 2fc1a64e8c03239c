"""``robust-loc finetune``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from robust_loc.training.finetune import Progress


@click.command()
@click.argument("bags", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--weights",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Weights to start from.",
)
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the run; given again after an interruption, the run goes on.",
)  # fmt: skip
@click.option(
    "--labels", help="Poses to learn from: a pose or odometry topic, /tf:parent.child, or 'localizer' (its sure poses)."
)
@click.option("--odometry", help="Labels from this odometry topic, moved into the map by the localizer's sure poses.")
@click.option(
    "--map", "map_path", type=click.Path(exists=True, path_type=Path),
    help="Map of the localizer; without it the weights themselves are the localizer.",
)  # fmt: skip
@click.option(
    "--replay", multiple=True, type=click.Path(path_type=Path), help="Earlier recordings not to be forgotten."
)
@click.option("--image-topic", help="The camera's topic, where the recordings have several.")
@click.option("--max-steps", type=click.IntRange(min=10), help="Steps of training.")
@click.option("--max-duration", type=click.FloatRange(min=0), help="Seconds of training.")
@click.option(
    "--config", "config_file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="ROS parameter file: section trainer.",
)  # fmt: skip
@click.option("--device", help="cpu, cuda or cuda:N.")
@click.option("--seed", type=click.IntRange(min=0))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(
    context: click.Context,
    bags: tuple[Path, ...],
    weights: Path,
    output: Path,
    labels: str | None,
    odometry: str | None,
    map_path: Path | None,
    replay: tuple[Path, ...],
    config_file: Path | None,
    as_json: bool,
    **given: Any,
) -> None:
    """Fine-tune the regressor on the recordings BAGS.

    Part of the recordings is held out. OUTPUT/weights.safetensors is written only if likelihood, errors and calibration
    on it hold or improve; otherwise the run is rolled back and the exit code is 1. OUTPUT/report.json says what was
    measured. A run that was interrupted goes on when the same command is given again.
    """
    from tqdm import tqdm

    from robust_loc.errors import ConfigurationError
    from robust_loc.training.finetune import FinetuneConfig, finetune

    values: dict[str, Any] = {} if config_file is None else FinetuneConfig.from_yaml(config_file, "trainer").to_dict()
    if odometry is not None:
        if labels is not None:
            raise ConfigurationError("--labels and --odometry exclude each other")
        values |= {"label_source": "odometry", "label_topic": odometry}
    elif labels == "localizer":
        values["label_source"] = "localizer"
    elif labels is not None:
        values |= {"label_source": "topic", "label_topic": labels}
    if map_path is not None:
        values["map"] = map_path
    values |= {name: value for name, value in given.items() if value is not None}
    bars: dict[str, tqdm] = {}

    def progress(said: Progress) -> None:
        bar = bars.get(said.stage)
        if bar is None:
            for other in bars.values():
                other.close()
            bar = bars[said.stage] = tqdm(desc=said.stage, disable=as_json or None)
        bar.total, bar.n = said.max_steps or None, said.step
        if said.phase:
            shown = {"phase": said.phase, "loss": f"{said.loss:.3g}"}
            if said.temperature == said.temperature:
                shown |= {"T": f"{said.temperature:.3g}", "ESS": f"{said.effective_sample_size:.1f}"}
            bar.set_postfix(shown, refresh=False)
        bar.update(0)

    try:
        result = finetune(
            bags, weights, output, FinetuneConfig.from_mapping(values), earlier_bags=replay, progress=progress
        )
    finally:
        for bar in bars.values():
            bar.close()
    if as_json:
        click.echo(json.dumps(result.to_dict()))
    else:
        for loss in result.losses:
            click.echo(f"note: {loss}")
        click.echo(f"{output}: {result.message}")
    context.exit(0 if result.accepted else 1)
