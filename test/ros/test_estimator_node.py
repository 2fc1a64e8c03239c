"""The node around an estimator, in a live graph: every image answered, bad input said and survived."""

import time

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("robust_loc.msg")

from fakes import PINHOLE, SECOND, Client, FakeConfig, FakeOdometry
from nav_msgs.msg import Odometry as OdometryMessage
from rclpy.parameter import Parameter
from robust_loc.msg import Estimate as EstimateMessage
from sensor_msgs.msg import PointCloud2
from std_srvs.srv import Trigger

from robust_loc.geometry.cameras import CameraCalibration
from robust_loc.nodes.conversions import camera_info_message, nanoseconds
from robust_loc.nodes.odometry_node import OdometryNode
from robust_loc.odometry import OdometryConfig


@pytest.fixture
def odometry(graph):
    """Starts an odometry node with a fake estimator, and a client connected to it."""

    def start(lockstep=True, **values):
        values = {"diagnostics_period": 0.1, "lockstep": lockstep, **values}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        node = graph.add(OdometryNode(FakeOdometry, FakeConfig, parameter_overrides=overrides))
        node.start()
        client = graph.add(Client(latched=lockstep))
        client.wait_for_node()
        return node, client

    return start


def test_every_image_is_answered_with_its_own_stamp_and_a_positive_definite_covariance(odometry):
    _, client = odometry()
    stamps = [SECOND + i * 33_333_333 for i in range(20)]
    for stamp in stamps:
        client.send(stamp)
    first, *others = [client.answer(stamp) for stamp in stamps]
    assert first.status == EstimateMessage.STATUS_INITIALIZING and not first.has_pose
    for i, estimate in enumerate(others, start=1):
        assert estimate.status == EstimateMessage.STATUS_OK and estimate.unscaled and estimate.source == "odometry"
        assert (estimate.header.frame_id, estimate.child_frame_id) == ("visual_odom", "camera")
        assert estimate.pose.pose.position.z == pytest.approx(0.1 * i)
        assert np.linalg.eigvalsh(np.array(estimate.pose.covariance).reshape(6, 6)).min() > 0
        assert 0 <= estimate.latency < 5 and estimate.probability == 0.9 and np.isnan(estimate.in_map_score)
    assert not others[0].has_increment, "there is no earlier pose that it could start from"
    assert others[1].has_increment and others[1].previous_stamp == others[0].header.stamp
    assert client.wait(lambda: client.diagnostics) and not client.messages(b"\x02")


def test_odometry_and_patches_are_published_beside_the_estimate(odometry):
    node, client = odometry()
    odometries, clouds = [], []
    client.listen(OdometryMessage, "/odometry/odometry", odometries)
    client.listen(PointCloud2, "/odometry/patches", clouds)
    assert client.wait(lambda: all(node.count_subscribers(f"/odometry/{t}") for t in ("patches", "odometry")))
    for i in range(1, 40):
        client.send(i * SECOND // 10)
        client.answer(i * SECOND // 10)
        if odometries and clouds:
            break
    assert client.wait(lambda: odometries and clouds)
    assert odometries[-1].child_frame_id == "camera" and clouds[-1].header.frame_id == "visual_odom"
    assert clouds[-1].width == 2
    ahead, behind = np.frombuffer(clouds[-1].data, np.uint8).reshape(2, 16)[:, 12:15]
    stamp = nanoseconds(clouds[-1].header.stamp)
    image = np.random.default_rng(stamp).integers(1, 255, (24, 32, 3), dtype=np.uint8)
    np.testing.assert_array_equal(ahead[::-1], image[12, 16], "coloured by the pixel it is seen at")
    np.testing.assert_array_equal(behind, [128, 128, 128])


SMALL = CameraCalibration(16, 12, 20.0, 20.0, 8.0, 6.0)


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        ({"encoding": "yuv422"}, "yuv422"),
        ({"step": 3}, "step"),
        ({"calibration": SMALL, "image": np.ones((24, 32, 3), np.uint8)}, "32x24"),
    ],
)
def test_a_bad_image_is_answered_with_the_reason_and_the_next_goes_on(odometry, bad, complaint):
    node, client = odometry()
    for stamp in (SECOND, 2 * SECOND):
        client.send(stamp)
    client.send(3 * SECOND, **bad)
    client.send(4 * SECOND)
    refused = client.answer(3 * SECOND)
    assert refused.status == EstimateMessage.STATUS_FAILED and not refused.has_pose and complaint in refused.reason
    assert client.answer(4 * SECOND).pose.pose.position.z == pytest.approx(0.2), "the estimator kept its state"
    assert node.estimator.resets == 0
    assert client.complains(complaint)


@pytest.mark.parametrize("k", [[0.0] * 9, [float("nan")] * 9])
def test_images_without_a_usable_calibration_are_refused_until_one_comes(odometry, k):
    _, client = odometry()
    info = camera_info_message(PINHOLE, SECOND, "camera")
    info.k = k
    client.infos.publish(info)
    client.send(SECOND, info=False)
    assert "camera_info" in client.answer(SECOND).reason
    client.send(2 * SECOND)
    assert client.answer(2 * SECOND).status == EstimateMessage.STATUS_INITIALIZING
    assert client.complains("camera_info")


def test_live_images_without_any_calibration_are_refused(odometry):
    _, client = odometry(lockstep=False)
    client.send(SECOND, info=False)
    assert "no camera_info on /camera_info" in client.answer(SECOND).reason


