"""The fusion node in a live graph: estimates of a simulated drive in; pose, state and transforms out."""

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("robust_loc.msg")

from fakes import SECOND, Listener
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry as OdometryMessage
from nav_msgs.msg import Path
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from robust_loc.msg import Estimate as EstimateMessage
from robust_loc.msg import LocalizationState
from scipy.spatial.transform import Rotation

from robust_loc.nodes.conversions import (
    estimate_message,
    from_pose_with_covariance,
    nanoseconds,
    pose_stamped,
    transform_message,
)
from robust_loc.nodes.fusion_node import FusionNode
from robust_loc.nodes.optional import tf2_msgs
from robust_loc.types import Estimate, Status
from robust_loc.uncertainty import CovarianceCalibration, CovarianceFactors

PERIOD = SECOND // 20
SCALE = 2.0  # metres per unit of odometry
# The camera looks ahead: its optical z is the base's x. It sits 0.2 m before and 0.3 m above the base.
BASE_T_CAM = np.eye(4)
BASE_T_CAM[:3, :3] = Rotation.from_quat([-0.5, 0.5, -0.5, 0.5]).as_matrix()
BASE_T_CAM[:3, 3] = [0.2, 0.0, 0.3]
EXTRINSICS = [0.2, 0.0, 0.3, -0.5, 0.5, -0.5, 0.5]
FIX_COVARIANCE = np.diag([4e-4] * 3 + [1e-5] * 3)


def map_T_base(stamp):
    """A circle of 3 m radius at 1.5 m/s."""
    angle = 0.5 * stamp / SECOND
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_rotvec([0, 0, angle]).as_matrix()
    pose[:3, 3] = [3 * np.sin(angle), 3 - 3 * np.cos(angle), 0]
    return pose


def map_T_cam(stamp):
    return map_T_base(stamp) @ BASE_T_CAM


def odometry(stamp, previous):
    increment = np.linalg.inv(map_T_cam(previous)) @ map_T_cam(stamp)
    increment[:3, 3] /= SCALE
    covariance = np.diag([1e-6] * 3 + [1e-7] * 3)
    return Estimate(stamp, Status.OK, "", np.eye(4), np.eye(6), increment, covariance)


def fix(stamp, offset=(0.0, 0.0, 0.0)):
    pose = map_T_cam(stamp)
    noise = np.random.default_rng(stamp).normal(size=3) * 0.01
    pose[:3, 3] += noise + offset
    return Estimate(stamp, Status.OK, "", pose, FIX_COVARIANCE)


class Drive(Listener, Node):
    """Plays odometry and fixes to a fusion node and listens to it."""

    def __init__(self, sources):
        super().__init__("drive")
        self.begin()
        self.outputs = {}
        self.open_outputs(sources)
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.states, self.poses, self.estimates, self.odometries, self.paths, self.transforms = ([] for _ in range(6))
        self.listen(LocalizationState, "/fusion/state", self.states, latched)
        self.listen(EstimateMessage, "/fusion/estimate", self.estimates, latched)
        self.listen(PoseWithCovarianceStamped, "/fusion/pose", self.poses)
        self.listen(OdometryMessage, "/fusion/odometry", self.odometries)
        self.listen(Path, "/fusion/path", self.paths)
        if tf2_msgs is not None:
            self.listen(tf2_msgs.TFMessage, "/tf", self.transforms)
        self.initial = self.create_publisher(PoseWithCovarianceStamped, "/initialpose", 10)

    def open_outputs(self, sources):
        for publisher in self.outputs.values():
            self.destroy_publisher(publisher)
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self.outputs = {s: self.create_publisher(EstimateMessage, f"{s}/estimate", latched) for s in sources}

    def connected(self):
        return self.wait(lambda: all(p.get_subscription_count() for p in self.outputs.values()))

    def say(self, source, estimate, previous=None):
        message = estimate_message(
            estimate, source=source, world_frame="map", camera_frame="camera", previous_stamp=previous
        )
        self.outputs[source].publish(message)

    def frame(self, i, relocalizer=None):
        """One image in lockstep: what both estimators say of it."""
        stamp, previous = SECOND + i * PERIOD, SECOND + (i - 1) * PERIOD
        self.say("odometry", odometry(stamp, previous), previous)
        self.say("relocalizer", relocalizer(stamp) if relocalizer else Estimate(stamp, Status.REFUSED, "not here"))
        return stamp

    def state_at(self, stamp):
        found = lambda: [s for s in self.states if nanoseconds(s.header.stamp) == stamp]  # noqa: E731
        assert self.wait(lambda: found()), f"no state at {stamp}"
        return found()[-1]


