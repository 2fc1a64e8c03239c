"""Map files: what is written is read, lazily, and damage of every kind is refused."""

import json

import numpy as np
import pytest

from robust_loc.errors import ConfigurationError, MapFormatError
from robust_loc.relocalization import Map, Relocalizer
from robust_loc.relocalization.map import HEADER, _checksum, quantized
from robust_loc.uncertainty import CovarianceCalibration, CovarianceFactors


@pytest.fixture
def saved(room_map, tmp_path):
    room_map.save(tmp_path / "room.map")
    return tmp_path / "room.map"


def test_a_map_survives_the_disk(room_map, saved):
    loaded = Map.load(saved)
    assert loaded.info == room_map.info and set(loaded.arrays) == set(room_map.arrays)
    for name, array in room_map.arrays.items():
        np.testing.assert_array_equal(loaded.arrays[name], array)
    assert [path.name for path in saved.parent.iterdir()] == ["room.map"]


def test_stored_covariance_factors_are_applied_and_saved_with_the_map(room_map, saved, tmp_path):
    own = Relocalizer(Map.load(saved)).factors
    CovarianceCalibration({"relocalizer": CovarianceFactors(2.0, 3.0, 40)}).save_beside(saved)
    loaded = Map.load(saved)
    assert Relocalizer(loaded).factors == own.times(CovarianceFactors(2.0, 3.0, 40))
    loaded.save(tmp_path / "copy.map")
    assert Relocalizer(Map.load(tmp_path / "copy.map")).factors == Relocalizer(loaded).factors
    (saved / "covariance_calibration.json").write_text("broken")
    with pytest.raises(ConfigurationError, match="covariance_calibration.json"):
        Map.load(saved)


def test_arrays_stay_on_disk_until_they_are_read(saved):
    assert all(isinstance(array, np.memmap) for array in Map.load(saved).arrays.values())


def test_saving_replaces_a_map_but_nothing_else(room_map, saved, tmp_path):
    room_map.save(saved)
    assert len(Map.load(saved)) == len(room_map)
    (tmp_path / "precious").mkdir()
    with pytest.raises(MapFormatError, match="precious"):
        room_map.save(tmp_path / "precious")
    assert (tmp_path / "precious").is_dir()


@pytest.mark.parametrize("name", ["points", "coarse", "observation_start", "keyframe_global"])
def test_a_flipped_byte_is_noticed(saved, name):
    path = saved / f"{name}.npy"
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(MapFormatError, match=f"{name}.npy.*damaged"):
        Map.load(saved)


@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_array_is_noticed_even_without_verification(saved, verify):
    path = saved / "fine.npy"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(MapFormatError, match="fine.npy"):
        Map.load(saved, verify=verify)


def test_a_missing_array_is_noticed(saved):
    (saved / "points.npy").unlink()
    with pytest.raises(MapFormatError, match="points.npy"):
        Map.load(saved)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1}'])
def test_a_damaged_header_is_noticed(saved, content):
    (saved / HEADER).write_text(content)
    with pytest.raises(MapFormatError, match=HEADER):
        Map.load(saved)


def edited(path, **changes):
    header = json.loads((path / HEADER).read_text())
    header.pop("checksum")
    header.update(changes)
    header["checksum"] = _checksum(header)
    (path / HEADER).write_text(json.dumps(header))


def test_a_changed_header_is_noticed(saved):
    text = (saved / HEADER).read_text()
    (saved / HEADER).write_text(text.replace('"recording": "room"', '"recording": "hall"'))
    with pytest.raises(MapFormatError, match="checksum"):
        Map.load(saved)


def test_another_format_version_is_refused(saved):
    edited(saved, format=99)
    with pytest.raises(MapFormatError, match="format 99"):
        Map.load(saved)


def test_something_else_is_no_map(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(MapFormatError, match="is no map"):
            Map.load(path)


@pytest.mark.parametrize(
    "changes, cause",
    [
        ({"points": np.zeros((2, 3))}, "empty"),
        ({"keyframe_stamp": np.zeros(1, np.int64)}, "rows"),
        ({"observation_point": np.full(4000, 10**6, np.int32)}, "rows|not there"),
        ({"keyframe_pose": np.full((12, 4, 4), np.nan)}, "not finite"),
        ({"coarse": np.zeros((4, 4), complex)}, "complex"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(room_map, changes, cause):
    with pytest.raises(MapFormatError, match=cause):
        Map(room_map.info, {**room_map.arrays, **changes})


def test_gathered_points_are_distinct_and_shared_between_the_keyframes(room_map):
    landmarks = room_map.gather([3, 4], 100)
    assert len(landmarks.points) == 100 and len(set(landmarks.rows.tolist())) == 100
    start, gathered = room_map.arrays["observation_start"], set(landmarks.rows.tolist())
    for keyframe in (3, 4):  # a point followed from one to the other counts for both
        seen = set(room_map.arrays["observation_point"][start[keyframe] : start[keyframe + 1]].tolist())
        assert 40 <= len(seen & gathered) <= 90


def test_eight_bit_descriptors_give_nearly_the_same_scores():
    rng = np.random.default_rng(0)
    descriptors = rng.normal(size=(50, 64)).astype(np.float32)
    values, scale = quantized(descriptors)
    restored = values * scale[:, None]
    assert np.abs(restored - descriptors).max() <= 0.51 * scale.max()
