"""Speed and memory of the odometry, stage by stage, against what torch reaches for the same layers alone.

    python benchmarks/odometry.py --preset cpu --threads 2 -o benchmarks/results/odometry_cpu.md

A camera path is tracked with thresholds at zero, so that every frame is a keyframe and the graph has its full number
of edges. The percentage at a stage is the time of its bare convolutions or matrix products, run alone on tensors of the
same shape in the same process, over the time of the stage: 100 % would be a stage that does nothing else. On a machine
that is busy with other work, ``--clock cpu --threads 1`` counts processor time instead of waiting.
"""

from __future__ import annotations

import json
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from torch import nn

from robust_loc.data.files import write_atomically
from robust_loc.odometry import Odometry, OdometryConfig, PatchNetwork, PatchNetworkConfig, operator
from robust_loc.types import Camera, Frame

STAGES = ("encoder", "correlation", "update", "bundle adjustment", "rest")
SIZES = {"default": (640, 480), "fast": (640, 480), "cpu": (320, 240)}


class Stopwatch:
    """Sums the time spent inside wrapped calls, by name."""

    def __init__(self, device: torch.device, clock: Callable[[], float]) -> None:
        self._device, self._clock = device, clock
        self.seconds: dict[str, float] = defaultdict(float)

    def now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **keywords: Any) -> Any:
            start = self.now()
            result = function(*arguments, **keywords)
            self.seconds[name] += self.now() - start
            return result

        return timed


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
def recorded_layers(network: nn.Module) -> Iterator[list[tuple[nn.Module, tuple[int, ...], torch.dtype]]]:
    """The convolutions and matrix products that run inside the context, with the shapes of their inputs."""
    calls: list[tuple[nn.Module, tuple[int, ...], torch.dtype]] = []
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [m.register_forward_hook(lambda m, x, y: calls.append((m, tuple(x[0].shape), y.dtype))) for m in layers]
    yield calls
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def bare_seconds(
    calls: list[tuple[nn.Module, tuple[int, ...], torch.dtype]], kind: type, watch: Stopwatch, device: torch.device
) -> float:
    """Time of the layers of one kind alone, the best of five runs each, memory already there."""
    total = 0.0
    for layer, shape, dtype in calls:
        if not isinstance(layer, kind):
            continue
        x = torch.randn(shape, device=device, dtype=dtype)
        if isinstance(layer, nn.Conv2d):
            x = x.contiguous(memory_format=torch.channels_last)
        weight, bias = layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype)
        best = float("inf")
        for _ in range(5):
            start = watch.now()
            if isinstance(layer, nn.Conv2d):
                nn.functional.conv2d(x, weight, bias, layer.stride, layer.padding)
            else:
                nn.functional.linear(x, weight, bias)
            best = min(best, watch.now() - start)
        total += best
    return total


