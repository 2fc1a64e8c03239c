"""Points from tracked corners: triangulation against the truth."""

import numpy as np

from robust_loc.mapping.tracks import triangulate


def looking(rng, frames, points, noise, baseline=0.6):
    """Observations of random points by cameras along a line."""
    world = rng.uniform([-1.5, -1, 3], [1.5, 1, 6], (points, 3))
    intrinsics = np.tile([500.0, 500.0, 320.0, 240.0], (frames, 1))
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, 0, 3] = np.linspace(0, baseline, frames)
    ids, frame, pixels = [], [], []
    for f in range(frames):
        local = world - poses[f, :3, 3]
        ids.append(np.arange(points))
        frame.append(np.full(points, f))
        pixels.append(local[:, :2] / local[:, 2:] * 500 + [320, 240] + rng.normal(0, noise, (points, 2)))
    return world, np.concatenate(ids), np.concatenate(pixels), np.concatenate(frame), intrinsics, poses


def test_exact_tracks_give_exact_points():
    world, ids, pixels, frame, k, poses = looking(np.random.default_rng(0), 5, 40, 0.0)
    points, good = triangulate(ids, pixels, frame, k, poses, 40)
    assert good.all()
    np.testing.assert_allclose(points, world, atol=1e-5)


def test_noisy_tracks_give_points_as_good_as_their_geometry():
    world, ids, pixels, frame, k, poses = looking(np.random.default_rng(1), 12, 200, 0.4)
    points, good = triangulate(ids, pixels, frame, k, poses, 200)
    depth_error = np.abs(points - world)[good, 2]
    # sigma_z = z^2 / (f b) * sigma / sqrt(n): about 2 cm here
    assert good.mean() > 0.95 and np.median(depth_error) < 0.03


def test_one_false_observation_does_not_move_a_point():
    world, ids, pixels, frame, k, poses = looking(np.random.default_rng(2), 12, 30, 0.1)
    pixels[30 * 5 : 30 * 5 + 30] += [3.0, 3.0]
    points, _ = triangulate(ids, pixels, frame, k, poses, 30)
    assert np.median(np.linalg.norm(points - world, axis=1)) < 0.03


def test_tracks_without_parallax_and_false_tracks_are_dropped():
    rng = np.random.default_rng(3)
    _, ids, pixels, frame, k, poses = looking(rng, 6, 20, 0.1, baseline=0.01)
    assert not triangulate(ids, pixels, frame, k, poses, 20)[1].any()
    _, ids, pixels, frame, k, poses = looking(rng, 6, 20, 0.1)
    pixels += rng.normal(0, 15, pixels.shape)
    assert not triangulate(ids, pixels, frame, k, poses, 20)[1].any()
