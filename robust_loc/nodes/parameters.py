"""ROS parameters out of the configuration dataclasses: declared with descriptions and ranges, checked by them."""

from __future__ import annotations

import math
import typing
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.parameter import Parameter

from robust_loc.config import Config
from robust_loc.errors import ConfigurationError

C = TypeVar("C", bound=Config)
_INTEGERS = (-(2**63), 2**63 - 1)


def declare(node: Any, config: type[Config], defaults: Config | None = None, prefix: str = "") -> None:
    """Declare every field of ``config`` as a parameter ``prefix + field`` of ``node``.

    A field that may be None is declared with ``""`` in its place (str, Path), or unset (numbers).

    Raises:
        ConfigurationError: the parameter file or command line gives a wrong type or a value outside the range.
    """
    for item in fields(config):
        name = prefix + item.name
        if node.has_parameter(name):
            continue
        kind = _plain_type(config, item.name)
        value = getattr(defaults or config(), item.name)
        try:
            node.declare_parameter(name, _to_ros(value, kind), _descriptor(config, item, kind))
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise ConfigurationError(f"parameter {name!r} of {node.get_fully_qualified_name()}: {error}") from error


def read(node: Any, config: type[C], prefix: str = "") -> C:
    """The configuration that the node's parameters say; raises ConfigurationError."""
    return _build(config, {item.name: node.get_parameter(prefix + item.name).value for item in fields(config)})


def checker(
    node: Any, configs: Iterable[type[Config]], is_locked: Callable[[], bool]
) -> Callable[[list[Parameter]], SetParametersResult]:
    """A callback for ``add_on_set_parameters_callback``.

    It refuses values that a configuration refuses, with its reason, and any change while ``is_locked``: parameters are
    read when the node is configured.
    """
    configs = tuple(configs)

    def check(parameters: list[Parameter]) -> SetParametersResult:
        changes = {parameter.name: parameter.value for parameter in parameters}
        for config in configs:
            names = [item.name for item in fields(config)]
            touched = [name for name in names if name in changes]
            if not touched:
                continue
            if is_locked():
                return SetParametersResult(
                    successful=False,
                    reason=f"{touched[0]} is read at configure; deactivate and clean up the node first",
                )
            known = [name for name in names if name in changes or node.has_parameter(name)]
            values = {name: changes[name] if name in changes else node.get_parameter(name).value for name in known}
            try:
                _build(config, values)
            except ConfigurationError as error:
                return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    return check


def _build(config: type[C], values: dict[str, Any]) -> C:
    return config.from_mapping({name: _from_ros(config, name, value) for name, value in values.items()})


def _is_optional(config: type[Config], name: str) -> bool:
    return type(None) in typing.get_args(typing.get_type_hints(config)[name])


def _plain_type(config: type[Config], name: str) -> Any:
    """The type of a field without ``None`` and without type arguments."""
    hint = typing.get_type_hints(config)[name]
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    if _is_optional(config, name):
        hint = options[0]
    return typing.get_origin(hint) or hint


def _to_ros(value: Any, kind: Any) -> Any:
    if value is None:
        return "" if kind in (str, Path) else None
    if isinstance(value, Path):
        return str(value)
    return list(value) if isinstance(value, tuple) else value


def _from_ros(config: type[Config], name: str, value: Any) -> Any:
    if _is_optional(config, name) and value == "":
        return None
    return list(value) if hasattr(value, "typecode") else value  # arrays of numbers come as array.array


def _descriptor(config: type[Config], item: Any, kind: Any) -> ParameterDescriptor:
    low, high = item.metadata.get("minimum"), item.metadata.get("maximum")
    choices = item.metadata.get("choices")
    descriptor = ParameterDescriptor(description=item.metadata.get("description") or "")
    if choices is not None:
        descriptor.additional_constraints = "one of " + ", ".join(map(str, choices))
    if _is_optional(config, item.name) and kind not in (str, Path):
        descriptor.dynamic_typing = True  # so that it can stay unset; the configuration checks type and range
        return descriptor
    if low is None and high is None:
        return descriptor
    if kind is float:
        span = FloatingPointRange(
            from_value=-math.inf if low is None else float(low), to_value=math.inf if high is None else float(high)
        )
        descriptor.floating_point_range = [span]
    elif kind is int:
        bounds = (_INTEGERS[0] if low is None else int(low), _INTEGERS[1] if high is None else int(high))
        descriptor.integer_range = [IntegerRange(from_value=bounds[0], to_value=bounds[1])]
    return descriptor
