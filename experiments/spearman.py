"""How well `clip2seg inspect PRESET recipes` predicts what training gives: Spearman's rank correlation over rows.

    clip2seg inspect demo recipes --json > recipes.json
    python experiments/study.py experiments/studies/recipes.toml --out results ...
    python experiments/spearman.py recipes.json results/results.json --world demo

The rows of both have the same names; a row of the study is its mean uIoU (hIoU, sIoU) over seeds. `--table` prints
both side by side.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from experiments.rounds import scores_text

MEASURES = ("iou", "purity", "recall", "dense", "named")


def measured(found: dict[str, Any], name: str, trained_at: float | None = None) -> dict[str, float]:
    """A measure of `inspect recipes` by row, those without a number left out.

    A row at the merge threshold that it was trained at, without one at its best, and once more at each threshold as
    "ROW at 0.8".
    """
    values: dict[str, Any] = {}
    for row in found["rows"]:
        by_threshold = {at["threshold"]: at for at in row["thresholds"]}
        each = {row["name"]: (row["best"] if trained_at is None else by_threshold.get(trained_at)) or {}}
        each |= {f"{row['name']} at {threshold:g}": at for threshold, at in by_threshold.items()}
        values |= {
            title: row[name] if name in ("dense", "dense_hIoU", "named") else at.get(name) for title, at in each.items()
        }
    return {title: value for title, value in values.items() if value is not None}


def trained(runs: list[dict[str, Any]], world: str, score: str) -> dict[str, float]:
    """Mean score of each row of a study in one world."""
    scores: dict[str, list[float]] = {}
    for run in runs:
        if run["world"] == world and run.get(score) is not None:
            scores.setdefault(run["row"], []).append(run[score])
    return {row: statistics.mean(values) for row, values in scores.items()}


def table(found: dict[str, Any], runs: list[dict[str, Any]], world: str, trained_at: float | None) -> str:
    """Rows of the study in markdown: what `inspect recipes` measured, and what training gave, mean and sd."""
    columns = {name: measured(found, name, trained_at) for name in ("dense", "dense_hIoU", "iou", "purity", "recall")}
    lines = [
        "| dense map | dense sIoU | dense hIoU | mined IoU | purity | recall | hIoU / sIoU / uIoU | seeds |",
        "|---|--:|--:|--:|--:|--:|---|--:|",
    ]
    for name in dict.fromkeys(run["row"] for run in runs if run["world"] == world):
        of = [run for run in runs if run["world"] == world and run["row"] == name]
        cells = [f"{values[name]:.1f}" if name in values else "-" for values in columns.values()]
        lines.append(f"| {name} | {' | '.join(cells)} | {scores_text(of)} | {len(of)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=Path)
    parser.add_argument("results", type=Path)
    parser.add_argument("--world", default="demo")
    parser.add_argument("--score", default="uIoU", choices=("uIoU", "hIoU", "sIoU"))
    parser.add_argument("--at", type=float, help="the merge threshold that was trained with; else each row's best")
    parser.add_argument("--table", action="store_true", help="print what was measured beside what training gave")
    asked = parser.parse_args()
    found = json.loads(asked.recipes.read_text().splitlines()[-1])  # `--json` prints the table first
    runs = json.loads(asked.results.read_text())
    final = trained(runs["rows"], asked.world, asked.score)
    if asked.table:
        print(table(found, runs["rows"], asked.world, asked.at) + "\n")
    for name in MEASURES:
        before = measured(found, name, asked.at)
        rows = sorted(before.keys() & final.keys())
        if len(rows) < 3:
            raise SystemExit(f"{asked.results}: {len(rows)} rows in common with {asked.recipes}; 3 or more are needed")
        rank = spearmanr([before[r] for r in rows], [final[r] for r in rows])
        print(f"{name:7} against {asked.score}: Spearman {rank.statistic:+.2f} (p {rank.pvalue:.3f}, {len(rows)} rows)")


if __name__ == "__main__":
    main()
