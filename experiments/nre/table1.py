"""NRE against reprojection-error estimators on the same loss maps (Table 1, figures 5 and 7 of the paper).

Usage: python experiments/nre/table1.py [--queries 60] [--points 50] [--pairs 24] [-o FOLDER]

Synthetic maps of four difficulties are drawn by ``robust_loc.relocalization.synthetic``: each is the true posterior of
its point. With ROBUST_LOC_DATA set, coarse maps of real image pairs follow. Writes table1.json, table1.md, the
cumulative error curves (table1.png), and the tuning of every threshold (tuning.png, figure 7).
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from estimators import compare, draw, draw_tuning, markdown
from real_pairs import RECORDINGS, described, pairs_of, query_of

from robust_loc.features import load_features
from robust_loc.relocalization.synthetic import DIFFICULTIES, SyntheticQuery, draw_query
from robust_loc.types import FloatArray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=60, help="judged per difficulty; half as many are tuned on")
    parser.add_argument("--points", type=int, default=50, help="of a synthetic query")
    parser.add_argument("--pairs", type=int, default=24, help="judged per recording; half as many are tuned on")
    parser.add_argument("--features", default="handmade", help="descriptors of the real pairs")
    parser.add_argument("-o", "--output", type=Path, default=Path("experiments/nre/results"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    facts: dict[str, Any] = {"queries": options.queries, "points": options.points, "synthetic": {}, "real": {}}
    curves: dict[str, dict[str, FloatArray]] = {}
    for name, kind in DIFFICULTIES.items():

        def queries(seeds: range, kind: Any = kind) -> list[SyntheticQuery]:
            return [draw_query(np.random.default_rng(seed), kind, options.points) for seed in seeds]

        tuning = queries(range(10_000, 10_000 + options.queries // 2))
        facts["synthetic"][name], curves[name] = compare(name, queries(range(options.queries)), tuning)
    if "ROBUST_LOC_DATA" in os.environ:
        features = load_features(options.features)
        facts |= {"features": features.identity, "pairs": options.pairs}
        for name in RECORDINGS:
            describe = described(features)
            pairs = [query_of(pair, describe) for pair in pairs_of(name, options.pairs * 3 // 2, 150)]
            third = len(pairs) // 3
            facts["real"][name], curves[name] = compare(name, pairs[third:], pairs[:third])
    (options.output / "table1.json").write_text(json.dumps(facts, indent=2) + "\n")
    (options.output / "table1.md").write_text(markdown({**facts["synthetic"], **facts["real"]}))
    draw(curves, options.output / "table1.png")
    draw_tuning({**facts["synthetic"], **facts["real"]}, options.output / "tuning.png")


if __name__ == "__main__":
    main()
