"""``robust-loc calibrate-covariance``: covariance factors from a results folder and its truth."""

from __future__ import annotations

import json
from pathlib import Path

import click


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--bag", "truth", required=True, type=click.Path(exists=True, path_type=Path),
              help="Recording, or TUM file, with the truth; not one that a map or weights were made of.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(path_type=Path),
              help="File to write; default: covariance_calibration.json in DIR.")  # fmt: skip
@click.option("--store", "stores", multiple=True, type=(click.Choice(["relocalizer", "regressor", "odometry"]), Path),
              metavar="SOURCE PATH",
              help="Also store a source's factors with its map or weights, on top of those already there.")  # fmt: skip
@click.option("--method", type=click.Choice(["median", "mean"]), default="median", show_default=True,
              help="median: a few wrong poses do not count; mean: ANEES of these poses becomes 1.")  # fmt: skip
@click.option("--max-difference", type=click.FloatRange(min=0), default=0.01, show_default=True,
              help="Seconds between an estimate and its true pose.")  # fmt: skip
@click.option("--ground-truth-topic", help="Pose or odometry topic, or /tf:parent.child; default: found by name.")
@click.option("--image-topic", help="The camera's topic, where the recording has several.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    folder: Path,
    truth: Path,
    output: Path | None,
    stores: tuple[tuple[str, Path], ...],
    method: str,
    max_difference: float,
    ground_truth_topic: str | None,
    image_topic: str | None,
    as_json: bool,
) -> None:
    """Fit the covariances of every source in the results folder DIR to its errors.

    Two factors on the standard deviations per source, translation and rotation, relative to the covariances that the
    source reported in this run. --store lets the estimator apply them itself whenever it loads its map or weights.
    OUTPUT serves the fusion instead (its parameter ``calibration_file``, localize --calibration): one of the two.
    """
    from dataclasses import asdict

    from robust_loc.cli.evaluate import _truth
    from robust_loc.errors import ConfigurationError
    from robust_loc.evaluation.covariance_calibration import folder_factors
    from robust_loc.uncertainty import CovarianceCalibration

    true = _truth(truth, image_topic, ground_truth_topic, 0, None)
    factors = folder_factors(folder, true, round(max_difference * 1e9), method)
    details = {"results": str(folder), "truth": str(truth), "method": method}
    for source, path in stores:
        if source not in factors:
            raise ConfigurationError(f"{folder} holds no {source}; it holds {', '.join(sorted(factors))}")
        if not path.exists():
            raise ConfigurationError(f"{path}: no such map or weights")
    written = CovarianceCalibration(factors, details).save(output or folder)
    for source, path in stores:
        stored = CovarianceCalibration.load_beside(path)
        merged = {**stored.factors, source: stored.of(source).times(factors[source])}
        CovarianceCalibration(merged, details).save_beside(path)
    if as_json:
        click.echo(json.dumps({name: asdict(value) for name, value in factors.items()}))
        return
    for name, value in factors.items():
        numbers = f"translation x {value.translation:.3g}, rotation x {value.rotation:.3g}"
        click.echo(f"{name:<12} {numbers} ({value.samples} samples)")
    click.echo(f"written: {written}")
