"""``main`` of the node programs: spin until interrupted, exit code 0; bad parameters end with one line and code 2."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, MultiThreadedExecutor

from robust_loc.errors import RobustLocError


def run(*make_nodes: Callable[[], Any], args: Sequence[str] | None = None, threads: int = 2) -> None:
    """Create the nodes, start them and spin; does not return.

    Args:
        make_nodes: one per node; called after ``rclpy.init``.
        threads: of the executor. Estimators work on threads of their own.
    """
    rclpy.init(args=args)
    nodes: list[Any] = []
    code = 0
    executor = MultiThreadedExecutor(num_threads=threads)
    try:
        for make in make_nodes:
            nodes.append(make())
            executor.add_node(nodes[-1])
        for node in nodes:
            node.start()
        executor.spin()
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except RobustLocError as error:
        print(f"robust_loc: {error}", file=sys.stderr)
        code = 2
    finally:
        for node in nodes:
            node.close()
        executor.shutdown(timeout_sec=1.0)
        rclpy.try_shutdown()
    sys.exit(code)