@pytest.fixture
def drive(graph):
    def start(**values):
        values = {
            "lockstep": True,
            "sources": ["odometry", "relocalizer"],
            "base_from_camera": EXTRINSICS,
            "initial_scale": 1.0,
            "diagnostics_period": 0.1,
            **values,
        }
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        node = graph.add(FusionNode(parameter_overrides=overrides))
        node.start()
        assert node.is_active
        made = graph.add(Drive(values["sources"]))
        assert made.connected()
        return node, made

    return start


def test_odometry_and_fixes_become_a_metric_pose_of_the_base_at_the_image_time(drive):
    _, car = drive()
    for i in range(80):
        stamp = car.frame(i, fix if i % 4 == 0 else None)
    state = car.state_at(stamp)
    assert state.state == LocalizationState.LOCALIZED and state.reason == ""
    assert state.scale == pytest.approx(SCALE, rel=0.05) and state.scale_stddev < 0.2
    assert state.fix_source == "relocalizer" and 0 <= state.fix_age < 0.3 and state.fixes_accepted > 5
    assert 0 < state.position_stddev < 0.1 and state.nis_dof == 6
    assert car.wait(lambda: car.poses and nanoseconds(car.poses[-1].header.stamp) == stamp)
    pose, covariance = from_pose_with_covariance(car.poses[-1].pose)
    assert car.poses[-1].header.frame_id == "map"
    assert np.linalg.norm((np.linalg.inv(pose) @ map_T_base(stamp))[:3, 3]) < 0.05
    assert np.linalg.eigvalsh(covariance).min() > 0
    camera = [e for e in car.estimates if nanoseconds(e.header.stamp) == stamp][-1]
    np.testing.assert_allclose(from_pose_with_covariance(camera.pose)[0], pose @ BASE_T_CAM, atol=1e-9)
    assert car.wait(lambda: car.odometries and nanoseconds(car.odometries[-1].header.stamp) == stamp)
    assert car.odometries[-1].twist.twist.linear.x == pytest.approx(1.5, rel=0.1)
    assert (car.odometries[-1].header.frame_id, car.odometries[-1].child_frame_id) == ("odom", "base_link")
    assert car.wait(lambda: car.paths and nanoseconds(car.paths[-1].header.stamp) == stamp)


