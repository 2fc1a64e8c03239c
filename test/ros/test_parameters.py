"""Parameters follow the configuration dataclasses: described, ranged, and refused with the reason."""

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("robust_loc.msg")

from fakes import FakeConfig, FakeOdometry
from rclpy.parameter import Parameter

from robust_loc.errors import ConfigurationError
from robust_loc.nodes.odometry_node import OdometryNode
from robust_loc.nodes.parameters import read


def node(graph, **values):
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    return graph.add(OdometryNode(FakeOdometry, FakeConfig, parameter_overrides=overrides))


def test_every_field_is_declared_with_its_description_range_and_default(graph):
    made = node(graph)
    assert read(made, FakeConfig) == FakeConfig()
    described = made.describe_parameter("step")
    assert described.description == "metres forward per frame"
    assert (described.floating_point_range[0].from_value, described.floating_point_range[0].to_value) == (0.0, 10.0)
    assert made.describe_parameter("patches").integer_range[0].to_value == 1024
    assert "one of default, fast, cpu" in made.describe_parameter("mode").additional_constraints


def test_values_given_at_start_reach_the_configuration(graph):
    made = node(graph, step=0.5, patches=8, mode="cpu", weights="w.safetensors", threshold=0.25, gains=[3.0])
    assert read(made, FakeConfig) == FakeConfig(0.5, 0.0, 8, "cpu", "w.safetensors", 0.25, (3.0,))


@pytest.mark.parametrize("bad", [{"step": 11.0}, {"step": "far"}, {"patches": 7}])
def test_a_node_does_not_start_with_a_bad_value(graph, bad):
    with pytest.raises(ConfigurationError, match=next(iter(bad))):
        node(graph, **bad)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("step", -1.0, "step"),
        ("step", float("nan"), "step"),
        ("mode", "slow", "default, fast, cpu"),
        ("threshold", -1.0, "threshold"),
    ],
)
def test_a_bad_value_is_refused_with_the_reason(graph, name, value, reason):
    made = node(graph)
    result = made.set_parameters([Parameter(name, value=value)])[0]
    assert not result.successful and reason in result.reason
    assert read(made, FakeConfig) == FakeConfig()


def test_a_bad_choice_at_start_fails_configure_and_a_good_one_repairs_it(graph):
    made = node(graph, mode="slow")
    made.start()
    assert made.lifecycle_state == "unconfigured"
    assert made.set_parameters([Parameter("mode", value="cpu")])[0].successful
    made.start()
    assert made.lifecycle_state == "active"


def test_parameters_are_locked_while_the_node_is_configured(graph):
    made = node(graph)
    made.trigger_configure()
    result = made.set_parameters([Parameter("step", value=0.2)])[0]
    assert not result.successful and "clean up" in result.reason
    made.trigger_cleanup()
    assert made.set_parameters([Parameter("step", value=0.2)])[0].successful
