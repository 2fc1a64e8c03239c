"""A recording played through live processes with real DDS: every image answered, stamps kept, clean exits."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("robust_loc.msg")

from fakes import Client
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, CompressedImage

from robust_loc.data import BagWriter, open_bag
from robust_loc.data.results import read_source
from robust_loc.errors import RobustLocError
from robust_loc.geometry.cameras import CameraCalibration
from robust_loc.nodes.bag_player import BagPlayer
from robust_loc.nodes.conversions import nanoseconds
from robust_loc.types import Frame

ROOT = Path(__file__).resolve().parents[2]
FRAMES, START, PERIOD = 12, 1_700_000_000_000_000_000, 33_333_333
FAKE = """
from fakes import FakeConfig, FakeOdometry
from robust_loc.nodes.odometry_node import OdometryNode, run

run(lambda: OdometryNode(FakeOdometry, FakeConfig))
"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    calibration = CameraCalibration(64, 48, 60.0, 60.0, 31.5, 23.5)
    path = tmp_path_factory.mktemp("bag") / "walk.mcap"
    rng = np.random.default_rng(0)
    with BagWriter(path, calibration) as writer:
        for i in range(FRAMES):
            image = rng.integers(1, 255, (48, 64, 3), dtype=np.uint8)
            writer.write_frame(Frame(image, calibration.pinhole, START + i * PERIOD, None, np.eye(4)))
    return path


@pytest.fixture
def process():
    """Starts Python programs of the package; ends those still running."""
    running = []

    def start(*command, **parameters):
        arguments = [a for name, value in parameters.items() for a in ("-p", f"{name}:={value}")]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"}
        running.append(
            subprocess.Popen(
                [sys.executable, *command, "--ros-args", *arguments],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
        return running[-1]

    yield start
    for each in running:
        if each.poll() is None:
            each.kill()
        each.communicate()


def player(process, bag, **parameters):
    return process("-m", "robust_loc.nodes.bag_player", bag=bag, **parameters)


def finish(program, timeout=60):
    output, _ = program.communicate(timeout=timeout)
    return program.returncode, output


def test_in_lockstep_every_frame_is_answered_once_with_its_stamp(graph, process, recording, tmp_path):
    client = graph.add(Client())
    odometry = process("-c", FAKE, lockstep=True, use_sim_time=True)
    code, output = finish(player(process, recording, lockstep=True, rate=0.0, results=tmp_path / "run"))
    assert code == 0 and f"played {FRAMES} images" in output, output
    expected = [START + i * PERIOD for i in range(FRAMES)]
    assert client.wait(lambda: len(client.estimates) >= FRAMES)
    assert [nanoseconds(e.header.stamp) for e in client.estimates] == expected
    for estimate in client.estimates[1:]:
        assert estimate.has_pose and estimate.child_frame_id == "camera_optical_frame"
        assert np.linalg.eigvalsh(np.array(estimate.pose.covariance).reshape(6, 6)).min() > 0
    results = read_source(tmp_path / "run", "odometry")
    np.testing.assert_array_equal(results.stamps, expected)
    np.testing.assert_array_equal(results.trajectory.stamps, expected[1:])
    assert results.trajectory.covariances is not None and results.statuses[:2] == ("initializing", "ok")
    description = json.loads((tmp_path / "run" / "run.json").read_text())
    assert description["configuration"]["/odometry"]["step"] == 0.1 and description["recording"] == str(recording)
    odometry.send_signal(signal.SIGINT)
    code, output = finish(odometry)
    assert code == 0, output


def test_the_player_publishes_calibration_clock_and_tf_with_the_recorded_stamps(graph, process, recording):
    client = graph.add(Client())
    images, infos, clocks, transforms = [], [], [], []
    client.listen(CompressedImage, "image/compressed", images)
    client.listen(CameraInfo, "camera_info", infos)
    client.listen(Clock, "/clock", clocks)
    tf2_msgs = pytest.importorskip("tf2_msgs.msg")
    client.listen(tf2_msgs.TFMessage, "/tf", transforms)
    began = time.monotonic()
    odometry = process("-c", FAKE, lockstep=True)
    # Lockstep makes the image topic reliable; at rate 0.5 it still takes the recording's time, twice.
    code, output = finish(player(process, recording, lockstep=True, rate=0.5, start_delay=4.0))
    assert code == 0, output
    assert time.monotonic() - began > (FRAMES - 1) * PERIOD / 1e9 / 0.5
    assert client.wait(lambda: min(map(len, (images, infos, transforms))) >= FRAMES), (
        len(images), len(infos), len(transforms),
    )  # fmt: skip
    expected = [START + i * PERIOD for i in range(FRAMES)]
    assert [nanoseconds(m.header.stamp) for m in images] == expected
    assert [nanoseconds(m.header.stamp) for m in infos] == expected
    assert [nanoseconds(t.transforms[0].header.stamp) for t in transforms] == expected
    assert client.wait(lambda: nanoseconds(clocks[-1].clock) == expected[-1])
    times = [nanoseconds(m.clock) for m in clocks]
    assert times == sorted(times) and len(times) >= FRAMES and times[-1] == expected[-1]
    odometry.send_signal(signal.SIGINT)
    assert finish(odometry)[0] == 0


def test_a_part_of_the_recording_is_played(graph, process, recording):
    client = graph.add(Client())
    process("-c", FAKE, lockstep=True)
    code, output = finish(player(process, recording, lockstep=True, rate=0.0, from_frame=3, until_frame=7))
    assert code == 0 and "played 4 images" in output, output
    assert client.wait(lambda: len(client.estimates) >= 4)
    assert [nanoseconds(e.header.stamp) for e in client.estimates] == [START + i * PERIOD for i in range(3, 7)]


def test_the_player_refuses_bad_input_with_one_line_and_code_2(process):
    code, output = finish(player(process, "/nowhere.mcap"))
    assert code == 2 and "/nowhere.mcap" in output and len(output.strip().splitlines()) == 1, output


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"bag": ""}, "needs the parameter 'bag'"),
        ({"wait": 0.1}, "nobody is at the other end of /image/compressed"),
        ({"image_topic": "/rear"}, "/rear"),
        ({"topics": ["/odom"]}, "no topic /odom"),
        ({"rate": -1.0}, "rate"),
    ],
)
def test_the_player_says_what_is_wrong_with_its_parameters(graph, recording, parameters, complaint):
    values = {"bag": str(recording), **parameters}
    with pytest.raises(RobustLocError, match=complaint):
        BagPlayer(parameter_overrides=[Parameter(name, value=value) for name, value in values.items()]).play()


