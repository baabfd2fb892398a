"""The paper's ablation tables as rows of overrides over one shared cache (method.md sections 4 and 8)."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.errors import InputError
from cache.location import StoreError
from pipeline import run, score
from pipeline.invocation import Invocation
from pipeline.machine import Machine
from pipeline.plan import Plan
from pipeline.text import columns, markdown_table
from stages.parts.drawing.bars import KINDS, Score, score_bars
from stages.parts.eval_report import EvalReport
from stages.running.progress import say

OFF, FULL = ["latent-embedding.enabled=false"], ["latent-embedding.enabled=true"]

TABLES: Mapping[int, Mapping[str, Sequence[str]]] = {
    3: {
        "baseline": ["distill.loss=none", *OFF],
        "+ distillation": OFF,
        "+ latent embedding": FULL,
    },
    4: {
        "cosine": ["distill.loss=cosine"],
        "L2": ["distill.loss=l2"],
        "FROSTER": ["distill.loss=froster"],
        "InfoNCE (ours)": ["distill.loss=infonce"],
    },
    5: {
        "none": OFF,
        "local": ["latent-embedding.memory=local"],
        "global": ["latent-embedding.memory=global"],
        "both": ["latent-embedding.memory=both"],
    },
    6: {
        "prototypes": ["latent-embedding.calibrator=none", "latent-embedding.inputs=prototypes"],
        "prototypes + MLP": ["latent-embedding.calibrator=mlp", "latent-embedding.inputs=prototypes"],
        "CLS": ["latent-embedding.calibrator=none", "latent-embedding.inputs=cls"],
        "CLS + MLP": ["latent-embedding.calibrator=mlp", "latent-embedding.inputs=cls"],
        "both + transformer": ["latent-embedding.calibrator=transformer", "latent-embedding.inputs=both"],
    },
}
SCORES = ("hIoU", "sIoU", "uIoU")


class RowsFailedError(InputError):
    """Some rows were not finished; `rows`: the others, as `run_rows` would have returned them."""

    def __init__(self, said: str, rows: list[dict[str, Any]]) -> None:
        super().__init__(said)
        self.rows = rows


def run_table(typed: Invocation, table: int, seeds: int, machine: Machine) -> list[dict[str, Any]]:
    """Trains and scores every row of a table for every seed; what is complete is not computed again.

    Each row: name, settings, and per seed the report; Table 3 also gets the teacher's training-free row.
    """
    if table not in TABLES:
        raise InputError(f"--table {table}: choose one of {', '.join(map(str, TABLES))}")
    return run_rows(typed, TABLES[table], seeds, machine, teacher=table == 3)


def run_rows(
    typed: Invocation, rows: Mapping[str, Sequence[str]], seeds: int, machine: Machine, *, teacher: bool = False
) -> list[dict[str, Any]]:
    """Trains and scores rows of settings (name -> overrides), every one for `seeds` seeds, as `run_table` does.

    All settings are read before anything is computed. Rows share every artifact that their settings leave alone:
    a row that changes the teacher or the mining extracts or mines anew, and no other. `teacher`: also its
    training-free scores. A row that fails, with one of its seeds, is left out and the next is begun, unless what failed
    is reading or writing the artifacts. Raises RowsFailedError in the end where one did.
    """
    if seeds < 1:
        raise InputError(f"--seeds {seeds}: give at least 1")

    def plan(*more: str) -> Plan:
        return Plan.open(typed.preset, [*typed.overrides, *more], typed.artifacts, typed.data)

    shared = plan()
    first = shared.config.train.seed
    plans = {name: [plan(*row, f"train.seed={first + i}") for i in range(seeds)] for name, row in rows.items()}
    done: list[dict[str, Any]] = []
    if teacher:
        run.extract(shared, machine)
        done.append({"name": "teacher, training-free", "reports": [score.evaluate_teacher(shared, machine)["report"]]})
    failed: dict[str, InputError] = {}
    for name, repeats in plans.items():
        try:
            reports = [_report(one, name, machine) for one in repeats]
        except InputError as error:
            say(f"{name}: failed: {error}")
            failed[name] = error
            if isinstance(error, StoreError):  # a full disk is full for all of them
                break
        else:
            done.append({"name": name, "settings": list(rows[name]), "reports": reports})
    if failed:
        row, why = next(iter(failed.items()))
        finished = {one["name"] for one in done}
        missing = [name for name in plans if name not in finished]
        raise RowsFailedError(
            f"{len(missing)} of {len(plans)} rows are not finished ({'; '.join(missing)}); the first that failed, "
            f"{row}: {why}. What was finished stays, and is not computed again",
            done,
        )
    return done


def _report(plan: Plan, row: str, machine: Machine) -> EvalReport:
    """The scores of one seed of a row; what is missing for them is made."""
    say(f"{row}, seed {plan.config.train.seed}")
    run.make_cache(plan, machine)
    run.train(plan, machine)
    report: EvalReport = score.evaluate(plan, machine)["report"]
    return report


def sweep_rows(over: Sequence[str]) -> dict[str, list[str]]:
    """Rows of a sweep: every combination of `table.key=value;value;...`, one for each `--over`.

    Raises InputError where one of them is not of that form, or names a value twice.
    """
    axes: list[list[str]] = []
    for one in over:
        key, _, values = one.partition("=")
        choices = [v.strip() for v in values.split(";")]
        if "." not in key or not all(choices) or len(set(choices)) != len(choices):
            raise InputError(f"--over {one}: write table.key=value;value;..., each value once")
        axes.append([f"{key}={v}" for v in choices])
    if not axes:
        raise InputError('sweep: give --over "table.key=value;value", once for each setting to vary')
    return {", ".join(row): list(row) for row in itertools.product(*axes)}


def table_text(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """The paper's layout: hIoU, sIoU, uIoU, mean and sd over seeds; then the means over well supported classes."""
    return f"{title}, {_seeds(rows)}\n\n{columns(_table(rows, '|'))}"


