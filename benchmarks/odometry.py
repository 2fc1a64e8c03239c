"""Speed and memory of the odometry, stage by stage, against plain torch in the same run.

    python benchmarks/odometry.py -o benchmarks/results/odometry_cpu.md            # every preset, two threads
    python benchmarks/odometry.py --device cuda --mixed -o benchmarks/results/odometry_cuda.md

A camera path is tracked with thresholds at zero, so that every frame is a keyframe and the graph has its full number
of edges. Every preset runs in a process of its own. Times are medians over the frames measured: wall time, and the
processor time of all threads, which other programs on the machine hardly change. Each stage has a reference:

    encoder, update: their bare convolutions and matrix products, run alone on tensors of the same shape (100 % would be
        a stage that does nothing else);
    correlation, bundle adjustment: the same from plain torch operations (gathered windows; batched Jacobians and
        scattered sums), and their share of the frame.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from robust_loc.data.files import write_atomically
from robust_loc.geometry.lie import SE3
from robust_loc.odometry import Odometry, OdometryConfig, PatchNetwork, PatchNetworkConfig
from robust_loc.odometry.bundle_adjustment import INFERENCE, Layout, _differentiable_normal_equations, solve
from robust_loc.odometry.config import PRESETS
from robust_loc.odometry.correlation import correlate_reference, feature_pyramid
from robust_loc.odometry.operator import NetworkOperator
from robust_loc.odometry.projective import reproject
from robust_loc.odometry.weights import default_weights
from robust_loc.types import Camera, Frame

STAGES = ("encoder", "correlation", "update", "bundle adjustment", "rest")
EDGES_AT_ONCE = 1000  # of the gathered windows, which would not fit in memory otherwise
Calls = list[tuple[nn.Module, tuple[int, ...], torch.dtype]]


class Stopwatch:
    """Sums wall and processor seconds inside wrapped calls, by name."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.spent: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))

    def now(self) -> np.ndarray:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return np.array([time.perf_counter(), time.process_time()])

    def wrap(self, name: str, owner: Any, attribute: str) -> None:
        function = getattr(owner, attribute)

        def timed(*arguments: Any, **keywords: Any) -> Any:
            start = self.now()
            result = function(*arguments, **keywords)
            self.spent[name] = self.spent[name] + self.now() - start
            return result

        setattr(owner, attribute, timed)

    def best(self, function: Callable[[], Any], runs: int = 3) -> np.ndarray:
        """Least wall and processor seconds of a call."""
        times = []
        for _ in range(runs):
            start = self.now()
            function()
            times.append(self.now() - start)
        return np.min(times, axis=0)


