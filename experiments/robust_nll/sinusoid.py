"""Heteroscedastic sinusoid (Sec. 4.2, Figure 1): mean and standard deviation learned from clean and spoilt data.

    y = x sin x + 0.3 e1 + 0.3 x e2 + o,  x ~ U(0, 10],  o ~ N(0, 10) (standard deviation) for a fraction of the samples

Two networks 1-50-1 (ReLU), one for the mean and one for the variance (softplus); Adam 1e-2, batch 256, 100 000
iterations. The paper's temperatures: T = 64 on clean data and T = 16 with outliers. The paper leaves open: the number
of samples (500, as in Detlefsen et al., 2019), whether the networks share a trunk (they do not here) and a warm-up
(here the mean alone is trained first, on squared errors, for a fraction of the iterations).
All problems train side by side.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from estimators import Estimator, ours, plain, published
from report import markdown_table, save_figure
from torch import Tensor

HIDDEN = 50


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


def _initial(shape: tuple[int, ...], fan_in: int, generator: torch.Generator) -> Tensor:
    return (2 * torch.rand(shape, generator=generator) - 1) / math.sqrt(fan_in)


class Networks:
    """Independent 1-50-1 networks side by side; parameters have the leading axis (problems,)."""

    def __init__(self, seeds: list[int]) -> None:
        shapes = [((1, HIDDEN), 1), ((1, HIDDEN), 1), ((HIDDEN, 1), HIDDEN), ((1, 1), HIDDEN)]
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.parameters = [
            torch.stack([_initial(shape, fan_in, generator) for generator in generators]).requires_grad_()
            for shape, fan_in in shapes
        ]

    def __call__(self, x: Tensor) -> Tensor:
        """(problems, batch) to (problems, batch)."""
        w1, b1, w2, b2 = self.parameters
        hidden = torch.relu(torch.baddbmm(b1, x[..., None], w1))
        return torch.baddbmm(b2, hidden, w2)[..., 0]


def log_softplus(value: Tensor) -> Tensor:
    """``log(softplus(value))``, which tends to ``value`` itself and never underflows."""
    return torch.where(value < -15, value, F.softplus(value.clamp_min(-15)).log())


def estimators(rates: list[float], seeds: int) -> dict[str, Estimator]:
    temperature = torch.tensor([64.0 if rate == 0 else 16.0 for rate in rates for _ in range(seeds)])[:, None]
    return {
        "NLL": plain("NLL"),
        "beta-NLL": plain("beta-NLL"),
        "Faithful": plain("Faithful"),
        "Robust-NLL (paper)": published("NLL", temperature),
        "RobustNLL (ours)": ours(len(temperature)),
    }


def train(options: argparse.Namespace) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Test points (points,) and each estimator's mean and variance there, (rates, seeds, points)."""
    columns = estimators(options.rates, options.seeds)
    data = [make_data(options.samples, rate, seed) for rate in options.rates for seed in range(options.seeds)]
    x, y = (torch.stack(values) for values in zip(*data))
    seeds = [seed for _ in columns for _ in options.rates for seed in range(options.seeds)]
    mean_network, variance_network = Networks(seeds), Networks([seed + 1000 for seed in seeds])
    optimizer = torch.optim.Adam([*mean_network.parameters, *variance_network.parameters], lr=1e-2)
    warm_up = int(options.warm_up * options.iterations)
    generator = torch.Generator().manual_seed(0)
    for iteration in range(options.iterations):
        if options.decay:
            late = max(0.0, 2 * iteration / options.iterations - 1)
            optimizer.param_groups[0]["lr"] = 1e-2 * (0.5 + 0.5 * math.cos(math.pi * late) + 1e-3)
        batch = torch.randint(options.samples, (options.batch,), generator=generator)
        inputs, target = x[:, batch], y[:, batch]
        mean = mean_network(inputs.repeat(len(columns), 1))
        if iteration < warm_up:
            loss = (mean - target.repeat(len(columns), 1)).square().mean(-1).sum()
        else:
            log_variance = log_softplus(variance_network(inputs.repeat(len(columns), 1)))
            progress = (iteration - warm_up) / (options.iterations - warm_up)
            loss = sum(
                estimator(one_mean, one_log_variance, target, progress).sum()
                for estimator, one_mean, one_log_variance in zip(
                    columns.values(), mean.split(len(data)), log_variance.split(len(data))
                )
            )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    points = torch.linspace(0.02, 10, 500)
    with torch.no_grad():
        grid = points.expand(len(seeds), -1)
        mean, variance = mean_network(grid), log_softplus(variance_network(grid)).exp()
    shape = (len(options.rates), options.seeds, -1)
    answers = zip(mean.split(len(data)), variance.split(len(data)))
    return points, {name: (m.reshape(shape), v.reshape(shape)) for name, (m, v) in zip(columns, answers)}


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
    start = time.perf_counter()
    points, answers = train(options)
    all_scores = {name: scores(points, *answer) for name, answer in answers.items()}
    options.output.mkdir(parents=True, exist_ok=True)
    text = [
        f"# Sinusoid (Sec. 4.2, Figure 1): {options.name}",
        f"{options.iterations} iterations, {options.samples} samples, batch {options.batch}, "
        f"warm-up {options.warm_up:g}, learning rate {'decaying' if options.decay else 'constant'}, "
        f"seeds 0-{options.seeds - 1}; made in {time.perf_counter() - start:.0f} s.",
        "Each cell: RMSE of the mean, median (best-worst seed) / gap of the NLL to the truth's on clean data, median "
        "(worst) / mean error of log sigma. With outliers the paper's loss has T = 16, without T = 64.",
        table(options.rates, all_scores),
    ]
    (options.output / f"{options.name}.md").write_text("\n\n".join(text) + "\n")
    numbers = {name: {k: v.tolist() for k, v in values.items()} for name, values in all_scores.items()}
    (options.output / f"{options.name}.json").write_text(json.dumps(numbers))
    figure(options.rates, points, answers, options.output / f"figure1_{options.name}.png")


if __name__ == "__main__":
    main()
