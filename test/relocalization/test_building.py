"""Maps from frames: from depth, from motion alone, from a COLMAP model; and what they know of themselves."""

import cv2
import numpy as np
import pytest

from robust_loc.errors import MapFormatError
from robust_loc.mapping import MapBuilder, MappingConfig
from robust_loc.mapping.calibration import calibrate
from robust_loc.mapping.colmap import export_colmap, import_colmap
from robust_loc.mapping.points import corners, depth_at, world_points
from robust_loc.relocalization import Map, Relocalizer, RelocalizerConfig
from robust_loc.types import Frame
from robust_loc.uncertainty import pose_error


def position_error(map_, frame):
    estimate = Relocalizer(map_).update(frame)
    assert estimate.has_pose, estimate.reason
    return np.linalg.norm(pose_error(estimate.world_T_cam, frame.world_T_cam)[:3])


def test_points_from_depth_lie_on_what_other_frames_see(room):
    first, second = room[0], room[4]
    pixels = corners(first.image, 200)
    depth = depth_at(first.depth, pixels)
    points = world_points(pixels[depth > 0], depth[depth > 0], first.camera, first.world_T_cam)
    local = (points - second.world_T_cam[:3, 3]) @ second.world_T_cam[:3, :3]
    there = local[:, :2] / local[:, 2:] * second.camera.intrinsics[:2] + second.camera.intrinsics[2:]
    inside = np.all((there >= 0) & (there <= [319, 239]), axis=1)
    seen = second.depth[np.rint(there[inside, 1]).astype(int), np.rint(there[inside, 0]).astype(int)]
    assert inside.sum() > 50 and np.median(np.abs(seen / local[inside, 2] - 1)) < 0.01


def test_a_corner_at_an_edge_in_depth_gives_no_point():
    depth = np.full((40, 40), 2.0, np.float32)
    depth[:, 20:] = 3.0
    found = depth_at(depth, np.array([[20.0, 20.0], [8.0, 8.0]]))
    np.testing.assert_allclose(found, [0.0, 2.0])


def test_a_map_from_motion_alone_localizes(room):
    builder = MapBuilder(config=MappingConfig(points_from="tracks", keyframe_distance=0.1, keyframe_angle=0.1))
    for frame in room:
        builder.add(Frame(frame.image, frame.camera, frame.stamp), frame.world_T_cam)
    map_ = builder.finish()
    assert map_.observations > len(map_) > 200  # points are seen from several keyframes
    assert np.median([position_error(map_, frame) for frame in room[6:40:11]]) < 0.1


def test_poses_of_unknown_scale_become_metric_by_depth(room):
    builder = MapBuilder(config=MappingConfig(points_from="tracks", keyframe_distance=0.03, keyframe_angle=0.1))
    for frame in room[:30]:
        unscaled = frame.world_T_cam.copy()
        unscaled[:3, 3] /= 3.0
        builder.add(frame, unscaled)
    map_ = builder.finish(alignment={"metric": False, "to": "odometry"})
    assert map_.info.alignment["metric"] and map_.info.alignment["to"] == "depth"
    assert map_.info.alignment["scale"] == pytest.approx(3.0, rel=0.02)
    assert position_error(map_, room[10]) < 0.1


def test_a_frame_that_is_left_out_does_not_help_to_place_points(room):
    def built(offset):
        builder = MapBuilder(config=MappingConfig(points_from="tracks", keyframe_distance=0.0, keyframe_angle=0.0))
        for i, frame in enumerate(room[:16]):
            pose = frame.world_T_cam.copy()
            pose[:3, 3] += offset if i == 8 else 0.0
            builder.add(frame, pose)
        return builder, builder.finish()

    (right, map_), (_, misled) = built(0.0), built(0.05)
    stamp = room[8].stamp
    untouched = right.without(map_, lambda stamps, poses: np.zeros(len(stamps), bool))
    np.testing.assert_array_equal(untouched.arrays["points"], map_.arrays["points"])
    assert untouched.observations == map_.observations

    reduced = []
    for offset in (0.0, 0.05):
        builder, whole = built(offset)
        part = builder.without(whole, lambda stamps, poses: stamps == stamp)
        assert 0 < part.observations < whole.observations
        seen = np.unique(part.arrays["observation_point"])
        reduced.append(part.arrays["points"][seen])
    nearest = np.linalg.norm(reduced[0][:, None] - reduced[1], axis=2).min(1)
    before = np.linalg.norm(map_.arrays["points"][:, None] - misled.arrays["points"], axis=2).min(1)
    assert np.median(nearest) < 1e-6 < 1e-4 < np.median(before)


