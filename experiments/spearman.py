"""How well `clip2seg inspect PRESET recipes` predicts what training gives: Spearman's rank correlation over rows.

    clip2seg inspect demo recipes --json > recipes.json
    python experiments/study.py experiments/studies/recipes.toml --out results ...
    python experiments/spearman.py recipes.json results/results.json --world demo

The rows of both have the same names; a row of the study is its mean uIoU (hIoU, sIoU) over seeds.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

MEASURES = ("iou", "purity", "recall", "dense", "named")


def measured(found: dict[str, Any], name: str) -> dict[str, float]:
    """A measure of `inspect recipes` by row, those without a number left out.

    A row at its best merge threshold, and once more at each threshold as "ROW at 0.8".
    """
    values: dict[str, Any] = {}
    for row in found["rows"]:
        each = {row["name"]: row["best"] or {}}
        each |= {f"{row['name']} at {at['threshold']:g}": at for at in row["thresholds"]}
        values |= {title: row[name] if name in ("dense", "named") else at.get(name) for title, at in each.items()}
    return {title: value for title, value in values.items() if value is not None}


def trained(runs: list[dict[str, Any]], world: str, score: str) -> dict[str, float]:
    """Mean score of each row of a study in one world."""
    scores: dict[str, list[float]] = {}
    for run in runs:
        if run["world"] == world and run.get(score) is not None:
            scores.setdefault(run["row"], []).append(run[score])
    return {row: statistics.mean(values) for row, values in scores.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--world", default="demo")
    parser.add_argument("--score", default="uIoU", choices=("uIoU", "hIoU", "sIoU"))
    asked = parser.parse_args()
    found = json.loads(asked.recipes.read_text().splitlines()[-1])  # `--json` prints the table first
    runs = json.loads(asked.results.read_text())
    final = trained(runs["rows"], asked.world, asked.score)
    for name in MEASURES:
        before = measured(found, name)
        rows = sorted(before.keys() & final.keys())
        if len(rows) < 3:
            raise SystemExit(f"{asked.results}: {len(rows)} rows in common with {asked.recipes}; 3 or more are needed")
        rank = spearmanr([before[r] for r in rows], [final[r] for r in rows])
        print(f"{name:7} against {asked.score}: Spearman {rank.statistic:+.2f} (p {rank.pvalue:.3f}, {len(rows)} rows)")


if __name__ == "__main__":
    main()
