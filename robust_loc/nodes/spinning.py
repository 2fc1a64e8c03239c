"""Spinning an executor while lifecycle transitions take its entities away."""

from __future__ import annotations

import contextlib

from rclpy._rclpy_pybind11 import RCLError
from rclpy.exceptions import InvalidHandle
from rclpy.executors import Executor, ExternalShutdownException


def spin(executor: Executor) -> None:
    """Spin until the context is shut down.

    A transition on one thread may destroy a subscription or publisher whose event handler another thread is just
    adding to its wait set. rclpy lets that ``InvalidHandle`` out of ``spin``; the next round no longer has the entity.
    Likewise a context that is shut down between two looks at it makes the wait set fail: that is the end, not an error.
    """
    with contextlib.suppress(ExternalShutdownException):
        while True:
            try:
                executor.spin()
                return
            except InvalidHandle:
                continue
            except RCLError:
                if executor.context.ok():
                    raise
                return
