"""Where patches are placed: at random, at SIFT or ORB keypoints, or at large gradients (V2V, Figure 6).

    python experiments/weighted_flow_loss/patch_selection.py RECORDING... --clips-folder rendered/validation -o OUT

The same trained weights track with each; RECORDING is a bag or a folder with frames.csv. Keypoints are the strongest
ones, at most one per quarter-resolution pixel; where there are too few, random patches fill up. The file grows row by
row, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import click
import cv2
import matplotlib
import numpy as np
import torch
from torch import Tensor

from robust_loc.data import Trajectory, open_bag
from robust_loc.data.datasets import read_folder
from robust_loc.data.files import write_atomically
from robust_loc.data.synthetic import Clip, list_clips
from robust_loc.errors import TrajectoryError
from robust_loc.evaluation import AlignmentMode, evaluate
from robust_loc.odometry import Odometry, OdometryConfig, PatchNetwork
from robust_loc.odometry.network import FrameFeatures
from robust_loc.odometry.patches import STRIDE, gradient_centres, random_centres
from robust_loc.odometry.weights import default_weights
from robust_loc.types import Frame

matplotlib.use("Agg")
import matplotlib.pyplot as plt

SELECTIONS = ("random", "sift", "orb", "gradient")


class SelectingNetwork(PatchNetwork):
    """The network with another rule for where a frame's patches lie."""

    selection: str = "random"

    def extract(
        self,
        images: Tensor,
        patches_per_frame: int = 80,
        *,
        centres: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> FrameFeatures:
        if self.selection == "gradient":
            centres = gradient_centres(images, patches_per_frame, generator)
        elif self.selection != "random":
            found = [keypoints(image, self.selection, patches_per_frame, generator) for image in images]
            centres = torch.stack(found)
        return super().extract(images, patches_per_frame, centres=centres, generator=generator)


def keypoints(image: Tensor, kind: str, count: int, generator: torch.Generator | None) -> Tensor:
    """[count, 2] integer quarter-resolution positions of the strongest keypoints of an image [3, H, W]."""
    grey = cv2.cvtColor(image.permute(1, 2, 0).byte().numpy(), cv2.COLOR_RGB2GRAY)
    detector = cv2.SIFT_create(contrastThreshold=0.0) if kind == "sift" else cv2.ORB_create(4 * count, fastThreshold=5)  # type: ignore[attr-defined]
    height, width = (s // STRIDE for s in grey.shape)
    cells: dict[tuple[int, int], None] = {}
    for point in sorted(detector.detect(grey, None), key=lambda p: -p.response):
        x, y = round(point.pt[0] / STRIDE), round(point.pt[1] / STRIDE)
        if 1 <= x < width - 1 and 1 <= y < height - 1:
            cells.setdefault((x, y))
        if len(cells) == count:
            break
    rest = random_centres(1, count - len(cells), height, width, generator)[0]
    return torch.cat([torch.tensor(list(cells), dtype=torch.float32).reshape(-1, 2), rest])


def relative_error(frames: Iterable[Frame], truth: Trajectory, network: PatchNetwork, seed: int) -> float:
    """Refined Sim(3) ATE over the length of the path, percent; nan where tracking gave too little."""
    odometry = Odometry(OdometryConfig.preset("cpu", seed=seed), network)
    for frame in frames:
        odometry.update(frame)
    points = odometry.terminate()
    found = Trajectory(np.array([p.stamp for p in points], np.int64), np.stack([p.world_T_cam for p in points]))
    try:
        error = evaluate(found, truth, alignment=AlignmentMode.SIM3).summary["ate"]["sim3"]["rmse"]
    except (TrajectoryError, KeyError):
        return float("nan")
    return 100 * float(error) / truth.path_length


def recording(path: Path) -> tuple[str, list[Frame], Trajectory]:
    """Name, frames and ground truth of a bag or of a folder with a frames.csv."""
    if (path / "frames.csv").exists():
        folder = read_folder(path)
        frames, truth = list(folder), folder.ground_truth
    else:
        bag = open_bag(path)
        frames, truth = list(bag), bag.ground_truth_at_images()
    if truth is None:
        raise TrajectoryError(f"{path}: no ground truth to judge by")
    return path.stem, frames, truth


def rendered(path: Path) -> tuple[str, list[Frame], Trajectory]:
    """The same of a rendered clip."""
    clip = Clip(path)
    frames = [Frame(clip.image(k), clip.camera, int(clip.stamps[k])) for k in range(len(clip))]
    return f"rendered {clip.source}", frames, Trajectory(clip.stamps, clip.world_T_cam)


def report(results: dict[str, dict[str, list[float]]], seeds: int, output: Path) -> None:
    """Table and figure: median over seeds for each recording, and over the rendered clips."""
    rows = {name: {s: v[s][0] for s in SELECTIONS} for name, v in results.items() if seeds == 1}
    clips = [name for name in results if name.startswith("rendered")]
    for name in (n for n in results if n not in clips):
        rows[name] = {s: float(np.nanmedian(v)) for s, v in results[name].items()}
    if clips:
        title = f"{len(clips)} rendered clips (median)"
        rows[title] = {s: float(np.nanmedian([results[c][s] for c in clips])) for s in SELECTIONS}
    lines = [f"| refined ATE, % of the path ({seeds} seeds) | " + " | ".join(SELECTIONS) + " |"]
    lines.append("|---" * (len(SELECTIONS) + 1) + "|")
    lines += [f"| {name} | " + " | ".join(f"{row[s]:.2f}" for s in SELECTIONS) + " |" for name, row in rows.items()]
    write_atomically(output / "patch_selection.md", "\n".join(lines) + "\n")
    figure, axis = plt.subplots(figsize=(9, 4), layout="constrained")
    for k, selection in enumerate(SELECTIONS):
        axis.plot(np.arange(len(rows)) + 0.1 * k, [row[selection] for row in rows.values()], "osD^"[k], label=selection)
    axis.set(yscale="log", ylabel="refined ATE, % of the path", title="patch selection, same weights")
    axis.set_xticks(
        np.arange(len(rows)) + 0.15,
        [name.replace("rendered ", "").replace(" seed ", "\n").replace(" (", "\n(") for name in rows],
        fontsize=8,
    )
    axis.legend()
    axis.grid(alpha=0.3, axis="y", which="both")
    figure.savefig(output / "patch_selection.png", dpi=100)


@click.command()
@click.argument("recordings", nargs=-1, type=click.Path(exists=True, path_type=Path))
@click.option("--clips-folder", type=click.Path(exists=True, path_type=Path))
@click.option("--clips", default=8, show_default=True, help="Rendered clips.")
@click.option("--seeds", default=2, show_default=True)
@click.option("--weights", type=click.Path(exists=True, path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(
    recordings: tuple[Path, ...], clips_folder: Path | None, clips: int, seeds: int, weights: Path | None, output: Path
) -> None:
    """Run what is missing into patch_selection.json, then draw it."""
    torch.set_num_threads(1)
    output.mkdir(parents=True, exist_ok=True)
    path = output / "patch_selection.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    network = SelectingNetwork.from_checkpoint(weights or default_weights())
    assert isinstance(network, SelectingNetwork)
    sources = [(rendered, p) for p in (list_clips(clips_folder)[:clips] if clips_folder else [])]
    for read, source in [*sources, *((recording, p) for p in recordings)]:
        name, frames, truth = read(source)
        row = results.setdefault(name, {s: [] for s in SELECTIONS})
        for selection in SELECTIONS:
            network.selection = selection
            for seed in range(len(row[selection]), seeds):
                row[selection].append(relative_error(frames, truth, network, seed))
                write_atomically(path, json.dumps(results, indent=1) + "\n")
        click.echo(f"{name}: " + ", ".join(f"{s} {np.nanmedian(row[s]):.2f} %" for s in SELECTIONS))
    report(results, seeds, output)


if __name__ == "__main__":
    main()
