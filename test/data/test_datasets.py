"""Each dataset layout, written here in miniature, is read with the right camera, stamps, depth and poses."""

import json

import cv2
import numpy as np
import pytest
from click.testing import CliRunner
from scipy.spatial.transform import Rotation

from robust_loc.cli.convert import command
from robust_loc.data import open_bag
from robust_loc.data.datasets import READERS, read_euroc, read_kitti, read_tum_rgbd
from robust_loc.data.images import rgb_jpeg, rgb_png
from robust_loc.errors import DatasetError

RNG = np.random.default_rng(11)
COUNT = 4
TURN = Rotation.from_euler("xyz", [0.3, -0.2, 0.5])
MOTION = RNG.normal(size=(COUNT, 3))


def image(width=640, height=480):
    return cv2.resize(RNG.integers(0, 256, (12, 16, 3), dtype=np.uint8), (width, height))


def pose(index):
    matrix = np.eye(4)
    matrix[:3, :3] = (TURN**index).as_matrix()
    matrix[:3, 3] = MOTION[index]
    return matrix


def tum_line(stamp, index):
    return f"{stamp} " + " ".join(map(str, [*MOTION[index], *(TURN**index).as_quat()]))


def make_folder(path):
    (path / "images").mkdir(parents=True)
    (path / "depth").mkdir()
    rows = ["timestamp,image,depth"]
    for index in range(COUNT):
        (path / f"images/{index}.jpg").write_bytes(rgb_jpeg(image(64, 48)))
        cv2.imwrite(str(path / f"depth/{index}.png"), np.full((48, 64), 1500 + index, np.uint16))
        rows.append(f"{index}.5,images/{index}.jpg," + (f"depth/{index}.png" if index % 2 == 0 else ""))
    (path / "frames.csv").write_text("\n".join(rows) + "\n")
    calibration = {"width": 64, "height": 48, "fx": 60, "fy": 61, "cx": 32, "cy": 24, "distortion": [0] * 5}
    (path / "calib.json").write_text(json.dumps(calibration | {"depth_scale_units_per_metre": 1000.0}))
    (path / "groundtruth.txt").write_text("\n".join(tum_line(f"{i}.5", i) for i in range(COUNT)) + "\n")
    return path


