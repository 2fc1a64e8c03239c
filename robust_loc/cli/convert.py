"""``robust-loc convert``: a dataset folder to a rosbag2 recording."""

from __future__ import annotations

import json
from pathlib import Path

import click
from tqdm import tqdm


@click.command()
@click.argument("kind", type=click.Choice(["folder", "tum", "euroc", "7scenes", "tartanair", "kitti"]))
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("bag", type=click.Path(path_type=Path))
@click.option("--from-frame", type=click.IntRange(min=0), default=0, help="First frame to write.")
@click.option("--until-frame", type=click.IntRange(min=0), help="First frame not to write any more.")
@click.option("--start-time", type=float, help="Move the first image to this time (seconds); default: keep the stamps.")
@click.option("--force", is_flag=True, help="Replace an existing recording.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    kind: str,
    source: Path,
    bag: Path,
    from_frame: int,
    until_frame: int | None,
    start_time: float | None,
    force: bool,
    as_json: bool,
) -> None:
    """Convert the dataset folder SOURCE to the recording BAG.

    BAG ending in .mcap or .db3 becomes one file, any other name a rosbag2 folder (mcap). JPEG and PNG images are copied
    unchanged, with the lens in camera_info; depth, ground truth and tf are written where SOURCE has them.
    """
    from robust_loc.data.datasets import READERS

    recording = READERS[kind](source)
    count = recording.write_bag(
        bag,
        from_frame,
        until_frame,
        None if start_time is None else round(start_time * 1e9),
        force,
        lambda images: tqdm(images, desc=recording.name, unit="frame", disable=as_json or None),
    )
    selected = recording.images[from_frame:until_frame]
    summary = {
        "bag": str(bag),
        "frames": count,
        "depth": sum(image.depth is not None for image in selected),
        "ground_truth": recording.ground_truth is not None,
    }
    if as_json:
        click.echo(json.dumps(summary))
    else:
        truth = "with" if summary["ground_truth"] else "without"
        click.echo(f"{bag}: {count} frames, {summary['depth']} depth maps, {truth} ground truth")
