"""Does `inspect PRESET card` say which seen classes a trained student will be weak in? Rank correlations by class.

    clip2seg inspect demo card --json > card.json
    python experiments/card_by_class.py card.json artifacts/demo/eval-*/report.json

For each report: Spearman's rho, over the seen classes that were evaluated, of the student's IoU with how often the
teacher names a class's regions rightly, with how often a region's nearest region of another photo is of its class, and
with the photos that show it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr


def by_class(card: Mapping[str, Any]) -> dict[str, Mapping[str, float | None]]:
    """The card's figures of each seen class, by what they are."""
    summary = card["summary"]
    return {
        "named right": summary["naming"]["classes"],
        "neighbours": card["tokens"]["classes"],
        "photos": summary["regions"]["per_class"],
    }


def correlations(card: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, tuple[int, float]]:
    """(classes, rho) of each figure with the IoU of a report."""
    scored = {c["name"]: c["IoU"] for c in report["classes"] if c["seen"] and c["IoU"] is not None}
    found = {}
    for name, figures in by_class(card).items():
        pairs = [(value, scored[c]) for c, value in figures.items() if value is not None and c in scored]
        found[name] = (len(pairs), float(spearmanr(*zip(*pairs, strict=True))[0]))
    return found


def main(argv: Sequence[str]) -> None:
    """The command line: a card, then reports."""
    card = json.loads(Path(argv[0]).read_text(encoding="utf-8").splitlines()[-1])  # `--json` prints the text first
    print("| report | hIoU | " + " | ".join(by_class(card)) + " |\n|---|--:" + "|--:" * len(by_class(card)) + "|")
    for file in argv[1:]:
        report = json.loads(Path(file).read_text(encoding="utf-8"))
        cells = [f"{rho:.2f} (of {n})" for n, rho in correlations(card, report).values()]
        print(f"| {Path(file).parent.name} | {report['hIoU']:.1f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
