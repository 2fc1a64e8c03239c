"""The estimators that several commands make from their options: each with the configuration that goes to run.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robust_loc.odometry import Odometry
    from robust_loc.pose_regression import PoseRegressor
    from robust_loc.relocalization import Relocalizer


def make_odometry(
    weights: Path | None, preset: str | None, config: Path | None, device: str, seed: int
) -> tuple[Odometry, dict[str, Any]]:
    """The odometry with ``weights`` (default: the package's), by ``preset`` and the parameter file ``config``.

    Raises:
        WeightsError: no weights are named and the package ships none, or they cannot be loaded.
    """
    from dataclasses import fields

    from robust_loc.config import parameters_of
    from robust_loc.odometry import Odometry, OdometryConfig, PatchNetwork
    from robust_loc.odometry.weights import default_weights

    given = {} if config is None else parameters_of(config, "odometry")
    chosen = {name: given[name] for name in (item.name for item in fields(OdometryConfig)) if name in given}
    # As in the node, the file may name a preset too; what it says beside it wins, and the command line over both.
    name = preset or given.get("preset") or ("cpu" if config is None and device == "cpu" else "default")
    settings = OdometryConfig.preset(name, **{**chosen, "device": device, "seed": seed})
    odometry = Odometry(settings, PatchNetwork.from_checkpoint(weights or default_weights()))
    return odometry, {"weights": str(weights or "package"), **settings.to_dict()}


def make_relocalizer(
    path: Path, features: str, config: Path | None, device: str, seed: int
) -> tuple[Relocalizer, dict[str, Any]]:
    """The relocalizer of the map folder ``path``."""
    from robust_loc.features import load_features
    from robust_loc.relocalization import Map, Relocalizer, RelocalizerConfig

    settings = RelocalizerConfig(seed=seed) if config is None else RelocalizerConfig.from_yaml(config, "relocalizer")
    relocalizer = Relocalizer(Map.load(path), load_features(features, device), settings)
    return relocalizer, {"map": str(path), "features": features, **settings.to_dict()}


def make_regressor(weights: Path, config: Path | None, device: str) -> tuple[PoseRegressor, dict[str, Any]]:
    """The regressor of the scene ``weights``."""
    from robust_loc.pose_regression import PoseRegressor, PoseRegressorConfig

    given = {} if config is None else PoseRegressorConfig.from_yaml(config, "regressor").to_dict()
    settings = PoseRegressorConfig.from_mapping({**given, "weights": weights, "device": device})
    return PoseRegressor(settings), settings.to_dict()
