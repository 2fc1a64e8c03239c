"""``main`` of the node programs: exit code 0 after an interrupt, 2 with one line on bad input."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import rclpy
from rclpy.executors import MultiThreadedExecutor

from robust_loc.errors import RobustLocError
from robust_loc.nodes.spinning import spin


def run(make_node: Callable[[], Any], args: Sequence[str] | None = None, threads: int = 2) -> None:
    """Create a managed node, start it and spin until interrupted; does not return."""
    run_made(lambda: [make_node()], args, threads)


def run_made(make_nodes: Callable[[], list[Any]], args: Sequence[str] | None = None, threads: int = 2) -> None:
    """Create managed nodes, start them and spin until interrupted; does not return.

    Args:
        make_nodes: called after ``rclpy.init``.
        threads: of the executor. Estimators work on threads of their own.
    """

    def start(nodes: list[Any]) -> None:
        for node in nodes:
            node.start()

    _run(make_nodes, start, args, threads)


def run_job(make_node: Callable[[], Any], job: Callable[[Any], Any], args: Sequence[str] | None = None) -> None:
    """Create a node, spin it, and exit when ``job(node)``, on a thread beside, has ended."""
    outcome: list[Exception] = []

    def work(node: Any) -> None:
        try:
            job(node)
        except RobustLocError as error:
            outcome.append(error)
        except Exception as error:
            if rclpy.ok():  # else: published while an interrupt was closing the context
                outcome.append(error)
        finally:
            _shut_down()

    def start(nodes: list[Any]) -> threading.Thread:
        thread = threading.Thread(target=work, args=(nodes[0],))
        thread.start()
        return thread

    _run(lambda: [make_node()], start, args, 2, outcome)


def _run(
    make_nodes: Callable[[], list[Any]],
    start: Callable[[list[Any]], threading.Thread | None],
    args: Sequence[str] | None,
    threads: int,
    outcome: list[Exception] | None = None,
) -> None:
    outcome = [] if outcome is None else outcome
    rclpy.init(args=args)
    executor = MultiThreadedExecutor(num_threads=threads)
    nodes: list[Any] = []
    working: threading.Thread | None = None
    try:
        nodes = make_nodes()
        for node in nodes:
            executor.add_node(node)
        working = start(nodes)
        spin(executor)
    except KeyboardInterrupt:
        pass
    except RobustLocError as error:
        outcome.append(error)
    finally:
        if working is not None:
            _shut_down()
            working.join()
        for node in nodes:
            if hasattr(node, "close"):
                node.close()
        executor.shutdown(timeout_sec=1.0)
        for node in nodes:
            node.destroy_node()
        _shut_down()
    for error in outcome:
        if not isinstance(error, RobustLocError):
            raise error
        print(f"robust_loc: {error}", file=sys.stderr)
    _leave(2 if outcome else 0)


def _shut_down() -> None:
    """Shut the context down; the handler of an interrupt may be doing the same at this moment, on its own thread."""
    try:
        rclpy.try_shutdown()
    except Exception:
        if rclpy.ok():
            raise


def _leave(code: int) -> NoReturn:
    """End the process at once: everything is closed, and the interpreter would spend a second on torch's modules."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