def test_an_unanswered_image_ends_the_replay_with_its_stamp(graph, process, recording):
    process("-c", FAKE, lockstep=False, delay=3.0)
    program = player(process, recording, lockstep=True, rate=0.0, answer_timeout=0.5)
    code, output = finish(program)
    assert code == 2 and "no answer to the image of 1700000000.0" in output, output


def test_the_player_stops_at_an_interrupt_with_code_0(graph, process, recording):
    client = graph.add(Client())
    process("-c", FAKE, lockstep=True)
    program = player(process, recording, lockstep=True, rate=1.0, loop=True)
    assert client.wait(lambda: len(client.estimates) > FRAMES + 2)
    program.send_signal(signal.SIGINT)
    code, output = finish(program)
    assert code == 0, output


@pytest.mark.data
@pytest.mark.parametrize("name", ["redkitchen_40_mcap", "fr1_xyz_10_sqlite3"])
def test_a_real_recording_plays_through_the_graph(graph, process, name):
    folder = os.environ.get("ROBUST_LOC_DATA")
    if not folder:
        pytest.skip("ROBUST_LOC_DATA is not set")
    bag = open_bag(Path(folder) / "rosbags" / name)
    client = graph.add(Client())
    process("-c", FAKE, lockstep=True)
    code, output = finish(player(process, bag.path, lockstep=True, rate=0.0))
    assert code == 0, output
    assert client.wait(lambda: len(client.estimates) >= len(bag))
    assert [nanoseconds(e.header.stamp) for e in client.estimates] == [frame.stamp for frame in bag]


UNTRAINED = """
import torch
from robust_loc.nodes.odometry_node import OdometryNode, run
from robust_loc.odometry import Odometry, PatchNetwork

torch.manual_seed(0)
torch.set_num_threads(1)
network = PatchNetwork()
run(lambda: OdometryNode(lambda config: Odometry(config, network)))
"""


@pytest.mark.data
@pytest.mark.slow
def test_in_lockstep_the_live_graph_gives_the_offline_answers(graph, process, tmp_path):
    import torch

    from robust_loc.data.results import trajectory_of
    from robust_loc.odometry import Odometry, OdometryConfig, PatchNetwork

    folder = os.environ.get("ROBUST_LOC_DATA")
    if not folder:
        pytest.skip("ROBUST_LOC_DATA is not set")
    bag = open_bag(Path(folder) / "rosbags" / "redkitchen_40_mcap")
    process("-c", UNTRAINED, lockstep=True, preset="cpu", device="cpu")
    span = {"from_frame": 0, "until_frame": 16}
    code, output = finish(
        player(process, bag.path, lockstep=True, rate=0.0, wait=120.0, results=tmp_path / "run", **span), timeout=240
    )
    assert code == 0, output
    live = read_source(tmp_path / "run", "odometry").trajectory
    torch.manual_seed(0)
    odometry = Odometry(OdometryConfig.preset("cpu", device="cpu"), PatchNetwork())
    offline = trajectory_of([odometry.update(frame) for frame in bag.frames(**span)])
    np.testing.assert_array_equal(live.stamps, offline.stamps)
    assert len(live) == 16
    np.testing.assert_allclose(live.world_T_cam, offline.world_T_cam, atol=1e-6)
    np.testing.assert_allclose(live.covariances, offline.covariances, rtol=1e-5, atol=1e-6)
