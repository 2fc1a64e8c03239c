"""The odometry papers' tables: monocular ATE on EuRoC, TUM-RGBD freiburg1 and the TartanAir test set.

    python experiments/odometry_tables/tables.py euroc DIR          # DIR/MH_01_easy/mav0, ...
    python experiments/odometry_tables/tables.py tum DIR            # DIR/rgbd_dataset_freiburg1_360, ...
    python experiments/odometry_tables/tables.py tartanair DIR      # DIR/ME000, ... each a trajectory folder
    [--weights W] [--preset default] [--runs 5] [--skip 2]

As in DPVO (NeurIPS 2023, Tables 1-3): RMSE of camera centres after Sim(3) alignment, metres, median of five runs; on
EuRoC and TUM every second frame is used. Published columns are printed beside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch

from robust_loc.data import Trajectory
from robust_loc.data.datasets import READERS, Recording
from robust_loc.errors import DatasetError, TrajectoryError
from robust_loc.evaluation import AlignmentMode, evaluate
from robust_loc.odometry import Odometry, OdometryConfig, PatchNetwork

DEFAULT_WEIGHTS = Path(__file__).resolve().parents[2] / "robust_loc" / "weights" / "odometry.safetensors"

# DPVO and DROID-VO as printed in DPVO's Tables 1 (TartanAir), 2 (EuRoC) and 3 (TUM-RGBD), metres
TARTANAIR = {
    "ME000": (0.16, 0.22), "ME001": (0.11, 0.15), "ME002": (0.11, 0.24), "ME003": (0.66, 1.27),
    "ME004": (0.31, 1.04), "ME005": (0.14, 0.14), "ME006": (0.30, 1.32), "ME007": (0.13, 0.77),
    "MH000": (0.21, 0.32), "MH001": (0.04, 0.13), "MH002": (0.04, 0.08), "MH003": (0.08, 0.09),
    "MH004": (0.58, 1.52), "MH005": (0.17, 0.69), "MH006": (0.11, 0.39), "MH007": (0.15, 0.97),
}  # fmt: skip
EUROC = {
    "MH_01_easy": (0.087, 0.163), "MH_02_easy": (0.055, 0.121), "MH_03_medium": (0.158, 0.242),
    "MH_04_difficult": (0.137, 0.399), "MH_05_difficult": (0.114, 0.270), "V1_01_easy": (0.050, 0.103),
    "V1_02_medium": (0.140, 0.165), "V1_03_difficult": (0.086, 0.158), "V2_01_easy": (0.057, 0.102),
    "V2_02_medium": (0.049, 0.115), "V2_03_difficult": (0.211, 0.204),
}  # fmt: skip
TUM = {
    "360": (0.135, 0.161), "desk": (0.038, 0.028), "desk2": (0.048, 0.099), "floor": (0.040, 0.033),
    "plant": (0.036, 0.028), "room": (0.394, 0.327), "rpy": (0.034, 0.028), "teddy": (0.064, 0.169),
    "xyz": (0.012, 0.013),
}  # fmt: skip


def estimate(recording: Recording, network: PatchNetwork, config: OdometryConfig, skip: int) -> Trajectory:
    """The refined trajectory of every ``skip``-th frame."""
    odometry = Odometry(config, network)
    for number, frame in enumerate(recording):
        if number % skip == 0:
            odometry.update(frame)
    points = odometry.trajectory()
    return Trajectory(np.array([p.stamp for p in points], np.int64), np.stack([p.world_T_cam for p in points]))


def ate(recording: Recording, network: PatchNetwork, preset: str, runs: int, skip: int) -> float:
    """Median over the runs; nan for a recording without ground truth or where alignment is not determined."""
    if recording.ground_truth is None:
        return float("nan")
    errors = []
    for seed in range(runs):
        found = estimate(recording, network, OdometryConfig.preset(preset, seed=seed), skip)
        try:
            summary = evaluate(found, recording.ground_truth, alignment=AlignmentMode.SIM3).summary
            errors.append(summary["ate"]["sim3"]["rmse"])
        except (TrajectoryError, KeyError):
            errors.append(float("nan"))
    return float(np.median(errors))


def table(kind: str, folders: dict[str, Path], published: dict[str, tuple[float, float]], run: Callable) -> None:
    """Print one row per sequence and the mean."""
    click.echo("| sequence | this package | DPVO (published) | DROID-VO (published) |\n|---|---|---|---|")
    rows = []
    for name, folder in folders.items():
        if not folder.is_dir():
            click.echo(f"| {name} | missing: {folder} | | |")
            continue
        values = (run(READERS[kind](folder)), *published.get(Path(name).name, (float("nan"), float("nan"))))
        rows.append(values)
        click.echo(f"| {name} | " + " | ".join("" if np.isnan(v) else f"{v:.3f}" for v in values) + " |")
    if not rows:
        raise DatasetError(f"none of {', '.join(map(str, folders.values()))} exists")
    means = np.mean(rows, axis=0)
    click.echo("| mean | " + " | ".join("" if np.isnan(v) else f"{v:.3f}" for v in means) + " |")


@click.command()
@click.argument("dataset", type=click.Choice(["euroc", "tum", "tartanair"]))
@click.argument("root", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--weights", type=click.Path(exists=True, path_type=Path), default=DEFAULT_WEIGHTS)
@click.option("--preset", default="default", show_default=True)
@click.option("--runs", default=5, show_default=True)
@click.option("--skip", type=int, help="Use every n-th frame; default 2 on EuRoC and TUM, 1 on TartanAir.")
@click.option("--threads", default=0, help="CPU threads, 0: torch's choice.")
def main(dataset: str, root: Path, weights: Path, preset: str, runs: int, skip: int | None, threads: int) -> None:
    """Run DATASET under ROOT and print its table."""
    if threads:
        torch.set_num_threads(threads)
    network = PatchNetwork.from_checkpoint(weights)
    published = {"euroc": EUROC, "tum": TUM, "tartanair": TARTANAIR}[dataset]
    if dataset == "tartanair":
        folders = {str(p.parent.relative_to(root)): p.parent for p in sorted(root.rglob("pose_left.txt"))}
    elif dataset == "tum":
        folders = {name: root / f"rgbd_dataset_freiburg1_{name}" for name in published}
    else:
        folders = {name: root / name for name in published}
    step = skip or (1 if dataset == "tartanair" else 2)
    table(dataset, folders, published, lambda recording: ate(recording, network, preset, runs, step))


if __name__ == "__main__":
    main()
