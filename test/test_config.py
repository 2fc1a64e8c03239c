from dataclasses import dataclass
from pathlib import Path

import pytest

from robust_loc.config import Config, parameter
from robust_loc.errors import ConfigurationError
from robust_loc.nodes.fusion_config import FusionNodeConfig


@dataclass(frozen=True)
class Example(Config):
    patches: int = parameter(96, "patches", minimum=8, maximum=1024)
    damping: float = parameter(0.5, "damping", minimum=0.0)
    mode: str = parameter("fast", "mode", choices=["fast", "slow"])
    device: str | None = parameter(None, "device")


def test_yaml_of_ros_parameters_is_read_and_node_overrides_wildcard(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(
        "/**:\n  ros__parameters:\n    damping: 1\n    patches: 10\n"
        "odometry:\n  ros__parameters:\n    patches: 20\n    image_topic: /camera\n"
    )
    assert Example.from_yaml(path, "odometry") == Example(patches=20, damping=1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"patches": 4}, "8 <= patches <= 1024"),
        ({"patches": True}, "expected int"),
        ({"patches": 9.5}, "expected int"),
        ({"damping": float("nan")}, "damping"),
        ({"mode": "medium"}, "fast, slow"),
        ({"patch": 10}, "no field 'patch'"),
        ({"device": 3}, "expected str"),
    ],
)
def test_bad_values_are_refused_with_the_reason(values, message):
    with pytest.raises(ConfigurationError, match=message):
        Example.from_mapping(values)


def test_shipped_recipes_reach_their_components():
    recipe = Path(__file__).resolve().parents[1] / "config" / "cpu.yaml"
    assert FusionNodeConfig.from_yaml(recipe, "fusion").transform_tolerance == 0.2


def test_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="nothere.yaml"):
        Example.from_yaml(tmp_path / "nothere.yaml", "odometry")