def test_frames_without_texture_or_motion_give_a_clear_error(room):
    builder = MapBuilder()
    grey = np.full_like(room[0].image, 100)
    for frame in room[:3]:
        builder.add(Frame(grey, frame.camera, frame.stamp), frame.world_T_cam)
    with pytest.raises(MapFormatError, match="texture"):
        builder.finish()
    still = MapBuilder()
    for frame in room[:3]:
        still.add(Frame(room[0].image, frame.camera, frame.stamp), room[0].world_T_cam)
    with pytest.raises(MapFormatError, match="motion"):
        still.finish()


def test_eight_bit_maps_are_smaller_and_localize(room, room_map):
    builder = MapBuilder(
        config=MappingConfig(keyframe_distance=0.0, keyframe_angle=0.0, points_per_keyframe=250, descriptors="int8")
    )
    for frame in room[::4]:
        builder.add(frame, frame.world_T_cam)
    small = builder.finish()
    assert small.arrays["coarse"].nbytes < 0.6 * room_map.arrays["coarse"].nbytes
    assert position_error(small, room[10]) < 0.1


def test_covisible_keyframes_are_neighbours(room_map):
    assert {4, 6} <= set(room_map.covisible(5)[:4])
    assert 5 not in room_map.covisible(5)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_held_out_frames_calibrate_the_map(room, room_map):
    held_out = [(frame, frame.world_T_cam) for frame in room[1::3]]
    quick = RelocalizerConfig(hypotheses=2, max_iterations=300)
    calibrated, outcome = calibrate(room_map, held_out, config=quick)  # this camera turns by 60 degrees in a second
    assert outcome.queries == 16 and outcome.right >= 11
    assert outcome.median_position < 0.03 and "16 held-out frames" in str(outcome)
    assert calibrated.info.calibration["covariance"]["samples"] == outcome.right
    assert Relocalizer(calibrated).update(room[10]).has_pose
    mirror = Frame(np.ascontiguousarray(room[10].image[:, ::-1]), room[10].camera, 0)
    assert not Relocalizer(calibrated).update(mirror).has_pose


def test_a_map_too_small_to_hold_out_anything_is_left_uncalibrated(room):
    builder = MapBuilder(config=MappingConfig(points_from="tracks", keyframe_distance=0.0, keyframe_angle=0.0))
    for frame in room[:3]:
        builder.add(frame, frame.world_T_cam)
    held_out = [(frame, frame.world_T_cam) for frame in room[:3:2]]
    calibrated, outcome = calibrate(builder.finish(), held_out, without=builder.without)
    assert outcome.queries == 2 and outcome.right == 0 and "too few" in str(outcome)
    assert "covariance" not in calibrated.info.calibration


def test_a_map_goes_to_colmap_and_back(room, room_map, tmp_path):
    pycolmap = pytest.importorskip("pycolmap")
    export_colmap(room_map, tmp_path / "model")
    model = pycolmap.Reconstruction(str(tmp_path / "model"))
    assert model.num_reg_images() == room_map.keyframes and model.num_points3D() == len(room_map)
    assert model.compute_mean_reprojection_error() >= 0
    errors = []
    for image in model.images.values():
        for seen in image.get_observation_points2D():
            projected = image.project_point(model.point3D(seen.point3D_id).xyz)
            errors.append(np.linalg.norm(projected - seen.xy))
    assert np.median(errors) < 1e-3  # depth points reproject exactly: the half pixel is right

    images = tmp_path / "images"
    images.mkdir()
    by_stamp = {frame.stamp: frame for frame in room}
    for image in model.images.values():
        frame = by_stamp[int(image.name.removesuffix(".png"))]
        cv2.imwrite(str(images / image.name), frame.image[..., ::-1])
    back = import_colmap(tmp_path / "model", images)
    assert (back.keyframes, len(back)) == (room_map.keyframes, len(room_map))
    np.testing.assert_allclose(back.arrays["keyframe_pose"], room_map.arrays["keyframe_pose"], atol=1e-9)
    assert back.info.cameras[0].cx == pytest.approx(room_map.info.cameras[0].cx)
    assert position_error(back, room[10]) < 0.1

    model_names = {image.name: image.projection_center() for image in model.images.values()}
    moved = {name: 2.0 * centre + [1.0, 2.0, 3.0] for name, centre in model_names.items()}
    aligned = import_colmap(tmp_path / "model", images, positions=moved)
    assert aligned.info.alignment["metric"] and aligned.info.alignment["residual"] < 1e-6
    assert aligned.info.alignment["scale"] == pytest.approx(2.0)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(MapFormatError, match="no COLMAP model"):
        import_colmap(tmp_path, tmp_path)


def test_a_saved_map_localizes_as_the_one_in_memory(room, room_map, tmp_path):
    room_map.save(tmp_path / "m")
    first, second = (Relocalizer(m).update(room[10]) for m in (room_map, Map.load(tmp_path / "m")))
    np.testing.assert_allclose(first.world_T_cam, second.world_T_cam, atol=1e-12)
