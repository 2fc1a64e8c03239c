"""One pose from odometry and absolute fixes: an error-state Kalman filter that knows when it is lost.

    predict   p <- p + s R t,  R <- R R_step      odometry increments, their covariance as process noise   (belief.py)
    correct   gate, weigh, merge the fixes of one image, update; late fixes at their image's time          (history.py)
    doubt     fixes that disagree gather on rival tracks; a confirmed one takes over                        (rivals.py)
    judge     INITIALIZING, LOCALIZED, DEGRADED or LOST, with the reason                                     (state.py)

The error state is that of ``map_T_odom`` and the odometry's log-scale; it is carried as the newest camera pose, which
differs from it by the odometry's own ``odom_T_cam``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from robust_loc.fusion.belief import Belief, Fix, Innovation, MotionModel
from robust_loc.fusion.config import FusionConfig
from robust_loc.fusion.gating import Gate
from robust_loc.fusion.history import SECOND, Timeline, Track
from robust_loc.fusion.intake import FixIntake
from robust_loc.fusion.last_pose import LastPose
from robust_loc.fusion.localization import LOST_VARIANCE, Localization
from robust_loc.fusion.motion import MotionSource
from robust_loc.fusion.rigid import inverse, is_pose
from robust_loc.fusion.rivals import Rival, Rivals
from robust_loc.fusion.state import State, StateMonitor
from robust_loc.types import Estimate, FloatArray, Status
from robust_loc.uncertainty.calibration import CovarianceCalibration
from robust_loc.uncertainty.conversions import change_body


class LocalizationFilter:
    """Fuses odometry with absolute poses of any number of sources.

    Args:
        config: see :class:`FusionConfig`.
        base_T_cam: (4, 4) extrinsics: the camera's optical frame in ``base_link``.
        calibration: covariance factors by source name (``odometry`` for increments); default: those of
            ``config.calibration_file``, else ones.

    Raises:
        ConfigurationError: if ``config.calibration_file`` cannot be read.
        ValueError: if ``base_T_cam`` is not rigid.

    Attributes:
        innovation: the newest fix against the filter as it was before that fix.
    """

    def __init__(
        self,
        config: FusionConfig | None = None,
        base_T_cam: FloatArray | None = None,
        calibration: CovarianceCalibration | None = None,
    ) -> None:
        self.config = c = config or FusionConfig()
        self.base_T_cam = np.eye(4) if base_T_cam is None else np.asarray(base_T_cam, float)
        if not is_pose(self.base_T_cam):
            raise ValueError("base_T_cam is not a rigid 4x4 transform")
        stored = CovarianceCalibration.load(c.calibration_file) if c.calibration_file else CovarianceCalibration()
        self.calibration = calibration or stored
        self._gate = Gate(c.soft_gate_probability, c.gate_probability)
        sigma = 0.0 if c.metric_odometry else c.initial_scale_sigma
        self._model = MotionModel(
            0.0 if c.metric_odometry else c.scale_walk, c.unobserved_speed, c.unobserved_turn_rate, sigma
        )
        self._first_scale = (1.0, 0.0) if c.metric_odometry else (c.initial_scale, sigma)
        self.monitor = StateMonitor(c)
        self.reset()

    def reset(self) -> None:
        """Forget everything: back to INITIALIZING."""
        self._timeline: Timeline | None = None
        self._main: Track | None = None
        self._rivals = Rivals(self.config, self._model, self._gate)
        self._motion = MotionSource(self.config, self.base_T_cam)
        self._pending: list[tuple[int, Estimate, str]] = []
        self._intake = FixIntake(self.config, self.calibration)
        self._observed = True
        self._odom_T_cam = self.base_T_cam.copy()
        self._twist = np.zeros(6)
        self.innovation: Innovation | None = None
        self.monitor.reset()

    # The algorithm -----------------------------------------------------------------------------------------------

    def predict(self, odometry: Estimate) -> Localization:
        """Move with the odometry's answer for one image; every status has its meaning (:class:`MotionSource`).

        A stamp not newer than the last is ignored; one that is older by ``clock_jump`` is a clock that was set back:
        the pose is kept, widened, until fixes confirm it.
        """
        if self._timeline is None:
            self._timeline = Timeline(odometry.stamp)
        elif self._timeline.newest - odometry.stamp > self.config.clock_jump * SECOND:
            self._restart_clock(odometry.stamp)
        elif odometry.stamp <= self._timeline.newest:
            self._intake.ignore("odometry out of order")
        else:
            self._move(self.calibration.of("odometry").apply_to(odometry))
        self._release_pending()
        return self.localization()

    def correct(self, absolute: Estimate, source: str) -> Localization:
        """Use an absolute camera pose of ``source`` at its image's time; a pose newer than the odometry waits for it.

        An estimate without a pose (REFUSED, FAILED) only says that the source is silent.
        """
        if not absolute.has_pose:
            self.monitor.abstained(source)
            return self.localization()
        fix = self._intake.checked(absolute, source)
        if fix is None:
            return self.localization()
        if self._timeline is None:
            self._timeline = Timeline(fix.stamp)
        if fix.stamp > self._timeline.newest:
            self._wait_for_odometry(absolute, source)
        elif fix.stamp < self._timeline.stamps[0]:
            self._intake.ignore("fix older than the history")
        else:
            self._apply(fix)
        return self.localization()

    def initial_pose(self, stamp: int, map_T_base: FloatArray, covariance: FloatArray, *, saved: bool = False) -> None:
        """Start from a pose of the base given from outside, trusted with its covariance until the first consistent fix.

        Args:
            covariance: (6, 6) ROS convention. Axes with zero variance (rviz gives none for z, roll and pitch) get
                a sigma of 0.1 m or 0.1 rad.
            saved: the pose is one that an earlier run saved: INITIALIZING until a fix confirms it.

        Raises:
            ValueError: if the pose or its covariance is malformed.
        """
        covariance = np.array(covariance, float).reshape(6, 6)
        if not is_pose(map_T_base) or not np.isfinite(covariance).all():
            raise ValueError("initial pose: expected a rigid 4x4 transform and a finite 6x6 covariance")
        covariance[np.diag_indices(6)] += np.where(np.diag(covariance) <= 0.0, 0.1**2, 0.0)
        if np.linalg.eigvalsh(covariance).min() <= 0.0:
            raise ValueError("initial pose: its covariance is not positive definite")
        if self._timeline is None:
            self._timeline = Timeline(stamp)
        now = self._timeline.newest
        camera_covariance = change_body(covariance, map_T_base, self.base_T_cam)
        belief = Belief.at(map_T_base @ self.base_T_cam, camera_covariance, *self._scale_now())
        start = stamp if self._timeline.covers(stamp) else now
        self._split(start)
        self._rivals.clear()
        self._main = Track(self._timeline, start, belief, self._model, self._gate)
        self.monitor.hinted(now, "pose of an earlier run" if saved else "initial pose", trusted=not saved)

    def offer(self, last: LastPose, stamp: int) -> None:
        """Offer the pose that an earlier run saved: a hint for the relocalizer, confirmed or replaced by fixes."""
        c = self.config
        extra = np.repeat([c.saved_pose_position_sigma, c.saved_pose_rotation_sigma], 3) ** 2
        self.initial_pose(stamp, last.map_T_base, last.covariance + np.diag(extra), saved=True)

    # Reading -----------------------------------------------------------------------------------------------------

    def localization(self) -> Localization:
        """The newest pose of the base, its covariance and the state (judged now)."""
        now = 0 if self._timeline is None else self._timeline.newest
        odom_T_base = self._odom_T_cam @ inverse(self.base_T_cam)
        monitor = self.monitor
        age = None if monitor.fix_stamp is None else (now - monitor.fix_stamp) / SECOND
        scale, sigma = self._scale_now()
        common = {
            "odom_T_base": odom_T_base,
            "scale": scale,
            "scale_sigma": scale * sigma,
            "nis": None if self.innovation is None else self.innovation.nis,
            "age": age,
            "twist": self._twist,
        }
        if self._main is None:
            return Localization(now, monitor.state, monitor.reason, None, None, map_T_odom=None, **common)  # type: ignore[arg-type]
        belief = self._main.belief
        cam_T_base = inverse(self.base_T_cam)
        map_T_base = belief.map_T_cam @ cam_T_base
        covariance = change_body(belief.covariance[:6, :6], belief.map_T_cam, cam_T_base)
        state = monitor.assess(now, covariance, self._observed, bool(self._intake.frozen))
        if state is State.LOST:
            covariance = LOST_VARIANCE * np.eye(6)
        map_T_odom = map_T_base @ inverse(odom_T_base)
        return Localization(now, state, monitor.reason, map_T_base, covariance, map_T_odom=map_T_odom, **common)  # type: ignore[arg-type]

    def prior(self) -> Estimate | None:
        """The camera's pose as a prior for the estimators; None when it is worth nothing (no pose, or LOST)."""
        if self._main is None or self._timeline is None or self.monitor.state is State.LOST:
            return None
        belief = self._main.belief
        return Estimate(
            self._timeline.newest, Status.OK, world_T_cam=belief.map_T_cam, covariance=belief.covariance[:6, :6]
        )

    @property
    def ignored(self) -> dict[str, int]:
        """Reason -> number of inputs that were ignored for it."""
        return self._intake.ignored

    @property
    def wants_relocalization(self) -> bool:
        """Whether a search without a prior is wanted: nothing is known, or LOST."""
        return self._main is None or self.monitor.state is State.LOST

    def observe_metric_odometry(self, stamp: int, odom_T_base: FloatArray) -> None:
        """A pose of an external metric odometry (wheels): used by the next :meth:`predict` that it covers."""
        if is_pose(odom_T_base):
            self._motion.external.add(stamp, odom_T_base)
        else:
            self._intake.ignore("external odometry is not a pose")

    def advance(self, stamp: int) -> Localization:
        """Move on to ``stamp`` without the camera's odometry."""
        return self.predict(Estimate(stamp, Status.FAILED, "no odometry"))

    # Steps of the algorithm --------------------------------------------------------------------------------------

    def _move(self, odometry: Estimate) -> None:
        assert self._timeline is not None
        previous = self._timeline.newest
        self._intake.watch_images(odometry)
        step = self._motion.step(odometry, previous, bool(self._intake.frozen))
        self._intake.relent(step.duration)
        if step.new_scale:
            self._intake.odometry_restarted()
        factor = self._intake.odometry_factor
        step = replace(step, covariance=factor * step.covariance, inflation=factor)
        self._timeline.append(odometry.stamp, step)
        for track in self._tracks():
            track.extend()
        self._observed = not (step.unobserved_translation or step.unobserved_rotation)
        self._accumulate(odometry.stamp, step.increment, step.scaled, step.duration)
        self._forget_before(odometry.stamp - int(self.config.history * SECOND))

    def _accumulate(self, stamp: int, increment: FloatArray, scaled: bool, duration: float) -> None:
        """Carry the smooth ``odom_T_cam`` along and take the base's velocity from it."""
        metric = increment.copy()
        metric[:3, 3] *= self._scale_now()[0] if scaled else 1.0
        external = self._motion.external.at(stamp)
        base = self.base_T_cam @ metric @ inverse(self.base_T_cam)
        self._odom_T_cam = self._odom_T_cam @ metric if external is None else external @ self.base_T_cam
        turn = 0.5 * np.array([base[2, 1] - base[1, 2], base[0, 2] - base[2, 0], base[1, 0] - base[0, 1]])
        self._twist = np.concatenate([base[:3, 3], turn]) / max(duration, 1e-9)

    def _apply(self, fix: Fix) -> None:
        """Compare a fix with the filter; if they disagree, let it support a rival, which may take over."""
        assert self._timeline is not None
        if self._intake.is_repeated(fix):
            return
        self._split(fix.stamp)
        fix = self._intake.honest(fix, self._timeline, self._scale_now())
        inflation = self._intake.shared_error(fix)
        if self._main is not None and self.monitor.comparable and self._main.reaches(fix.stamp):
            self.innovation = self._main.innovation(fix)
            accepted = self._gate.accepts(self.innovation.nis)
            self._main.insert(fix, inflation)
            self.monitor.observed(fix.source, fix.stamp, accepted, self.innovation.nis)
            if accepted:
                self._rivals.filter_agreed()
                return
        rival = self._rivals.support(fix, inflation, self._timeline, self._scale_now())
        if self._takes_over(rival):
            if self._main is not None and self._is_near(rival.track.belief, self._main.belief):
                self._intake.odometry_drifted()
            self._main = rival.track
            self._rivals.clear()
            self.monitor.started(rival.members)

    def _takes_over(self, rival: Rival) -> bool:
        """Whether fixes that agree elsewhere outvote the filter: no pose yet, LOST, drifted, or moved unseen."""
        assert self._timeline is not None
        c = self.config
        if self._main is None or self.monitor.state is State.LOST:
            return rival.confirmed(c.confirmations, c.confirmation_time) and not self._rivals.opposed(rival)
        near = self._is_near(rival.track.belief, self._main.belief)
        count, seconds = (c.confirmations, c.confirmation_time) if near else (c.kidnap_confirmations, c.kidnap_time)
        if not rival.unopposed(count, seconds):
            return False
        return self.monitor.voters(self._timeline.newest) <= {source for _, source in rival.streak}

    def _is_near(self, a: Belief, b: Belief) -> bool:
        """Whether two poses are as close as odometry that is worse than it says may bring them."""
        apart = a.innovation(Fix(0, "", b.map_T_cam, b.covariance[:6, :6])).residual
        c = self.config
        return bool(np.linalg.norm(apart[:3]) < c.drift_distance and np.linalg.norm(apart[3:]) < c.drift_angle)

    # Bookkeeping -------------------------------------------------------------------------------------------------

    def _wait_for_odometry(self, absolute: Estimate, source: str) -> None:
        """Keep a fix until the odometry reaches its image; three in a row without any odometry mean it is dead."""
        assert self._timeline is not None
        self._pending.append((self._timeline.newest, absolute, source))
        waiting = [estimate.stamp for since, estimate, _ in self._pending if since == self._timeline.newest]
        if len(waiting) >= 3 and max(waiting) - self._timeline.newest > 0.5 * SECOND:
            self.advance(sorted(waiting)[-2])

    def _release_pending(self) -> None:
        """Apply the waiting fixes that the odometry has reached; drop those that lie implausibly far ahead."""
        assert self._timeline is not None
        now, waiting = self._timeline.newest, self._pending
        self._pending = []
        for since, absolute, source in sorted(waiting, key=lambda item: item[1].stamp):
            if absolute.stamp <= now:
                self.correct(absolute, source)
            elif absolute.stamp - now > self.config.history * SECOND:
                self._intake.ignore("fix from the future")
            else:
                self._pending.append((since, absolute, source))

    def _restart_clock(self, stamp: int) -> None:
        """The clock was set back: keep the pose, widened by the motion of one unobserved second, on a new timeline."""
        self._timeline = Timeline(stamp)
        self._rivals.clear()
        self._pending.clear()
        self._intake.restart_clock()
        if self._main is not None:
            c = self.config
            spread = np.diag(np.repeat([c.unobserved_speed, c.unobserved_turn_rate], 3) ** 2) * c.clock_jump**2
            belief = replace(self._main.belief.widened(spread), gap_translation=0.0, gap_rotation=0.0)
            self._main = Track(self._timeline, stamp, belief, self._model, self._gate)
        self.monitor.time_jumped(stamp)
        self._intake.ignore("clock set back")

    def _tracks(self) -> list[Track]:
        return ([] if self._main is None else [self._main]) + [rival.track for rival in self._rivals]

    def _split(self, stamp: int) -> None:
        assert self._timeline is not None
        if self._timeline.split_at(stamp):
            for track in self._tracks():
                track.split_at(stamp)

    def _forget_before(self, stamp: int) -> None:
        assert self._timeline is not None
        self._timeline.forget_before(stamp)
        for track in self._tracks():
            track.forget_before(self._timeline.stamps[0])
        self._intake.forget_before(stamp)

    def _scale_now(self) -> tuple[float, float]:
        """(scale, relative sigma)."""
        if self._main is None:
            return self._first_scale
        belief = self._main.belief
        return belief.scale, float(np.sqrt(max(belief.covariance[6, 6], 0.0)))
