"""Where gradient noise comes from, without a network (V2V, Figure 2 and Section 4.3).

    python experiments/weighted_flow_loss/gradient_noise.py --clips-folder rendered/validation -o OUT

(a) noise in what the bundle adjustment linearises at: signal-to-noise ratio of the gradient that the flow loss and the
    pose loss send to the targets, the forward value held;
(b) noise in the depths of one frame's patches, and (c) in that frame's pose: error of the flow loss's gradient on the
    other poses, with the plain loss and with the weights that a network which has noticed would give (0.02);
(d) gradient of a weight against the residual of its edge, of a target against the same (equations 6a, 6b).
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import matplotlib
import numpy as np
import torch
from clips import CLIPS, fixed_clips, generator
from torch import Tensor

from robust_loc.geometry.lie import SE3
from robust_loc.losses.flow import flow_loss
from robust_loc.losses.relative_pose import relative_pose_error
from robust_loc.odometry.bundle_adjustment import bundle_adjust
from robust_loc.odometry.patches import random_centres, with_inverse_depth
from robust_loc.odometry.projective import reproject
from robust_loc.training.odometry_data import ClipBatch
from robust_loc.training.odometry_unroll import Truth, truth_of

matplotlib.use("Agg")
import matplotlib.pyplot as plt

M, TRIALS = 12, 10
UNNOTICED, NOTICED = 1.0, 0.02


class Problem:
    """One clip with true geometry, slightly wrong estimates and targets, and its complete graph."""

    def __init__(self, batch: ClipBatch, seed: int) -> None:
        g = generator(seed)
        n = batch.images.shape[1]
        h, w = batch.inverse_depth.shape[-2:]
        batch = ClipBatch(batch.images, *(t.double() for t in batch[1:]))
        self.truth: Truth = truth_of(batch, random_centres(n, M, h, w, g).double())
        self.size = (h, w)
        i, p, j = (t.reshape(-1) for t in torch.meshgrid(*(torch.arange(s) for s in (n, M, n)), indexing="ij"))
        self.edges = (i, j, i * M + p)
        projected = reproject(SE3(self.truth.poses), self.truth.patches, self.truth.intrinsics, *self.edges)
        self.coords, self.valid = projected.coords, projected.valid
        wrong = 0.01 * torch.randn(n, 6, generator=g, dtype=torch.float64)
        wrong[0] = 0
        self.poses = SE3(self.truth.poses).retr(wrong).data
        depth = self.truth.patches[:, 2, 1, 1].clamp(min=0.02)
        self.patches = with_inverse_depth(self.truth.patches, depth)
        self.target = self.coords[:, 1, 1] + 0.3 * torch.randn(len(i), 2, generator=g, dtype=torch.float64)

    def flow_gradient(self, poses: Tensor, patches: Tensor, weight: Tensor) -> Tensor:
        """Gradient of the flow loss on the poses after the first, as left tangents [n - 1, 6]."""
        tangent = torch.zeros(len(poses), 6, dtype=torch.float64, requires_grad=True)
        moved = SE3(poses).retr(tangent)
        predicted = reproject(moved, patches, self.truth.intrinsics, *self.edges).coords
        loss = flow_loss(predicted, self.coords, self.valid, weight)
        return torch.autograd.grad(loss, tangent)[0][1:]

    def target_gradient(self, noise: float, loss: str, seed: int) -> Tensor:
        """Gradient on the targets through a bundle adjustment that linearises at disturbed patches."""
        target = self.target.clone().requires_grad_()

        def adjusted(patches: Tensor) -> tuple[Tensor, Tensor]:
            moved, shape = bundle_adjust(
                SE3(self.poses), patches, self.truth.intrinsics, target, torch.ones_like(target), *self.edges,
                image_size=self.size,
            )  # fmt: skip
            return moved.data, shape

        poses, patches = adjusted(self.patches)
        if noise:
            disturbed = self.patches + noise * torch.randn(self.patches.shape, generator=generator(seed)).double()
            other = adjusted(torch.cat([disturbed[:, :2], disturbed[:, 2:].clamp(min=1e-2)], 1))
            poses = other[0] + (poses - other[0]).detach()  # the disturbed gradient of the undisturbed value
            patches = other[1] + (patches - other[1]).detach()
        if loss == "flow":
            predicted = reproject(SE3(poses), patches, self.truth.intrinsics, *self.edges).coords
            value = flow_loss(predicted, self.coords, self.valid)
        else:
            value = torch.stack(relative_pose_error(poses, self.truth.poses)).sum()
        return torch.autograd.grad(value, target)[0]


def linearization(problems: list[Problem]) -> dict[str, list[float]]:
    """(a): levels of noise, and the ratio in dB for either loss."""
    result: dict[str, list[float]] = {"noise": [0.1 * k for k in range(1, 6)], "flow": [], "pose": []}
    for loss in ("flow", "pose"):
        for noise in result["noise"]:
            ratios = []
            for problem in problems:
                clean = problem.target_gradient(0.0, loss, 0)
                errors = [float((problem.target_gradient(noise, loss, t) - clean).norm()) for t in range(TRIALS)]
                ratios.append(10 * np.log10(float(clean.norm()) / np.mean(errors)))
            result[loss].append(float(np.mean(ratios)))
    return result


def one_bad_frame(problems: list[Problem], what: str) -> dict[str, list[float]]:
    """(b) and (c): error of the gradient on the other poses, relative to the undisturbed gradient."""
    levels = [0.1 * k for k in range(1, 11)] if what == "depth" else [0.02 * k for k in range(1, 11)]
    result: dict[str, list[float]] = {"noise": levels, "plain": [], "weighted": []}
    for level in levels:
        errors: dict[str, list[float]] = {"plain": [], "weighted": []}
        for problem in problems:
            poses, patches = problem.truth.poses, problem.patches
            poses = problem.poses.clone()
            for trial in range(TRIALS):
                g = generator(trial)
                bad_poses, bad_patches = poses.clone(), patches.clone()
                if what == "depth":
                    depth = patches[:, 2, 1, 1].clone()
                    depth[:M] += level * torch.rand(M, generator=g)
                    bad_patches = with_inverse_depth(patches, depth)
                else:
                    xi = level * torch.randn(1, 6, generator=g, dtype=torch.float64)
                    bad_poses[:1] = SE3(poses[:1]).retr(xi).data
                ii, jj, _ = problem.edges
                touched = (ii == 0) if what == "depth" else (ii == 0) | (jj == 0)
                for name, low in (("plain", UNNOTICED), ("weighted", NOTICED)):
                    weight = torch.where(touched, low, 1.0).double()[:, None].expand(-1, 2)
                    clean = problem.flow_gradient(poses, patches, weight)
                    error = problem.flow_gradient(bad_poses, bad_patches, weight) - clean
                    errors[name].append(float(error.norm() / clean.norm()))
        for name, values in errors.items():
            result[name].append(float(np.mean(values)))
    return result


def weight_gradients(problems: list[Problem]) -> dict[str, list[float]]:
    """(d): residual of each edge after the adjustment, and the size of the gradients on its target and its weight.

    Every tenth target is an outlier of up to 10 quarter-resolution pixels.
    """
    result: dict[str, list[float]] = {"residual": [], "target": [], "weight": []}
    for number, problem in enumerate(problems):
        g = generator(number)
        outlier = torch.rand(len(problem.target), generator=g) < 0.1
        away = 10 * torch.rand(len(outlier), 1, generator=g) * torch.randn(len(outlier), 2, generator=g)
        target = (problem.target + outlier[:, None] * away.double()).requires_grad_()
        weight = torch.ones_like(target).requires_grad_()
        moved, shape = bundle_adjust(
            SE3(problem.poses), problem.patches, problem.truth.intrinsics, target, weight, *problem.edges,
            image_size=problem.size,
        )  # fmt: skip
        loss = torch.stack(relative_pose_error(moved.data, problem.truth.poses)).sum()
        grad_target, grad_weight = torch.autograd.grad(loss, (target, weight))
        u = reproject(moved, shape, problem.truth.intrinsics, *problem.edges).coords[:, 1, 1]
        result["residual"] += (target - u).norm(dim=-1).tolist()
        result["target"] += grad_target.norm(dim=-1).tolist()
        result["weight"] += grad_weight.norm(dim=-1).tolist()
    return result


def binned(x: list[float], y: list[float], bins: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Median of y in bins of equal counts along x."""
    order = np.argsort(x)
    groups = np.array_split(order, bins)
    return np.array([np.median(np.array(x)[g]) for g in groups]), np.array([np.median(np.array(y)[g]) for g in groups])


