import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from robust_loc.geometry import umeyama


@pytest.mark.parametrize("with_scale", [False, True])
def test_alignment_recovers_a_known_transform(with_scale):
    rng = np.random.default_rng(0)
    source, R = rng.normal(size=(30, 3)), Rotation.random(random_state=1).as_matrix()
    scale = 2.5 if with_scale else 1.0
    target = scale * source @ R.T + [1.0, -2.0, 3.0]
    found = umeyama(source, target, with_scale=with_scale)
    np.testing.assert_allclose(found.apply(source), target, atol=1e-12)
    assert found.scale == pytest.approx(scale)


def test_alignment_never_reflects():
    source = np.random.default_rng(0).normal(size=(30, 3))
    assert np.linalg.det(umeyama(source, source * [1, 1, -1], with_scale=True).rotation) == pytest.approx(1.0)


def test_planar_points_are_enough_and_collinear_ones_are_not():
    plane = np.random.default_rng(0).normal(size=(10, 3)) * [1, 1, 0]
    np.testing.assert_allclose(umeyama(plane, plane, with_scale=True).rotation, np.eye(3), atol=1e-9)
    with pytest.raises(ValueError, match="collinear"):
        umeyama(plane * [1, 0, 0], plane, with_scale=False)
    with pytest.raises(ValueError, match="coincident"):
        umeyama(np.ones((5, 3)), np.ones((5, 3)), with_scale=True)
