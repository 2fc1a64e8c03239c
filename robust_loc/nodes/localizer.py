"""``localizer``: every estimator and fusion in one process; images are received and converted once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rclpy.node import Node
from rclpy.parameter import Parameter

from robust_loc.config import Config, parameter
from robust_loc.errors import ConfigurationError
from robust_loc.nodes import parameters
from robust_loc.nodes.fusion_node import FusionNode
from robust_loc.nodes.odometry_node import OdometryNode
from robust_loc.nodes.regressor_node import RegressorNode
from robust_loc.nodes.relocalizer_node import RelocalizerNode
from robust_loc.nodes.run import run_made


@dataclass(frozen=True)
class LocalizerConfig(Config):
    odometry: bool = parameter(True, "run the visual odometry")
    map: str = parameter("", "map folder; empty: no relocalizer")
    regressor: str = parameter("", "regressor weights; empty: no regressor")
    lockstep: bool = parameter(False, "replay: answer every image")


def make_nodes(**options: Any) -> list[Any]:
    """The nodes of the process: fusion, odometry and, where there is a map or weights, relocalizer and regressor.

    Parameters of the node ``localizer`` say which; each node reads its own section of the parameter file.
    """
    chooser = Node("localizer", **options)
    parameters.declare(chooser, LocalizerConfig)
    chosen = parameters.read(chooser, LocalizerConfig)
    common = [Parameter("lockstep", value=True)] if chosen.lockstep else []
    estimators: list[Any] = [OdometryNode(parameter_overrides=common)] if chosen.odometry else []
    if chosen.map:
        estimators.append(RelocalizerNode(parameter_overrides=[*common, Parameter("map", value=chosen.map)]))
    if chosen.regressor:
        estimators.append(RegressorNode(parameter_overrides=[*common, Parameter("weights", value=chosen.regressor)]))
    if not estimators:
        raise ConfigurationError("nothing to localize with: the odometry is off and there is neither map nor regressor")
    for node in estimators[1:]:
        node.camera = estimators[0]
    fusion = FusionNode([node.source for node in estimators], parameter_overrides=common)
    chooser.destroy_node()
    return [*estimators, fusion]


def main(args: list[str] | None = None) -> None:
    run_made(make_nodes, args=args, threads=4)


if __name__ == "__main__":
    main()
