"""The live ROS graph as child processes: what the launch files start, for machines without ``ros2 launch``."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import robust_loc
from robust_loc.errors import RobustLocError

SHUTDOWN_TIMEOUT = 20.0  # seconds


class GraphError(RobustLocError):
    """A process of the graph failed; the message holds the end of what it said."""


def ros_is_available() -> bool:
    """Whether rclpy and this package's compiled messages can be imported."""
    return all(importlib.util.find_spec(name) is not None for name in ("rclpy", "robust_loc.msg"))


def share_folder() -> Path | None:
    """Where ``config/`` lies: in the checkout, or where the package is installed; None if nowhere."""
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    candidates = [Path(robust_loc.__file__).resolve().parents[1]]
    candidates += [Path(prefix) / "share" / "robust_loc" for prefix in prefixes if prefix]
    return next((folder for folder in candidates if (folder / "config" / "fastdds.xml").is_file()), None)


def environment() -> dict[str, str]:
    """The children's environment: a domain of their own on this machine, images through a large shared memory."""
    share = share_folder()
    variables = {
        "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    if share is not None:
        variables["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(share / "config" / "fastdds.xml")
    return {**os.environ, **variables}


def command_of(node: str, parameters: Mapping[str, Any], params_file: Path | None = None) -> list[str]:
    """The command line of a node program of ``robust_loc.nodes``; a parameter may be named ``node:name``."""
    command = [sys.executable, "-m", f"robust_loc.nodes.{node}", "--ros-args"]
    if params_file is not None:
        command += ["--params-file", str(params_file)]
    for name, value in parameters.items():
        command += ["-p", f"{name}:={_yaml(value)}"]
    return command


@contextmanager
def running(node: str, parameters: Mapping[str, Any], log: Path, params_file: Path | None = None) -> Any:
    """A node program in the background; interrupted at the end, when it must leave with code 0.

    Raises:
        GraphError: it ended before, or did not end well.
    """
    with log.open("w") as stream:
        process = subprocess.Popen(
            command_of(node, parameters, params_file), env=environment(), stdout=stream, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            early = process.poll()
            if early is None:
                process.send_signal(signal.SIGINT)
            try:
                code = process.wait(SHUTDOWN_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
    if early is not None or code != 0:
        raise GraphError(f"{node} ended with code {code}; {_tail(log)}")


def run(node: str, parameters: Mapping[str, Any], others: Sequence[Any] = ()) -> None:
    """A node program in the foreground, until it ends by itself.

    Raises:
        GraphError: it failed, or one of ``others`` (processes) ended meanwhile.
    """
    process = subprocess.Popen(command_of(node, parameters), env=environment())
    try:
        while True:
            try:
                code = process.wait(0.5)
                break
            except subprocess.TimeoutExpired:
                if any(other.poll() is not None for other in others):
                    process.send_signal(signal.SIGINT)
                    process.wait(SHUTDOWN_TIMEOUT)
                    return  # the other's context says what happened
    except BaseException:
        process.kill()
        process.wait()
        raise
    if code != 0:
        raise GraphError(f"{node} ended with code {code}")


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return str(value)


def _tail(log: Path, lines: int = 15) -> str:
    return f"{log} ends with\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
