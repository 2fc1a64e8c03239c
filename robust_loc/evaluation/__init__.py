"""Floor 4: trajectory metrics, evaluation of estimates with their uncertainty, reports."""

from robust_loc.evaluation.evaluate import Evaluation, Series, WrongPose, evaluate
from robust_loc.evaluation.metrics import AlignmentMode, Statistics, apply_alignment, find_alignment
from robust_loc.evaluation.report import write_report

__all__ = [
    "AlignmentMode",
    "Evaluation",
    "Series",
    "Statistics",
    "WrongPose",
    "apply_alignment",
    "evaluate",
    "find_alignment",
    "write_report",
]
