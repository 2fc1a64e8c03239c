"""NRE against reprojection-error estimators on the same synthetic loss maps (Table 1, figures 5 and 7 of the paper).

Usage: python experiments/nre/table1.py [--queries 100] [--points 50] [-o FOLDER]

Maps are drawn by ``robust_loc.relocalization.synthetic``: each is the true posterior of its point. Writes table1.json
and the cumulative error curves.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from estimators import compare, draw

from robust_loc.relocalization.synthetic import DIFFICULTIES, SyntheticQuery, draw_query


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--queries", type=int, default=100, help="judged per difficulty; half as many are tuned on")
    parser.add_argument("--points", type=int, default=50)
    parser.add_argument("-o", "--output", type=Path, default=Path("experiments/nre/results"))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)

    def queries(difficulty: str, seeds: range) -> list[SyntheticQuery]:
        kind = DIFFICULTIES[difficulty]
        return [draw_query(np.random.default_rng(seed), kind, options.points) for seed in seeds]

    table, curves = {}, {}
    for difficulty in DIFFICULTIES:
        tuning = queries(difficulty, range(10_000, 10_000 + options.queries // 2))
        table[difficulty], curves[difficulty] = compare(difficulty, queries(difficulty, range(options.queries)), tuning)
    facts = {"queries": options.queries, "points": options.points, "table": table}
    (options.output / "table1.json").write_text(json.dumps(facts, indent=2) + "\n")
    draw(curves, options.output / "table1.png")


if __name__ == "__main__":
    main()