@click.command()
@click.option("--clips-folder", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--clips", default=10, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results")
def main(clips_folder: Path, clips: int, output: Path) -> None:
    """Write gradient_noise.json and gradient_noise.png."""
    torch.set_num_threads(1)
    problems = [Problem(batch, k) for k, batch in enumerate(fixed_clips(clips_folder, clips))]
    a, b, c = linearization(problems), one_bad_frame(problems, "depth"), one_bad_frame(problems, "pose")
    d = weight_gradients(problems)
    figure, axes = plt.subplots(1, 4, figsize=(16, 3.6), layout="constrained")
    axes[0].plot(a["noise"], a["flow"], "o-", label="flow loss")
    axes[0].plot(a["noise"], a["pose"], "s-", label="pose loss")
    axes[0].set(title="(a) linearisation noise", xlabel="noise of patches", ylabel="SNR of target gradient (dB)")
    for axis, data, title in ((axes[1], b, "(b) depths of one frame"), (axes[2], c, "(c) pose of one frame")):
        axis.plot(data["noise"], data["plain"], "o-", label="plain")
        axis.plot(data["noise"], data["weighted"], "s-", label="weighted (0.02 on its edges)")
        axis.set(title=title, xlabel="noise", ylabel="relative error of pose gradients", yscale="log")
    for name in ("target", "weight"):
        x, y = binned(d["residual"], d[name])
        axes[3].plot(x, y / y[0], "o-", label=f"gradient on the {name}")
    axes[3].set(title="(d) equations 6a, 6b", xlabel="residual (quarter-res px)", ylabel="median size, relative")
    axes[3].set(xscale="log", yscale="log", xticks=[0.2, 0.5, 1, 2, 5], xticklabels=["0.2", "0.5", "1", "2", "5"])
    axes[3].xaxis.minorticks_off()
    axes[2].set(xticks=[0.0, 0.05, 0.1, 0.15, 0.2])
    for axis in axes:
        axis.legend()
        axis.grid(alpha=0.3)
    output.mkdir(parents=True, exist_ok=True)
    figure.savefig(output / "gradient_noise.png", dpi=100)
    x, y = binned(d["residual"], d["weight"])
    _, t = binned(d["residual"], d["target"])
    summary = {
        "clips": clips, "frames": CLIPS.frames, "patches": M, "trials": TRIALS, "a": a, "b": b, "c": c,
        "d": {"residual": x.tolist(), "weight_gradient": y.tolist(), "target_gradient": t.tolist()},
    }  # fmt: skip
    (output / "gradient_noise.json").write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
