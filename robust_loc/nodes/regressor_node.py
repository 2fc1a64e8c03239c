"""``regressor``: the camera's pose in a trained scene, every frame."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from robust_loc.config import Config
from robust_loc.errors import RobustLocError, WeightsError
from robust_loc.nodes.absolute_node import AbsoluteNode
from robust_loc.nodes.contract import Estimator
from robust_loc.nodes.parameters import read
from robust_loc.nodes.run import run
from robust_loc.srv import LoadWeights


class RegressorNode(AbsoluteNode):
    """Answers every image with a pose and its covariance; ``~/load_weights`` exchanges the network.

    Args:
        make: makes the estimator from its configuration (default: ``robust_loc.pose_regression.PoseRegressor``).
        config: the estimator's configuration class; has a field ``weights``.
    """

    def __init__(
        self, make: Callable[[Any], Estimator] | None = None, config: type[Config] | None = None, **options: Any
    ) -> None:
        if make is None or config is None:
            from robust_loc.pose_regression import PoseRegressor, PoseRegressorConfig

            make, config = PoseRegressor, PoseRegressorConfig
        self._make, self._config = make, config
        self._weights = Path()
        super().__init__("regressor", (config,), **options)
        self.create_slow_service(LoadWeights, "~/load_weights", self._on_load_weights)

    def make_estimator(self) -> Estimator:
        config: Any = read(self, self._config)
        if config.weights == Path():
            raise WeightsError("no weights: set the parameter 'weights' to a file of 'robust-loc train regressor'")
        self._weights = config.weights
        return self._make(config)

    def diagnostic_values(self) -> dict[str, Any]:
        return {**super().diagnostic_values(), "weights": str(self._weights)}

    def _on_load_weights(self, request: LoadWeights.Request, response: LoadWeights.Response) -> LoadWeights.Response:
        config: Any = read(self, self._config)
        path = Path(request.path) if request.path else config.weights
        try:
            if self.estimator is None:
                raise WeightsError("the node is not configured; set its parameter 'weights' and configure it")
            self.exchange(self._make(replace(config, weights=path)))
            self._weights = path
            response.success, response.message = True, f"loaded {path}"
        except (RobustLocError, OSError) as error:
            response.message = f"{error}; the weights in use stay"
        if self._weights.is_file():
            response.digest = hashlib.sha256(self._weights.read_bytes()).hexdigest()
        return response


def main(args: list[str] | None = None) -> None:
    run(RegressorNode, args=args, threads=3)


if __name__ == "__main__":
    main()
