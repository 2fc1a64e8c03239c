"""Keeps the answers to a recording's images in a results folder, as ``robust-loc evaluate`` reads it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.parameter import parameter_value_to_python

from robust_loc.data.results import ResultsWriter
from robust_loc.msg import Estimate as EstimateMessage
from robust_loc.msg import LocalizationState
from robust_loc.nodes.conversions import estimate_of, nanoseconds
from robust_loc.types import Estimate

STATE_NAMES = {getattr(LocalizationState, name): name for name in ("INITIALIZING", "LOCALIZED", "DEGRADED", "LOST")}


class Recorder:
    """Collects ``robust_loc/Estimate`` and ``LocalizationState`` messages and writes the folder at the end."""

    def __init__(self, folder: Path, recording: Path, frames: tuple[int, int | None] = (0, None)) -> None:
        self._folder, self._recording, self._frames = folder, recording, frames
        self._estimates: dict[str, dict[int, Estimate]] = {}
        self._states: dict[int, str] = {}

    def keep(self, message: Any) -> None:
        """Remember a message; other types than the two are ignored."""
        if isinstance(message, EstimateMessage):
            estimate = estimate_of(message)
            self._estimates.setdefault(message.source, {})[estimate.stamp] = estimate
        elif isinstance(message, LocalizationState):
            self._states[nanoseconds(message.header.stamp)] = STATE_NAMES[message.state]

    def write(self, node: Any, topics: list[str]) -> Path:
        """Write the folder, with the parameters that the nodes behind ``topics`` have now."""
        nodes = sorted({topic.rsplit("/", 1)[0] for topic in topics})
        configuration = {name: values for name in nodes if (values := node_parameters(node, name))}
        seed = next((values["seed"] for values in configuration.values() if "seed" in values), 0)
        with ResultsWriter(self._folder, configuration, seed, self._recording, self._frames) as results:
            for source, estimates in self._estimates.items():
                for stamp in sorted(estimates):
                    state = self._states.get(stamp, "") if source == "fusion" else ""
                    results.add(source, estimates[stamp], state)
        return self._folder


def node_parameters(node: Any, name: str, timeout: float = 5.0) -> dict[str, Any]:
    """The parameters of another node; empty when it does not answer. Call it beside a spinning executor."""
    names = _ask(node, ListParameters, f"{name}/list_parameters", ListParameters.Request(), timeout)
    if names is None:
        return {}
    wanted = sorted(names.result.names)
    values = _ask(node, GetParameters, f"{name}/get_parameters", GetParameters.Request(names=wanted), timeout)
    if values is None:
        return {}
    plain = (parameter_value_to_python(value) for value in values.values)
    return {key: list(value) if hasattr(value, "typecode") else value for key, value in zip(wanted, plain)}


def _ask(node: Any, kind: Any, service: str, request: Any, timeout: float) -> Any | None:
    client = node.create_client(kind, service)
    try:
        return client.call(request, timeout_sec=timeout) if client.wait_for_service(timeout) else None
    except TimeoutError:
        return None
    finally:
        node.destroy_client(client)
