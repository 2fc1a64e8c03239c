"""The real estimators on a piece of a real recording: in lockstep the live graph gives the offline command's poses."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("rclpy")
pytest.importorskip("robust_loc.msg")

from robust_loc.cli import cli, graph
from robust_loc.data.results import read_source

MAPPED, LAST = 26, 36


def command(*arguments):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.timeout(900)  # three commands that load torch and compile, on a machine that may be busy
def test_odometry_relocalizer_and_fusion_answer_alike_live_and_offline(tmp_path):
    folder = os.environ.get("ROBUST_LOC_DATA")
    if not folder:
        pytest.skip("ROBUST_LOC_DATA is not set")
    bag, recipe = Path(folder) / "rosbags" / "redkitchen_40_mcap", graph.share_folder() / "config" / "cpu.yaml"
    command("map", bag, "-o", tmp_path / "map", "--until-frame", MAPPED)
    span = {"from_frame": MAPPED, "until_frame": LAST}
    localizer = {"lockstep": True, "map": tmp_path / "map", "fusion:base_frame": "camera_optical_frame"}
    answers = [f"/{name}/estimate" for name in ("odometry", "relocalizer", "fusion")] + ["/fusion/state"]
    player = {
        "bag": bag,
        "lockstep": True,
        "rate": 0.0,
        "wait": 120.0,
        "answers": answers,
        "results": tmp_path / "live",
    }
    with graph.running("localizer", localizer, tmp_path / "log", recipe) as process:
        graph.run("bag_player", {**player, **span}, [process])
    command(
        "localize", bag, "--map", tmp_path / "map", "--config", recipe, "-o", tmp_path / "offline",
        "--from-frame", MAPPED, "--until-frame", LAST,
    )  # fmt: skip
    posed = {}
    for name in ("odometry", "relocalizer", "fusion"):
        live, offline = (read_source(tmp_path / kind, name) for kind in ("live", "offline"))
        assert live.statuses == offline.statuses and len(live.stamps) == LAST - MAPPED
        np.testing.assert_array_equal(live.stamps, offline.stamps)
        np.testing.assert_array_equal(live.trajectory.stamps, offline.trajectory.stamps)
        np.testing.assert_allclose(live.trajectory.world_T_cam, offline.trajectory.world_T_cam, atol=1e-6)
        np.testing.assert_allclose(live.trajectory.covariances, offline.trajectory.covariances, rtol=1e-4, atol=1e-9)
        posed[name] = len(live.trajectory)
    live, offline = (read_source(tmp_path / kind, "fusion").states for kind in ("live", "offline"))
    assert live == offline and posed["relocalizer"] >= 4 and posed["odometry"] == LAST - MAPPED
    run = json.loads((tmp_path / "live" / "run.json").read_text())["configuration"]
    assert run["/odometry"]["preset"] == "cpu"
