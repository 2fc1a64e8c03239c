"""Configuration: one frozen dataclass per component, loaded from the YAML that ROS parameters use.

A component declares its fields with :func:`parameter`, which carries the description and the range that the nodes
declare and the documentation prints::

    @dataclass(frozen=True)
    class OdometryConfig(Config):
        patches_per_frame: int = parameter(96, "patches tracked per frame", minimum=8, maximum=1024)

    config = OdometryConfig.from_yaml("config/cpu.yaml", node="odometry")
"""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from robust_loc.errors import ConfigurationError

C = TypeVar("C", bound="Config")


def parameter(
    default: Any,
    description: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: Sequence[Any] | None = None,
) -> Any:
    """A dataclass field with a description and, optionally, an inclusive range or a list of choices."""
    metadata = {"description": description, "minimum": minimum, "maximum": maximum, "choices": choices}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Config:
    """Base of the component configurations; validates types, ranges and choices at construction."""

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for item in fields(self):
            value = _coerced(type(self).__name__, item.name, getattr(self, item.name), hints[item.name])
            object.__setattr__(self, item.name, value)
            _check_range(type(self).__name__, item.name, value, item.metadata)

    @classmethod
    def from_mapping(cls: type[C], values: Mapping[str, Any]) -> C:
        """Build from a mapping; ConfigurationError names an unknown field and lists the known ones."""
        known = {item.name for item in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ConfigurationError(f"{cls.__name__} has no field {unknown[0]!r}; it has {', '.join(sorted(known))}")
        return cls(**values)

    @classmethod
    def from_yaml(cls: type[C], path: str | Path, node: str) -> C:
        """Build from the ROS parameter file ``path``, section ``node`` (``node: ros__parameters: {...}``).

        Sections ``/**`` apply to every node, ``/**/node`` to the node in any namespace. Parameters of the file that
        are not fields here (topics, frames: they belong to the node) are ignored, so that one file serves the node
        and its component.
        """
        known = {item.name for item in fields(cls)}
        return cls.from_mapping({k: value for k, value in parameters_of(path, node).items() if k in known})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def parameters_of(path: str | Path, node: str) -> dict[str, Any]:
    """All parameters that the ROS parameter file ``path`` gives ``node``; see :meth:`Config.from_yaml`.

    Raises:
        ConfigurationError: the file cannot be read, or is no parameter file.
    """
    try:
        document = yaml.safe_load(Path(path).read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: cannot be read as a parameter file: {error}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: expected 'node: ros__parameters: ...' at the top level")
    merged: dict[str, Any] = {}
    for section in ("/**", f"/**/{node}", node, f"/{node}"):
        content = document.get(section) or {}
        if content and "ros__parameters" not in content:
            raise ConfigurationError(f"{path}: section {section!r} lacks 'ros__parameters'")
        merged.update(content.get("ros__parameters") or {})
    return merged


def _coerced(owner: str, name: str, value: Any, hint: Any) -> Any:
    """``value`` as ``hint`` asks: an int passes as a float; anything else of another type is an error."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _coerced(owner, name, value, next(option for option in options if option is not type(None)))
    expected = origin or hint
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if expected is tuple and isinstance(value, list | tuple):
        return tuple(value)
    if expected is Path and isinstance(value, str | Path):
        return Path(value)
    if isinstance(expected, type) and (
        not isinstance(value, expected) or (isinstance(value, bool) and expected in (int, float))
    ):
        raise ConfigurationError(f"{owner}.{name} is {value!r}; expected {getattr(hint, '__name__', hint)}")
    return value


def _check_range(owner: str, name: str, value: Any, metadata: Mapping[str, Any]) -> None:
    if value is None:
        return
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        raise ConfigurationError(f"{owner}.{name} is {value!r}; expected one of {', '.join(map(str, choices))}")
    low, high = metadata.get("minimum"), metadata.get("maximum")
    if isinstance(value, int | float) and not isinstance(value, bool):
        inside = (low is None or value >= low) and (high is None or value <= high)
        if not inside or value != value:
            raise ConfigurationError(f"{owner}.{name} is {value}; expected {low} <= {name} <= {high}")
