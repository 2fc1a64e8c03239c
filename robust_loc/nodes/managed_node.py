"""The lifecycle node that every node of the package is: parameters, services, diagnostics, autostart."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy._rclpy_pybind11 import RCLError
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_srvs.srv import Trigger

from robust_loc.config import Config, parameter
from robust_loc.errors import RobustLocError
from robust_loc.nodes import parameters
from robust_loc.nodes.health import Health


@dataclass(frozen=True)
class NodeConfig(Config):
    autostart: bool = parameter(True, "configure and activate at start; false: leave it to a lifecycle manager")
    diagnostics_period: float = parameter(1.0, "seconds between diagnostics", minimum=0.05, maximum=60.0)


class ManagedNode(LifecycleNode):
    """Base of the nodes.

    A node overrides ``configure`` (read parameters, load), ``activate`` (connect inputs), ``deactivate`` and
    ``cleanup`` (free memory); each may raise a RobustLocError, which fails the transition with its message in the log
    and on /diagnostics. ``reset`` is called by the service; ``paused`` follows ``~/pause`` and ``~/resume``.

    Args:
        name: node name.
        configs: dataclasses whose fields become parameters.
        options: further arguments of rclpy's node (``parameter_overrides``, ``namespace``, ...).
    """

    def __init__(self, name: str, configs: tuple[type[Config], ...] = (), **options: Any) -> None:
        super().__init__(name, **options)
        self.configs = (NodeConfig, *configs)
        for config in self.configs:
            parameters.declare(self, config, self.defaults(config))
        self.add_on_set_parameters_callback(
            parameters.checker(self, self.configs, lambda: self.lifecycle_state != "unconfigured")
        )
        self.paused = False
        self.health = Health(self.get_fully_qualified_name().lstrip("/"))
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        period = parameters.read(self, NodeConfig).diagnostics_period
        # A steady clock: diagnostics must not stop when simulated time does.
        self.create_timer(period, self.report, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.create_service(Trigger, "~/reset", self._on_reset)
        self.create_service(Trigger, "~/pause", lambda _, response: self._set_paused(True, response))
        self.create_service(Trigger, "~/resume", lambda _, response: self._set_paused(False, response))

    # What a node fills in

    def defaults(self, config: type[Config]) -> Config | None:
        """Values to declare the fields of ``config`` with, where they are not its own defaults."""
        return None

    def configure(self) -> None: ...

    def activate(self) -> None: ...

    def deactivate(self) -> None: ...

    def cleanup(self) -> None: ...

    def reset(self) -> str:
        """Forget everything seen; returns what to answer."""
        return "reset"

    def diagnostic_values(self) -> dict[str, Any]:
        """Further values for /diagnostics."""
        return {}

    # Lifecycle

    @property
    def lifecycle_state(self) -> str:
        return str(self._state_machine.current_state[1])

    @property
    def is_active(self) -> bool:
        return self.lifecycle_state == "active"

    def start(self) -> None:
        """Configure and activate, if ``autostart``; a failure leaves the node up, its reason on /diagnostics."""
        if self.get_parameter("autostart").value:
            if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
                self.trigger_activate()
            self.report()

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("configure", self.configure) or super().on_configure(state)

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        super().on_activate(state)  # the publishers first, so that no input finds them closed
        failure = self._attempt("activate", self.activate)
        if failure is not None:
            super().on_deactivate(state)
            return failure
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("deactivate", self.deactivate) or super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        return self._attempt("clean up", self.cleanup) or super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        for step in (self.deactivate, self.cleanup):
            self._attempt("shut down", step)
        return super().on_shutdown(state)

    def _attempt(self, name: str, step: Any) -> TransitionCallbackReturn | None:
        """None when ``step`` went well."""
        try:
            step()
        except RobustLocError as error:
            self.complain(f"cannot {name}: {error}")
            return TransitionCallbackReturn.FAILURE
        except Exception as error:  # rclpy would swallow it without a word
            self.get_logger().error(traceback.format_exc())
            self.complain(f"cannot {name}: {type(error).__name__}: {error}")
            return TransitionCallbackReturn.FAILURE
        return None

    def forget_publishers(self, *publishers: Any) -> None:
        """Destroy lifecycle publishers; for ``cleanup``."""
        for publisher in publishers:
            self._managed_entities.discard(publisher)
            self.destroy_publisher(publisher)

    # Saying how it goes

    def complain(self, message: str) -> None:
        """An ERROR for the log and the next diagnostics."""
        self.health.error(message)
        self.get_logger().error(message, throttle_duration_sec=1.0)

    def report(self) -> None:
        if not self.context.ok():
            return
        state = "paused" if self.paused and self.is_active else self.lifecycle_state
        message = self.health.report(self.get_clock().now().to_msg(), state, self.diagnostic_values())
        try:
            self._diagnostics.publish(message)
        except RCLError:
            if self.context.ok():  # else: an interrupt came in between
                raise

    def _on_reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            response.message, response.success = self.reset(), True
        except RobustLocError as error:
            response.message, response.success = str(error), False
        return response

    def _set_paused(self, paused: bool, response: Trigger.Response) -> Trigger.Response:
        self.paused = paused
        response.success, response.message = True, "paused" if paused else "running"
        return response

    def close(self) -> None:
        """Stop working, whatever the state; for the end of the process."""
        for step in (self.deactivate, self.cleanup):
            self._attempt("shut down", step)