def moving_frames(width: int, height: int, count: int) -> Iterator[Frame]:
    """A window sliding over a smooth random picture: a camera that translates before a wall."""
    g = np.random.default_rng(0)
    coarse = torch.from_numpy(g.uniform(0, 255, (1, 3, (height + 200) // 4, (width + 8 * count) // 4)))
    picture = nn.functional.interpolate(coarse, scale_factor=4, mode="bicubic").clamp(0, 255)[0]
    wall = picture.permute(1, 2, 0).to(torch.uint8).numpy()
    camera = Camera(width, height, 0.8 * width, 0.8 * width, (width - 1) / 2, (height - 1) / 2)
    for i in range(count):
        x, y = 6 * i, int(30 + 20 * np.sin(0.2 * i))
        yield Frame(np.ascontiguousarray(wall[y : y + height, x : x + width]), camera, 50_000_000 * (i + 1))


@contextmanager
def recorded_layers(network: nn.Module) -> Iterator[Calls]:
    """The convolutions and matrix products that run inside the context, with the shapes of their inputs."""
    calls: Calls = []
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [m.register_forward_hook(lambda m, x, y: calls.append((m, tuple(x[0].shape), y.dtype))) for m in layers]
    yield calls
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def bare_seconds(calls: Calls, kind: type, watch: Stopwatch, device: torch.device) -> np.ndarray:
    """Time of the layers of one kind alone, memory already there."""
    total = np.zeros(2)
    for layer, shape, dtype in calls:
        if not isinstance(layer, kind):
            continue
        x = torch.randn(shape, device=device, dtype=dtype)
        weight, bias = layer.weight.to(dtype), layer.bias.to(dtype)
        if isinstance(layer, nn.Conv2d):
            x = x.contiguous(memory_format=torch.channels_last)
            alone = [x, weight, bias, layer.stride, layer.padding]
            total += watch.best(lambda alone=alone: nn.functional.conv2d(*alone))
        else:
            total += watch.best(lambda x=x, weight=weight, bias=bias: nn.functional.linear(x, weight, bias))
    return total


@torch.no_grad()
def plain_seconds(odometry: Odometry, watch: Stopwatch) -> dict[str, np.ndarray]:
    """Correlation and bundle adjustment of the present graph from plain torch operations."""
    graph, operator = odometry.graph, odometry._operator
    assert isinstance(operator, NetworkOperator)
    height, width = odometry._map._image_size
    C = operator.network.config.features
    pyramid = feature_pyramid(torch.randn(len(graph), C, height, width, device=odometry.device))
    gmap = torch.randn(len(graph) * graph.M, 3, 3, C, device=odometry.device)
    poses = SE3(graph.poses)
    coords = reproject(poses, graph.patches, graph.intrinsics, *graph.edges).coords.float()

    def windows() -> None:
        for s in range(0, len(graph.ii), EDGES_AT_ONCE):
            e = slice(s, s + EDGES_AT_ONCE)
            correlate_reference(gmap, pyramid, coords[e], graph.jj[e], graph.kk[e])

    free = torch.arange(len(graph), device=odometry.device) >= len(graph) - odometry.config.optimization_window
    measured = (graph.patches, graph.intrinsics, graph.target, graph.weight, *graph.edges)

    def adjustment() -> None:
        layout = Layout.of(len(graph), graph.ii, graph.kk, None, free)
        for _ in range(odometry.config.adjustments):
            solve(
                _differentiable_normal_equations(poses, *measured, (height, width), layout, INFERENCE),
                INFERENCE,
            )

    return {"correlation": watch.best(windows, 1), "bundle adjustment": watch.best(adjustment)}


def measure(
    preset: str, shape: str, device: str, threads: int, frames: int, mixed: bool, size: tuple[int, int]
) -> dict[str, Any]:
    """One preset: milliseconds [wall, processor] per frame and stage, edges, references, memory."""
    torch.manual_seed(0)
    compact = PatchNetwork.from_checkpoint(default_weights()) if shape == "compact" else None
    network = (compact or PatchNetwork(PatchNetworkConfig())).to(device).eval()
    thresholds = {"motion_threshold": 0.0, "still_threshold": 0.0, "keyframe_threshold": 0.0, "minimum_support": 0.0}
    config = OdometryConfig.preset(
        preset,
        **thresholds,
        minimum_parallax=0.0,
        device=device,
        mixed_precision=mixed,
        keep_trajectory=False,
        threads=threads,
    )
    odometry = Odometry(config, network)
    operator, watch = odometry._operator, Stopwatch(odometry.device)
    assert isinstance(operator, NetworkOperator)
    watch.wrap("encoder", network, "extract")
    watch.wrap("correlation", operator, "correlate")
    watch.wrap("update", operator, "step")
    warm_up = config.removal_window + config.patch_lifetime + 2
    rows = []
    with recorded_layers(network) as calls:
        for i, frame in enumerate(moving_frames(*size, warm_up + frames)):
            if i == 8:  # the first map is made: these calls go on
                watch.wrap("bundle adjustment", odometry._map, "adjust")
            watch.spent.clear()
            calls.clear()
            start = watch.now()
            odometry.update(frame)
            total = watch.now() - start
            if i >= warm_up:
                stages = [watch.spent[name] for name in STAGES[:-1]]
                rows.append([total, *stages, total - np.sum(stages, axis=0)])
    memory = torch.cuda.max_memory_allocated() if odometry.device.type == "cuda" else 1024 * _resident_kilobytes()
    total, *stages = 1e3 * np.median(rows, axis=0)
    milliseconds = dict(zip(STAGES, stages))
    reference = {
        "encoder": bare_seconds(calls, nn.Conv2d, watch, odometry.device),
        "update": bare_seconds(calls, nn.Linear, watch, odometry.device),
        **plain_seconds(odometry, watch),
    }
    working = odometry._map._image_size
    return {
        "preset": preset,
        "size": f"{4 * working[1]}x{4 * working[0]}",
        "edges": len(odometry.graph.ii),
        "threads": threads,
        "fps": [1e3 / t for t in total],
        "latency_ms": {f"p{q}": float(np.percentile([1e3 * row[0][0] for row in rows], q)) for q in (50, 99)},
        "milliseconds": {"total": total.tolist(), **{name: ms.tolist() for name, ms in milliseconds.items()}},
        "plain_milliseconds": {name: (1e3 * seconds).tolist() for name, seconds in reference.items()},
        "memory_megabytes": memory / 1e6,
    }


def _resident_kilobytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def table(rows: list[dict[str, Any]], heading: str) -> str:
    """Markdown: wall / processor milliseconds, and each stage against its reference (by processor time on a CPU)."""
    columns = ["preset", "threads", "image", "edges", "fps", "total ms", *STAGES, "memory MB"]
    lines = [heading, "", "| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        ms, plain = row["milliseconds"], row["plain_milliseconds"]
        stages = []
        for name in STAGES:
            share = 100 * ms[name][1] / ms["total"][1]
            note = f"{share:.0f} % of frame"
            if name in ("encoder", "update"):
                note = f"{100 * plain[name][1] / ms[name][1]:.0f} % of bare layers' rate"
            elif name in plain:
                note += f", {plain[name][1] / ms[name][1]:.1f}x plain torch"
            stages.append(f"{ms[name][0]:.1f} / {ms[name][1]:.1f} ({note})")
        fps = f"{row['fps'][0]:.1f} / {row['fps'][1]:.1f}"
        lines.append(
            f"| {row['preset']} | {row['threads']} | {row['size']} | {row['edges']} | {fps} | {ms['total'][0]:.1f} / "
            f"{ms['total'][1]:.1f} | {' | '.join(stages)} | {row['memory_megabytes']:.0f} |"
        )
    note = "Each pair is wall time / processor time of all threads, medians per frame; fps likewise."
    return "\n".join([*lines, "", note, ""])


@click.command()
@click.option("--preset", "presets", multiple=True, type=click.Choice(list(PRESETS)), help="Default: all.")
@click.option("--network", type=click.Choice(["compact", "full"]), default="compact", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option(
    "--threads", multiple=True, type=int, default=(2,), show_default=True, help="Of the tracker; may be given again."
)
@click.option("--frames", default=15, show_default=True, help="Frames measured after the graph has filled.")
@click.option("--size", type=(int, int), default=(640, 480), show_default=True, help="Of the camera's image.")
@click.option("--mixed", is_flag=True, help="Half precision.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown table; a .json lies beside it.")
def main(
    presets: tuple[str, ...],
    network: str,
    device: str,
    threads: tuple[int, ...],
    frames: int,
    size: tuple[int, int],
    mixed: bool,
    output: Path | None,
) -> None:
    rows = []
    os.environ["OMP_NUM_THREADS"] = "1"  # no pool spins beside the tracker's threads; the references run on one
    busy = os.getloadavg()[0]
    context = multiprocessing.get_context("spawn")
    for preset in presets or tuple(PRESETS):
        for count in threads:
            with ProcessPoolExecutor(1, context) as process:  # memory peaks are a process's own
                row = process.submit(measure, preset, network, device, count, frames, mixed, size).result()
            rows.append(row)
            click.echo(json.dumps(row))
    precision = "half precision" if mixed else "float32"
    name = torch.cuda.get_device_name() if device.startswith("cuda") else _processor()
    heading = (
        f"{network} network, {precision}, camera {size[0]}x{size[1]}, {name}, {os.cpu_count()} cores, "
        f"load average {busy:.1f}, torch {torch.__version__}, {frames} frames"
    )
    text = table(rows, heading)
    click.echo(text)
    if output is not None:
        write_atomically(output, text)
        write_atomically(output.with_suffix(".json"), json.dumps({"heading": heading, "rows": rows}, indent=2) + "\n")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    main()