def test_a_repeated_stamp_is_refused_and_answered(odometry):
    node, client = odometry()
    for stamp in (SECOND, 2 * SECOND, 2 * SECOND):
        client.send(stamp)
    assert "repeats" in client.answer(2 * SECOND, nth=2).reason
    client.send(3 * SECOND)
    assert client.answer(3 * SECOND).has_pose and node.estimator.resets == 0
    assert client.complains("repeats")


def test_an_image_out_of_order_is_refused(odometry):
    node, client = odometry()
    for stamp in (SECOND, 2 * SECOND, 2 * SECOND - 1000):
        client.send(stamp)
    assert "older" in client.answer(2 * SECOND - 1000).reason
    assert node.estimator.resets == 0


def test_a_clock_that_jumps_back_starts_the_estimator_anew(odometry):
    node, client = odometry()
    for stamp in (100 * SECOND, 101 * SECOND, SECOND, 2 * SECOND):
        client.send(stamp)
    assert client.answer(SECOND).status == EstimateMessage.STATUS_INITIALIZING
    restarted = client.answer(2 * SECOND)
    assert restarted.has_pose and not restarted.has_increment
    assert node.estimator.resets == 1
    assert client.complains("time went back")


def test_another_image_size_starts_the_estimator_anew(odometry):
    node, client = odometry()
    larger = CameraCalibration(48, 36, 45.0, 45.0, 23.5, 17.5)
    for stamp, calibration in ((SECOND, PINHOLE), (2 * SECOND, PINHOLE), (3 * SECOND, larger), (4 * SECOND, larger)):
        client.send(stamp, calibration)
    assert client.answer(4 * SECOND).has_pose and node.estimator.resets == 1
    assert client.complains("32x24 to 48x36")


def test_a_defect_of_the_estimator_does_not_silence_the_node(odometry):
    node, client = odometry()
    client.send(SECOND, image=np.zeros((24, 32, 3), np.uint8))
    assert "ZeroDivisionError" in client.answer(SECOND).reason
    client.send(2 * SECOND)
    assert client.answer(2 * SECOND).status == EstimateMessage.STATUS_INITIALIZING
    assert node.estimator.resets == 1


def test_live_a_slow_estimator_works_on_the_newest_image_and_counts_the_dropped(odometry):
    node, client = odometry(lockstep=False, delay=0.15)
    last = 0
    for i in range(1, 31):
        last = i * SECOND // 30
        client.send(last)
        time.sleep(0.01)
    client.answer(last)
    health = node.health
    assert client.wait(lambda: health.answered + health.dropped == health.received)
    assert health.dropped > 0 and health.answered < 30  # how many is a matter of the machine

    def said():
        statuses = [status for message in client.diagnostics for status in message.status]
        return [v.value for status in statuses for v in status.values if v.key == "frames dropped"]

    assert client.wait(lambda: str(health.dropped) in said())


def test_pause_resume_and_reset_answer_their_services(odometry):
    node, client = odometry(lockstep=False)

    def call(name):
        service = client.create_client(Trigger, f"/odometry/{name}")
        assert service.wait_for_service(10)
        result = service.call(Trigger.Request(), timeout_sec=30)
        return result.success, result.message

    assert call("pause") == (True, "paused")
    client.send(SECOND)
    time.sleep(0.3)
    assert node.health.received == 0
    assert call("resume") == (True, "running")
    for stamp in (2 * SECOND, 3 * SECOND):
        client.send(stamp)
        client.answer(stamp)
    assert call("reset") == (True, "odometry reset")
    client.send(3 * SECOND)
    assert client.answer(3 * SECOND, nth=2).status == EstimateMessage.STATUS_INITIALIZING, "stamps are forgotten too"


def test_the_lifecycle_connects_inputs_in_activate_and_frees_the_estimator_in_cleanup(graph):
    node = graph.add(OdometryNode(FakeOdometry, FakeConfig, parameter_overrides=[Parameter("autostart", value=False)]))
    node.start()
    assert node.lifecycle_state == "unconfigured" and node.estimator is None
    images = lambda: sum(s.topic_name == "/image" for s in node.subscriptions)  # noqa: E731
    for _ in range(2):
        node.trigger_configure()
        assert node.estimator is not None and images() == 0
        node.trigger_activate()
        assert node.is_active and images() == 1
        node.trigger_deactivate()
        assert images() == 0
        node.trigger_cleanup()
        assert node.estimator is None and node.lifecycle_state == "unconfigured"


def test_silence_of_the_camera_is_a_warning(odometry):
    _, client = odometry(stale_after=0.2)
    assert client.complains("no image on /image", level=b"\x01")


def test_the_odometry_node_runs_with_the_weights_of_the_package(graph):
    values = {"preset": "cpu", "device": "cpu"}
    node = graph.add(OdometryNode(parameter_overrides=[Parameter(k, value=v) for k, v in values.items()]))
    node.start()
    config = node.estimator.config
    assert node.is_active and config.image_pixels == OdometryConfig.preset("cpu").image_pixels
    assert not config.keep_trajectory, "memory is bounded in a node"


def test_a_defect_in_configure_is_said_and_leaves_the_node_unconfigured(graph):
    def broken(config):
        raise AttributeError("no such thing")

    node = graph.add(OdometryNode(broken, FakeConfig))
    said = []
    node.complain = said.append
    node.start()
    assert node.lifecycle_state == "unconfigured" and "no such thing" in said[0]
