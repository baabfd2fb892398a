"""Makes the pictures of README and docs: the charts from docs/results.md, the rest from a finished `clip2seg demo`.

    python experiments/pictures.py                     # everything, from ./artifacts
    python experiments/pictures.py --only charts       # after `ablate --markdown docs/results.md`

docs/pictures/demo.jpg is what `clip2seg demo` draws at its end, charts/*.svg the tables of docs/results.md, for light
and dark pages. docs/predict.md has the script of its own picture, `inspect` makes those of docs/inspection.md.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cache.errors import InputError
from pipeline.plan import Plan
from pipeline.study.ablate import SCORES, write_chart
from pipeline.study.showcase import FILE
from stages.parts.drawing.bars import Score

ROOT = Path(__file__).resolve().parents[1]
CHARTS = {
    "demo sweep data.label_share=0;0.01;0.05;0.25;1 eval.pictures=0": ("demo-labels", "Demo world, share of the masks"),
    **{f"demo table {n}": (f"demo-table{n}", f"Demo world, Table {n}") for n in range(3, 7)},
    **{
        f"experiments/voc_partial.toml table {n}": (f"voc_partial-table{n}", f"VOC-partial, Table {n}")
        for n in range(3, 7)
    },
}
"""Marker of a table of docs/results.md -> name of its chart and title."""


def charts(page: str, out: Path) -> None:
    """Draws each table of `CHARTS`. Raises InputError where the page lacks one."""
    out.mkdir(parents=True, exist_ok=True)
    for key, (name, title) in CHARTS.items():
        rows = table(page, key)
        for dark in (False, True):
            write_chart(str(out / f"{name}{'-dark' * dark}.svg"), title, rows, dark=dark)


def table(page: str, key: str) -> dict[str, dict[str, Score]]:
    """Mean and sd of hIoU, sIoU and uIoU by row, out of the Markdown table between the markers of `key`."""
    found = re.search(f"<!-- {re.escape(key)} -->\n(.*?)<!-- end ", page, re.DOTALL)
    if not found:
        raise InputError(
            f"docs/results.md: no table {key!r}; make it by `clip2seg ablate ... --markdown docs/results.md`"
        )
    lines = [line for line in found[1].splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines)
    columns = [head.index(name) - len(head) for name in SCORES]
    return {row[0]: {name: score(row[column]) for name, column in zip(SCORES, columns, strict=True)} for row in rows}


def score(cell: str) -> Score:
    """ "54.9 ±0.3", "24.1" or "-" as numbers."""
    mean, _, sd = cell.partition("±")
    return Score(None) if cell == "-" else Score(float(mean), float(sd) if sd else None)


def demo(plan: Plan, out: Path) -> None:
    """The strip that the demo's run drew. Raises InputError where it has not."""
    data = plan.address("eval").get(FILE)
    if data is None:
        raise InputError(
            f"{plan.address('eval')}/{FILE}: not there; run `clip2seg demo` with the same --artifacts first"
        )
    (out / "demo.jpg").write_bytes(data)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--artifacts", default="artifacts", help="where the demo's run lies")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/pictures", help="the folder to write to")
    parser.add_argument("--only", choices=["charts", "demo"], help="make these alone")
    asked = parser.parse_args()
    try:
        if asked.only in (None, "charts"):
            charts((ROOT / "docs/results.md").read_text(encoding="utf-8"), asked.out / "charts")
        if asked.only in (None, "demo"):
            demo(Plan.open("demo", artifacts=asked.artifacts), asked.out)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