def measure(
    preset: str, network: PatchNetwork, device: str, frames: int, mixed: bool, clock: Callable[[], float]
) -> dict[str, Any]:
    """One preset: milliseconds per frame and stage, edges, bare-layer rates, memory."""
    thresholds = {"motion_threshold": 0.0, "still_threshold": 0.0, "keyframe_threshold": 0.0, "minimum_support": 0.0}
    config = OdometryConfig.preset(
        preset, **thresholds, minimum_parallax=0.0, device=device, mixed_precision=mixed, keep_trajectory=False
    )
    odometry = Odometry(config, network)
    watch = Stopwatch(odometry.device, clock)
    network.extract = watch.wrap("encoder", network.extract)  # type: ignore[method-assign]
    network.update.forward = watch.wrap("update", network.update.forward)
    odometry._adjust = watch.wrap("bundle adjustment", odometry._adjust)  # type: ignore[method-assign]
    correlate = operator.correlate
    operator.correlate = watch.wrap("correlation", correlate)
    warm_up = config.removal_window + config.patch_lifetime + 2
    latencies: list[float] = []
    try:
        for i, frame in enumerate(moving_frames(*SIZES[preset], warm_up + frames)):
            if i == warm_up:
                watch.seconds.clear()
            start = watch.now()
            odometry.update(frame)
            latencies.append(watch.now() - start)
            if i == warm_up + frames - 2:
                watch_snapshot = dict(watch.seconds)
                with recorded_layers(network) as calls:
                    odometry._iterate()
                    odometry._operator.network.extract(torch.zeros(1, 3, *SIZES[preset][::-1], device=device), 8)
        watch.seconds = defaultdict(float, watch_snapshot)
    finally:
        operator.correlate = correlate
        del network.extract, network.update.forward
    measured = np.array(latencies[warm_up:])
    tracked = frames - 1  # the stage times end before the recorded repetition
    milliseconds = {name: 1e3 * watch.seconds[name] / tracked for name in STAGES[:-1]}
    total = 1e3 * float(measured[:tracked].mean())
    milliseconds["rest"] = max(total - sum(milliseconds.values()), 0.0)
    bare = {
        "encoder": 1e3 * bare_seconds(calls, nn.Conv2d, watch, odometry.device),
        "update": 1e3 * bare_seconds(calls, nn.Linear, watch, odometry.device),
    }
    memory = torch.cuda.max_memory_allocated() if odometry.device.type == "cuda" else 1024 * _resident_kilobytes()
    return {
        "preset": preset,
        "size": "x".join(map(str, SIZES[preset])),
        "edges": len(odometry.graph.ii),
        "fps": 1e3 / total,
        "milliseconds": {"total": total, **milliseconds},
        "bare_rate": {name: bare[name] / milliseconds[name] for name in bare},
        "memory_megabytes": memory / 1e6,
    }


def _resident_kilobytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def table(rows: list[dict[str, Any]], heading: str) -> str:
    lines = [heading, "", "| preset | image | edges | fps | total ms | " + " | ".join(STAGES) + " | memory MB |"]
    lines.append("|---" * (6 + len(STAGES)) + "|")
    for row in rows:
        ms = row["milliseconds"]
        stages = []
        for name in STAGES:
            rate = f" ({100 * row['bare_rate'][name]:.0f} %)" if name in row["bare_rate"] else ""
            share = "" if rate else f" ({100 * ms[name] / ms['total']:.0f} % of frame)"
            stages.append(f"{ms[name]:.1f}{rate}{share}")
        lines.append(
            f"| {row['preset']} | {row['size']} | {row['edges']} | {row['fps']:.1f} | {ms['total']:.1f} | "
            f"{' | '.join(stages)} | {row['memory_megabytes']:.0f} |"
        )
    return "\n".join([*lines, "", "Encoder and update: in brackets, the bare layers' time over the stage's.", ""])


@click.command()
@click.option("--preset", "presets", multiple=True, type=click.Choice(list(SIZES)), default=("cpu",), show_default=True)
@click.option("--network", type=click.Choice(["compact", "full"]), default="compact", show_default=True)
@click.option("--device", default="cpu", show_default=True)
@click.option("--threads", default=2, show_default=True, help="Torch threads.")
@click.option("--frames", default=20, show_default=True, help="Frames measured after the graph has filled.")
@click.option("--clock", type=click.Choice(["wall", "cpu"]), default="wall", show_default=True)
@click.option("--mixed", is_flag=True, help="Half precision.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown table; a .json lies beside it.")
def main(
    presets: tuple[str, ...],
    network: str,
    device: str,
    threads: int,
    frames: int,
    clock: str,
    mixed: bool,
    output: Path | None,
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape = PatchNetworkConfig.compact() if network == "compact" else PatchNetworkConfig()
    read = time.perf_counter if clock == "wall" else time.process_time
    rows = [measure(preset, PatchNetwork(shape).to(device).eval(), device, frames, mixed, read) for preset in presets]
    precision = "half precision" if mixed else "float32"
    heading = f"{network} network, {device}, {threads} threads, {precision}, {clock} time, torch {torch.__version__}"
    text = table(rows, heading)
    click.echo(text)
    if output is not None:
        write_atomically(output, text)
        write_atomically(output.with_suffix(".json"), json.dumps({"heading": heading, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
