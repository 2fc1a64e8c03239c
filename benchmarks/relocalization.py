"""Speed and memory of the relocalizer: each stage with 1000 points, and whole queries in maps of growing size.

Usage: python benchmarks/relocalization.py [--points 1000] [--sizes 10000,100000] [--features handmade] [-o FOLDER]

Times are processor seconds of one thread (medians), so that a busy machine does not change them; wall seconds of the
whole query are given beside. Ratios are against two references on the same query: dense fine maps of the whole image
for every point (as S2DNet makes them), and PoseLib's LO-RANSAC on the peaks of the same maps. Each large map is opened
and asked in a process of its own, whose resident memory is read before and after: own pages, and pages of the files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import poselib
import torch

from robust_loc.data.synthetic import demo_sequence, write_clip
from robust_loc.data.synthetic.cache import Clip
from robust_loc.features import COARSE_STRIDE, FINE_STRIDE, load_features
from robust_loc.mapping import MapBuilder, MappingConfig
from robust_loc.relocalization import Map, Relocalizer, RelocalizerConfig, msac, refine, refine_maps, sigma_schedule
from robust_loc.relocalization.covariance import pose_covariance
from robust_loc.relocalization.loss_maps import LossMaps, correspondence_maps, project_points
from robust_loc.types import Frame

REPEATS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--sizes", default="10000,100000,1000000", help="points of the maps, comma-separated")
    parser.add_argument("--features", default="handmade")
    parser.add_argument("-o", "--output", type=Path, help="folder for relocalization_FEATURES.json and .md")
    parser.add_argument("--ask", type=Path, help=argparse.SUPPRESS)  # the process of one map
    options = parser.parse_args()
    torch.set_num_threads(1)
    features = load_features(options.features)
    if options.ask:
        print(json.dumps(ask(options.ask, features)))
        return
    frames = list(islice(demo_sequence(120, 640, 480), 16))
    builder = MapBuilder(
        features, MappingConfig(keyframe_distance=0.0, keyframe_angle=0.0, points_per_keyframe=600, descriptors="int8")
    )
    for frame in frames[::2]:
        builder.add(frame, frame.world_T_cam)
    map_ = builder.finish()
    query = frames[7]
    print(f"map: {map_.describe()}; query 640x480, features {features.identity}")
    report = {"stages": stages(map_, features, query, options.points)}
    print_stages(report["stages"])
    report["maps"] = [
        whole_query(map_, query, int(size), options.features) for size in options.sizes.split(",") if size
    ]
    if options.output:
        report["features"] = features.identity
        name = f"relocalization_{Path(options.features).stem}"
        (options.output / f"{name}.json").write_text(json.dumps(report, indent=2) + "\n")
        (options.output / f"{name}.md").write_text(markdown(report, options.points))


def measured(job: Callable[[], Any]) -> tuple[float, Any]:
    """Median processor seconds of a job, and its result; a first run compiles and warms up."""
    result = job()
    spent = []
    for _ in range(REPEATS):
        began = time.process_time()
        result = job()
        spent.append(time.process_time() - began)
    return float(np.median(spent)), result


def stages(map_: Map, features: Any, query: Frame, count: int) -> dict[str, float]:
    """Seconds of each step of one query with ``count`` points."""
    seconds: dict[str, float] = {}
    seconds["describe, coarse"], maps = measured(lambda: features.extract(query.image))
    seconds["describe, fine"], fine = measured(lambda: features.extract(query.image).fine)
    seconds["describe, fine"] -= seconds["describe, coarse"]
    landmarks = map_.gather(list(range(map_.keyframes)), count)
    coarse_k, fine_k = (query.camera.at_stride(s).intrinsics for s in (COARSE_STRIDE, FINE_STRIDE))
    height, width = maps.coarse.shape[:2]
    coarse, fine_descriptors = torch.from_numpy(landmarks.coarse), torch.from_numpy(landmarks.fine)

    seconds["coarse maps"], dense = measured(lambda: correspondence_maps(coarse, maps.coarse))
    seconds["truncation"], losses = measured(lambda: LossMaps.from_dense(dense, width=width, height=height))
    seconds["MSAC"], found = measured(lambda: msac(losses, landmarks.points, coarse_k, np.random.default_rng(0)))
    assert found.cam_T_world is not None
    seconds["coarse GNC"], pose = measured(
        lambda: refine(losses, landmarks.points, coarse_k, found.cam_T_world, sigma_schedule(2.0, 0.6)).cam_T_world
    )
    pixels, _ = project_points(landmarks.points, fine_k, pose)
    seconds["fine maps"], local = measured(lambda: refine_maps(fine_descriptors, fine, dense, pixels))
    seconds["fine GNC"], final = measured(
        lambda: refine(local, landmarks.points, fine_k, pose, sigma_schedule(8.0, 0.6)).cam_T_world
    )
    seconds["covariance"], _ = measured(lambda: pose_covariance(local, landmarks.points, fine_k, final))
    seconds["coarse pose"] = sum(seconds[s] for s in COARSE)
    seconds["coarse to fine"] = seconds["coarse pose"] + sum(seconds[s] for s in FINE)

    seconds["reference: dense fine maps"], _ = measured(lambda: dense_fine_maps(fine_descriptors, fine))
    peaks, loss = losses.peaks()
    seen = loss < losses.ceiling
    camera = {"model": "PINHOLE", "width": width, "height": height, "params": coarse_k.tolist()}
    seconds["reference: LO-RANSAC"], _ = measured(
        lambda: poselib.estimate_absolute_pose(
            peaks[seen].astype(float), landmarks.points[seen], camera, {"max_reproj_error": 1.0}, {}
        )
    )
    truth = np.linalg.inv(query.world_T_cam)
    error = np.linalg.norm(np.linalg.inv(final)[:3, 3] - query.world_T_cam[:3, 3])
    assert error < 0.1, f"the benchmark's pose is {error:.2f} m off {truth[:3, 3]}"
    return seconds


COARSE = ("describe, coarse", "coarse maps", "truncation", "MSAC", "coarse GNC")
FINE = ("describe, fine", "fine maps", "fine GNC", "covariance")


def dense_fine_maps(descriptors: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    """Whole-image fine correspondence maps, a hundred points at a time to bound the memory; returns their peaks."""
    parts = [correspondence_maps(part, fine).flatten(1).max(1).values for part in descriptors.split(100)]
    return torch.cat(parts)


def print_stages(seconds: dict[str, float]) -> None:
    whole = seconds["coarse to fine"]
    for name, value in seconds.items():
        print(f"  {name:<28} {1000 * value:8.1f} ms  {value / whole:6.2f} of coarse to fine")
    fine = seconds["fine maps"]
    print(f"  local fine maps are {seconds['reference: dense fine maps'] / fine:.1f} x faster than dense ones")
    msac_time = seconds["MSAC"] + seconds["coarse GNC"]
    print(f"  MSAC and GNC take {msac_time / seconds['reference: LO-RANSAC']:.1f} x the time of LO-RANSAC on the peaks")


def whole_query(map_: Map, query: Frame, size: int, features: str) -> dict[str, Any]:
    """A query in a map of about ``size`` points, opened from disk: the room, and copies of it elsewhere."""
    with tempfile.TemporaryDirectory() as folder:
        enlarged(map_, size).save(Path(folder) / "map")
        write_clip(Path(folder) / "query.npz", [query], quality=100)
        command = [sys.executable, __file__, "--ask", folder, "--features", features]
        answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, Any] = json.loads(answer.splitlines()[-1])
    print(
        f"  map of {result['points']:>8} points, {result['keyframes']:>5} keyframes: "
        f"query {1000 * result['query_cpu']:6.1f} ms ({1000 * result['query_wall']:.0f} ms wall), "
        f"opened in {1000 * result['open']:.0f} ms, {result['disk_mib']:.0f} MiB on disk, "
        f"{result['own_mib']:.0f} MiB of its own and {result['file_mib']:.0f} MiB of file pages in memory"
    )
    return result


def ask(folder: Path, features: Any) -> dict[str, Any]:
    """Open the map of ``folder`` and localize its query: times, and resident memory that this took."""
    frame = Clip(folder / "query.npz").frame(0)
    query = Frame(frame.image, frame.camera, frame.stamp)
    features.extract(query.image)  # what the descriptors themselves need is no matter of the map
    before = resident()
    loading = time.perf_counter()
    opened = Map.load(folder / "map", verify=False)
    relocalizer = Relocalizer(opened, features, RelocalizerConfig())
    loading = time.perf_counter() - loading
    wall = time.perf_counter()
    seconds, estimate = measured(lambda: relocalizer.update(query))
    wall = (time.perf_counter() - wall) / (REPEATS + 1)
    after = resident()
    assert estimate.has_pose, estimate.reason
    disk = sum(array.nbytes for array in opened.arrays.values()) / 2**20
    result = {"points": len(opened), "keyframes": opened.keyframes, "query_cpu": seconds, "query_wall": wall}
    result |= {"open": loading, "disk_mib": disk}
    return result | {"own_mib": after[0] - before[0], "file_mib": after[1] - before[1]}


def resident() -> tuple[float, float]:
    """Resident memory of this process in MiB: anonymous pages, and pages of files (which the system may drop)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    own, file = (int(lines[name].split()[0]) / 1024 for name in ("RssAnon", "RssFile"))
    return own, file


