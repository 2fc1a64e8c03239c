"""Render clips of bare corridors and rooms, seen from near, with large motion: resumable, as ``render.py``.

    python experiments/train_default/render_bare.py OUT --count 60 --processes 2

These were added to the mixture after the first weights had lost track in a corridor of smooth panels.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # one process, one core: must be set before numpy is imported

from collections.abc import Iterator  # noqa: E402
from concurrent.futures import ProcessPoolExecutor  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402

import click  # noqa: E402
import cv2  # noqa: E402
import numpy as np  # noqa: E402
from tqdm import tqdm  # noqa: E402

from robust_loc.data.synthetic.bare_rooms import Rolled, make_bare_room  # noqa: E402
from robust_loc.data.synthetic.cache import write_clip  # noqa: E402
from robust_loc.data.synthetic.paths import HandheldConfig, PathError, handheld_path  # noqa: E402
from robust_loc.data.synthetic.renderer import Renderer  # noqa: E402
from robust_loc.data.synthetic.sequence import (  # noqa: E402
    Paced,
    SequenceConfig,
    median_flow,
    random_camera,
    render_path,
)
from robust_loc.types import Frame  # noqa: E402

SPARE = 4.0  # the path is so much longer than its frames at its own pace need
PATH = HandheldConfig(speed=(0.5, 1.5), turn_rate=1.5, tilt=0.4, clearance=0.22, rotation_only=0.1, stand_still=0.05)


def bare_clip(seed: int, frames: int, width: int, height: int) -> Iterator[Frame]:
    """The frames of clip ``seed``."""
    g = np.random.default_rng([seed, 11])
    config = SequenceConfig(frames=frames, width=width, height=height, flow=(5.0, 22.0), path=PATH)
    rate = float(g.uniform(10, 20))
    for _ in range(20):  # a corridor may be too narrow to walk in
        scene = make_bare_room(g)
        assert scene.free_space is not None
        try:
            path = handheld_path(g, scene.free_space, SPARE * frames / rate, config.path)
            break
        except PathError:
            continue
    else:
        raise PathError(f"no path in 20 corridors of seed {seed}")
    rolled = Rolled(path, float(g.normal(0, 0.35)) if g.random() < 0.6 else 0.0)
    camera = random_camera(g, config)
    caster = Renderer(scene, config.renderer)
    wanted = float(np.exp(g.uniform(*np.log(config.flow or (5.0, 22.0)))))
    pace = float(np.clip(wanted / max(median_flow(caster, rolled, camera, rate, frames), 1e-3), 0.5, SPARE))
    yield from render_path(caster, Paced(rolled, pace), camera, rate, frames, config.effects, g)


def render_one(seed: int, output: Path, frames: int, width: int, height: int) -> None:
    cv2.setNumThreads(0)
    write_clip(output / f"clip_{seed:06d}.npz", bare_clip(seed, frames, width, height), f"bare seed {seed}")


@click.command()
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.option("--count", default=60, show_default=True, help="clips the folder shall hold")
@click.option("--first-seed", default=300_000, show_default=True, help="seed of the first clip")
@click.option("--frames", default=48, show_default=True, help="frames of a clip")
@click.option("--width", default=320, show_default=True)
@click.option("--height", default=240, show_default=True)
@click.option("--processes", default=1, show_default=True)
def main(output: Path, count: int, first_seed: int, frames: int, width: int, height: int, processes: int) -> None:
    """Render COUNT clips into OUTPUT."""
    output.mkdir(parents=True, exist_ok=True)
    seeds = [s for s in range(first_seed, first_seed + count) if not (output / f"clip_{s:06d}.npz").exists()]
    job = partial(render_one, output=output, frames=frames, width=width, height=height)
    if processes == 1:
        for seed in tqdm(seeds, unit="clip"):
            job(seed)
        return
    with ProcessPoolExecutor(processes) as pool:
        for _ in tqdm(pool.map(job, seeds), total=len(seeds), unit="clip"):
            pass


if __name__ == "__main__":
    main()
