"""``robust-loc evaluate``: an estimate, or a results folder, against the truth."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from robust_loc.data.trajectory import Trajectory

FIRST_CHOICE = ("fusion", "relocalizer", "regressor", "odometry")


@click.command()
@click.argument("estimate", type=click.Path(exists=True, path_type=Path))
@click.argument("truth", required=False, type=click.Path(exists=True, path_type=Path))
@click.option(
    "--bag", type=click.Path(exists=True, path_type=Path), help="Recording with the truth, for a results folder."
)
@click.option("--source", help="Which trajectory of a results folder; default: fusion, or the only one.")
@click.option("--ground-truth-topic", help="Pose or odometry topic, or /tf:parent.child; default: found by name.")
@click.option("--image-topic", help="The camera's topic, where the recording has several.")
@click.option("--align", type=click.Choice(["none", "se3", "sim3", "start"]), default="none", show_default=True,
              help="Alignment before RPE, drift, medians, recall and uncertainty (ATE is given for all).")  # fmt: skip
@click.option("--max-difference", type=click.FloatRange(min=0), default=0.01, show_default=True,
              help="Seconds between an estimate and its true pose.")  # fmt: skip
@click.option("--delta", type=click.IntRange(min=1), default=1, show_default=True, help="Frames of the RPE.")
@click.option("--wrong", type=(float, float), default=(0.25, 5.0), show_default=True,
              help="Metres and degrees beyond which a localized pose is wrong.")  # fmt: skip
@click.option("--from-frame", type=click.IntRange(min=0), default=0, help="First frame to judge.")
@click.option("--until-frame", type=click.IntRange(min=0), help="First frame not to judge any more.")
@click.option("--report", type=click.Path(file_okay=False, path_type=Path),
              help="Folder for report.html and report.json; default: the results folder.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    estimate: Path,
    truth: Path | None,
    bag: Path | None,
    source: str | None,
    ground_truth_topic: str | None,
    image_topic: str | None,
    align: str,
    max_difference: float,
    delta: int,
    wrong: tuple[float, float],
    from_frame: int,
    until_frame: int | None,
    report: Path | None,
    as_json: bool,
) -> None:
    """Judge ESTIMATE (a TUM file, or a results folder) by TRUTH (a TUM file, or a recording).

    Every true pose counts as a frame; with a recording, every image (of those that the run behind a results folder was
    asked about, unless --from-frame or --until-frame say otherwise). Angles of the JSON object are in radians.

    For odometry, whose unit of length is arbitrary, use --align sim3, or --align start to judge its covariances: the
    first poses are made to coincide and the scale is that of Sim(3).
    """
    from robust_loc.data.results import read_source, sources_in
    from robust_loc.data.trajectory import read_tum
    from robust_loc.errors import ConfigurationError
    from robust_loc.evaluation import AlignmentMode, WrongPose, evaluate, write_report
    from robust_loc.evaluation.report import table_of

    reference = bag or truth
    if reference is None or (bag is not None and truth is not None):
        raise ConfigurationError("name the truth once: robust-loc evaluate EST TRUTH, or evaluate DIR --bag BAG")
    states = latencies = run = None
    fixes: list[Trajectory] = []
    if estimate.is_dir():
        source = source or next((name for name in FIRST_CHOICE if name in sources_in(estimate)), None)
        results = read_source(estimate, source or (sources_in(estimate) or ["fusion"])[0])
        trajectory = results.trajectory
        states, latencies = (results.stamps, results.states), (results.stamps, results.latencies)
        absolute = [name for name in sources_in(estimate) if name not in ("fusion", "odometry")]
        fixes = [read_source(estimate, name).trajectory for name in absolute]
        report = report or estimate
        run = json.loads((estimate / "run.json").read_text()) if (estimate / "run.json").exists() else None
        if run and from_frame == 0 and until_frame is None:  # frames that the run was not asked about do not count
            from_frame, until_frame = run.get("from_frame", 0), run.get("until_frame")
    else:
        trajectory = read_tum(estimate)
    true = _truth(reference, image_topic, ground_truth_topic, from_frame, until_frame)
    evaluation = evaluate(
        trajectory,
        true,
        alignment=AlignmentMode(align),
        tolerance=round(max_difference * 1e9),
        delta_frames=delta,
        wrong=WrongPose(*wrong),
        states=states,
        latencies=latencies,
        fixes=fixes,
    )
    for warning in evaluation.warnings:
        click.echo(f"warning: {warning}", err=True)
    page = None
    if report is not None:
        title = f"{estimate.name}{f' ({source})' if source else ''} against {reference.name}"
        page = write_report(report, evaluation, title, run)
    if as_json:
        click.echo(json.dumps(evaluation.summary))
        return
    rows = table_of(evaluation.summary)
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        click.echo(f"{name:<{width}}  {value}")
    if page is not None:
        click.echo(f"report: {page}")


def _truth(
    path: Path, image_topic: str | None, topic: str | None, from_frame: int, until_frame: int | None
) -> Trajectory:
    """The true poses: of a TUM file as they are, of a recording at its image stamps."""
    from robust_loc.data import open_bag
    from robust_loc.data.storage import STORAGE_SUFFIXES
    from robust_loc.data.trajectory import read_tum

    if path.is_dir() or path.suffix in STORAGE_SUFFIXES:
        return open_bag(path, image_topic, ground_truth_topic=topic).ground_truth_at_images(from_frame, until_frame)
    return read_tum(path).select(slice(from_frame, until_frame))
