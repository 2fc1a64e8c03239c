"""One hour of the whole system in a live graph with faults at random: no crash, no leak, no unflagged wrong pose.

    robust-loc convert folder 7scenes_redkitchen kitchen.mcap
    robust-loc map kitchen.mcap -o kitchen.map --until-frame 450
    python experiments/soak/system_soak.py kitchen.mcap kitchen.map --foreign kitti.mcap --seconds 3600

A camera moves back and forth along the recording; the single-process localizer works on its images as they come, with
the package's weights and ``config/cpu.yaml``. On a slow machine the replay runs slower than its stamps (--rate below
1 / --period), as a bag played at a lower rate; all times of the report but the memory's are those of the stamps.
``faults.py`` lists what goes wrong. Every answer of the fusion is judged against the camera's true pose at that image's
stamp (``report.py``).
"""

from __future__ import annotations

import argparse
import array
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from camera import Path_, Picture, load
from faults import Fault, plan

from robust_loc.cli import graph

FRAME = "camera_optical_frame"
SECOND = 1_000_000_000
EPOCH = 1_000 * SECOND
BLACK, NOISE = 0, 1


class Driver:
    """Publishes the images, injects the faults, writes down every answer."""

    def __init__(self, pictures: list[Picture], foreign: list[Picture], split: int, step: int, log: Any) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from geometry_msgs.msg import PoseWithCovarianceStamped
        from rclpy.node import Node
        from robust_loc.msg import Estimate
        from sensor_msgs.msg import CameraInfo, CompressedImage

        from robust_loc.nodes.camera_input import image_qos

        self.node = Node("soak")
        self.pictures, self.foreign = pictures, foreign
        self.path = Path_(len(pictures), split, step)
        self.poses = [picture.world_T_cam for picture in pictures]
        self.log, self.lock = log, threading.Lock()
        self.truth: dict[int, tuple[float, int, float]] = {}  # stamp -> time, index, wall time
        self.clock_offset, self.number = 0.0, 0
        self.history: list[int] = []
        self.images = self.node.create_publisher(CompressedImage, "image/compressed", image_qos(False))
        self.infos = self.node.create_publisher(CameraInfo, "camera_info", image_qos(False))
        self.initial = self.node.create_publisher(PoseWithCovarianceStamped, "/initialpose", 10)
        self.node.create_subscription(Estimate, "/fusion/estimate", self.on_estimate, 100)
        for name in ("odometry", "relocalizer"):
            self.node.create_subscription(
                Estimate, f"/{name}/estimate", lambda message, name=name: self.on_source(name, message), 100
            )
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self.on_diagnostics, 100)
        self.diagnostics: dict[str, dict[str, str]] = {}
        self.answers = 0
        self.sources: dict[str, str] = {}

    # What comes back

    def write(self, what: str, **values: Any) -> None:
        with self.lock:
            self.log.write(json.dumps({"line": what, **values}) + "\n")

    def on_estimate(self, message: Any) -> None:
        from robust_loc.nodes.conversions import estimate_of, nanoseconds
        from robust_loc.uncertainty import pose_error

        self.answers += 1
        estimate = estimate_of(message)
        known = self.truth.get(nanoseconds(message.header.stamp))
        values: dict[str, Any] = {"status": estimate.status.name, "reason": estimate.reason}
        if known is None:
            self.write("stray", **values, stamp=estimate.stamp)
            return
        values |= {"time": known[0], "index": known[1], "late": time.monotonic() - known[2]}
        if estimate.world_T_cam is not None and estimate.covariance is not None:
            error = pose_error(estimate.world_T_cam, self.poses[known[1]])
            c = estimate.covariance
            values |= {
                "position": float(np.linalg.norm(error[:3])),
                "rotation": float(np.linalg.norm(error[3:])),
                "nees": float(error @ np.linalg.solve(c, error)),
                "position_sigma": float(np.sqrt(np.trace(c[:3, :3]))),
                "rotation_sigma": float(np.sqrt(np.trace(c[3:, 3:]))),
            }
        self.write("fusion", **values)

    def on_source(self, name: str, message: Any) -> None:
        from robust_loc.nodes.conversions import estimate_of
        from robust_loc.uncertainty import pose_error

        estimate = estimate_of(message)
        known = self.truth.get(estimate.stamp)
        self.sources[name] = estimate.status.name
        values: dict[str, Any] = {"source": name, "status": estimate.status.name, "reason": estimate.reason}
        if known is not None:
            values["time"] = known[0]
            if name == "relocalizer" and estimate.world_T_cam is not None and estimate.covariance is not None:
                error = pose_error(estimate.world_T_cam, self.poses[known[1]])
                values |= {
                    "position": float(np.linalg.norm(error[:3])),
                    "rotation": float(np.linalg.norm(error[3:])),
                    "nees": float(error @ np.linalg.solve(estimate.covariance, error)),
                }
        self.write("source", **values, latency=estimate.latency)

    def on_diagnostics(self, message: Any) -> None:
        for status in message.status:
            self.diagnostics[status.name] = {value.key: value.value for value in status.values}

    # What goes out

    def send(self, now: float, picture: Picture | None) -> None:
        """The image of time ``now``; None: the camera sends nothing, but moves."""
        from sensor_msgs.msg import CompressedImage

        from robust_loc.nodes.conversions import camera_info_message, header

        stamp = EPOCH + round((now + self.clock_offset) * SECOND)
        self.truth[stamp] = (now, self.path.index, time.monotonic())
        while len(self.truth) > 2000:
            del self.truth[next(iter(self.truth))]
        self.history = [*self.history[-200:], self.path.index]
        if picture is None:
            return
        self.number += 1
        self.infos.publish(camera_info_message(picture.calibration, stamp, FRAME))
        message = CompressedImage(header=header(stamp, FRAME), format="jpeg", data=array.array("B", picture.jpeg))
        self.images.publish(message)

    def start_from(self, pose: Any, offset: np.ndarray, sigma: float) -> None:
        """Publish ``/initialpose``."""
        from geometry_msgs.msg import PoseWithCovarianceStamped

        from robust_loc.nodes.conversions import header, pose_with_covariance

        moved = pose.copy()
        moved[:3, 3] += offset
        covariance = np.diag(np.repeat([sigma, sigma], 3) ** 2)
        stamp = next(reversed(self.truth))
        self.initial.publish(
            PoseWithCovarianceStamped(header=header(stamp, "map"), pose=pose_with_covariance(moved, covariance))
        )

    def trigger(self, service: str) -> None:
        from std_srvs.srv import Trigger

        self._call(Trigger, service, Trigger.Request())

    def transition(self, node: str, *names: str) -> None:
        """Lifecycle transitions of a node, in order, on a thread beside."""
        from lifecycle_msgs.msg import Transition
        from lifecycle_msgs.srv import ChangeState

        def work() -> None:
            for name in names:
                request = ChangeState.Request(transition=Transition(id=getattr(Transition, f"TRANSITION_{name}")))
                self._call(ChangeState, f"/{node}/change_state", request, wait=True)

        threading.Thread(target=work, daemon=True).start()

    def _call(self, kind: Any, name: str, request: Any, wait: bool = False) -> None:
        client = self.node.create_client(kind, name)
        if not client.wait_for_service(10.0):
            self.write("failed call", name=name, reason="no such service")
            return
        future = client.call_async(request)
        future.add_done_callback(lambda done: self._said(name, done.result()))
        deadline = time.monotonic() + 60
        while wait and not future.done() and time.monotonic() < deadline:
            time.sleep(0.05)

    def _said(self, name: str, response: Any) -> None:
        if not response.success:
            self.write("failed call", name=name, reason=getattr(response, "message", ""))

    # Faults

    def begin(self, fault: Fault) -> None:
        rng = np.random.default_rng(int(fault.draw * 2**31))
        name = fault.kind.split()[0]
        if fault.kind == "clock forwards":
            self.clock_offset += 2.0 + 58.0 * fault.draw
        elif fault.kind == "kidnapped":
            self.path.jump(fault.draw, self.poses)
        elif fault.kind.endswith("paused"):
            self.trigger(f"/{name}/pause")
        elif fault.kind.endswith("dead"):
            self.transition(name, "DEACTIVATE", "CLEANUP")
        elif fault.kind == "lying initial pose":
            direction = rng.normal(size=3)
            self.start_from(self.poses[self.path.index], direction / np.linalg.norm(direction), 0.05)
        elif fault.kind == "stale initial pose":
            old = self.history[-min(len(self.history), int(20 + 60 * fault.draw))]
            self.start_from(self.poses[old], np.zeros(3), 0.05)

    def end(self, fault: Fault) -> None:
        name = fault.kind.split()[0]
        if fault.kind.endswith("paused"):
            self.trigger(f"/{name}/resume")
        elif fault.kind.endswith("dead"):
            self.transition(name, "CONFIGURE", "ACTIVATE")

    def seen(self, fault: Fault | None, before: Picture, noisy: Callable[[int], Picture]) -> Picture | None:
        """What the camera delivers instead of its image under ``fault``."""
        true = self.pictures[self.path.index]
        kind = "" if fault is None else fault.kind
        if kind == "images dropped" or (kind == "every second image dropped" and self.number % 2):
            self.number += kind != "images dropped"
            return None
        if kind == "camera frozen":
            return before
        if kind in ("black", "long blackout"):
            return noisy(BLACK)
        if kind == "noise":
            return noisy(NOISE)
        if kind == "foreign images" and self.foreign:
            assert fault is not None
            return self.foreign[(int(fault.draw * len(self.foreign)) + self.number) % len(self.foreign)]
        return true


