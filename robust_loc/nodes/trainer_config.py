"""Parameters of the trainer node beside those of a fine-tuning run."""

from __future__ import annotations

from dataclasses import dataclass

from robust_loc.config import Config, parameter


@dataclass(frozen=True)
class TrainerNodeConfig(Config):
    regressor: str = parameter("regressor", "node whose weights are fine-tuned and exchanged")
    output_directory: str = parameter("~/.ros/robust_loc_training", "where runs without a folder of their own go")
    feedback_period: float = parameter(0.5, "least seconds between two feedback messages of one stage", minimum=0.0)
    swap_timeout: float = parameter(30.0, "seconds that the regressor may take to load weights", minimum=0.1)
