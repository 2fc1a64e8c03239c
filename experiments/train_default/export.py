r"""Make the weights that ship with the package from a training run's: half precision, provenance in the header.

    python experiments/train_default/export.py RUN/3_weighted.safetensors robust_loc/weights/odometry.safetensors \
        --note "what it was trained on"
"""

from __future__ import annotations

from pathlib import Path

import click

from robust_loc.odometry.network import PatchNetwork

LICENCE = "Apache-2.0; trained on rendered sequences only (procedural worlds, MIT-0 worlds, free textures)"


@click.command()
@click.argument("source", type=click.Path(exists=True, path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--note", required=True, help="Steps, data and seed, for the file's header.")
def main(source: Path, target: Path, note: str) -> None:
    """Convert the weights SOURCE to half precision and write TARGET."""
    network = PatchNetwork.from_checkpoint(source)
    largest = max(float(p.detach().abs().max()) for p in network.parameters())
    network.half().save(target, {"training": note, "licence": LICENCE})
    click.echo(f"{target}: {target.stat().st_size} bytes, largest weight {largest:.3g}")


if __name__ == "__main__":
    main()
