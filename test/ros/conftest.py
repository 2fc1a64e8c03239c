"""A graph of its own for these tests: own domain, this machine only, every message field checked."""

import os
import tempfile
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["ROS_PYTHON_CHECK_FIELDS"] = "1"
os.environ.setdefault("ROS_LOG_DIR", tempfile.mkdtemp(prefix="ros_log_"))
os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(ROOT / "config" / "fastdds.xml"))


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.ros)


@pytest.fixture
def graph():
    """A running rclpy context with an executor on its own thread; ``add(node)`` puts a node on it."""
    import rclpy
    from rclpy.executors import MultiThreadedExecutor

    from robust_loc.nodes.spinning import spin

    rclpy.init()
    executor = MultiThreadedExecutor(num_threads=2)

    nodes = []

    class Graph:
        @staticmethod
        def add(node):
            nodes.append(node)
            executor.add_node(node)
            return node

    thread = threading.Thread(target=spin, args=(executor,), daemon=True)
    thread.start()
    yield Graph
    for node in nodes:
        if hasattr(node, "close"):
            node.close()
    executor.shutdown(timeout_sec=2.0)
    rclpy.try_shutdown()
    thread.join(5)
    for node in nodes:
        node.destroy_node()
