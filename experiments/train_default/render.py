"""Render training sequences into a folder of clips: resumable, each clip appears when it is complete.

    python experiments/train_default/render.py OUT --count 600 --processes 2 --textures PICTURES

Clip ``k`` is the sequence of seed ``first_seed + k`` of ``robust_loc.data.synthetic.mixture``; clips that are already
there are left alone. Take another ``--first-seed`` for validation data.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # one process, one core: must be set before numpy is imported

import time  # noqa: E402
from concurrent.futures import ProcessPoolExecutor, as_completed  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402

import click  # noqa: E402
import cv2  # noqa: E402
from tqdm import tqdm  # noqa: E402

from robust_loc.data.synthetic.cache import write_clip  # noqa: E402
from robust_loc.data.synthetic.mixture import training_config  # noqa: E402
from robust_loc.data.synthetic.sequence import render_sequence  # noqa: E402


def render_one(
    seed: int, output: Path, frames: int, width: int, height: int, textures: Path | None, worlds: tuple[Path, ...]
) -> float:
    """Render the clip of ``seed``; returns the seconds it took."""
    cv2.setNumThreads(0)
    begin = time.perf_counter()
    config = training_config(seed, frames, width, height, textures, worlds)
    source = f"{config.world.stem if config.world else config.kind} seed {seed}"
    write_clip(output / f"clip_{seed:06d}.npz", render_sequence(config, seed), source)
    return time.perf_counter() - begin


@click.command()
@click.argument("output", type=click.Path(path_type=Path, file_okay=False))
@click.option("--count", default=600, show_default=True, help="clips the folder shall hold")
@click.option("--first-seed", default=0, show_default=True, help="seed of the first clip")
@click.option("--frames", default=48, show_default=True, help="frames of a clip")
@click.option("--width", default=320, show_default=True)
@click.option("--height", default=240, show_default=True)
@click.option("--processes", default=1, show_default=True)
@click.option("--textures", type=click.Path(path_type=Path, exists=True, file_okay=False), help="folder of pictures")
@click.option("--world", "worlds", type=click.Path(path_type=Path, exists=True), multiple=True, help="triangle world")
@click.option("--overwrite", is_flag=True, help="render again what is there")
def main(
    output: Path,
    count: int,
    first_seed: int,
    frames: int,
    width: int,
    height: int,
    processes: int,
    textures: Path | None,
    worlds: tuple[Path, ...],
    overwrite: bool,
) -> None:
    """Render COUNT clips into OUTPUT."""
    output.mkdir(parents=True, exist_ok=True)
    seeds = range(first_seed, first_seed + count)
    missing = [seed for seed in seeds if overwrite or not (output / f"clip_{seed:06d}.npz").exists()]
    size = {"frames": frames, "width": width, "height": height}
    job = partial(render_one, output=output, **size, textures=textures, worlds=worlds)
    begin = time.perf_counter()
    with tqdm(total=len(missing), unit="clip") as progress:
        if processes == 1:
            for seed in missing:
                job(seed)
                progress.update()
        else:
            with ProcessPoolExecutor(processes) as pool:
                for done in as_completed([pool.submit(job, seed) for seed in missing]):
                    done.result()
                    progress.update()
    rate = len(missing) * frames / max(time.perf_counter() - begin, 1e-9)
    click.echo(f"rendered {len(missing)} clips, {rate:.1f} frames/s")


if __name__ == "__main__":
    main()
