"""The bookkeeping between keyframes and answers: increments and accumulated pose covariance."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from robust_loc.types import FloatArray
from robust_loc.uncertainty.conversions import compose, invert


class Motion(NamedTuple):
    """Attributes: increment [4, 4] ``previous_T_current`` since the last answer; its covariance [6, 6]; the covariance
    [6, 6] of the accumulated pose. All in ROS convention."""

    increment: FloatArray
    increment_covariance: FloatArray
    pose_covariance: FloatArray


class Belief:
    """Where the last answered frame lies relative to the reference keyframe, and how surely.

    The reference is the newest keyframe. Its own pose covariance accumulates motions taken as independent.
    """

    def __init__(self, reference_covariance: FloatArray) -> None:
        self.reference_covariance = reference_covariance
        self._at_reference()

    def _at_reference(self) -> None:
        self.reference_T_last = np.eye(4)
        self._covariance = np.zeros((6, 6))

    def move(self, world_T_reference: FloatArray, reference_T_cam: FloatArray, covariance: FloatArray) -> Motion:
        """The next answer lies at ``reference_T_cam``, with its covariance [6, 6]."""
        last_T_reference = invert(self.reference_T_last, self._covariance)
        increment, increment_covariance = compose(*last_T_reference, reference_T_cam, covariance)
        self.reference_T_last, self._covariance = reference_T_cam, covariance
        return Motion(increment, increment_covariance, self._pose_covariance(world_T_reference))

    def stay(self, world_T_reference: FloatArray, covariance: FloatArray) -> Motion:
        """The next answer lies where the last did. Standing still is judged against the reference, so staying for
        long does not add up."""
        if np.trace(covariance) > np.trace(self._covariance):
            self._covariance = covariance
        return Motion(np.eye(4), covariance, self._pose_covariance(world_T_reference))

    def advance(self, world_T_reference: FloatArray) -> None:
        """The last answered frame becomes the reference."""
        self.reference_covariance = self._pose_covariance(world_T_reference)
        self._at_reference()

    def _pose_covariance(self, world_T_reference: FloatArray) -> FloatArray:
        reference = (world_T_reference, self.reference_covariance)
        return compose(*reference, self.reference_T_last, self._covariance)[1]