def table_markdown(title: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """`table_text` as a Markdown table below its title."""
    return f"{title}, {_seeds(rows)}\n\n{markdown_table(_table(rows))}"


def table_scores(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Score]]:
    """Mean and sd over seeds of each row, for a chart."""
    return {row["name"]: {s: _score([getattr(r, s) for r in row["reports"]]) for s in SCORES} for row in rows}


def write_chart(path: str, title: str, rows: Mapping[str, Mapping[str, Score]], *, dark: bool = False) -> None:
    """Draws rows as a bar chart into a file whose ending says which kind."""
    file = chart_file(path)
    file.write_bytes(score_bars(title, rows, dark=dark, kind=file.suffix[1:].lower()))


def chart_file(path: str) -> Path:
    """The file of `--chart`. Raises InputError, before hours of training, where it can't be written."""
    file = Path(path)
    if file.suffix[1:].lower() not in KINDS:
        raise InputError(f"--chart {path}: name a file that ends in {' or '.join(f'.{kind}' for kind in KINDS)}")
    if not file.parent.is_dir():
        raise InputError(f"--chart {path}: no such folder; name a file in one that is there")
    return file


def _seeds(rows: Sequence[Mapping[str, Any]]) -> str:
    seeds = max(len(row["reports"]) for row in rows)
    return f"{seeds} seed{'s' if seeds > 1 else ''}"


def _table(rows: Sequence[Mapping[str, Any]], *bar: str) -> list[list[object]]:
    """Head and rows; `bar` stands between the means over all classes and those over well supported ones."""
    least = rows[-1]["reports"][0].supported.min_pixels
    lines: list[list[object]] = [["", *SCORES, *bar, *(f"{s} ({least:,} px)" for s in SCORES)]]
    for row in rows:
        all_of = [_cell([getattr(r, s) for r in row["reports"]]) for s in SCORES]
        supported = [_cell([getattr(r.supported, s) for r in row["reports"]]) for s in SCORES]
        lines.append([row["name"], *all_of, *bar, *supported])
    return lines


def _score(values: Sequence[float | None]) -> Score:
    known = [v for v in values if v is not None]
    return Score(statistics.fmean(known) if known else None, statistics.stdev(known) if len(known) > 1 else None)


def _cell(values: Sequence[float | None]) -> str:
    score = _score(values)
    if score.mean is None:
        return "-"
    return f"{score.mean:.1f}" + ("" if score.sd is None else f" ±{score.sd:.1f}")
