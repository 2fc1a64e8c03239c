"""Odometry and fixes of a camera with known truth and honest noise, and the faults a real robot meets.

Used by the Monte-Carlo tests of the filter and by experiments; every draw comes from one seeded generator.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats
from scipy.spatial.transform import Rotation

from robust_loc.fusion.filter import LocalizationFilter
from robust_loc.fusion.history import SECOND
from robust_loc.fusion.localization import Localization
from robust_loc.fusion.rigid import inverse, rotation_exp
from robust_loc.fusion.state import State
from robust_loc.types import Estimate, FloatArray, Status
from robust_loc.uncertainty.conversions import perturb, pose_error

Interval = tuple[float, float]


@dataclass(frozen=True)
class Fixes:
    """One source of absolute poses. Times in seconds, sigmas per axis.

    Attributes:
        period, delay: between images it answers, and from image to answer.
        outliers: fraction of its fixes that lie anywhere in the room, with the same covariance.
        bias: (start, end) -> map-frame offset (6,) added to its poses, unknown to its covariance.
        alive: when it answers at all; ``silent``: intervals in which it does not, although alive.
        understated: factor by which its covariance understates its sigmas.
    """

    name: str = "relocalizer"
    period: float = 0.2
    delay: float = 0.0
    position_sigma: float = 0.03
    rotation_sigma: float = 0.01
    outliers: float = 0.0
    bias: dict[Interval, tuple[float, ...]] = field(default_factory=dict)
    alive: Interval = (0.0, np.inf)
    silent: Sequence[Interval] = ()
    understated: float = 1.0


@dataclass(frozen=True)
class Scenario:
    """What happens in one run; see :func:`simulate`.

    Attributes:
        duration, period: of the run and of the odometry, seconds.
        translation_sigma, rotation_sigma: of one odometry increment per axis, in metres and radians.
        understated: factor by which the odometry's covariances understate its sigmas.
        scale: metres per unit of odometry at the start.
        scale_walk: relative sigma of its random walk per square root of a second; ``scale_ramp``: relative drift
            over the whole run.
        kidnapped: time -> (4, 4) by which the map pose changes unseen by the odometry.
        dark: intervals in which odometry and fixes fail; the odometry then takes ``restart`` seconds to start again,
            with another unit of length.
        frozen: intervals in which the camera repeats its image.
        clock: time -> seconds by which the clock is set from then on.
        room: half size of the room that outliers are drawn from, metres.
    """

    duration: float = 12.0
    period: float = 0.1
    fixes: Sequence[Fixes] = (Fixes(),)
    translation_sigma: float = 0.002
    rotation_sigma: float = 0.001
    understated: float = 1.0
    scale: float = 2.0
    scale_walk: float = 0.01
    scale_ramp: float = 0.0
    kidnapped: dict[float, FloatArray] = field(default_factory=dict)
    dark: Sequence[Interval] = ()
    restart: float = 0.8
    frozen: Sequence[Interval] = ()
    clock: dict[float, float] = field(default_factory=dict)
    room: float = 5.0


@dataclass(frozen=True)
class Event:
    """Something that arrives at the filter: ``source`` is ``odometry`` or a source of fixes."""

    arrival: float
    source: str
    estimate: Estimate
    truth: FloatArray
    honest: bool = True


@dataclass(frozen=True)
class Moment:
    """What the filter said after one odometry step, and the truth."""

    time: float
    truth: FloatArray
    localization: Localization

    @property
    def error(self) -> FloatArray:
        """(6,) ROS convention; NaN without a pose."""
        pose = self.localization.map_T_base
        return np.full(6, np.nan) if pose is None else pose_error(pose, self.truth)

    @property
    def nees(self) -> float:
        covariance = self.localization.covariance
        return np.nan if covariance is None else float(self.error @ np.linalg.solve(covariance, self.error))

    def wrong(self, position: float = 0.25, rotation: float = np.radians(5)) -> bool:
        """Whether the error exceeds a bound, or lies outside the ellipsoid of the probability of 3 sigma (0.9973)."""
        if self.localization.map_T_base is None:
            return False
        beyond = self.nees > stats.chi2.ppf(stats.chi2.cdf(9.0, 1), 6)
        return bool(beyond or np.linalg.norm(self.error[:3]) > position or np.linalg.norm(self.error[3:]) > rotation)


def path(rng: np.random.Generator) -> Callable[[float], FloatArray]:
    """A smooth random camera path (4, 4) through a room: about 0.5 m/s and 15 deg/s."""
    phase = rng.uniform(0, 2 * np.pi, (2, 6))
    rate = np.stack([rng.uniform(0.2, 0.4, 6), rng.uniform(0.5, 0.9, 6)])
    size = np.stack([[1.2, 1.2, 0.3, 0.15, 0.15, 0.5], [0.2, 0.2, 0.1, 0.05, 0.05, 0.1]])
    start = Rotation.random(random_state=int(rng.integers(1 << 31))).as_matrix()

    def pose(time: float) -> FloatArray:
        x = (size * np.sin(rate * time + phase)).sum(0)
        T = np.eye(4)
        T[:3, :3], T[:3, 3] = rotation_exp(x[3:]) @ start, x[:3]
        return T

    return pose


def simulate(scenario: Scenario, seed: int, start: float = 1000.0) -> list[Event]:
    """The events of one run in the order of their arrival; ``start``: seconds that stamps count from."""
    rng = np.random.default_rng(seed)
    seen = path(rng)  # where the odometry believes to move: continuous
    steps = int(round(scenario.duration / scenario.period))
    times = [index * scenario.period for index in range(steps + 1)]

    def truth(time: float) -> FloatArray:
        T = seen(time)
        for when, change in scenario.kidnapped.items():
            if time >= when:
                T = change @ T
        return T

    events = list(_odometry(scenario, rng, times, start, seen, truth))
    for source in scenario.fixes:
        events.extend(_fixes(scenario, source, rng, times, start, truth))
    return sorted(events, key=lambda event: (event.arrival, event.source != "odometry"))


def run(
    localizer: LocalizationFilter, events: Iterable[Event], watch: Callable[[Event], None] = lambda event: None
) -> list[Moment]:
    """Drive a filter; one moment per answer of the odometry, after the fixes that came with it.

    ``watch`` is called after each event, with ``localizer`` as the event has left it.
    """
    moments: list[Moment] = []
    for event in events:
        if event.source == "odometry":
            said = localizer.predict(event.estimate)
            moments.append(Moment(event.arrival, event.truth, said))
        else:
            said = localizer.correct(event.estimate, event.source)
            if moments:
                moments[-1] = Moment(moments[-1].time, moments[-1].truth, said)
        watch(event)
    return moments


def longest(moments: Sequence[Moment], condition: Callable[[Moment], bool]) -> float:
    """Longest uninterrupted time in seconds for which a condition held."""
    best, began = 0.0, None
    for moment in moments:
        if not condition(moment):
            began = None
            continue
        began = moment.time if began is None else began
        best = max(best, moment.time - began)
    return best


def localized_while_wrong(moments: Sequence[Moment]) -> float:
    """Longest time in seconds spent LOCALIZED with a wrong pose (:meth:`Moment.wrong`)."""
    return longest(moments, lambda m: m.localization.state is State.LOCALIZED and m.wrong())


def _inside(time: float, intervals: Iterable[Interval]) -> bool:
    return any(start <= time < end for start, end in intervals)


def _stamp(scenario: Scenario, start: float, time: float) -> int:
    shift = sum(change for when, change in scenario.clock.items() if time >= when)
    return int(round((start + time + shift) * SECOND))


def _odometry(
    scenario: Scenario,
    rng: np.random.Generator,
    times: Sequence[float],
    start: float,
    seen: Callable[[float], FloatArray],
    truth: Callable[[float], FloatArray],
) -> Iterator[Event]:
    log_scale = np.log(scenario.scale)
    restarting = [(end, end + scenario.restart) for _, end in scenario.dark]
    variances = np.repeat([scenario.translation_sigma, scenario.rotation_sigma], 3) ** 2
    for index, time in enumerate(times):
        stamp = _stamp(scenario, start, time)
        if index == 0:
            estimate = Estimate(stamp, Status.INITIALIZING, "first frame")
        elif _inside(time, scenario.dark):
            estimate = Estimate(stamp, Status.FAILED, "dark")
        elif _inside(time, restarting):
            estimate = Estimate(stamp, Status.INITIALIZING, "starts again", increment=np.eye(4))
            log_scale = np.log(scenario.scale) + rng.normal() * 0.5
        elif _inside(time, scenario.frozen):
            estimate = Estimate(stamp, Status.NO_MOTION, increment=np.eye(4), increment_covariance=1e-10 * np.eye(6))
        else:
            log_scale += rng.normal() * scenario.scale_walk * np.sqrt(scenario.period)
            log_scale += np.log1p(scenario.scale_ramp) / (len(times) - 1)
            increment = perturb(inverse(seen(times[index - 1])) @ seen(time), rng.normal(size=6) * np.sqrt(variances))
            unit = np.repeat([np.exp(-log_scale), 1.0], 3)
            increment[:3, 3] *= unit[0]
            covariance = np.diag(variances * unit**2) / scenario.understated**2
            estimate = Estimate(stamp, Status.OK, increment=increment, increment_covariance=covariance)
        yield Event(time, "odometry", estimate, truth(time))


def _fixes(
    scenario: Scenario,
    source: Fixes,
    rng: np.random.Generator,
    times: Sequence[float],
    start: float,
    truth: Callable[[float], FloatArray],
) -> Iterator[Event]:
    every = max(1, int(round(source.period / scenario.period)))
    repeated: Estimate | None = None
    for time in times[::every]:
        stamp, arrival = _stamp(scenario, start, time), time + source.delay
        if not source.alive[0] <= time < source.alive[1] or _inside(time, source.silent):
            continue
        if _inside(time, scenario.dark):
            yield Event(arrival, source.name, Estimate(stamp, Status.REFUSED, "dark"), truth(time), False)
            continue
        if _inside(time, scenario.frozen) and repeated is not None:
            pose, covariance = repeated.world_T_cam, repeated.covariance
            estimate = Estimate(stamp, Status.OK, world_T_cam=pose, covariance=covariance)
            yield Event(arrival, source.name, estimate, truth(time), False)
            continue
        root = np.diag(np.repeat([source.position_sigma, source.rotation_sigma], 3) * rng.uniform(0.7, 1.4, 6))
        turn = np.kron(np.eye(2), Rotation.random(random_state=int(rng.integers(1 << 31))).as_matrix())
        root = turn @ root
        pose, honest = perturb(truth(time), root @ rng.normal(size=6)), True
        if rng.random() < source.outliers:
            pose, honest = np.eye(4), False
            pose[:3, :3] = Rotation.random(random_state=int(rng.integers(1 << 31))).as_matrix()
            pose[:3, 3] = rng.uniform(-scenario.room, scenario.room, 3)
        for interval, bias in source.bias.items():
            if _inside(time, [interval]):
                pose, honest = perturb(pose, np.asarray(bias, float)), False
        covariance = root @ root.T / source.understated**2
        repeated = Estimate(stamp, Status.OK, world_T_cam=pose, covariance=covariance)
        yield Event(arrival, source.name, repeated, truth(time), honest)
