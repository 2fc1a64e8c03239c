"""``robust-loc export``: encoders as files that onnxruntime (TensorRT, CUDA) or torch.export run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def _common(function: Callable[..., Any]) -> Callable[..., Any]:
    output = click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path),
                          help="The file to write: .onnx or .pt2.")  # fmt: skip
    size = click.option("--size", required=True, type=(int, int), metavar="WIDTH HEIGHT",
                        help="Of the images it will see; it is fixed.")  # fmt: skip
    return output(size(function))


@click.group()
def command() -> None:
    """Write an encoder for another runtime.

    The estimators take the file in place of their own encoder: parameter 'encoders' of the odometry, '--features FILE'
    of the relocalizer, parameter 'encoder' of the regressor.
    """


@command.command()
@_common
@click.option("--weights", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Odometry weights; default: the package's.")  # fmt: skip
@click.option("--preset", type=click.Choice(["default", "fast", "cpu"]), default="default", show_default=True,
              help="Its working size for a camera of --size.")  # fmt: skip
def odometry(output: Path, size: tuple[int, int], weights: Path | None, preset: str) -> None:
    """Both encoders of the odometry, for a camera of WIDTH x HEIGHT pixels."""
    from robust_loc.odometry import OdometryConfig, PatchNetwork
    from robust_loc.odometry.export import export_encoders
    from robust_loc.odometry.weights import default_weights
    from robust_loc.odometry.working_image import working_size

    width, height = working_size(*size, OdometryConfig.preset(preset).image_pixels)
    export_encoders(PatchNetwork.from_checkpoint(weights or default_weights()), height, width, output)
    click.echo(f"{output}: odometry encoders for working images of {width}x{height}")


@command.command()
@_common
@click.option("--weights", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Weights of the compact descriptor network.")  # fmt: skip
def features(output: Path, size: tuple[int, int], weights: Path) -> None:
    """The relocalizer's compact descriptors, for images of WIDTH x HEIGHT pixels."""
    from robust_loc.features.network import CompactFeatures, ExportedFeatures

    ExportedFeatures.export(CompactFeatures.from_file(weights), size[1], size[0], output)
    click.echo(f"{output}: compact descriptors for images of {size[0]}x{size[1]}")


@command.command()
@_common
@click.option("--weights", required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Scene weights of 'robust-loc train regressor'.")  # fmt: skip
def regressor(output: Path, size: tuple[int, int], weights: Path) -> None:
    """The encoder of a scene's pose regressor, for a camera of WIDTH x HEIGHT pixels."""
    from robust_loc.pose_regression import PoseRegressor, PoseRegressorConfig
    from robust_loc.pose_regression.encoders import ExportedEncoder

    network = PoseRegressor(PoseRegressorConfig.from_mapping({"weights": weights})).network
    height = network.config.image_height
    width = round(size[0] * height / size[1])
    ExportedEncoder.export(network.encoder, height, width, output)
    click.echo(f"{output}: regressor encoder for images of {width}x{height}")
