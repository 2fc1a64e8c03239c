"""NRE against reprojection-error estimators on the same loss maps of real image pairs.

Usage: ROBUST_LOC_DATA=... python experiments/nre/real_pairs.py [--pairs 60] [--features handmade] [-o FOLDER]

A frame with depth gives points and descriptors, another frame of the recording their coarse loss maps. Pairs are 0.2 to
0.6 m and up to 25 degrees apart; thresholds are tuned on one half of the recording and judged on the other.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from estimators import compare, draw

from robust_loc.data.datasets import READERS
from robust_loc.features import COARSE_STRIDE, DenseFeatures, load_features, sample
from robust_loc.mapping.points import corners, depth_at, world_points
from robust_loc.relocalization import LossMaps, correspondence_maps
from robust_loc.relocalization.synthetic import SyntheticQuery
from robust_loc.types import FloatArray, Frame

RECORDING = "real/7scenes_redkitchen_a"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=60, help="judged; half as many are tuned on")
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--features", default="handmade")
    parser.add_argument("-o", "--output", type=Path, default=Path("experiments/nre/results"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    recording = READERS["folder"](Path(os.environ["ROBUST_LOC_DATA"]) / RECORDING)
    half = len(recording) // 2
    features = load_features(options.features)
    tuning = pairs(list(recording.frames(0, half)), features, options.pairs // 2, options.points)
    judged = pairs(list(recording.frames(half)), features, options.pairs, options.points)
    rows, curves = compare("real pairs", judged, tuning)
    facts = {"recording": RECORDING, "features": features.identity, "pairs": len(judged), "table": rows}
    (options.output / "real_pairs.json").write_text(json.dumps(facts, indent=2) + "\n")
    draw({f"{RECORDING.split('/')[1]}, {len(judged)} pairs": curves}, options.output / "real_pairs.png")


def pairs(frames: list[Frame], features: DenseFeatures, count: int, points: int) -> list[SyntheticQuery]:
    """``count`` random pairs as queries."""
    rng = np.random.default_rng(0)
    sources = [frame for frame in frames if frame.depth is not None]
    out: list[SyntheticQuery] = []
    while len(out) < count:
        source, target = sources[rng.integers(len(sources))], frames[rng.integers(len(frames))]
        relative = np.linalg.inv(source.world_T_cam) @ target.world_T_cam
        distance = np.linalg.norm(relative[:3, 3])
        angle = np.degrees(np.arccos(np.clip((np.trace(relative[:3, :3]) - 1) / 2, -1, 1)))
        if 0.2 < distance < 0.6 and angle < 25:
            out.append(query_of(source, target, features, points))
    return out


def query_of(source: Frame, target: Frame, features: DenseFeatures, count: int) -> SyntheticQuery:
    """Coarse loss maps in ``target`` of the points of ``source``."""
    pixels = corners(source.image, 2 * count)
    depth = depth_at(source.depth, pixels)
    pixels, depth = pixels[depth > 0][:count], depth[depth > 0][:count]
    points: FloatArray = world_points(pixels, depth, source.camera, source.world_T_cam)
    descriptors = sample(features.extract(source.image).coarse, pixels, COARSE_STRIDE)
    maps = correspondence_maps(descriptors, features.extract(target.image).coarse)
    losses = LossMaps.from_dense(maps, width=maps.shape[2], height=maps.shape[1])
    intrinsics = target.camera.at_stride(COARSE_STRIDE).intrinsics
    return SyntheticQuery(losses, points, intrinsics, np.linalg.inv(target.world_T_cam))


if __name__ == "__main__":
    main()
