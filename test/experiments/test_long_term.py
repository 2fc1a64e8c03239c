"""The benchmark command: a COLMAP model and a list of queries to a file of poses."""

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

pytest.importorskip("pycolmap")

from robust_loc.mapping.colmap import export_colmap


@pytest.fixture(scope="module")
def long_term():
    path = Path(__file__).parents[2] / "experiments" / "nre" / "long_term.py"
    spec = importlib.util.spec_from_file_location("long_term", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_queries_of_a_colmap_model_get_their_poses(long_term, room, room_map, tmp_path):
    export_colmap(room_map, tmp_path / "model")
    (tmp_path / "images").mkdir()
    for frame in room:
        cv2.imwrite(str(tmp_path / "images" / f"{frame.stamp}.png"), frame.image[..., ::-1])
    c = room[0].camera
    queries = room[6:40:16]
    lines = [f"{q.stamp}.png PINHOLE {c.width} {c.height} {c.fx} {c.fy} {c.cx + 0.5} {c.cy + 0.5}" for q in queries]
    (tmp_path / "queries.txt").write_text("\n".join(lines))
    options = ["--model", "model", "--images", "images", "--queries", "queries.txt", "-o", "poses.txt"]
    options = [option if option.startswith("-") else str(tmp_path / option) for option in options]
    long_term.main([*options, "--features", "handmade"])
    found = (tmp_path / "poses.txt").read_text().split("\n")[:-1]
    assert len(found) == len(queries)
    for line, query in zip(found, queries):
        name, *numbers = line.split()
        w, x, y, z, *t = map(float, numbers)
        assert name == f"{query.stamp}.png"
        R = Rotation.from_quat([x, y, z, w]).as_matrix()
        assert np.linalg.norm(-R.T @ t - query.world_T_cam[:3, 3]) < 0.1
        assert np.linalg.norm(R.T - query.world_T_cam[:3, :3]) < 0.05


def test_a_missing_query_is_named(long_term, tmp_path):
    (tmp_path / "queries.txt").write_text("# night\nnight/1.jpg SIMPLE_RADIAL 640 480 500 320 240 0.1\n")
    with pytest.raises(FileNotFoundError, match="1.jpg.*line 2"):
        list(long_term.list_queries(tmp_path / "queries.txt", tmp_path))
