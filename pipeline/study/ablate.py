"""The paper's ablation tables as rows of overrides over one shared cache (method.md sections 4 and 8)."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cache.errors import InputError
from pipeline import run
from pipeline.invocation import Invocation
from pipeline.plan import Plan
from pipeline.text import columns
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


def run_table(typed: Invocation, table: int, seeds: int, machine: run.Machine) -> list[dict[str, Any]]:
    """Trains and scores every row of a table for every seed; what is complete is not computed again.

    Each row: name, settings, and per seed the report; Table 3 also gets the teacher's training-free row.
    """
    if table not in TABLES:
        raise InputError(f"--table {table}: choose one of {', '.join(map(str, TABLES))}")
    return run_rows(typed, TABLES[table], seeds, machine, teacher=table == 3)


def run_rows(
    typed: Invocation, rows: Mapping[str, Sequence[str]], seeds: int, machine: run.Machine, *, teacher: bool = False
) -> list[dict[str, Any]]:
    """Trains and scores rows of settings (name -> overrides), every one for `seeds` seeds, as `run_table` does.

    All settings are read before anything is computed. Rows share every artifact that their settings leave alone:
    a row that changes the teacher or the mining extracts or mines anew, and no other. `teacher`: also its
    training-free scores.
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
        done.append({"name": "teacher, training-free", "reports": [run.evaluate_teacher(shared, machine)["report"]]})
    for name, repeats in plans.items():
        reports = []
        for one in repeats:
            say(f"{name}, seed {one.config.train.seed}")
            run.extract(one, machine)
            if one.distilled:
                run.mine_latent(one, machine)
            run.train(one, machine)
            reports.append(run.evaluate(one, machine)["report"])
        done.append({"name": name, "settings": list(rows[name]), "reports": reports})
    return done


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
    least = rows[-1]["reports"][0].supported.min_pixels
    lines: list[list[object]] = [["", *SCORES, "|", *(f"{s} ({least}_pixels)" for s in SCORES)]]
    for row in rows:
        all_of = [_mean_sd([getattr(r, s) for r in row["reports"]]) for s in SCORES]
        supported = [_mean_sd([getattr(r.supported, s) for r in row["reports"]]) for s in SCORES]
        lines.append([row["name"], *all_of, "|", *supported])
    seeds = max(len(row["reports"]) for row in rows)
    return f"{title}, {seeds} seed{'s' if seeds > 1 else ''}\n\n{columns(lines)}"


def _mean_sd(values: Sequence[float | None]) -> str:
    known = [v for v in values if v is not None]
    if not known:
        return "-"
    spread = f" ±{statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.1f}{spread}"