def markdown(report: dict[str, Any], points: int) -> str:
    """The report as tables."""
    seconds = report["stages"]
    rows = [f"Features {report['features']}, 640x480, processor time of one thread.", ""]
    rows += [f"| stage, {points} points | ms | of coarse to fine |", "|---|---|---|"]
    rows += [f"| {n} | {1000 * v:.1f} | {v / seconds['coarse to fine']:.2f} |" for n, v in seconds.items()]
    rows += ["", "| points | keyframes | query ms | open ms | disk MiB | own memory MiB | file pages MiB |"]
    rows.append("|---|---|---|---|---|---|---|")
    for m in report["maps"]:
        rows.append(
            f"| {m['points']} | {m['keyframes']} | {1000 * m['query_cpu']:.0f} | {1000 * m['open']:.0f} | "
            f"{m['disk_mib']:.0f} | {m['own_mib']:.0f} | {m['file_mib']:.0f} |"
        )
    return "\n".join(rows) + "\n"


def enlarged(map_: Map, size: int) -> Map:
    """The map and enough disturbed copies of it, each 100 m further, to reach ``size`` points."""
    rng = np.random.default_rng(0)
    copies = max(1, -(-size // len(map_)))
    a, arrays = map_.arrays, {}
    points, keyframes, rows = len(map_), map_.keyframes, map_.observations
    for name, array in a.items():
        if name == "codebook":
            arrays[name] = array
            continue
        parts = []
        for k in range(copies):
            part = np.array(array[:-1] if name == "observation_start" else array)
            if name == "points":
                part[:, 0] += 100 * k
            elif name == "keyframe_pose":
                part[:, 0, 3] += 100 * k
            elif name == "observation_point":
                part += points * k
            elif name == "observation_start":
                part += rows * k
            elif name == "covisible":
                part[part >= 0] += keyframes * k
            elif name == "keyframe_global" and k:
                noise = rng.normal(0, 1, part.shape)
                part = (0.5 * part + noise / np.linalg.norm(noise, axis=1, keepdims=True)).astype(part.dtype)
            parts.append(part)
        arrays[name] = np.concatenate(parts)
    arrays["observation_start"] = np.append(arrays["observation_start"], rows * copies)
    return Map(replace(map_.info), arrays)


if __name__ == "__main__":
    main()
