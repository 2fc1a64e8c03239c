"""The Rerun recording holds what was said of every image; without rerun-sdk the reason is told."""

import sys

import numpy as np
import pytest

from robust_loc.errors import ConfigurationError
from robust_loc.evaluation.pipeline import localize
from robust_loc.evaluation.rerun_view import RerunView, ellipsoid
from robust_loc.fusion import FusionConfig, LocalizationFilter
from robust_loc.types import Camera, Estimate, Frame, Status

SECOND = 1_000_000_000


class Fixed:
    """Always the same place, with a little noise."""

    def update(self, frame, prior=None):
        pose = np.eye(4)
        pose[:3, 3] = np.random.default_rng(frame.stamp).normal(size=3) * 0.01
        return Estimate(frame.stamp, Status.OK, world_T_cam=pose, covariance=np.diag([1e-4] * 3 + [1e-5] * 3))

    def reset(self):
        pass


def answered():
    camera = Camera(32, 24, 30.0, 30.0, 15.5, 11.5)
    image = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    frames = [Frame(image, camera, SECOND + i * SECOND // 20) for i in range(20)]
    return list(zip(frames, localize(frames, LocalizationFilter(FusionConfig()), absolute={"relocalizer": Fixed()})))


def test_a_recording_is_written_whole_or_not_at_all(tmp_path):
    pytest.importorskip("rerun")
    points = np.random.default_rng(0).normal(size=(50, 3))
    with RerunView(tmp_path / "run.rrd", points) as view:
        for frame, answers in answered():
            view.show(frame, answers, patches=points[:5])
        assert not (tmp_path / "run.rrd").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["run.rrd"]
    content = (tmp_path / "run.rrd").read_bytes()
    assert content[:3] == b"RRF"
    for entity in (b"/map/points", b"/map/pose/ellipsoid", b"/map/path", b"/image", b"/state"):
        assert entity in content
    with pytest.raises(RuntimeError), RerunView(tmp_path / "other.rrd") as view:
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["run.rrd"]


def test_without_rerun_the_remedy_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(ConfigurationError, match="pip install"):
        RerunView(tmp_path / "run.rrd")


def test_the_ellipsoid_of_a_covariance_has_its_axes_in_a_right_handed_frame():
    rng = np.random.default_rng(1)
    for _ in range(10):
        root = rng.normal(size=(3, 3))
        half_axes, axes = ellipsoid(root @ root.T)
        assert np.linalg.det(axes) == pytest.approx(1.0)
        np.testing.assert_allclose(axes @ np.diag((half_axes / 2) ** 2) @ axes.T, root @ root.T, atol=1e-9)
