"""Labels: topics with gaps and NaN, damaged bags, odometry placed in the map, pseudo-labels, jumps."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from small_scene import CALIBRATION, PERIOD, QUICK, START, frames, write_bag

from robust_loc.data import BagWriter, Trajectory
from robust_loc.errors import BagError, TrajectoryError
from robust_loc.training.finetune.frames import Role
from robust_loc.training.finetune.labels import believable, placed_in_map, sure_poses
from robust_loc.training.finetune.reading import read_bags
from robust_loc.types import Estimate, Status

SECOND = 1_000_000_000


def rigid(rotation, translation):
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = Rotation.from_rotvec(rotation).as_matrix(), translation
    return result


def test_images_in_a_gap_of_the_labels_are_left_out_and_said(tmp_path):
    recording = [replace(f, world_T_cam=None) if 30 <= k < 50 else f for k, f in enumerate(frames(100))]
    found, losses = read_bags([write_bag(tmp_path / "gap.mcap", recording)], QUICK, 64)
    assert len(found) == 80 and found.size == (64, 96)
    assert any("20 of 100 images have no label" in loss for loss in losses)
    stamps = (found.images.stamps - START) // PERIOD
    assert not set(range(30, 50)) & set(stamps.tolist())


def test_labels_that_are_not_numbers_are_left_out_and_said(tmp_path):
    recording = frames(90)
    path = tmp_path / "nan.mcap"
    with BagWriter(path, CALIBRATION) as writer:
        for k, frame in enumerate(recording):
            bad = frame.world_T_cam.copy()
            bad[:3, 3] = np.nan
            writer.write_frame(replace(frame, world_T_cam=None))
            writer.write_pose(frame.stamp, bad if 20 <= k < 30 else frame.world_T_cam)
    found, losses = read_bags([path], QUICK, 64)
    # ten frames at 20 Hz are a gap of 0.55 s, more than is interpolated
    assert len(found) == 80
    assert any("left out" in loss and "pose" in loss for loss in losses)
    assert found.images.world_T_cam.isfinite().all()


@pytest.mark.parametrize("kept", [0.7, 0.9])
def test_a_bag_that_is_cut_off_or_still_being_written_gives_what_is_there(tmp_path, kept):
    whole = write_bag(tmp_path / "whole.mcap", frames(120)).read_bytes()
    path = tmp_path / "growing.mcap"
    path.write_bytes(whole[: round(kept * len(whole))])
    found, losses = read_bags([path], QUICK, 64)
    assert 60 <= len(found) < 120
    assert losses, "what is missing is said"


def test_an_unreadable_bag_is_said_and_the_others_are_used(tmp_path):
    good = write_bag(tmp_path / "good.mcap", frames(80))
    (tmp_path / "broken.mcap").write_bytes(b"no recording")
    found, losses = read_bags([tmp_path / "broken.mcap", tmp_path / "absent.mcap", good], QUICK, 64)
    assert len(found) == 80
    assert any("broken.mcap" in loss for loss in losses) and any("absent.mcap" in loss for loss in losses)
    with pytest.raises(BagError, match=r"none of the 1 bags.*absent"):
        read_bags([tmp_path / "absent.mcap"], QUICK, 64)


def test_too_few_labelled_frames_are_refused_with_what_was_lost(tmp_path):
    recording = [f if k < 30 else replace(f, world_T_cam=None) for k, f in enumerate(frames(100))]
    with pytest.raises(BagError, match="70 of 100 images have no label"):
        read_bags([write_bag(tmp_path / "few.mcap", recording)], QUICK, 64)


def test_frames_are_thinned_evenly_to_the_limit(tmp_path):
    bags = [write_bag(tmp_path / f"{k}.mcap", frames(100, 1000 * k)) for k in range(2)]
    found, _ = read_bags(bags, replace(QUICK, maximum_frames=100), 64)
    assert len(found) == 100 and np.bincount(found.recording).tolist() == [50, 50]


def test_held_out_frames_are_stretches_of_time(tmp_path):
    found, _ = read_bags([write_bag(tmp_path / "a.mcap", frames(120))], QUICK, 64)
    counts = [found.count(role) for role in Role]
    assert sum(counts) == 120 and counts[Role.CALIBRATE] == pytest.approx(24, abs=3)
    assert counts[Role.JUDGE] == pytest.approx(24, abs=3)
    changes = np.count_nonzero(np.diff(found.role))
    assert changes <= 12, "blocks, not single frames"


def test_jumping_labels_are_found_also_when_half_of_them_are_wrong():
    rng = np.random.default_rng(0)
    stamps = START + np.arange(200) * 33_000_000
    positions = np.stack([np.sin(0.02 * np.arange(200)), np.cos(0.02 * np.arange(200)), np.zeros(200)], 1)
    assert believable(stamps, positions, 5.0).all()
    wrong = rng.permutation(200)[:60]
    spoilt = positions.copy()
    spoilt[wrong] += rng.uniform(3, 10, (60, 3)) * rng.choice([-1, 1], (60, 3))
    kept = believable(stamps, spoilt, 5.0)
    assert kept[wrong].sum() <= 2
    right = np.delete(np.arange(200), wrong)
    assert kept[right].mean() > 0.9


def test_odometry_is_placed_by_fixes_of_which_a_third_is_wrong():
    rng = np.random.default_rng(1)
    stamps = START + np.arange(300) * 100_000_000
    poses = np.array([rigid([0, 0.02 * k, 0], [0.1 * k, np.sin(0.1 * k), 0]) for k in range(300)])
    map_T_odom = rigid([0.1, -0.5, 0.3], [5.0, -2.0, 1.0])
    truth = map_T_odom @ poses
    fixes = []
    for k in range(0, 300, 5):
        noise = rigid(rng.normal(0, 0.002, 3), rng.normal(0, 0.01, 3))
        fixes.append((int(stamps[k]), (rigid([0, 1, 0], [9, 9, 9]) if k % 3 == 0 else np.eye(4)) @ truth[k] @ noise))
    placed = placed_in_map(Trajectory(stamps, poses), fixes, 200_000_000)
    assert len(placed) == 300
    error = np.linalg.norm(placed.positions - truth[:, :3, 3], axis=1)
    assert error.max() < 0.05
    with pytest.raises(TrajectoryError, match="2 of 2 sure poses"):
        placed_in_map(Trajectory(stamps, poses), fixes[:2], 200_000_000)


def test_drift_of_the_odometry_does_not_add_up():
    stamps = START + np.arange(600) * 100_000_000
    truth = np.array([rigid([0, 0, 0], [0.2 * k, 0, 0]) for k in range(600)])
    drifting = np.array([rigid([0, 0, 0], [0.2 * k, 1e-5 * k * k, 0]) for k in range(600)])  # 3.6 m at the end
    fixes = [(int(stamps[k]), truth[k]) for k in range(0, 600, 10)]
    placed = placed_in_map(Trajectory(stamps, drifting), fixes, 200_000_000)
    error = np.linalg.norm(placed.positions - truth[:, :3, 3], axis=1)
    assert np.median(error) < 0.1 and error.max() < 0.8  # at the end fixes lie on one side only


def test_a_localizer_labels_only_the_frames_it_is_sure_of(tmp_path):
    recording = frames(100)
    truth = {frame.stamp: frame.world_T_cam for frame in recording}

    def localizer(frame):
        assert frame.world_T_cam is None, "it must not see the truth"
        k = (frame.stamp - START) // PERIOD
        if k % 10 == 0:
            return None
        status = Status.REFUSED if k % 10 == 1 else Status.OK
        pose = None if status is Status.REFUSED else truth[frame.stamp]
        covariance = None if pose is None else np.eye(6)
        return Estimate(
            frame.stamp, status, world_T_cam=pose, covariance=covariance, probability=1.0 - 0.1 * (k % 10 == 2)
        )

    label = sure_poses(localizer, 0.95)
    assert [label(frame) is not None for frame in recording[:4]] == [False, False, False, True]
    config = replace(QUICK, label_source="localizer")
    found, losses = read_bags([write_bag(tmp_path / "a.mcap", recording)], config, 64, localizer)
    assert len(found) == 70 and any("30 of 100 images have no label" in loss for loss in losses)
