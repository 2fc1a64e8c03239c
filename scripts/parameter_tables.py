"""Prints doc/parameters.md: every node's parameters, from the declarations themselves.

    python scripts/parameter_tables.py > doc/parameters.md

The message environment must be sourced (scripts/env.sh), since the nodes' own parameters live beside them.
"""

from __future__ import annotations

from dataclasses import MISSING, Field, fields
from typing import Any

from robust_loc.config import Config
from robust_loc.fusion.config import FusionConfig
from robust_loc.nodes.bag_player import BagPlayerConfig
from robust_loc.nodes.fusion_config import FusionNodeConfig
from robust_loc.nodes.initial_pose import PREFIX, InitialPoseConfig
from robust_loc.nodes.localizer import LocalizerConfig
from robust_loc.nodes.managed_node import NodeConfig
from robust_loc.nodes.odometry_node import OdometryNodeConfig
from robust_loc.nodes.regressor_node import RegressorNode
from robust_loc.nodes.relocalizer_node import RelocalizerNode
from robust_loc.nodes.trainer_config import TrainerNodeConfig
from robust_loc.odometry.config import OdometryConfig
from robust_loc.pose_regression.config import PoseRegressorConfig
from robust_loc.relocalization.localizer import RelocalizerConfig
from robust_loc.training.finetune.config import FinetuneConfig

NODES: dict[str, tuple[type[Config], ...]] = {
    "localizer": (LocalizerConfig,),
    "odometry": (NodeConfig, OdometryNodeConfig, OdometryConfig),
    "relocalizer": (NodeConfig, RelocalizerNode.settings_type, RelocalizerConfig),
    "regressor": (NodeConfig, RegressorNode.settings_type, PoseRegressorConfig),
    "fusion": (NodeConfig, FusionNodeConfig, InitialPoseConfig, FusionConfig),
    "trainer": (NodeConfig, TrainerNodeConfig, FinetuneConfig),
    "bag_player": (BagPlayerConfig,),
}

HEADER = """# Parameters

Generated from the declarations by `scripts/parameter_tables.py`; `ros2 param describe` tells the same of a running
node. A value outside its range is refused with the reason.
"""


def default_of(item: Field[Any]) -> str:
    value = item.default if item.default is not MISSING else item.default_factory()  # type: ignore[misc]
    return f"`{value}`" if value not in ("", None) else "none"


def range_of(item: Field[Any]) -> str:
    low, high, choices = (item.metadata.get(key) for key in ("minimum", "maximum", "choices"))
    if choices:
        return ", ".join(f"`{choice}`" for choice in choices)
    if low is None and high is None:
        return ""
    if high is None:
        return f">= {low}"
    return f"<= {high}" if low is None else f"{low} .. {high}"


def table(configs: tuple[type[Config], ...]) -> str:
    prefixes = {InitialPoseConfig: PREFIX}
    rows = {prefixes.get(config, "") + item.name: item for config in configs for item in fields(config)}
    lines = ["| parameter | default | range | meaning |", "|---|---|---|---|"]
    lines += [
        f"| `{name}` | {default_of(item)} | {range_of(item)} | {item.metadata.get('description', '')} |"
        for name, item in rows.items()
    ]
    return "\n".join(lines)


def document() -> str:
    return HEADER + "".join(f"\n## {node}\n\n{table(configs)}\n" for node, configs in NODES.items())


if __name__ == "__main__":
    print(document(), end="")
