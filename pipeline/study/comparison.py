"""`clip2seg runs --compare A --compare B --html FILE`: a page of several runs, with the same photos seen by each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import InputError
from cache.files import write_whole
from pipeline.study.runs import SCORES, Run
from stages.parts.drawing.charts import Chart, bias_chart, line_chart
from stages.parts.drawing.pages import page
from stages.running.curves import curves_at
from stages.running.scoring.reports import read_biases

if TYPE_CHECKING:
    from pipeline.machine import Machine
    from pipeline.plan import Plan

_STEEP = 20.0
"""A loss whose largest value is more than so many times its smallest opens the page on the logarithmic scale."""
_GAP = 8
"""White pixels between two pictures of a row."""
Photos = list[tuple[str, str]]
"""A photo's id, and the row of its pictures as a data: address."""


def checked_file(html: str) -> Path:
    """Where a page goes. Raises InputError before any work where its folder is missing."""
    file = Path(html).expanduser()
    if not file.parent.is_dir() or file.is_dir():
        raise InputError(f"--html {html}: name a file in a folder that is there")
    return file


def write_page(runs: Sequence[Run], compared: Mapping[str, Any], file: Path, photos: Photos) -> None:
    """The page of `runs.compare`'s result for these runs."""
    curves = loss_charts(runs)
    labels = {key: "pixel acc." if key == "pixel_accuracy" else key for key in SCORES}
    scores = [
        (label, compared["scores"][key], max((v for v in compared["scores"][key] if v is not None), default=None))
        for key, label in labels.items()
    ]
    text = page(
        "compare.html",
        script="charts.js",
        title=f"{len(runs)} runs compared",
        names=compared["runs"],
        scores=scores,
        unlike=_unlike(runs),
        settings=compared["settings"],
        classes=_classes(runs, compared),
        curves=curves,
        log=any(c.spread > _STEEP for c in curves),
        biases=bias_chart("hIoU over the seen bias", [(run.name, _biases(run), "hIoU") for run in runs]),
        heats=[(run.name, heat) for run in runs for at, _ in run.evaluations[:1] if (heat := at.get("confusion.png"))],
        photos=photos,
        columns=["photo", "ground truth", *compared["runs"]],
        chosen=f"Those that {compared['runs'][0]} and {compared['runs'][-1]} see worst, by mean IoU.",
    )
    write_whole(file, text.encode())


def _biases(run: Run) -> list[dict[str, float]]:
    return read_biases(run.evaluations[0][0]) if run.evaluations else []


def _unlike(runs: Sequence[Run]) -> str:
    """A warning where the scores are not of the same images and names; "" where they are."""
    asked = {(r.data, r.split_hash, r.images) for run in runs for _, r in run.evaluations[:1]}
    return "These scores are of different images or classes: their numbers can't be compared." if len(asked) > 1 else ""


def _classes(
    runs: Sequence[Run], compared: Mapping[str, Any]
) -> list[tuple[str, list[tuple[str, list[float | None]]]]]:
    """Classes with the IoU of each run, the unseen ones apart; a class is unseen where one run's report says so."""
    unseen = {c.name for run in runs for _, r in run.evaluations[:1] for c in r.classes if not c.seen}
    parts = (("Unseen classes", True), ("Seen classes", False))
    found = [
        (title, [row for row in compared["classes"].items() if (row[0] in unseen) is wanted]) for title, wanted in parts
    ]
    return [(title, rows) for title, rows in found if rows]


def loss_charts(runs: Sequence[Run]) -> list[Chart]:
    """A chart of each loss with a line for each run that has it, the total first."""
    curves = {run.name: curves_at(run.at) for run in runs}
    names = dict.fromkeys(key for points in curves.values() for key in (points[-1] if points else {}))
    losses = ["total", *(name for name in names if name not in ("iteration", "lr", "total"))] if names else []
    charts = []
    for loss in losses:
        lines = [(run, [(p["iteration"], p[loss]) for p in points if loss in p]) for run, points in curves.items()]
        charts.append(line_chart(f"{loss} loss", lines, "iteration", "loss"))
    return charts


def same_photos(plan: Plan, runs: Sequence[Run], count: int, machine: Machine) -> Photos:
    """`count` evaluation photos as each run's student sees them: those that the first and the last run see worst.

    Raises InputError where a run is not evaluated, or is of other classes or images than the plan.
    """
    from stages.parts.drawing.overlays import overlay, where_scored
    from stages.parts.drawing.palette import palette
    from stages.parts.scoring.explorer import jpeg
    from stages.running.scoring.student import StudentPredictor

    data, names = plan.val_data, plan.vocabulary.ordered
    for run in runs:
        if not run.evaluations:
            raise InputError(f"--photos: {run.name} is not evaluated; run `{plan.invocation.command('eval')}` for it")
    reports = [run.evaluations[0][1] for run in runs]
    worst = [[name for name, _ in report.pictures.get("worst", ())] for report in (reports[0], reports[-1])]
    chosen = [name for pair in zip(*worst, strict=False) for name in pair]
    ids = [name for name in dict.fromkeys(chosen) if name in data.ids][:count]
    if not ids:
        raise InputError(f"--photos: none of the runs' pictures is an evaluation image of {plan.name}")
    pictures: dict[str, list[np.ndarray]] = {}
    colours = palette(names)
    for number, (run, report) in enumerate(zip(runs, reports, strict=True)):
        text, words = plan.tiers().text, data.vocabulary
        student = StudentPredictor(run.at, text, words, report.settings, machine.compute.device)
        for name in ids:
            i = data.ids.index(name)
            image, truth = data.image(i), data.labels(i, "all")
            if number == 0:
                pictures[name] = [image, overlay(image, truth, colours, names=names)]
            found = where_scored(student.labels(image), truth, len(names))
            pictures[name].append(overlay(image, found, colours, names=names))
    return [(name, jpeg(_row(row))) for name, row in pictures.items()]


def _row(pictures: Sequence[np.ndarray]) -> np.ndarray:
    """Pictures [H, W, 3] of one size side by side."""
    gap = np.full((pictures[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, gap)][:-1], axis=1)
