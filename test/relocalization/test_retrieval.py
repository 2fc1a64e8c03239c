"""Keyframes that look like the query come first."""

import numpy as np

from robust_loc.features import HandmadeFeatures
from robust_loc.relocalization.retrieval import global_descriptor, learn_codebook, propose


def test_the_nearest_keyframe_is_proposed_first(room, room_map):
    features = HandmadeFeatures()
    codebook = room_map.arrays["codebook"]
    for index in (5, 17, 30):
        descriptor = global_descriptor(features.extract(room[index].image).coarse.numpy(), codebook)
        proposals = propose(descriptor, room_map.arrays["keyframe_global"], 3)
        assert abs(4 * proposals.keyframes[0] - index) <= 4
        assert np.all(np.diff(proposals.similarity) <= 0) and proposals.similarity[0] < 1.001


def test_a_textureless_image_is_like_nothing():
    codebook = learn_codebook(np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32), 8)
    assert codebook.shape == (8, 16)
    assert not global_descriptor(np.zeros((4, 5, 16), np.float32), codebook).any()


def test_the_codebook_is_reproducible():
    descriptors = np.random.default_rng(1).normal(size=(300, 16)).astype(np.float32)
    np.testing.assert_array_equal(learn_codebook(descriptors, 8, 3), learn_codebook(descriptors, 8, 3))
