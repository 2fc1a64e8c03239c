"""``trainer``: fine-tunes the regressor on recorded bags while the robot runs, and swaps better weights in."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rcl_interfaces.srv import GetParameters
from rclpy._rclpy_pybind11 import RCLError
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.exceptions import InvalidHandle

from robust_loc.action import Finetune
from robust_loc.errors import ConfigurationError, RobustLocError
from robust_loc.msg import PoseMetrics
from robust_loc.nodes.managed_node import ManagedNode
from robust_loc.nodes.parameters import read
from robust_loc.nodes.run import run
from robust_loc.nodes.trainer_config import TrainerNodeConfig
from robust_loc.srv import LoadWeights
from robust_loc.training.finetune.config import FinetuneConfig
from robust_loc.training.finetune.process import TrainingProcess


class TrainerNode(ManagedNode):
    """One action, ``~/finetune``, one goal at a time; the training itself is another process of low priority.

    A goal ends *succeeded* when the training was judged (accepted or rolled back: the result says), *canceled* when it
    was cancelled, and *aborted* when it failed. The weights in use change at an accepted swap and at nothing else.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__("trainer", (TrainerNodeConfig, FinetuneConfig), **options)
        self._lock = threading.Lock()
        self._training: TrainingProcess | None = None
        self._busy = False
        self._swapped_in: Path | None = None
        # Cancellations and the regressor's answers come while a goal is executed.
        self._group = ReentrantCallbackGroup()
        self._server = ActionServer(
            self, Finetune, "~/finetune", execute_callback=self._execute, goal_callback=self._on_goal,
            cancel_callback=lambda _: CancelResponse.ACCEPT, callback_group=self._group,
        )  # fmt: skip

    def configure(self) -> None:
        self.settings = read(self, TrainerNodeConfig)
        self._defaults = read(self, FinetuneConfig)
        node, group = self.settings.regressor, self._group
        self._loading = self.create_client(LoadWeights, f"{node}/load_weights", callback_group=group)
        self._asking = self.create_client(GetParameters, f"{node}/get_parameters", callback_group=group)

    def deactivate(self) -> None:
        with self._lock:
            if self._training is not None:
                self._training.cancel()

    def cleanup(self) -> None:
        for name in ("_loading", "_asking"):
            if hasattr(self, name):
                self.destroy_client(getattr(self, name))
                delattr(self, name)

    def close(self) -> None:
        with self._lock:
            if self._training is not None:
                self._training.stop()
        super().close()

    def destroy_node(self) -> None:
        self._server.destroy()
        super().destroy_node()

    def diagnostic_values(self) -> dict[str, Any]:
        return {"training": self._busy, "weights swapped in": str(self._swapped_in or "none")}

    # Goals

    def _on_goal(self, goal: Finetune.Goal) -> GoalResponse:
        with self._lock:
            if not self.is_active or self.paused:
                self.get_logger().warn(f"refused to fine-tune: the node is {self.lifecycle_state}")
                return GoalResponse.REJECT
            if self._busy:
                self.get_logger().warn("refused to fine-tune: another run is under way; cancel it first")
                return GoalResponse.REJECT
            self._busy = True
            return GoalResponse.ACCEPT

    def _execute(self, handle: Any) -> Finetune.Result:
        try:
            return self._run(handle)
        except RobustLocError as error:
            self.complain(f"fine-tuning failed: {error}")
            self._finish(handle.abort)
            return Finetune.Result(message=str(error))
        finally:
            self._busy = False

    def _run(self, handle: Any) -> Finetune.Result:
        goal = handle.request
        config = self._config_of(goal)
        weights = Path(goal.initial_weights) if goal.initial_weights else self._weights_in_use()
        output = Path(goal.output) if goal.output else self._new_folder()
        self.get_logger().info(f"fine-tuning {weights} on {', '.join(goal.bags)}; see {output}")
        with self._lock:
            training = self._training = TrainingProcess(goal.bags, weights, output, config)
        try:
            end = self._follow(handle, training)
        finally:
            with self._lock:
                self._training = None
            training.close()
        if end["kind"] == "error":
            raise RobustLocError(end["message"])
        if end["kind"] == "cancelled":
            self.get_logger().info(end["message"])
            self._finish(handle.canceled if handle.is_cancel_requested else handle.abort)
            return Finetune.Result(message=end["message"])
        return self._judged(handle, end)

    def _config_of(self, goal: Finetune.Goal) -> FinetuneConfig:
        """The node's parameters with what the goal says instead."""
        if not goal.bags:
            raise ConfigurationError("the goal names no bags")
        duration = goal.max_duration.sec + 1e-9 * goal.max_duration.nanosec
        asked = {
            "image_topic": goal.image_topic,
            "label_source": goal.label_source,
            "label_topic": goal.label_topic,
            "max_steps": goal.max_steps,
            "max_duration": duration,
            "holdout_fraction": goal.holdout_fraction,
            "seed": goal.seed,
        }
        return replace(self._defaults, **{name: value for name, value in asked.items() if value})

    def _follow(self, handle: Any, training: TrainingProcess) -> dict[str, Any]:
        """Pass the process' progress on until its last word, and a cancellation to the process."""

        def watch() -> None:
            while training.is_running:
                if handle.is_cancel_requested or not self.is_active:
                    training.cancel()
                    return
                time.sleep(0.05)

        threading.Thread(target=watch, daemon=True).start()
        stage, told = "", -math.inf
        names = ("stage", "step", "max_steps", "loss", "temperature", "effective_sample_size", "eta")
        event: dict[str, Any] = {}
        for event in training.events():
            if event["kind"] != "progress":
                continue
            now = time.monotonic()
            if event["stage"] != stage or now - told >= self.settings.feedback_period:
                stage, told = event["stage"], now
                feedback = Finetune.Feedback(**{name: event[name] for name in names})
                self._finish(lambda feedback=feedback: handle.publish_feedback(feedback))
        return event

    def _judged(self, handle: Any, end: dict[str, Any]) -> Finetune.Result:
        """Swap accepted weights in; the result of a run that was judged."""
        result = Finetune.Result(
            accepted=end["accepted"], message=end["message"], weights=end["weights"], report=end["report"],
            steps=end["steps"], before=_metrics(end["before"]), after=_metrics(end["after"]),
        )  # fmt: skip
        for loss in end["losses"]:
            self.get_logger().warn(loss)
        if result.accepted and handle.request.swap_in:
            failure = "cancelled before the swap" if handle.is_cancel_requested else self._swap(Path(result.weights))
            if failure:
                result.accepted, result.message = False, f"{result.message}; not swapped in: {failure}"
                self.complain(result.message)
                self._finish(handle.canceled if handle.is_cancel_requested else handle.abort)
                return result
        self.get_logger().info(result.message)
        self._finish(handle.succeed)
        return result

    def _finish(self, step: Any) -> None:
        """A word to the goal's client, unless the graph is shutting down."""
        try:
            step()
        except (RCLError, InvalidHandle):
            if self.context.ok():
                raise

    # The regressor

    def _swap(self, weights: Path) -> str:
        """Have the regressor load ``weights``; returns why it did not, or an empty string."""
        said = self._call(self._loading, LoadWeights.Request(path=str(weights.resolve())))
        if said is None:
            return f"{self._loading.srv_name} does not answer"
        if said.success:
            self._swapped_in = weights
        return "" if said.success else said.message

    def _weights_in_use(self) -> Path:
        """What was swapped in last, else what the regressor was started with."""
        if self._swapped_in is not None:
            return self._swapped_in
        said = self._call(self._asking, GetParameters.Request(names=["weights"]))
        if said is None or not said.values or not said.values[0].string_value:
            raise ConfigurationError(
                f"the goal names no initial_weights, and {self.settings.regressor} does not say which it uses"
            )
        return Path(said.values[0].string_value)

    def _call(self, client: Any, request: Any) -> Any:
        """The answer, or None when there is none in time."""
        timeout = self.settings.swap_timeout
        return client.call(request, timeout_sec=timeout) if client.wait_for_service(timeout) else None

    def _new_folder(self) -> Path:
        name = time.strftime("%Y%m%d_%H%M%S")
        return Path(self.settings.output_directory).expanduser() / name


def _metrics(values: dict[str, Any]) -> PoseMetrics:
    return PoseMetrics(**values)


def main(args: list[str] | None = None) -> None:
    run(TrainerNode, args=args, threads=4)


if __name__ == "__main__":
    main()
