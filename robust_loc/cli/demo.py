"""``robust-loc demo``: the whole system on a rendered recording, through the live ROS graph, to a report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

CAMERA_FRAME = "camera_optical_frame"


@click.command()
@click.option("-o", "--output", default="demo_output", show_default=True,
              type=click.Path(file_okay=False, path_type=Path), help="Folder for recordings and report.")  # fmt: skip
@click.option("--bag", type=click.Path(exists=True, path_type=Path),
              help="Your recording with ground truth: its first half is mapped, its second localized.")  # fmt: skip
@click.option("--frames", type=click.IntRange(min=20), default=150, show_default=True, help="Frames to render.")
@click.option("--odometry/--no-odometry", default=None, help="Default: with odometry where its weights are there.")
@click.option("--ros/--no-ros", default=None, help="Default: through the ROS graph where ROS 2 can be imported.")
def command(output: Path, bag: Path | None, frames: int, odometry: bool | None, ros: bool | None) -> None:
    """Render a recording, map it, localize a second run through the same room, and write OUTPUT/report.html."""
    from robust_loc.cli import graph

    odometry = _has_weights() if odometry is None else odometry
    ros = graph.ros_is_available() if ros is None else ros
    output.mkdir(parents=True, exist_ok=True)
    if bag is None:
        mapped, query = output / "mapping.mcap", output / "localizing.mcap"
        _say(1, "rendering two runs through a room")
        _render(mapped, frames, variation=0)
        _render(query, frames, variation=1)
        map_span, query_span = {}, {}
    else:
        _say(1, f"reading {bag}")
        half = _length(bag) // 2
        mapped = query = bag
        map_span, query_span = {"until_frame": half}, {"from_frame": half}
    _say(2, "building the map")
    _run("map", mapped, "-o", _fresh(output / "map"), **map_span)
    if ros:
        _say(3, "localizing through the live graph" + ("" if odometry else " (no odometry weights: without odometry)"))
        _localize_live(query, output, odometry, query_span)
    else:
        _say(3, "localizing offline (ROS 2 cannot be imported)")
        _run("localize", query, "--map", output / "map", "-o", output, **query_span)
    _say(4, "judging the result")
    _run("evaluate", output, "--bag", query, **query_span)


def _localize_live(recording: Path, output: Path, odometry: bool, span: dict[str, int]) -> None:
    from robust_loc.cli import graph

    share = graph.share_folder()
    params_file = None if share is None else share / "config" / "cpu.yaml"
    localizer = {
        "lockstep": True,
        "use_sim_time": True,
        "odometry": odometry,
        "map": output / "map",
        "fusion:base_frame": CAMERA_FRAME,
    }
    answers = ["/relocalizer/estimate", "/fusion/estimate", "/fusion/state"]
    player = {
        "bag": recording,
        "lockstep": True,
        "rate": 0.0,
        "wait": 120.0,
        "answers": (["/odometry/estimate"] if odometry else []) + answers,
        "results": output,
        **span,
    }
    with graph.running("localizer", localizer, output / "localizer.log", params_file) as process:
        graph.run("bag_player", player, [process])


def _render(path: Path, frames: int, variation: int) -> None:
    from tqdm import tqdm

    from robust_loc.data import BagWriter
    from robust_loc.data.synthetic import demo_sequence
    from robust_loc.geometry.cameras import CameraCalibration

    sequence = demo_sequence(frames, variation=variation, num_threads=2)
    first = next(sequence)
    c = first.camera
    calibration = CameraCalibration(c.width, c.height, c.fx, c.fy, c.cx, c.cy)
    with (
        BagWriter(path, calibration, overwrite=True) as writer,
        tqdm(total=frames, desc=path.name, unit="frame") as bar,
    ):
        writer.write_frame(first)
        bar.update()
        for frame in sequence:
            writer.write_frame(frame)
            bar.update()


def _has_weights() -> bool:
    """Whether this installation has the odometry's default weights."""
    import robust_loc

    return (Path(robust_loc.__file__).parent / "weights" / "odometry.safetensors").is_file()


def _length(bag: Path) -> int:
    from robust_loc.data import open_bag

    return len(open_bag(bag))


def _fresh(path: Path) -> Path:
    """``path``, without what an earlier run left there."""
    import shutil

    shutil.rmtree(path, ignore_errors=True)
    return path


def _run(name: str, *arguments: Any, **options: Any) -> None:
    """Another command of ``robust-loc``, in this process."""
    from robust_loc.cli import cli

    words = [name, *map(str, arguments)]
    for option, value in options.items():
        words += ["--" + option.replace("_", "-"), str(value)]
    cli.main(words, standalone_mode=False)


def _say(step: int, what: str) -> None:
    click.echo(f"[{step}/4] {what}")
