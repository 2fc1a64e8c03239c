"""Draws the README's picture from a results folder: path with covariance ellipses, errors with sigmas, state.

robust-loc localize k.mcap --map k.map --from-frame 450 -o out
python doc/localized_picture.py out k.mcap doc/images/localized.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Ellipse

from robust_loc.data import open_bag, read_source
from robust_loc.uncertainty import pose_error

COLOURS = {"INITIALIZING": "#9aa5b1", "LOCALIZED": "#2f9e62", "DEGRADED": "#f0a23c", "LOST": "#c53030"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path)
    parser.add_argument("bag", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    run = json.loads((arguments.results / "run.json").read_text())
    truth = open_bag(arguments.bag).ground_truth_at_images(run["from_frame"], run["until_frame"])
    source = read_source(arguments.results, "fusion")
    estimate = source.trajectory
    known = np.isin(truth.stamps, estimate.stamps)
    poses, start = truth.world_T_cam[known], truth.stamps[0]
    errors = pose_error(estimate.world_T_cam, poses)
    positions, seconds = estimate.world_T_cam[:, :3, 3], (estimate.stamps - start) / 1e9
    spread = np.ptp(poses[:, :3, 3], axis=0)
    a, b = sorted(np.argsort(spread)[-2:])

    figure = plt.figure(figsize=(11, 4.2), constrained_layout=True)
    grid = figure.add_gridspec(3, 2, width_ratios=[1.0, 1.15], height_ratios=[1, 1, 0.22])
    path = figure.add_subplot(grid[:, 0])
    path.plot(truth.world_T_cam[:, a, 3], truth.world_T_cam[:, b, 3], color="black", lw=1.2, label="truth")
    path.plot(positions[:, a], positions[:, b], ".", ms=4, color="#1f6fb2", label="estimate")
    for position, covariance in zip(positions[::4], estimate.covariances[::4]):
        values, vectors = np.linalg.eigh(covariance[np.ix_([a, b], [a, b])])
        angle = np.degrees(np.arctan2(vectors[1, 1], vectors[0, 1]))
        width, height = 4 * np.sqrt(values[::-1])  # two sigma on either side
        path.add_patch(Ellipse(position[[a, b]], width, height, angle=angle, fill=False, lw=0.8, color="#e07b39"))
    path.plot([], [], color="#e07b39", lw=0.8, label="2 sigma, predicted")
    path.set(xlabel=f"{'xyz'[a]} (m)", ylabel=f"{'xyz'[b]} (m)", aspect="equal")
    path.legend(frameon=False)
    parts = ((slice(0, 3), 100.0, "position error (cm)"), (slice(3, 6), 180 / np.pi, "rotation error (deg)"))
    for row, (part, unit, label) in enumerate(parts):
        axes = figure.add_subplot(grid[row, 1])
        sigma = np.sqrt(np.trace(estimate.covariances[:, part, part], axis1=1, axis2=2)) * unit
        axes.fill_between(seconds, 0, 2 * sigma, color="#e07b39", alpha=0.25, lw=0, label="2 sigma, predicted")
        axes.plot(seconds, np.linalg.norm(errors[:, part], axis=1) * unit, color="#1f6fb2", lw=1.2, label="error")
        axes.set(ylabel=label, xlim=(0, (truth.stamps[-1] - start) / 1e9), ylim=(0, None))
        axes.tick_params(labelbottom=False)
        if row == 0:
            axes.legend(frameon=False, ncols=2, loc="upper right")
    states = figure.add_subplot(grid[2, 1])
    edges = (np.r_[source.stamps, source.stamps[-1] + np.median(np.diff(source.stamps))] - start) / 1e9
    for state, left, right in zip(source.states, edges[:-1], edges[1:]):
        states.axvspan(left, right, color=COLOURS[state], lw=0)
    for state in dict.fromkeys(source.states):
        states.plot([], [], "s", color=COLOURS[state], label=state)
    states.legend(frameon=False, ncols=4, loc="upper center", bbox_to_anchor=(0.5, -1.75), fontsize=8)
    states.set(xlabel="time (s)", yticks=[], xlim=(0, edges[-1]))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.output, dpi=110)


if __name__ == "__main__":
    main()
