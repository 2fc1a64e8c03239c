"""Relocalizer and regressor nodes in a live graph: poses, priors, services that refuse and keep what works."""

import hashlib
import json
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("robust_loc.msg")

from fakes import SECOND, Client
from geometry_msgs.msg import PoseWithCovarianceStamped
from rclpy.parameter import Parameter
from robust_loc.msg import Estimate as EstimateMessage
from robust_loc.srv import LoadMap, LoadWeights, SaveMap
from std_srvs.srv import Trigger

from robust_loc.config import Config, parameter
from robust_loc.errors import MapFormatError, WeightsError
from robust_loc.nodes.conversions import estimate_message, nanoseconds
from robust_loc.nodes.regressor_node import RegressorNode
from robust_loc.nodes.relocalizer_node import RelocalizerNode
from robust_loc.types import Estimate, Status


@dataclass(frozen=True)
class SearchConfig(Config):
    weights: Path = parameter(Path(), "a file")


class FakeMap:
    """A map of one number, in a json file inside a folder."""

    keyframes = 3

    def __init__(self, path):
        try:
            self.x = json.loads((Path(path) / "map.json").read_text())["x"]
        except (OSError, ValueError, KeyError) as error:
            raise MapFormatError(f"{path}: is no map ({error})") from error
        self.arrays = {"points": np.zeros((5, 3))}

    def __len__(self):
        return 5

    def save(self, path):
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / "map.json").write_text(json.dumps({"x": self.x}))


class FakeRelocalizer:
    """Finds the camera at the map's x, unless the image is dark; keeps the priors it was given."""

    def __init__(self, x, map=None):
        self.x, self.map, self.priors = x, map, []

    def reset(self):
        self.priors = []

    def update(self, frame, prior=None):
        self.priors.append(prior)
        if frame.image.mean() < 50:
            return Estimate(frame.stamp, Status.REFUSED, "too dark", in_map_score=0.1)
        pose = np.eye(4)
        pose[0, 3] = self.x
        return Estimate(frame.stamp, Status.OK, "", pose, np.diag([1e-2] * 3 + [1e-4] * 3), probability=0.95)


def load(path, settings, config):
    found = FakeMap(path)
    return FakeRelocalizer(found.x, found)


def make(config):
    try:
        return FakeRelocalizer(float(config.weights.read_text()))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{config.weights}: no weights ({error})") from error


DARK = np.full((24, 32, 3), 10, np.uint8)


@pytest.fixture
def relocalizer(graph, tmp_path):
    def start(name="map", **values):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "map.json").write_text('{"x": 4.0}')
        values = {"map": str(folder), "lockstep": True, "diagnostics_period": 0.1, "attempt_timeout": 5.0, **values}
        overrides = [Parameter(name, value=value) for name, value in values.items()]
        node = graph.add(RelocalizerNode(load, SearchConfig, parameter_overrides=overrides))
        node.start()
        client = graph.add(Client("relocalizer", latched=values["lockstep"]))
        client.wait_for_node()
        return node, client

    return start


def call(client, kind, name, **request):
    service = client.create_client(kind, name)
    assert service.wait_for_service(20)
    return service.call(kind.Request(**request), timeout_sec=30)


