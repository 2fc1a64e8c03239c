"""NRE against reprojection-error estimators on the same loss maps (Table 1, figures 5 and 7 of the paper).

Usage: python experiments/nre/table1.py [--sets easy,hard,redkitchen] [--queries 60] [--pairs 24] [-o FOLDER]

Synthetic maps of four difficulties are drawn by ``robust_loc.relocalization.synthetic``: each is the true posterior of
its point. Sets of real image pairs need ROBUST_LOC_DATA. After each set table1.json, table1.md, the cumulative error
curves (table1.png) and the tuning of every threshold (tuning.png, figure 7) are written; sets measured before stay.
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    real = list(RECORDINGS) if "ROBUST_LOC_DATA" in os.environ else []
    parser.add_argument("--sets", default=",".join([*DIFFICULTIES, *real]), help="which to measure")
    parser.add_argument("--queries", type=int, default=60, help="judged per difficulty; half as many are tuned on")
    parser.add_argument("--points", type=int, default=50, help="of a synthetic query")
    parser.add_argument("--pairs", type=int, default=24, help="judged per recording; half as many are tuned on")
    parser.add_argument("--features", default="handmade", help="descriptors of the real pairs")
    parser.add_argument("-o", "--output", type=Path, default=Path("experiments/nre/results"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    path = options.output / "table1.json"
    facts: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    for name in options.sets.split(","):
        tuning, judged = queries(name, options)
        rows, errors = compare(name, judged, tuning)
        for method, row in rows.items():
            row["errors"] = np.round(errors[method], 4).tolist()
        facts[name] = {"queries": len(judged), "tuned_on": len(tuning), "rows": rows}
        if name in RECORDINGS:
            facts[name]["features"] = options.features
        facts = {key: facts[key] for key in [*DIFFICULTIES, *RECORDINGS] if key in facts}
        path.write_text(json.dumps(facts) + "\n")
        tables = {f"{key} ({value['queries']})": value["rows"] for key, value in facts.items()}
        (options.output / "table1.md").write_text(markdown(tables))
        draw(tables, options.output / "table1.png")
        draw_tuning(tables, options.output / "tuning.png")


def queries(name: str, options: argparse.Namespace) -> tuple[list[SyntheticQuery], list[SyntheticQuery]]:
    """The queries of a set on which thresholds are tuned, and those that are judged."""
    if name in DIFFICULTIES:
        seeds = [*range(10_000, 10_000 + options.queries // 2), *range(options.queries)]
        drawn = [draw_query(np.random.default_rng(s), DIFFICULTIES[name], options.points) for s in seeds]
    else:
        describe = described(load_features(options.features))
        drawn = [query_of(pair, describe) for pair in pairs_of(name, options.pairs * 3 // 2, 150)]
    return drawn[: len(drawn) // 3], drawn[len(drawn) // 3 :]


if __name__ == "__main__":
    main()
