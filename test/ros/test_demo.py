"""The demo's graph of child processes, and the demo itself."""

import json

import pytest

pytest.importorskip("rclpy")
pytest.importorskip("robust_loc.msg")

from robust_loc.cli import graph


def test_parameters_become_arguments_that_ros_parses():
    command = graph.command_of("localizer", {"lockstep": True, "rate": 0.0, "answers": ["/a", "/b"], "fusion:x": "y"})
    assert command[1:4] == ["-m", "robust_loc.nodes.localizer", "--ros-args"]
    assert command[4:] == [
        "-p", "lockstep:=true", "-p", "rate:=0.0", "-p", "answers:=[/a, /b]", "-p", "fusion:x:=y",
    ]  # fmt: skip


def test_children_get_a_domain_of_their_own_and_the_shared_memory_profile():
    variables = graph.environment()
    assert variables["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST" and 1 <= int(variables["ROS_DOMAIN_ID"]) <= 100
    assert variables["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("config/fastdds.xml")
    assert (graph.share_folder() / "config" / "cpu.yaml").is_file()


def test_a_node_that_fails_is_reported_with_what_it_said(tmp_path):
    nothing = {"odometry": False}
    failed = pytest.raises(graph.GraphError, match=r"(?s)code 2.*nothing to localize with")
    with failed, graph.running("localizer", nothing, tmp_path / "log") as process:
        process.wait(60)
    with pytest.raises(graph.GraphError, match="bag_player ended with code 2"):
        graph.run("bag_player", {"bag": "/nowhere.mcap"})


@pytest.mark.slow
def test_the_demo_leaves_a_report_of_a_localized_camera(tmp_path):
    from robust_loc.cli import cli

    cli.main(["demo", "-o", str(tmp_path), "--frames", "80"], standalone_mode=False)
    report = (tmp_path / "report.html").read_text()
    assert report.count("data:image/png;base64,") >= 4
    judged = json.loads((tmp_path / "report.json").read_text())
    assert judged["frames"] == 80 and judged["estimated"] > 60
    assert judged["ate"]["none"]["rmse"] < 0.1
