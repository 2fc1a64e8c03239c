"""Fine-tuning of the pose regressor on recorded bags, with replay, held-out acceptance and rollback."""

from robust_loc.training.finetune.acceptance import Metrics, measure, verdict
from robust_loc.training.finetune.config import FinetuneConfig
from robust_loc.training.finetune.finetune import FinetuneCancelled, Progress, Result, finetune
from robust_loc.training.finetune.frames import FrameSet, Role
from robust_loc.training.finetune.replay import memory_file, remembered

__all__ = [
    "FinetuneCancelled",
    "FinetuneConfig",
    "FrameSet",
    "Metrics",
    "Progress",
    "Result",
    "Role",
    "finetune",
    "measure",
    "memory_file",
    "remembered",
    "verdict",
]
