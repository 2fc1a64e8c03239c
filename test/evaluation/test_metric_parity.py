"""The metrics agree with the established tools on the same files, to 1e-6."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from robust_loc.data.datasets.euroc import read_ground_truth
from robust_loc.data.trajectory import Trajectory, associate, read_kitti_poses, read_tum
from robust_loc.evaluation.metrics import (
    AlignmentMode,
    apply_alignment,
    find_alignment,
    kitti_drift,
    recall,
    relative_errors,
    rotation_errors,
    statistics,
    trace_angles,
    translation_errors,
)
from robust_loc.geometry.alignment import Alignment

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def parity() -> Path:
    folder = os.environ.get("ROBUST_LOC_DATA")
    if not folder:
        pytest.skip("ROBUST_LOC_DATA is not set: the reference trajectories are not installed")
    return Path(folder) / "metric_parity"


def read(path: Path) -> Trajectory:
    if path.suffix == ".csv":
        return read_ground_truth(path)
    return read_kitti_poses(path) if path.name.startswith("KITTI") else read_tum(path)


def test_ate_and_rpe_are_those_of_evo(parity):
    results = json.loads((parity / "evo/expected_evo.json").read_text())["results"]
    checked = 0
    paired: dict[tuple, tuple] = {}
    for expected in results:
        mode = {(False, False): "none", (True, False): "se3", (True, True): "sim3"}[
            expected["align"], expected["correct_scale"]
        ]
        key = (expected["ref"], expected["est"], mode)
        if key not in paired:
            truth, estimate = read(parity / "evo" / expected["ref"]), read(parity / "evo" / expected["est"])
            i, j = associate(estimate, truth, tolerance=10_000_000)
            estimate, truth = estimate.select(i), truth.select(j)
            paired[key] = (
                apply_alignment(estimate, find_alignment(estimate, truth, AlignmentMode(mode))),
                truth,
            )
        estimate, truth = paired[key]
        assert len(truth) == expected["n"]
        is_rotation = expected["relation"] == "rotation_angle_deg"
        if expected["metric"] == "ape":
            errors = (rotation_errors if is_rotation else translation_errors)(estimate, truth)
        else:
            errors = relative_errors(estimate, truth, expected["delta"], expected["all_pairs"])[int(is_rotation)]
        found = statistics(np.degrees(errors) if is_rotation else errors)
        for name in ("rmse", "mean", "median", "max"):
            np.testing.assert_allclose(getattr(found, name), expected[name], atol=1e-6, err_msg=f"{key} {expected}")
            checked += 1
    assert checked == 4 * len(results) > 300


def test_kitti_drift_is_that_of_the_kitti_tools(parity):
    for expected in json.loads((parity / "kitti_odom_eval/expected_kitti.json").read_text()):
        folder = parity / "kitti_odom_eval"
        truth = read_kitti_poses(folder / f"gt_{expected['seq']}.txt")
        estimate = read_kitti_poses(folder / f"example{expected['example']}_{expected['seq']}.txt")
        i, j = associate(estimate, truth, tolerance=0)
        # that tool expresses both trajectories in their first common pose
        estimate = estimate.in_frame(np.linalg.inv(estimate.world_T_cam[i[0]]))
        truth = truth.in_frame(np.linalg.inv(truth.world_T_cam[j[0]]))
        a, b = estimate.select(i), truth.select(j)
        mode = expected["align"]
        if mode == "scale":
            scale = float((a.positions * b.positions).sum() / (a.positions**2).sum())
            estimate = apply_alignment(estimate, Alignment(np.eye(3), np.zeros(3), scale))
        elif mode is not None:
            found = find_alignment(a, b, AlignmentMode.SE3 if mode == "6dof" else AlignmentMode.SIM3)
            if mode == "scale_7dof":
                found = Alignment(np.eye(3), np.zeros(3), found.scale)
            estimate = apply_alignment(estimate, found)
        drift = kitti_drift(estimate, truth, (i, j))
        a = estimate.select(i)
        rpe = relative_errors(a, b, angles=trace_angles)
        values = {
            "t_err_percent": 100 * drift.translation,
            "r_err_deg_per_100m": np.degrees(drift.rotation) * 100,
            "ate_rmse_m": statistics(translation_errors(a, b)).rmse,
            "rpe_m": rpe[0].mean(),
            "rpe_deg": np.degrees(rpe[1].mean()),
        }
        assert len(i) == expected["n"]
        for name, value in values.items():
            np.testing.assert_allclose(value, expected[name], rtol=1e-6, atol=1e-6, err_msg=f"{name} of {expected}")


def read_world_to_camera(path: Path) -> dict[str, np.ndarray]:
    from scipy.spatial.transform import Rotation

    poses = {}
    for line in path.read_text().splitlines():
        name, *numbers = line.split()
        w, x, y, z, *rest = map(float, numbers)
        cam_T_world = np.eye(4)
        cam_T_world[:3, :3] = Rotation.from_quat([x, y, z, w]).as_matrix()
        cam_T_world[:3, 3] = rest[:3]
        poses[name] = np.linalg.inv(cam_T_world)
    return poses


def test_relocalization_medians_and_recalls_are_those_of_the_benchmark(parity):
    folder = parity / "reloc_7scenes"
    for expected in json.loads((folder / "expected_reloc.json").read_text()):
        truth = read_world_to_camera(folder / f"pgt_sfm_{expected['scene']}_test.txt")
        estimate = read_world_to_camera(folder / f"est_{expected['scene']}_{expected['method']}.txt")
        names = sorted(set(truth) & set(estimate))
        assert len(truth) == expected["n"] and len(truth) - len(names) == expected["missing"]
        stamps = np.arange(len(names))
        one = Trajectory(stamps, np.array([estimate[name] for name in names]))
        other = Trajectory(stamps, np.array([truth[name] for name in names]))
        translation, rotation = translation_errors(one, other), rotation_errors(one, other)
        recalls = recall(translation, rotation, len(truth), ((0.05, 5.0), (0.01, 1.0), (0.1, 10.0)))
        np.testing.assert_allclose(np.median(translation), expected["median_t_m"], atol=1e-6)
        np.testing.assert_allclose(np.degrees(np.median(rotation)), expected["median_r_deg"], atol=1e-6)
        np.testing.assert_allclose(
            list(recalls.values()), [expected[f"recall_{b}"] for b in ("5cm_5deg", "1cm_1deg", "10cm_10deg")], atol=1e-6
        )
