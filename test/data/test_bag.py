import logging

import numpy as np
import pytest
from small_recordings import SECOND, make_frames, write_bag

from robust_loc.data import open_bag
from robust_loc.data.images import rgb_png
from robust_loc.data.writer import BagWriter
from robust_loc.errors import BagError, BagTopicError, CameraError, ImageEncodingError
from robust_loc.geometry.cameras import CameraCalibration


def test_what_was_written_is_read_back(bag_path, frames):
    bag = open_bag(bag_path)
    read = list(bag)
    assert len(bag) == len(read) == len(frames) and bag.losses == ()
    for expected, frame in zip(frames, read):
        assert frame.stamp == expected.stamp and frame.camera == expected.camera
        np.testing.assert_array_equal(frame.image, expected.image)
        np.testing.assert_allclose(frame.world_T_cam, expected.world_T_cam, atol=1e-12)
        if expected.depth is None:
            assert frame.depth is None
        else:
            np.testing.assert_allclose(frame.depth, expected.depth, atol=6e-4)


def test_a_range_of_frames_can_be_read(bag_path, frames):
    stamps = [frame.stamp for frame in open_bag(bag_path).frames(3, 7)]
    assert stamps == [frame.stamp for frame in frames[3:7]]
    assert list(open_bag(bag_path).frames(12)) == []
    with pytest.raises(BagError, match="no range"):
        next(open_bag(bag_path).frames(5, 4))


def test_ground_truth_comes_from_the_pose_topic_and_from_tf(bag_path, frames):
    bag = open_bag(bag_path)
    for trajectory in (bag.ground_truth(), bag.trajectory("/tf:world.camera_optical_frame_gt")):
        np.testing.assert_array_equal(trajectory.stamps, [frame.stamp for frame in frames])
        np.testing.assert_allclose(trajectory.positions[:, 0], 0.1 * np.arange(len(frames)), atol=1e-12)


def test_a_topic_that_is_not_there_is_answered_with_the_list_of_those_that_are(bag_path):
    with pytest.raises(BagTopicError, match=r"no image topic /left/image(.|\n)*/camera/camera_info \[sensor_msgs"):
        _ = open_bag(bag_path, "/left/image").image_topic
    with pytest.raises(BagTopicError, match=r"no pose or odometry topic /odom(.|\n)*/ground_truth/pose"):
        open_bag(bag_path).trajectory("/odom")


def test_a_recording_without_a_camera_says_so_and_still_gives_its_poses(tmp_path, frames):
    path = tmp_path / "poses.mcap"
    with BagWriter(path, CameraCalibration(64, 48, 60.0, 61.0, 31.0, 24.0)) as writer:
        for frame in frames:
            writer.write_pose(frame.stamp, frame.world_T_cam)
    bag = open_bag(path)
    with pytest.raises(BagTopicError, match=r"no camera image topic(.|\n)*/tf \[tf2_msgs"):
        next(bag.frames())
    assert len(bag.ground_truth()) == len(frames)


def test_the_image_topic_may_be_named_without_its_transport(bag_path):
    assert open_bag(bag_path, "/camera/image_raw").image_topic == "/camera/image_raw/compressed"


def test_raw_images_of_every_encoding_are_read(tmp_path, frames):
    from robust_loc.data.images import COLOUR_ENCODINGS, raw_from_rgb

    for encoding in COLOUR_ENCODINGS:
        path = tmp_path / f"{encoding}.mcap"
        with BagWriter(path, CameraCalibration(64, 48, 60.0, 61.0, 31.0, 24.0)) as writer:
            data, step = raw_from_rgb(frames[0].image, encoding)
            writer.write_raw_image(5 * SECOND, 48, 64, encoding, step, data)
        (frame,) = open_bag(path)
        if encoding != "mono8":
            np.testing.assert_array_equal(frame.image, frames[0].image)
        assert frame.image.shape == (48, 64, 3)


def test_an_unsupported_encoding_is_an_error_at_the_first_frame(tmp_path):
    path = tmp_path / "bayer.mcap"
    with BagWriter(path, CameraCalibration(64, 48, 60.0, 61.0, 31.0, 24.0)) as writer:
        writer.write_raw_image(SECOND, 48, 64, "bayer_rggb8", 64, bytes(48 * 64))
    with pytest.raises(ImageEncodingError, match="bayer_rggb8"):
        list(open_bag(path))


def test_a_camera_info_that_is_not_calibrated_is_an_error(tmp_path, frames):
    path = tmp_path / "zero.mcap"
    calibration = CameraCalibration(64, 48, 60.0, 61.0, 31.0, 24.0)
    with BagWriter(path, calibration) as writer:
        writer._camera_info.k = np.zeros(9)
        for frame in frames:
            writer.write_frame(frame)
    with pytest.raises(CameraError, match="focal lengths"):
        list(open_bag(path))
    assert len(list(open_bag(path, calibration=calibration))) == len(frames)


def test_damaged_images_and_changed_sizes_are_left_out_and_said(tmp_path, frames, caplog):
    path = tmp_path / "bag.mcap"
    calibration = CameraCalibration(64, 48, 60.0, 61.0, 31.0, 24.0)
    with BagWriter(path, calibration) as writer:
        writer.write_frame(frames[0])
        writer.write_image(frames[1].stamp, b"\xff\xd8 damaged", "jpeg")
        writer.write_frame(frames[2])
        small = frames[3].image[:24, :32].copy()
        writer.write_image(frames[3].stamp, rgb_png(small), "png")
        writer.write_frame(frames[4])
    bag = open_bag(path)
    with caplog.at_level(logging.WARNING):
        stamps = [frame.stamp for frame in bag]
    assert stamps == [frames[i].stamp for i in (0, 2, 4)]
    assert len(bag.losses) == 2 and "image 1 " in bag.losses[0] and "32x24" in bag.losses[1]
    assert [record.message for record in caplog.records] == list(bag.losses)