def process_numbers(pid: int) -> dict[str, float]:
    """Resident memory (MiB), CPU seconds, threads and open files of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    ticks = os.sysconf("SC_CLK_TCK")
    return {
        "memory": pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "cpu": (int(fields[11]) + int(fields[12])) / ticks,
        "threads": int(fields[17]),
        "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
    }


def soak(driver: Driver, process: Any, wall_seconds: float, rate: float, period: float, faults: list[Fault]) -> None:
    """Drive the graph for ``wall_seconds`` with ``rate`` images per second, whose stamps are ``period`` apart."""
    from robust_loc.data import images

    calibration = driver.pictures[0].calibration
    size = (calibration.height, calibration.width, 3)
    rng = np.random.default_rng(0)

    def noisy(kind: int) -> Picture:
        image = np.zeros(size, np.uint8) if kind == BLACK else rng.integers(0, 256, size, dtype=np.uint8)
        return Picture(images.rgb_jpeg(image, 60), calibration)

    waiting: list[Fault] = list(faults)
    running: Fault | None = None
    before = driver.pictures[driver.path.index]
    step, measured = 0, -np.inf
    began = time.monotonic()
    while (wall := step / rate) < wall_seconds:
        now = step * period
        delay = began + wall - time.monotonic()
        if delay > 0:
            time.sleep(delay)
        if process.poll() is not None:
            return
        if running is not None and now >= running.end:
            driver.end(running)
            running = None
        driver.path.advance()
        if running is None and waiting and now >= waiting[0].start:
            running = waiting.pop(0)
            driver.write("fault", **running.to_dict(), begun=now)
            driver.begin(running)
        picture = driver.seen(running, before, noisy)
        driver.send(now, picture)
        before = before if picture is None or (running and running.kind == "camera frozen") else picture
        if wall - measured >= 10.0:
            measured = wall
            driver.write("process", time=now, wall=wall, late=time.monotonic() - began - wall,
                         **process_numbers(process.pid), nodes=driver.diagnostics)  # fmt: skip
            driver.log.flush()
        step += 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("map", type=Path)
    parser.add_argument("--foreign", type=Path, action="append", default=[], help="recordings of other places")
    parser.add_argument("--split", type=int, default=450, help="first image that the map was not made of")
    parser.add_argument("--seconds", type=float, default=3600.0, help="of the wall clock")
    parser.add_argument("--rate", type=float, default=5.0, help="images per second of the wall clock")
    parser.add_argument("--period", type=float, default=0.2, help="seconds from one image's stamp to the next")
    parser.add_argument("--step", type=int, default=3, help="images of the recording from one to the next")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=Path, default=Path("soak_output"))
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    os.environ.update(graph.environment())
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    from robust_loc.nodes.spinning import spin

    pictures = load(arguments.recording)
    foreign = [picture for path in arguments.foreign for picture in load(path, every=4, limit=120)]
    rclpy.init()
    share = graph.share_folder()
    parameters = {"map": arguments.map.resolve(), "fusion:base_frame": FRAME}
    described = {key: value for key, value in vars(arguments).items() if not isinstance(value, Path | list)}
    with (arguments.output / "answers.jsonl").open("w") as log:
        log.write(json.dumps({"line": "run", **described, "images": len(pictures)}) + "\n")
        driver = Driver(pictures, foreign, arguments.split, arguments.step, log)
        executor = SingleThreadedExecutor()
        executor.add_node(driver.node)
        threading.Thread(target=spin, args=(executor,), daemon=True).start()
        ended = "well"
        try:
            with graph.running(
                "localizer", parameters, arguments.output / "localizer.log", share and share / "config" / "cpu.yaml"
            ) as process:
                while driver.images.get_subscription_count() == 0 and process.poll() is None:
                    time.sleep(0.1)
                faults = plan(arguments.seconds * arguments.rate * arguments.period, arguments.seed)
                soak(driver, process, arguments.seconds, arguments.rate, arguments.period, faults)
        except graph.GraphError as error:
            ended = str(error)
        driver.write("end", ended=ended)
        executor.shutdown(timeout_sec=2.0)
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
