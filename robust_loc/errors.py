"""Errors that a user can act on: each says what was read, what was expected and what to do next."""

from __future__ import annotations


class RobustLocError(Exception):
    """Base of every error raised on bad input; command lines print it as one line and exit with code 2."""


class ConfigurationError(RobustLocError):
    """A configuration field is unknown, of the wrong type or outside its range."""


class CameraError(RobustLocError):
    """A camera calibration is unusable (missing or zero K, NaN, unknown distortion model)."""


class ImageEncodingError(RobustLocError):
    """An image has an encoding, size or step that is not supported."""


class BagError(RobustLocError):
    """A recording cannot be read."""


class BagTopicError(BagError):
    """A recording lacks a topic of the needed kind; the message lists what it holds."""


class DatasetError(RobustLocError):
    """A dataset folder is incomplete or malformed."""


class TrajectoryError(RobustLocError):
    """A trajectory file is malformed, or two trajectories cannot be associated."""


class WeightsError(RobustLocError):
    """A weights file is unreadable or belongs to another architecture."""


class MapFormatError(RobustLocError):
    """A map is corrupt, truncated, empty, of another format version or made with other features."""


class OutputError(RobustLocError):
    """Results cannot be written (full disk, no permission); what was there before is untouched."""