def test_a_pose_is_published_when_there_is_one_and_silence_when_refused(relocalizer):
    _, client = relocalizer()
    poses = []
    client.listen(PoseWithCovarianceStamped, "/relocalizer/pose", poses)
    client.send(SECOND, image=DARK)
    refused = client.answer(SECOND)
    assert refused.status == EstimateMessage.STATUS_REFUSED and refused.reason == "too dark" and not refused.unscaled
    for i in range(2, 40):
        client.send(i * SECOND // 10 + SECOND)
        client.answer(i * SECOND // 10 + SECOND)
        if poses:
            break
    assert client.wait(lambda: poses)
    assert poses[0].header.frame_id == "map" and poses[0].pose.pose.position.x == 4.0
    assert nanoseconds(poses[0].header.stamp) > SECOND, "nothing was said of the dark image"
    assert refused.header.frame_id == "map" and refused.in_map_score == pytest.approx(0.1)


def test_the_prior_of_the_image_before_reaches_the_relocalizer(relocalizer):
    node, client = relocalizer()
    publisher = client.create_publisher(EstimateMessage, "/fusion/estimate", 10)
    assert client.wait(publisher.get_subscription_count)
    for stamp in (SECOND, SECOND + 1000, SECOND + 2000):
        client.send(stamp)
        client.answer(stamp)
        pose = np.eye(4)
        pose[1, 3] = stamp / SECOND
        prior = Estimate(stamp, Status.OK, "", pose, np.eye(6))
        publisher.publish(estimate_message(prior, source="fusion", world_frame="map", camera_frame="camera"))
    assert node.estimator.priors[0] is None
    assert [prior.stamp for prior in node.estimator.priors[1:]] == [SECOND, SECOND + 1000]
    lost = Estimate(SECOND + 2000, Status.FAILED, "LOST")
    publisher.publish(estimate_message(lost, source="fusion", world_frame="map", camera_frame="camera"))
    assert client.wait(lambda: not node._prior.has_pose)
    client.send(SECOND + 3000)
    client.answer(SECOND + 3000)
    assert node.estimator.priors[3] is None, "a lost filter is no prior"


def test_relocalize_answers_after_the_attempt_with_the_bound_or_the_reason(relocalizer):
    _, client = relocalizer()
    answers = []

    def ask():
        answers.append(call(client, Trigger, "/relocalizer/relocalize"))

    for image, stamp in ((DARK, SECOND), (None, 2 * SECOND)):
        asking = threading.Thread(target=ask)
        asking.start()
        time.sleep(1.0)
        assert len(answers) == stamp // SECOND - 1, "it does not answer before an image was searched"
        client.send(stamp, image=image)
        asking.join(20)
    assert (answers[0].success, answers[0].message) == (False, "too dark")
    # 0.1 m a side: 95 % of a chi-square with 3 degrees of freedom lie within 0.2795 m.
    assert answers[1].success and "at 4.00 0.00 0.00" in answers[1].message and "0.280 m" in answers[1].message


def test_relocalize_without_images_says_so(relocalizer):
    _, client = relocalizer(attempt_timeout=0.3)
    answer = call(client, Trigger, "/relocalizer/relocalize")
    assert not answer.success and "do images arrive" in answer.message


def test_a_bad_map_is_refused_and_the_old_one_stays(relocalizer, tmp_path):
    node, client = relocalizer()
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "map.json").write_text("{")
    for path in (broken, tmp_path / "nowhere"):
        answer = call(client, LoadMap, "/relocalizer/load_map", path=str(path))
        assert not answer.success and str(path) in answer.message and "the map in use stays" in answer.message
        assert (answer.keyframes, answer.points, answer.bytes) == (3, 5, 120)
    client.send(SECOND)
    assert client.answer(SECOND).pose.pose.position.x == 4.0
    (broken / "map.json").write_text('{"x": 7.5}')
    assert call(client, LoadMap, "/relocalizer/load_map", path=str(broken)).success
    client.send(2 * SECOND)
    assert client.answer(2 * SECOND).pose.pose.position.x == 7.5
    assert node.is_active


def test_a_map_is_saved_and_not_overwritten_unasked(relocalizer, tmp_path):
    _, client = relocalizer()
    path = str(tmp_path / "saved")
    answer = call(client, SaveMap, "/relocalizer/save_map", path=path)
    assert answer.success and answer.message == path and answer.bytes == 10
    answer = call(client, SaveMap, "/relocalizer/save_map", path=path)
    assert not answer.success and "exists" in answer.message
    assert call(client, SaveMap, "/relocalizer/save_map", path=path, overwrite=True).success


def test_live_a_busy_relocalizer_goes_on_with_the_newest_image(relocalizer):
    node, client = relocalizer(lockstep=False)
    free, seen = threading.Event(), []
    original = node.estimator.update

    def slow(frame, prior=None):
        seen.append(frame.stamp)
        assert free.wait(60)
        return original(frame, prior)

    node.estimator.update = slow
    stamp = SECOND
    while not seen and stamp < SECOND + 60:  # images that overtake the calibration are refused
        stamp += 1
        client.send(stamp)
        client.wait(lambda: seen, timeout=1.0)
    for _ in range(5):
        stamp += 1
        count = node.health.received
        client.send(stamp)
        assert client.wait(lambda count=count: node.health.received > count)
    free.set()
    assert client.answer(stamp).pose.pose.position.x == 4.0
    assert len(seen) == 2 and seen[1] == stamp and node.health.dropped >= 4


@pytest.mark.parametrize("values", [{}, {"map": "/nowhere"}])
def test_a_relocalizer_without_a_usable_map_does_not_configure_and_says_why(graph, values):
    overrides = [Parameter(name, value=value) for name, value in values.items()]
    node = graph.add(RelocalizerNode(load, SearchConfig, parameter_overrides=overrides))
    node.start()
    assert node.lifecycle_state == "unconfigured"


def test_bad_weights_are_refused_and_the_old_ones_stay(graph, tmp_path):
    good, other, broken = (tmp_path / name for name in ("good", "other", "broken"))
    good.write_text("1.5"), other.write_text("2.5"), broken.write_text("nonsense")
    values = {"weights": str(good), "lockstep": True}
    node = graph.add(
        RegressorNode(make, SearchConfig, parameter_overrides=[Parameter(k, value=v) for k, v in values.items()])
    )
    node.start()
    client = graph.add(Client("regressor"))
    client.wait_for_node()
    answer = call(client, LoadWeights, "/regressor/load_weights", path=str(broken))
    assert not answer.success and "broken" in answer.message and "stay" in answer.message
    assert answer.digest == hashlib.sha256(b"1.5").hexdigest()
    client.send(SECOND)
    assert client.answer(SECOND).pose.pose.position.x == 1.5
    answer = call(client, LoadWeights, "/regressor/load_weights", path=str(other))
    assert answer.success and answer.digest == hashlib.sha256(b"2.5").hexdigest()
    client.send(2 * SECOND)
    assert client.answer(2 * SECOND).pose.pose.position.x == 2.5
    assert call(client, LoadWeights, "/regressor/load_weights").success
    client.send(3 * SECOND)
    assert client.answer(3 * SECOND).pose.pose.position.x == 1.5


def test_estimators_of_one_process_share_one_camera_and_one_conversion(graph, tmp_path, monkeypatch):
    from fakes import FakeConfig, FakeOdometry

    from robust_loc.nodes import camera_input
    from robust_loc.nodes.odometry_node import OdometryNode

    converted = []
    original = camera_input.rgb_of
    monkeypatch.setattr(camera_input, "rgb_of", lambda message: converted.append(1) or original(message))
    (tmp_path / "weights").write_text("1.0")
    lockstep = Parameter("lockstep", value=True)
    odometry = graph.add(OdometryNode(FakeOdometry, FakeConfig, parameter_overrides=[lockstep]))
    weights = Parameter("weights", value=str(tmp_path / "weights"))
    regressor = graph.add(RegressorNode(make, SearchConfig, parameter_overrides=[lockstep, weights]))
    regressor.camera = odometry
    for node in (odometry, regressor):
        node.start()
    client = graph.add(Client("odometry"))
    also = []
    client.listen(EstimateMessage, "/regressor/estimate", also)
    client.wait_for_node()
    assert client.images.get_subscription_count() == 1
    assert client.wait(lambda: client.count_publishers("/regressor/estimate"))
    for i in range(1, 20):
        client.send(i * SECOND)
        client.answer(i * SECOND)
    assert client.wait(lambda: also and nanoseconds(also[-1].header.stamp) == 19 * SECOND)
    assert len(converted) == 19
    regressor.trigger_deactivate()
    assert odometry.listeners == []
