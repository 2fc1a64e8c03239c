"""Patches keep the colours they were first seen in."""

import numpy as np
import pytest

pytest.importorskip("rclpy")

from robust_loc.nodes.patch_cloud import PatchCloud
from robust_loc.types import Camera, Frame

CAMERA = Camera(9, 7, 4.0, 4.0, 4.0, 3.0)


def frame(colour):
    return Frame(np.full((7, 9, 3), colour, np.uint8), CAMERA, 1)


def test_a_patch_keeps_the_colour_of_the_frame_it_was_new_in():
    cloud = PatchCloud()
    ahead = np.array([[0.0, 0.0, 2.0]])
    first = cloud.colours(ahead, np.array([5]), frame(10), np.eye(4))
    both = cloud.colours(np.repeat(ahead, 2, 0), np.array([5, 6]), frame(20), np.eye(4))
    np.testing.assert_array_equal(first, [[10, 10, 10]])
    np.testing.assert_array_equal(both, [[10, 10, 10], [20, 20, 20]])
    gone = cloud.colours(ahead, np.array([6]), frame(30), np.eye(4))
    again = cloud.colours(ahead, np.array([5]), frame(40), np.eye(4))
    assert gone[0, 0] == 20 and again[0, 0] == 40, "frames that left are forgotten"


def test_points_outside_the_image_are_grey_and_pixels_are_found_by_the_pose():
    image = np.zeros((7, 9, 3), np.uint8)
    image[3, 6] = 1, 2, 3
    seen = Frame(image, CAMERA, 1)
    pose = np.eye(4)
    pose[0, 3] = 1.0
    points = np.array([[2.0, 0.0, 2.0], [1.0, 0.0, -2.0], [50.0, 0.0, 2.0]])
    colours = PatchCloud().colours(points, np.array([0, 0, 0]), seen, pose)
    np.testing.assert_array_equal(colours, [[1, 2, 3], [128, 128, 128], [128, 128, 128]])