def make_tum(path):
    (path / "rgb").mkdir(parents=True)
    (path / "depth").mkdir()
    rgb, depth, truth = ["# colour images"], [], []
    for index in range(COUNT):
        (path / f"rgb/{index}.png").write_bytes(rgb_png(image()))
        cv2.imwrite(str(path / f"depth/{index}.png"), np.full((480, 640), 5000 * (index + 1), np.uint16))
        rgb.append(f"1305031102.{index}00000 rgb/{index}.png")
        offset = 10 if index < 3 else 50  # the last one is too far in time
        depth.append(f"1305031102.{index}{offset:02d}000 depth/{index}.png")
        truth.append(tum_line(f"1305031102.{index}00000", index))
    for name, lines in (("rgb", rgb), ("depth", depth), ("groundtruth", truth)):
        (path / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return path


def make_euroc(path):
    data = path / "mav0/cam0/data"
    data.mkdir(parents=True)
    (path / "mav0/state_groundtruth_estimate0").mkdir()
    body_T_cam = pose(2)
    images, truth = ["#timestamp [ns],filename"], ["#timestamp,p x y z,q w x y z"]
    for index in range(COUNT):
        stamp = 1403715273262142976 + 50_000_000 * index
        (data / f"{stamp}.png").write_bytes(rgb_png(image(752, 480)))
        images.append(f"{stamp},{stamp}.png")
        world_T_body = pose(index) @ np.linalg.inv(body_T_cam)
        x, y, z, w = Rotation.from_matrix(world_T_body[:3, :3]).as_quat()
        truth.append(",".join(map(str, [stamp, *world_T_body[:3, 3], w, x, y, z, 0, 0, 0])))
    (path / "mav0/cam0/data.csv").write_text("\n".join(images) + "\n")
    (path / "mav0/state_groundtruth_estimate0/data.csv").write_text("\n".join(truth) + "\n")
    (path / "mav0/cam0/sensor.yaml").write_text(
        "resolution: [752, 480]\ncamera_model: pinhole\nintrinsics: [458.654, 457.296, 367.215, 248.375]\n"
        "distortion_model: radial-tangential\ndistortion_coefficients: [-0.283, 0.074, 0.0002, 0.00002]\n"
        f"T_BS:\n  cols: 4\n  rows: 4\n  data: {body_T_cam.ravel().tolist()}\n"
    )
    return path


def make_seven_scenes(path):
    path = path / "chess/seq-01"
    path.mkdir(parents=True)
    for index in range(COUNT):
        (path / f"frame-{index:06d}.color.png").write_bytes(rgb_png(image()))
        depth = np.full((480, 640), 2000, np.uint16)
        depth[:, :10] = 65535
        cv2.imwrite(str(path / f"frame-{index:06d}.depth.png"), depth)
        np.savetxt(path / f"frame-{index:06d}.pose.txt", pose(index), fmt="%.7e")
    return path


def make_tartanair(path):
    path = path / "office/P001"
    (path / "image_left").mkdir(parents=True)
    (path / "depth_left").mkdir()
    lines = []
    for index in range(COUNT):
        (path / f"image_left/{index:06d}_left.png").write_bytes(rgb_png(image()))
        np.save(path / f"depth_left/{index:06d}_left_depth.npy", np.full((480, 640), 3.25, np.float32))
        lines.append(f"{float(index)} 0 -1 0 0 0 1")  # north by a metre a frame, one metre above the origin
    (path / "pose_left.txt").write_text("\n".join(lines) + "\n")
    return path


def make_kitti(path):
    sequence = path / "sequences/07"
    (path / "poses").mkdir(parents=True)
    (sequence / "image_0").mkdir(parents=True)
    (sequence / "image_2").mkdir()
    for index in range(COUNT):
        for camera in (0, 2):
            (sequence / f"image_{camera}/{index:06d}.png").write_bytes(rgb_png(image(124, 37)))
    (sequence / "times.txt").write_text("".join(f"{0.1 * index:e}\n" for index in range(COUNT)))
    p0 = "71.8 0 60.7 0 0 71.8 18.5 0 0 0 1 0"
    p2 = "71.8 0 60.7 4.485 0 71.8 18.5 0 0 0 1 0"
    (sequence / "calib.txt").write_text(f"P0: {p0}\nP1: {p0}\nP2: {p2}\nTr: {p0}\n")
    lines = [" ".join(map(str, pose(index)[:3].ravel())) for index in range(COUNT)]
    (path / "poses/07.txt").write_text("\n".join(lines) + "\n")
    return sequence


MAKERS = {
    "folder": make_folder,
    "tum": make_tum,
    "euroc": make_euroc,
    "7scenes": make_seven_scenes,
    "tartanair": make_tartanair,
    "kitti": make_kitti,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_dataset_and_the_bag_converted_from_it_give_the_same_frames(kind, tmp_path):
    source = MAKERS[kind](tmp_path / "rgbd_dataset_freiburg1_xyz")
    result = CliRunner().invoke(command, [kind, str(source), str(tmp_path / "bag.mcap"), "--json"])
    assert result.exit_code == 0, result.output
    recording = READERS[kind](source)
    direct, bagged = list(recording), list(open_bag(tmp_path / "bag.mcap"))
    assert json.loads(result.stdout)["frames"] == len(direct) == len(bagged) == COUNT
    for one, other in zip(direct, bagged):
        assert one.stamp == other.stamp and one.camera == other.camera
        np.testing.assert_array_equal(one.image, other.image)
        np.testing.assert_allclose(one.world_T_cam, other.world_T_cam, atol=1e-9)
        if one.depth is None:
            assert other.depth is None
        else:
            np.testing.assert_allclose(one.depth, other.depth, atol=5.1e-4)
    if kind not in ("tartanair", "kitti"):
        np.testing.assert_allclose([frame.world_T_cam for frame in direct], [pose(i) for i in range(COUNT)], atol=1e-6)


def test_image_bytes_pass_through_a_conversion_unchanged(tmp_path):
    source = make_folder(tmp_path / "recording")
    assert CliRunner().invoke(command, ["folder", str(source), str(tmp_path / "bag")]).exit_code == 0
    bag = open_bag(tmp_path / "bag")
    from robust_loc.data.storage import deserialize

    written = [bytes(deserialize(*pair).data) for pair in bag._messages({"/camera/image_raw/compressed"})]
    assert written == [(source / f"images/{index}.jpg").read_bytes() for index in range(COUNT)]
    depth = [bytes(deserialize(*pair).data) for pair in bag._messages({"/camera/depth/image_raw/compressed"})]
    assert depth == [(source / f"depth/{index}.png").read_bytes() for index in (0, 2)]


def test_a_range_of_frames_is_converted_and_may_start_at_another_time(tmp_path):
    source = make_folder(tmp_path / "recording")
    arguments = ["folder", str(source), str(tmp_path / "bag.mcap"), "--from-frame", "1", "--until-frame", "3"]
    assert CliRunner().invoke(command, [*arguments, "--start-time", "100"]).exit_code == 0
    frames = list(open_bag(tmp_path / "bag.mcap"))
    assert [frame.stamp for frame in frames] == [100_000_000_000, 101_000_000_000]
    np.testing.assert_allclose(frames[0].world_T_cam, pose(1), atol=1e-9)


def test_tum_depth_is_associated_by_time_and_scaled_to_metres(tmp_path):
    recording = read_tum_rgbd(make_tum(tmp_path / "rgbd_dataset_freiburg1_xyz"))
    depths = [frame.depth for frame in recording]
    assert recording.calibration.is_distorted and recording.calibration.fx == 517.3
    assert [None if depth is None else float(np.median(depth)) for depth in depths] == [1.0, 2.0, 3.0, None]
    with pytest.raises(DatasetError, match="camera is not known"):
        read_tum_rgbd(make_tum(tmp_path / "somewhere"))


def test_the_euroc_lens_and_the_cameras_mounting_are_used(tmp_path):
    recording = read_euroc(make_euroc(tmp_path / "V1_01_easy"))
    assert recording.name == "V1_01_easy" and recording.calibration.distortion[0] == -0.283
    np.testing.assert_allclose(recording.ground_truth.world_T_cam[1], pose(1), atol=1e-9)


def test_a_tartanair_camera_looks_ahead_and_its_world_has_z_up(tmp_path):
    truth = READERS["tartanair"](make_tartanair(tmp_path)).ground_truth
    np.testing.assert_allclose(truth.positions[2], [2, 0, 1])
    np.testing.assert_allclose(truth.rotations[0] @ [0, 0, 1], [1, 0, 0])  # optical forward is north
    np.testing.assert_allclose(truth.rotations[0] @ [0, 1, 0], [0, 0, -1])  # image down is down


def test_kitti_poses_are_carried_to_the_chosen_camera(tmp_path):
    sequence = make_kitti(tmp_path)
    np.testing.assert_allclose(read_kitti(sequence).ground_truth.world_T_cam[3], pose(3), atol=1e-12)
    colour = read_kitti(sequence, camera=2)
    offset = np.array([-4.485 / 71.8, 0, 0])  # camera 2 sits to the left of camera 0
    np.testing.assert_allclose(colour.ground_truth.positions[3], MOTION[3] + pose(3)[:3, :3] @ offset, atol=1e-12)


def test_depth_of_the_seven_scenes_keeps_its_centre_and_drops_what_is_unknown(tmp_path):
    frame = next(READERS["7scenes"](make_seven_scenes(tmp_path)).frames())
    assert frame.depth[240, 320] == 2.0 and frame.depth.max() == 2.0
    assert frame.depth[240, 5] == 0


@pytest.mark.parametrize("kind", MAKERS)
def test_an_empty_folder_is_refused_with_what_was_expected(kind, tmp_path):
    with pytest.raises(DatasetError, match="expected"):
        READERS[kind](tmp_path)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("calib.json", '{"width": 64}', "calib.json"),
        ("calib.json", '{"width": 64, "height": 48, "fx": 0, "fy": 1, "cx": 1, "cy": 1}', "focal"),
        ("frames.csv", "timestamp,image\nnow,images/0.jpg\n", r"frames.csv:2"),
        ("images/2.jpg", "no image", r"2\.jpg"),
    ],
)
def test_a_malformed_file_is_named(tmp_path, name, content, message):
    source = make_folder(tmp_path / "recording")
    (source / name).write_text(content)
    with pytest.raises(DatasetError, match=message):
        list(READERS["folder"](source))


@pytest.mark.data
def test_every_real_recording_converts(real_data, tmp_path):
    for source in sorted((real_data / "real").iterdir()):
        recording = READERS["folder"](source)
        assert recording.write_bag(tmp_path / f"{source.name}.mcap", until_frame=12) == min(12, len(recording))
        frames = list(open_bag(tmp_path / f"{source.name}.mcap"))
        assert len(frames) == min(12, len(recording)) and all(frame.world_T_cam is not None for frame in frames)
