"""The package's own localizers as sources of pseudo-labels."""

from __future__ import annotations

from pathlib import Path

from robust_loc.pose_regression import PoseNetwork, PoseRegressor, PoseRegressorConfig
from robust_loc.training.finetune.config import FinetuneConfig
from robust_loc.training.finetune.labels import Localizer
from robust_loc.uncertainty import CovarianceFactors


def make_localizer(config: FinetuneConfig, network: PoseNetwork, factors: CovarianceFactors) -> Localizer | None:
    """The relocalizer of ``config.map``, else the regressor itself; None where labels come from a topic.

    Raises:
        MapFormatError: the map cannot be used.
    """
    if config.label_source == "topic":
        return None
    if config.map == Path(""):
        regressor = PoseRegressor(PoseRegressorConfig(device=config.device), network, factors)
        return lambda frame: regressor.update(frame)
    from robust_loc.features import load_features
    from robust_loc.relocalization import Map, Relocalizer, RelocalizerConfig

    features = load_features(config.features, config.device)
    relocalizer = Relocalizer(Map.load(config.map), features, RelocalizerConfig(seed=config.seed))
    return lambda frame: relocalizer.update(frame)
