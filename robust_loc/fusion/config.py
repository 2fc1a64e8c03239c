"""Configuration of the fusion filter."""

from __future__ import annotations

from dataclasses import dataclass

from robust_loc.config import Config, parameter


@dataclass(frozen=True)
class FusionConfig(Config):
    """Parameters of :class:`robust_loc.fusion.LocalizationFilter`.

    Sigmas named ``*_position_sigma`` and ``*_rotation_sigma`` that are compared with the filter's are root mean square
    errors: the square root of the trace of the 3x3 block.
    """

    # Motion
    history: float = parameter(10.0, "seconds that a fix may be late", minimum=0.1, maximum=120.0)
    metric_odometry: bool = parameter(False, "the odometry is metric: its scale is fixed to 1")
    initial_scale: float = parameter(1.0, "metres per unit of the odometry, at the start", minimum=1e-6, maximum=1e6)
    initial_scale_sigma: float = parameter(3.0, "relative sigma of initial_scale", minimum=0.0, maximum=100.0)
    scale_walk: float = parameter(0.01, "relative drift of the scale in one second, sigma", minimum=0.0, maximum=10.0)
    odometry_translation_noise: float = parameter(
        0.05, "sigma per distance of an increment that comes without a covariance", minimum=0.0, maximum=10.0
    )
    odometry_rotation_noise: float = parameter(
        0.05, "sigma per angle of an increment that comes without a covariance", minimum=0.0, maximum=10.0
    )
    initial_odometry_inflation: float = parameter(
        3.0, "factor on the increments' covariances when the odometry starts: it has to earn its credit", minimum=1.0
    )
    largest_odometry_inflation: float = parameter(
        100.0, "most that the increments' covariances are multiplied by when fixes disagree with them", minimum=1.0
    )
    odometry_trust_time: float = parameter(60.0, "seconds in which such a factor shrinks to a third", minimum=0.1)
    external_odometry: str = parameter(
        "motion",
        "what an external metric odometry is used for: motion between fixes, or only the scale of the camera's",
        choices=["motion", "scale"],
    )
    external_translation_noise: float = parameter(
        0.02, "sigma per distance of the external odometry", minimum=1e-6, maximum=10.0
    )
    external_rotation_noise: float = parameter(
        0.02, "sigma per angle of the external odometry", minimum=1e-6, maximum=10.0
    )
    minimum_step_sigma: float = parameter(
        1e-5, "smallest sigma of an increment, in metres and radians", minimum=1e-9, maximum=1.0
    )
    unobserved_speed: float = parameter(
        0.5, "sigma of the speed, metres per second and axis, while the odometry is silent", minimum=1e-3, maximum=100.0
    )
    unobserved_turn_rate: float = parameter(
        0.5, "sigma of the turn rate, radians per second and axis, while the odometry is silent", minimum=1e-3
    )
    clock_jump: float = parameter(1.0, "a stamp this many seconds off is a clock jump", minimum=0.01, maximum=1e4)

    # Fixes
    gate_probability: float = parameter(
        0.999, "a fix is rejected outside this probability of its innovation", minimum=0.5, maximum=0.999999
    )
    soft_gate_probability: float = parameter(
        0.95, "beyond this probability a fix loses weight (Huber)", minimum=0.5, maximum=0.999999
    )
    fix_correlation_time: float = parameter(
        0.3, "seconds within which two fixes of one source share their error", minimum=0.0, maximum=60.0
    )
    inflation_threshold: float = parameter(
        2.5, "a source's variances are corrected when its own fixes disagree by more than this factor", minimum=1.0
    )
    largest_inflation: float = parameter(
        25.0, "most that a source's covariances are multiplied by when its own fixes disagree", minimum=1.0
    )
    minimum_fix_position_sigma: float = parameter(0.001, "added to every fix, per axis", minimum=1e-6, maximum=10.0)
    minimum_fix_rotation_sigma: float = parameter(0.0005, "added to every fix, per axis", minimum=1e-6, maximum=3.0)
    minimum_probability: float = parameter(
        0.1, "a fix that its source believes less than this is ignored", minimum=0.0, maximum=1.0
    )

    # Initialisation and kidnapping
    confirmations: int = parameter(3, "fixes that must agree before the filter starts", minimum=1, maximum=100)
    confirmation_time: float = parameter(0.3, "seconds these fixes must span", minimum=0.0, maximum=60.0)
    kidnap_confirmations: int = parameter(
        5, "fixes that must agree elsewhere, with none here, to move the filter", minimum=2, maximum=1000
    )
    kidnap_time: float = parameter(0.7, "seconds these fixes must span", minimum=0.0, maximum=60.0)
    drift_distance: float = parameter(
        0.3, "metres: fixes that agree nearer than this take over like a start: the odometry drifted", minimum=0.0
    )
    drift_angle: float = parameter(0.15, "radians, likewise", minimum=0.0)
    rivals: int = parameter(5, "places remembered that fixes point to besides the filter's", minimum=1, maximum=50)
    rival_window: float = parameter(8.0, "seconds such a place is remembered without a new fix", minimum=0.1)
    source_timeout: float = parameter(3.0, "seconds after which a silent source has no say", minimum=0.1)

    # State
    localized_position_sigma: float = parameter(0.10, "LOCALIZED needs less than this, metres", minimum=1e-4)
    localized_rotation_sigma: float = parameter(0.035, "LOCALIZED needs less than this, radians", minimum=1e-4)
    lost_position_sigma: float = parameter(1.0, "LOST beyond this, metres", minimum=1e-3)
    lost_rotation_sigma: float = parameter(1.0, "LOST beyond this, radians", minimum=1e-3)
    patience: float = parameter(
        0.4,
        "seconds that a pose may be too uncertain between two fixes, or the camera repeat itself, while LOCALIZED",
        minimum=0.0,
    )
    hysteresis: float = parameter(
        1.25, "LOCALIZED is left at this times the sigma it is entered at", minimum=1.0, maximum=10.0
    )
    recovery_fixes: int = parameter(2, "accepted fixes that lead from DEGRADED to LOCALIZED", minimum=1, maximum=100)
    doubt_time: float = parameter(
        0.6, "DEGRADED when fixes were rejected and none accepted for so many seconds", minimum=0.0
    )
    contradiction_time: float = parameter(
        2.0, "LOST when kidnap_confirmations fixes were rejected and none accepted for so many seconds", minimum=0.0
    )
    fix_timeout: float = parameter(10.0, "DEGRADED when the last fix is older than this, seconds", minimum=0.1)
    lost_timeout: float = parameter(60.0, "LOST when the last fix is older than this, seconds", minimum=0.1)
    inconsistent_nis: float = parameter(
        2.0, "a source is inconsistent when its NIS exceed those of chi-square by this factor", minimum=1.0
    )

    # Covariances
    calibration_file: str = parameter(
        "", "covariance factors by source, as robust-loc calibrate-covariance writes them; empty: none"
    )

    # Start
    saved_pose_position_sigma: float = parameter(
        0.5, "sigma per axis added to a pose saved by an earlier run", minimum=1e-3
    )
    saved_pose_rotation_sigma: float = parameter(
        0.2, "sigma per axis added to a pose saved by an earlier run", minimum=1e-3
    )
