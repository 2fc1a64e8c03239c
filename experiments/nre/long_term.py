"""Poses of a visual-localization benchmark's queries (Tables 5 and 6), ready to be submitted.

Usage: python experiments/nre/long_term.py --model COLMAP --images FOLDER --queries LIST.txt -o POSES.txt

Aachen Day-Night comes as COLMAP model, database images and query lists (``name MODEL width height parameters...``, as
visuallocalization.net distributes them). InLoc's scans have to be brought into a COLMAP model first. Every query gets
its best pose, refused or not, since the benchmark counts missing ones as failures: ``name qw qx qy qz tx ty tz`` of
camera from world.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pycolmap
import torch
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from robust_loc.features import load_features
from robust_loc.geometry import Undistorter
from robust_loc.mapping.colmap import colmap_calibration, import_colmap
from robust_loc.relocalization import Map, Relocalizer
from robust_loc.types import Frame


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, help="COLMAP model of the database images")
    parser.add_argument("--images", type=Path, required=True, help="the database images")
    parser.add_argument("--queries", type=Path, required=True, help="list of queries with intrinsics")
    parser.add_argument("--query-images", type=Path, help="folder of the queries; default: --images")
    parser.add_argument("--features", default="compact", help="'compact', 'handmade', or the official COARSE,FINE pair")
    parser.add_argument("--map", type=Path, help="folder in which the map is kept for further lists")
    parser.add_argument("-o", "--output", type=Path, default=Path("poses.txt"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(2)
    features = load_features(options.features)
    if options.map and options.map.exists():
        map_ = Map.load(options.map)
    else:
        map_ = import_colmap(options.model, options.images, features)
        if options.map:
            map_.save(options.map)
    relocalizer = Relocalizer(map_, features)
    lines = []
    for name, frame in tqdm(list_queries(options.queries, options.query_images or options.images), unit="query"):
        answer = relocalizer.answer(frame)
        if answer is None:
            continue
        x, y, z, w = Rotation.from_matrix(answer.cam_T_world[:3, :3]).as_quat()
        numbers = [w, x, y, z, *answer.cam_T_world[:3, 3]]
        lines.append(" ".join([Path(name).name, *(f"{v:.9g}" for v in numbers)]))
    options.output.write_text("\n".join(lines) + "\n")
    print(f"{options.output}: {len(lines)} poses")


def list_queries(path: Path, folder: Path) -> Iterator[tuple[str, Frame]]:
    """Names and undistorted frames of a query list."""
    for number, line in enumerate(path.read_text().splitlines()):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        name, model, width, height, *parameters = words
        camera = pycolmap.Camera(
            model=model, width=int(width), height=int(height), params=np.array(parameters, float).tolist()
        )
        picture = cv2.imread(str(folder / name), cv2.IMREAD_COLOR)
        if picture is None:
            raise FileNotFoundError(f"{folder / name}: the query named in line {number + 1} of {path} cannot be read")
        undistorter = Undistorter(colmap_calibration(camera))
        yield name, Frame(undistorter.image(np.ascontiguousarray(picture[..., ::-1])), undistorter.camera, number)


if __name__ == "__main__":
    main()