@pytest.mark.skipif(tf2_msgs is None, reason="tf2_msgs is not installed")
def test_map_to_odom_and_odom_to_base_compose_to_the_published_pose(drive):
    from robust_loc.data.messages import rigid

    _, car = drive(transform_tolerance=0.25)
    for i in range(40):
        stamp = car.frame(i, fix)
    car.state_at(stamp)
    newest = {}

    def complete():
        for message in car.transforms:
            for t in message.transforms:
                newest[t.header.frame_id, t.child_frame_id, nanoseconds(t.header.stamp)] = t.transform
        return {("odom", "base_link", stamp), ("map", "odom", stamp + SECOND // 4)} <= set(newest) and any(
            nanoseconds(p.header.stamp) == stamp for p in car.poses
        )

    assert car.wait(complete)
    assert {key[:2] for key in newest} == {("odom", "base_link"), ("map", "odom")}, "and nothing else is broadcast"
    a, b = newest["map", "odom", stamp + SECOND // 4], newest["odom", "base_link", stamp]
    composed = rigid(a.translation, a.rotation) @ rigid(b.translation, b.rotation)
    pose = from_pose_with_covariance(car.poses[-1].pose)[0]
    np.testing.assert_allclose(composed, pose, atol=1e-9)


def test_when_lost_the_variances_are_9999_and_map_to_odom_is_not_refreshed(drive):
    _, car = drive(lost_timeout=1.0, fix_timeout=0.5)
    for i in range(100):
        stamp = car.frame(i, fix if i < 40 else None)
        if i % 10 == 0:  # faster than the node answers, messages would be lost
            car.state_at(stamp)
    state = car.state_at(stamp)
    assert state.state == LocalizationState.LOST and state.reason and not state.tf_published
    assert car.wait(lambda: nanoseconds(car.poses[-1].header.stamp) == stamp)
    np.testing.assert_array_equal(np.diag(np.array(car.poses[-1].pose.covariance).reshape(6, 6)), [9999] * 6)
    assert not [e for e in car.estimates if nanoseconds(e.header.stamp) == stamp][-1].has_pose
    assert car.complains("LOST")
    dated = [nanoseconds(t.header.stamp) for m in car.transforms for t in m.transforms if t.header.frame_id == "map"]
    assert all(when < stamp for when in dated)


def test_an_initial_pose_starts_the_filter_and_a_broken_one_is_refused(drive):
    _, car = drive()
    stamp = car.frame(0)
    assert car.state_at(stamp).state == LocalizationState.INITIALIZING
    broken = pose_stamped(stamp, "map", map_T_base(stamp), np.eye(6) * 0.01)
    broken.pose.pose.orientation.w = broken.pose.pose.orientation.z = 0.0
    car.initial.publish(broken)
    assert car.complains("initial pose ignored")
    covariance = np.diag([0.01, 0.01, 0, 0, 0, 0.01])  # as rviz gives it
    car.initial.publish(pose_stamped(stamp, "map", map_T_base(stamp), covariance))
    for i in range(1, 60):
        stamp = car.frame(i)
        state = car.state_at(stamp)
        if state.fix_source == "initialpose":
            break
    assert state.state in (LocalizationState.LOCALIZED, LocalizationState.DEGRADED)


def test_an_initial_pose_given_too_early_or_by_parameters_waits_for_the_first_image(drive, graph):
    _, car = drive(**{"set_initial_pose": True, "initial_pose.x": 1.0, "initial_pose.yaw": 0.5})
    state = car.state_at(car.frame(0))
    assert state.fix_source == "initialpose" and state.state == LocalizationState.DEGRADED
    assert car.wait(lambda: car.poses)
    pose, covariance = from_pose_with_covariance(car.poses[0].pose)
    assert pose[0, 3] == pytest.approx(1.0) and pose[1, 0] == pytest.approx(np.sin(0.5))
    assert covariance[0, 0] == pytest.approx(0.25)

    early = graph.add(FusionNode(node_name="early", parameter_overrides=[Parameter("sources", value=["eyes"])]))
    early.start()
    early._start.take(pose_stamped(5, "map", map_T_base(SECOND), np.eye(6) * 1e-4))
    assert early.fix_source == ""
    nothing = Estimate(SECOND, Status.REFUSED, "dark")
    early._on_estimate("eyes", estimate_message(nothing, source="eyes", world_frame="map", camera_frame="base_link"))
    assert early.fix_source == "initialpose"
    localization = early.filter.localization()
    assert localization.stamp == SECOND and np.allclose(localization.map_T_base, map_T_base(SECOND))


def test_nav2s_service_sets_the_initial_pose(graph):
    node = graph.add(FusionNode())
    node.start()
    request = type("Request", (), {"pose": pose_stamped(0, "map", map_T_base(SECOND), np.eye(6) * 1e-4)})
    answer = node._start._on_service(request, "response")
    assert answer == "response"
    assert node._start._waiting is request.pose


def test_live_a_late_fix_is_used_at_its_own_time(drive):
    _, car = drive(lockstep=False, extrinsics_timeout=0.0)
    for i in range(80):
        stamp, previous = SECOND + i * PERIOD, SECOND + (i - 1) * PERIOD
        car.say("odometry", odometry(stamp, previous), previous)
        car.state_at(stamp)
        if i >= 6 and i % 4 == 0:
            car.say("relocalizer", fix(stamp - 6 * PERIOD))
    assert car.wait(lambda: car.states[-1].state == LocalizationState.LOCALIZED)
    assert car.wait(lambda: nanoseconds(car.poses[-1].header.stamp) == stamp)
    pose, _ = from_pose_with_covariance(car.poses[-1].pose)
    assert np.linalg.norm((np.linalg.inv(pose) @ map_T_base(stamp))[:3, 3]) < 0.1


def test_the_last_good_pose_is_kept_for_the_next_start(drive, graph, tmp_path):
    path = tmp_path / "last.json"
    _, car = drive(last_pose_file=str(path), save_pose_period=0.5)
    for i in range(60):
        stamp = car.frame(i, fix)
    car.state_at(stamp)
    assert car.wait(path.exists)
    values = {"last_pose_file": str(path), "sources": ["odometry"], "base_from_camera": EXTRINSICS}
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    again = graph.add(FusionNode(node_name="again", parameter_overrides=overrides))
    again.start()
    first = odometry(stamp + PERIOD, stamp)
    message = estimate_message(first, source="odometry", world_frame="map", camera_frame="base_link")
    again._on_estimate("odometry", message)
    assert again.fix_source == "saved_pose"
    found = again.filter.localization()
    assert found.state.name == "INITIALIZING", "a saved pose is not trusted before a fix confirms it"
    assert np.linalg.norm((np.linalg.inv(found.map_T_base) @ map_T_base(stamp))[:3, 3]) < 1.5


def test_stored_factors_reach_the_filter_and_a_bad_file_fails_configure(drive, graph, tmp_path):
    file = tmp_path / "factors.json"
    CovarianceCalibration({"relocalizer": CovarianceFactors(2.0, 3.0, 40)}).save(file)
    fusion, car = drive(calibration_file=str(file))
    for i in range(2):
        car.state_at(car.frame(i, fix))
    assert fusion.filter.calibration.of("relocalizer") == CovarianceFactors(2.0, 3.0, 40)
    file.write_text("broken")
    other = graph.add(
        FusionNode(node_name="other", parameter_overrides=[Parameter("calibration_file", value=str(file))])
    )
    other.start()
    assert other.lifecycle_state == "unconfigured"


def test_bad_extrinsics_fail_configure_with_the_reason(graph):
    overrides = [Parameter("base_from_camera", value=[0.0] * 7)]
    node = graph.add(FusionNode(parameter_overrides=overrides))
    node.start()
    assert node.lifecycle_state == "unconfigured"
    report = node.health.report(node.get_clock().now().to_msg(), "x", {})
    assert node.health.name == "fusion" and report.status[0].name == "fusion"


@pytest.mark.skipif(tf2_msgs is None, reason="tf2_msgs is not installed")
@pytest.mark.parametrize("lockstep", [True, False])
def test_the_camera_is_where_tf_says_before_the_parameter_is_asked(drive, lockstep):
    wrong = [9.0, 9.0, 9.0, 0.0, 0.0, 0.0, 1.0]
    node, car = drive(lockstep=lockstep, base_from_camera=wrong, extrinsics_timeout=30.0)
    latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
    publisher = car.create_publisher(tf2_msgs.TFMessage, "/tf_static", latched)
    # Two joints between the base and the camera.
    mast = np.eye(4)
    mast[:3, 3] = [0.0, 0.0, 0.3]
    joints = [
        transform_message(0, "base_link", "mast", mast),
        transform_message(0, "mast", "camera", np.linalg.inv(mast) @ BASE_T_CAM),
    ]
    publisher.publish(tf2_msgs.TFMessage(transforms=joints))
    assert car.wait(lambda: node.count_publishers("/tf_static"))
    for i in range(200):
        car.frame(i, fix)
        if car.wait(lambda: node.filter is not None, timeout=0.2):
            break
    np.testing.assert_allclose(node.filter.base_T_cam, BASE_T_CAM, atol=1e-12)
