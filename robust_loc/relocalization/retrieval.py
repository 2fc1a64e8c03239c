"""Which keyframes look like the query: VLAD (Jegou et al., CVPR 2010) over the dense coarse descriptors.

The codebook is learnt from the map's own keyframes. Similarity is a dot product over all keyframes: at ten thousand of
them a few milliseconds, so no index is kept.
"""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

FloatMatrix = NDArray[np.float32]
BLOCK = 512  # keyframes compared at a time


class Proposals(NamedTuple):
    """Keyframes by decreasing ``similarity`` (cosine, -1 to 1)."""

    keyframes: NDArray[np.int64]
    similarity: FloatMatrix


def learn_codebook(descriptors: FloatMatrix, words: int = 32, seed: int = 0) -> FloatMatrix:
    """``words`` centres [W, D] of unit descriptors by k-means; fewer when there are few descriptors."""
    unit = _unit(descriptors)
    unit = unit[np.linalg.norm(unit, axis=1) > 0]
    words = min(words, max(1, len(unit) // 4))
    if len(unit) == 0:
        return np.zeros((1, descriptors.shape[1]), np.float32)
    cv2.setRNGSeed(seed)
    criteria = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 1e-4)
    _, _, centres = cv2.kmeans(unit, words, None, criteria, 1, cv2.KMEANS_PP_CENTERS)  # type: ignore[call-overload]
    return np.ascontiguousarray(centres, dtype=np.float32)


def global_descriptor(coarse: FloatMatrix, codebook: FloatMatrix) -> FloatMatrix:
    """VLAD [W * D] of coarse descriptors [H, W, D]: residuals to the nearest words, each word's sum of unit length."""
    unit = _unit(coarse.reshape(-1, coarse.shape[-1]))
    unit = unit[np.linalg.norm(unit, axis=1) > 0]
    total = np.zeros_like(codebook)
    if len(unit):
        nearest = (unit @ codebook.T - 0.5 * (codebook**2).sum(1)).argmax(1)
        np.add.at(total, nearest, unit - codebook[nearest])
    flat = _unit(total).ravel()
    return flat / max(float(np.linalg.norm(flat)), 1e-12)


def propose(descriptor: FloatMatrix, keyframe_globals: NDArray[np.floating], count: int) -> Proposals:
    """The ``count`` most similar keyframes."""
    # Half-precision products are slow on a CPU: rows are converted a block at a time, and stay on disk otherwise.
    blocks = range(0, len(keyframe_globals), BLOCK)
    similarity = np.concatenate([keyframe_globals[i : i + BLOCK].astype(np.float32) @ descriptor for i in blocks])
    order = np.argsort(-similarity, kind="stable")[:count]
    return Proposals(order.astype(np.int64), similarity[order])


def _unit(rows: FloatMatrix) -> FloatMatrix:
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return (rows / np.maximum(norms, 1e-6)).astype(np.float32)