def test_a_changed_calibration_counts_from_there_on_and_an_unusable_one_is_passed_over(tmp_path, frames):
    path = tmp_path / "bag.mcap"
    with BagWriter(path, CameraCalibration(64, 48, 60.0, 61.0, 31.0, 24.0)) as writer:
        for index, frame in enumerate(frames[:6]):
            focal = {2: 70.0, 4: np.nan}.get(index)
            if focal is not None:
                writer._camera_info.k = np.array([focal, 0, 31, 0, focal, 24, 0, 0, 1])
            writer.write_frame(frame)
    bag = open_bag(path)
    assert [frame.camera.fx for frame in bag] == [60, 60, 70, 70, 70, 70]
    assert len(bag.losses) == 1 and "stays in use" in bag.losses[0]


def test_duplicate_and_decreasing_stamps_are_given_as_recorded(tmp_path, frames):
    stamps = [frames[index].stamp for index in (0, 2, 2, 1, 3)]
    with BagWriter(tmp_path / "bag.mcap", CameraCalibration(64, 48, 60.0, 61.0, 31.0, 24.0)) as writer:
        for received, stamp in enumerate(stamps, start=1):
            writer.write_image(stamp, rgb_png(frames[0].image), "png", received * SECOND)
    assert [frame.stamp for frame in open_bag(tmp_path / "bag.mcap")] == stamps


def test_a_distorted_camera_is_undistorted_on_entry(tmp_path, frames):
    calibration = CameraCalibration(64, 48, 60.0, 61.0, 31.0, 24.0, "plumb_bob", (0.1, -0.05, 0.001, 0.0, 0.0))
    with BagWriter(tmp_path / "bag.mcap", calibration) as writer:
        writer.write_frame(frames[0])
    bag = open_bag(tmp_path / "bag.mcap")
    (frame,) = bag
    assert bag.calibration == calibration
    assert frame.camera == bag.camera != calibration.pinhole


def test_two_passes_over_one_bag_do_not_disturb_each_other(bag_path, frames):
    bag = open_bag(bag_path)
    pairs = list(zip(bag.frames(), bag.frames(2)))
    assert all(second.stamp - first.stamp == SECOND // 5 for first, second in pairs) and len(pairs) == 10


def test_writing_over_a_recording_is_refused_and_a_failure_leaves_nothing(tmp_path):
    path = write_bag(tmp_path / "bag.mcap", make_frames(2))
    with pytest.raises(BagError, match="exists"):
        write_bag(path, make_frames(2))
    with pytest.raises(RuntimeError), BagWriter(tmp_path / "new.mcap", CameraCalibration(4, 4, 1, 1, 2, 2)):
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["bag.mcap"]


def test_what_is_no_recording_is_refused(tmp_path):
    for name, content in (("notes.txt", b"x"), ("a.mcap", b"x" * 99), ("b.db3", b"x" * 99), ("c.bag", b"x" * 99)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BagError, match=name):
            open_bag(tmp_path / name)
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "empty", tmp_path / "missing.mcap"):
        with pytest.raises(BagError, match=path.name):
            open_bag(path)


@pytest.mark.data
def test_the_example_recordings_of_every_format_are_read(real_data):
    mcap = list(open_bag(real_data / "rosbags/redkitchen_40_mcap"))
    assert len(mcap) == 40 and mcap[0].image.shape == (480, 640, 3) and mcap[0].world_T_cam is not None
    sqlite = list(open_bag(real_data / "rosbags/fr1_xyz_10_sqlite3", depth_units_per_metre=5000.0))
    assert len(sqlite) == 10 and 0.5 < np.median(sqlite[0].depth[sqlite[0].depth > 0]) < 3.0
    ros1 = real_data / "rosbags/t265_3frames_ros1.bag"
    with pytest.raises(BagTopicError, match="fisheye1/image_raw, /camera/fisheye2"):
        next(open_bag(ros1).frames())
    fisheye = CameraCalibration(848, 800, 286.0, 286.0, 424.0, 400.0, "equidistant", (-0.008, 0.045, -0.042, 0.008))
    frames = list(open_bag(ros1, "/camera/fisheye1/image_raw", calibration=fisheye))
    assert len(frames) == 3 and np.diff([frame.stamp for frame in frames]).min() > 0


@pytest.mark.data
def test_odometry_and_tf_of_a_robot_give_trajectories(real_data):
    bag = open_bag(real_data / "metric_parity/evo/nav2_turtlebot.mcap")
    odometry, tf = bag.trajectory("/odom"), bag.trajectory("/tf:odom.base_link")
    assert len(odometry) == 2639 and odometry.covariances is None  # all zeros in this recording
    assert np.all(np.isfinite(bag.trajectory("/amcl_pose").covariances))
    pose = tf.at(int(odometry.stamps[1000]), maximum_gap=SECOND)
    np.testing.assert_allclose(pose, odometry.world_T_cam[1000], atol=0.02)
