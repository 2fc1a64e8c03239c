"""Heteroscedastic sinusoid (Sec. 4.2, Figure 1): mean and standard deviation learned from clean and spoilt data.

    y = x sin x + 0.3 e1 + 0.3 x e2 + o,  x ~ U(0, 10],  o ~ N(0, 10) (standard deviation) for a fraction of the samples

Two networks 1-50-1 (ReLU), one for the mean and one for the variance (softplus); Adam 1e-2, batch 256, 100 000
iterations. The paper's temperatures: T = 64 on clean data and T = 16 with outliers. The paper leaves open: the number
of samples (500, as in Detlefsen et al., 2019), whether the networks share a trunk (they do not here) and a warm-up
(here the mean alone is trained first, on squared errors, for a fraction of the iterations).
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from compiled import BETA_NLL, FAITHFUL, NLL, OURS, check, train_networks
from report import markdown_table, save_figure
from torch import Tensor

HIDDEN = 50
MILESTONES = (0.1, 0.3, 0.6, 1.0)  # of the iterations


def true_mean(x: Tensor) -> Tensor:
    return x * torch.sin(x)


def true_variance(x: Tensor) -> Tensor:
    return 0.09 * (1 + x.square())


def make_data(samples: int, rate: float, seed: int) -> tuple[Tensor, Tensor]:
    """x and y (samples,); the same seed gives the same inliers at every rate."""
    generator = torch.Generator().manual_seed(seed)
    x = 10 * (1 - torch.rand(samples, generator=generator))
    y = true_mean(x) + true_variance(x).sqrt() * torch.randn(samples, generator=generator)
    outlier = 10 * torch.randn(samples, generator=generator)
    return x, torch.where(torch.rand(samples, generator=generator) < rate, y + outlier, y)


def estimators(rate: float) -> dict[str, tuple[int, float]]:
    """Kind of loss and temperature (0: none) of each column."""
    return {
        "NLL": (NLL, 0.0),
        "beta-NLL": (BETA_NLL, 0.0),
        "Faithful": (FAITHFUL, 0.0),
        "Robust-NLL (paper)": (NLL, 64.0 if rate == 0 else 16.0),
        "RobustNLL (ours)": (OURS, 0.0),
    }


def initial_networks(seed: int) -> np.ndarray:
    """Mean and variance network (2, 3H + 1), uniform within 1/sqrt(inputs)."""
    generator = np.random.default_rng(seed)
    first = generator.uniform(-1, 1, (2, 2 * HIDDEN))
    second = generator.uniform(-1, 1, (2, HIDDEN + 1)) / math.sqrt(HIDDEN)
    return np.concatenate([first, second], 1).astype(np.float32)


def train(options: argparse.Namespace, points: Tensor) -> Iterator[tuple[str, int, int, np.ndarray]]:
    """Estimator, index of the rate, seed, and means and log-variances (milestones, 2, points) of one problem at a time;
    the networks and the order of the samples are the same for every estimator."""
    milestones = np.array([int(options.iterations * share) for share in MILESTONES] + [-1])
    for seed, (index, rate) in itertools.product(range(options.seeds), enumerate(options.rates)):
        x, y = (value.float().numpy() for value in make_data(options.samples, rate, seed))
        for name, (kind, temperature) in estimators(rate).items():
            answers = train_networks(
                kind, temperature, x, y, initial_networks(seed), options.iterations, options.batch,
                int(options.warm_up * options.iterations), options.decay, seed, milestones, points.numpy(),
            )  # fmt: skip
            yield name, index, seed, answers[: len(MILESTONES)]


def scores(points: Tensor, mean: Tensor, variance: Tensor) -> dict[str, Tensor]:
    """Against the truth of clean data, each (rates, seeds): no test noise enters."""
    truth, true = true_mean(points), true_variance(points)
    squared = (mean - truth).square()
    gap = 0.5 * (variance.log() + (true + squared) / variance) - 0.5 * (true.log() + 1)
    return {
        "rmse": squared.mean(-1).sqrt(),
        "nll_gap": gap.mean(-1),
        "log_sigma": 0.5 * (variance / true).log().mean(-1),
    }


def table(rates: list[float], all_scores: dict[str, dict[str, Tensor]]) -> str:
    rows = []
    for name, values in all_scores.items():
        cells = [name]
        for rate in range(len(rates)):
            rmse, gap, bias = (values[key][rate] for key in ("rmse", "nll_gap", "log_sigma"))
            if rmse.isnan().any():
                cells.append(f"diverges ({int(rmse.isnan().sum())} of {len(rmse)} seeds)")
                continue
            cells.append(
                f"{rmse.median():.2f} ({rmse.min():.2f}-{rmse.max():.2f}) / {_short(gap.median())} "
                f"({_short(gap.max())}) / {bias.median():+.2f}"
            )
        rows.append(cells)
    return markdown_table(["estimator", *(f"{100 * rate:.0f} % outliers" for rate in rates)], rows)


def _short(value: Tensor) -> str:
    return f"{value:.2f}" if value < 100 else ">100"


def figure(rates: list[float], points: Tensor, answers: dict[str, tuple[Tensor, Tensor]], path: Path) -> None:
    """The first two rates, seed 0: prediction with two standard deviations over the truth."""
    import matplotlib.pyplot as plt

    picture, axes = plt.subplots(
        min(2, len(rates)), len(answers), figsize=(3.1 * len(answers), 5.2), sharex=True, sharey=True, squeeze=False
    )
    for rate, row in enumerate(axes):
        for axis, (name, (mean, variance)) in zip(row, answers.items()):
            centre, spread = mean[rate, 0], 2 * variance[rate, 0].sqrt()
            truth, true_spread = true_mean(points), 2 * true_variance(points).sqrt()
            axis.fill_between(points, centre - spread, centre + spread, color="tab:blue", alpha=0.25, linewidth=0)
            axis.plot(points, centre, color="tab:blue", label="learned")
            axis.plot(points, truth, color="black", linewidth=0.8, label="truth")
            for sign in (-1, 1):
                axis.plot(points, truth + sign * true_spread, color="black", linewidth=0.6, linestyle=":")
            axis.set(title=f"{name}, {100 * rates[rate]:.0f} % outliers", ylim=(-22, 22))
            axis.title.set_fontsize(8)
    axes[0, 0].legend(fontsize=7)
    save_figure(picture, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=100_000)
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--warm-up", type=float, default=0.5, help="fraction of the iterations")
    parser.add_argument("--decay", action="store_true", help="cosine decay of the learning rate over the second half")
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0, 0.25, 0.5], help="of outliers")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--name", default="sinusoid", help="file name of the results")
    parser.add_argument("-o", "--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    check()
    start = time.process_time()
    options.output.mkdir(parents=True, exist_ok=True)
    points = torch.linspace(0.02, 10, 500)
    names = list(estimators(0.0))
    answers = torch.full((len(MILESTONES), 2, len(names), len(options.rates), options.seeds, len(points)), torch.nan)
    for count, (name, rate, seed, found) in enumerate(train(options, points), 1):
        answers[:, :, names.index(name), rate, seed] = torch.from_numpy(found)
        seconds = time.process_time() - start
        print(f"{seconds:.0f} s: seed {seed}, rate {options.rates[rate]:g}, {name}", flush=True)
        if count % (len(names) * len(options.rates)) == 0:
            write(options, names, points, answers[..., : seed + 1, :], seconds)


def write(options: argparse.Namespace, names: list[str], points: Tensor, answers: Tensor, seconds: float) -> None:
    """Table, numbers and figure of the seeds that are done; ``answers`` (milestones, 2, estimators, rates, seeds,
    points)."""
    text = [
        f"# Sinusoid (Sec. 4.2, Figure 1): {options.name}",
        f"{options.samples} samples, batch {options.batch}, warm-up {options.warm_up:g} of {options.iterations} "
        f"iterations, learning rate {'decaying' if options.decay else 'constant'}, {answers.shape[-2]} seeds.",
        "Each cell: RMSE of the mean, median (best-worst seed) / gap of the NLL to the truth's on clean data, median "
        "(worst) / mean error of log sigma. With outliers the paper's loss has T = 16, without T = 64.",
    ]
    history = {}
    for share, (means, log_variances) in zip(MILESTONES, answers):
        predicted = {name: (means[k], log_variances[k].exp()) for k, name in enumerate(names)}
        all_scores = {name: scores(points, *answer) for name, answer in predicted.items()}
        iteration = int(share * options.iterations)
        text += [f"## After {iteration} iterations", table(options.rates, all_scores)]
        history[iteration] = {name: {k: v.tolist() for k, v in values.items()} for name, values in all_scores.items()}
    text.append(f"Made in {seconds:.0f} s on one CPU core.")
    (options.output / f"{options.name}.md").write_text("\n\n".join(text) + "\n")
    (options.output / f"{options.name}.json").write_text(json.dumps(history))
    figure(options.rates, points, predicted, options.output / f"figure1_{options.name}.png")


if __name__ == "__main__":
    main()
