"""run report: one HTML page of a training run that needs no other file and no network.

reads: a run's folder, its evaluations | writes: report.html in the run's folder
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cache.headers import FILE as STUDENT
from cache.headers import student_bytes
from cache.location import Location
from stages.parts.drawing.charts import Chart, bias_chart, line_chart
from stages.parts.drawing.pages import page
from stages.parts.drawing.palette import palette
from stages.parts.eval_report import Background, EvalReport, Means
from stages.parts.scoring.since import changes
from stages.parts.students import count_macs
from stages.parts.students.checkpoint import unpack
from stages.running.board import SCORES
from stages.running.curves import curves_at
from stages.running.scoring.reports import read_biases

FILE = "report.html"
_UNSEEN_CONFUSIONS = 6
_STEEP = 20.0
"""A loss whose largest value is more than so many times its smallest opens the page on the logarithmic scale."""
_SCORES = (("hIoU", "hIoU"), ("sIoU", "sIoU"), ("uIoU", "uIoU"), ("pixel_accuracy", "pixel acc."))


@dataclass(frozen=True)
class Scored:
    """An evaluation of a run: its folder and report, and those of the same images that it is compared with.

    `teacher`: the teacher without training; `baseline`: the same run without distillation; `parent`: the run that it
    started from; None: not scored, or this, or there is none.
    """

    at: Location
    report: EvalReport
    teacher: EvalReport | None = None
    baseline: EvalReport | None = None
    parent: EvalReport | None = None


def run(
    run_at: Location, scored: Sequence[Scored], commands: Mapping[str, str], latent: Mapping[str, int] | None = None
) -> str:
    """Writes the page of a run with all of its evaluations, the first at large; returns its address.

    `commands`: what to type to score it (`eval`), what it is compared with (`ablate`), and to fit the seen bias
    (`calibrate`). `latent`: latent classes of a view -> training views that have so many. What isn't there yet (no
    evaluation, no curves) is said on the page. Every text is escaped.
    """
    packed = student_bytes(run_at)
    checkpoint = unpack(packed, f"{run_at}/{STUDENT}")
    about, summary = checkpoint.about, (run_at.get_mark("complete.json") or {}).get("summary", {})
    student, provenance = about.get("student", {}), about.get("provenance", {})
    ingredients = provenance.get("ingredients", {})
    curves = _charts(curves_at(run_at))
    html = page(
        "report.html",
        script="charts.js",
        title=f"{provenance.get('preset', '-')}: {student.get('arch')} + {student.get('encoder')}",
        name=f"{run_at.parent.name}/{run_at.name}",
        date=run_at.modified("complete.json"),
        facts=_facts(about, summary),
        score_names=_SCORES,
        evaluations=[_evaluation(one, ingredients, commands) for one in scored],
        commands=commands,
        curves=curves,
        latent=[(k, n, 100 * n / max(latent.values())) for k, n in latent.items()] if latent else [],
        log=any(c.spread > _STEEP for c in curves),
        efficiency=_efficiency(checkpoint.student, len(packed), about, summary, [one.report for one in scored]),
        settings={**ingredients, "versions": provenance.get("versions", {})},
    )
    run_at.put(FILE, html.encode())
    return f"{run_at}/{FILE}"


def _facts(about: dict[str, Any], summary: dict[str, Any]) -> list[tuple[str, str]]:
    student, provenance = about.get("student", {}), about.get("provenance", {})
    return [
        ("student", f"{student.get('arch')} + {student.get('encoder')}"),
        ("preset", str(provenance.get("preset", "-"))),
        ("teacher", _teacher(provenance)),
        *([("started from", str(provenance["parent"]))] if provenance.get("parent") else []),
        ("split", f"{provenance.get('split', '-')} ({provenance.get('split_hash', '-')})"),
        ("seen classes", str(len(about.get("seen", [])))),
        ("training photos", str(summary.get("images", "-"))),
        ("iterations", str(summary.get("iterations", f"{about.get('iteration', 0)}, not finished"))),
    ]


def _teacher(provenance: dict[str, Any]) -> str:
    teacher = provenance.get("teacher", {})
    model = str(teacher.get("model", "-"))
    return model.rsplit("/", 1)[-1] if model.startswith("local-dir:") else f"{model} {teacher.get('pretrained', '')}"


def _evaluation(one: Scored, ingredients: Mapping[str, Any], commands: Mapping[str, str]) -> dict[str, Any]:
    """What the page shows of one evaluation."""
    report, matrix, biases = one.report, one.at.get_mark("confusion.json"), read_biases(one.at)
    colours = palette([c.name for c in report.classes])
    before = {c.name: c.IoU for c in one.baseline.classes} if one.baseline else {}
    classes = [
        {
            **dict(c),
            "kind": "seen" if c.seen else "unseen",
            "colour": colours[i],
            "differs": _less(c.IoU, before.get(c.name)),
        }
        for i, c in enumerate(report.classes)
    ]
    pictures = [
        {"title": title, "data": data, "shown": report.pictures.get(end, ())}
        for end, title in (("best", "Best"), ("worst", "Worst"), ("grid", _sample_title(report)))
        if (data := one.at.get(f"{end}.png"))
    ]
    return {
        "report": report,
        "verdict": verdict(one, ingredients, commands),
        "rows": _rows(one),
        "baseline": one.baseline,
        "risk": _risk_chart(report),
        "backgrounds": [(name, b) for name, b in _backgrounds(one) if b is not None],
        "since": changes(one.parent, report) if one.parent else [],
        "classes": classes,
        "confusions": _confusions(matrix, report) if matrix else None,
        "heat": one.at.get("confusion.png"),
        "biases": bias_chart("scores over the seen bias", [(key, biases, key) for key in SCORES]),
        "best_bias": max(biases, key=lambda p: p["hIoU"], default=None),
        "pictures": pictures,
    }


def _backgrounds(one: Scored) -> list[tuple[str, Background | None]]:
    """Scores with the background as a class, of this run and what it is compared with."""
    others = (("teacher, training-free", one.teacher), ("baseline, without distillation", one.baseline))
    return [(name, o.background) for name, o in others if o is not None] + [("this run", one.report.background)]


def _risk_chart(report: EvalReport) -> Chart | None:
    """Pixels that are wrong among those kept, from the surest to all of them."""
    if report.risk is None:
        return None
    kept = {p.coverage: p.risk for p in report.risk.points}
    return line_chart("risk-coverage", [("", sorted(kept.items()))], "labelled pixels kept, %", "wrong, %", log=False)


def _sample_title(report: EvalReport) -> str:
    return "A sample, unseen classes first" if any(c.pixels and not c.seen for c in report.classes) else "A sample"


def verdict(one: Scored, ingredients: Mapping[str, Any], commands: Mapping[str, str]) -> dict[str, str]:
    """A word (good, fair, POOR or none), the sentence that bears it out, and the command that would tell more."""
    report, references = one.report, [("the teacher without training", one.teacher), ("the baseline", one.baseline)]
    distilled = "distill" in ingredients or "latent-embedding" in ingredients
    known = [(name, other.hIoU) for name, other in references if other is not None and other.hIoU is not None]
    text = f"hIoU {report.hIoU:.1f}" if report.hIoU is not None else "hIoU: none"
    if report.hIoU is None:
        return {"word": "", "text": f"{text}, since no seen or no unseen class has a score here.", "command": ""}
    compared = ", ".join(
        f"{abs(report.hIoU - other):.1f} {'above' if report.hIoU >= other else 'below'} {name} ({other:.1f})"
        for name, other in known
    )
    if not distilled:
        text = f"This is a baseline, trained by labels of seen classes alone. {text}"
        return {"word": "", "text": f"{text}{': ' + compared if compared else ''}.", "command": ""}
    missing = [name for name, other in references if other is None]
    command = commands["ablate"] if missing and commands else ""
    if not known:
        return {"word": "", "text": f"{text}; neither {' nor '.join(missing)} is scored here.", "command": command}
    better = sum(report.hIoU > other for _, other in known)
    word = "good" if better == len(known) else "fair" if better else "POOR"
    without = f"; {missing[0]} is not scored here" if missing else ""
    return {"word": word, "text": f"{text}: {compared}{without}.", "command": command}


def _rows(one: Scored) -> list[dict[str, Any]]:
    """The table of scores: what it is compared with, this run, this run over classes with enough pixels."""
    report = one.report
    rows = [
        {"name": name, "short": short, "scores": other, "this": False, "differs": _differences(report, other)}
        for name, short, other in (
            ("teacher, training-free", "vs. teacher", one.teacher),
            ("baseline, without distillation", "vs. baseline", one.baseline),
        )
        if other is not None
    ]
    supported = f"this run, classes with {report.supported.min_pixels:,} pixels"
    return [
        *rows,
        {"name": "this run", "scores": report, "this": True, "differs": None},
        {"name": supported, "scores": report.supported, "this": False, "differs": None},
    ]


def _differences(report: Means, other: Means) -> dict[str, float | None]:
    return {key: _less(getattr(report, key), getattr(other, key)) for key, _ in _SCORES}


def _less(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other


def _confusions(matrix: dict[str, Any], report: EvalReport) -> list[tuple[str, list[tuple[str, float]]]]:
    """For each unseen class with pixels: the classes that most of them are taken for, in per cent."""
    names, counts = matrix["classes"], matrix["counts"]
    found = []
    for index, c in enumerate(report.classes):
        if c.seen or not c.pixels:
            continue
        total = sum(counts[index])
        order = sorted(range(len(names)), key=lambda k: -counts[index][k])[:_UNSEEN_CONFUSIONS]
        found.append((c.name, [(names[k], 100 * counts[index][k] / total) for k in order if counts[index][k]]))
    return found


def _charts(curves: Sequence[dict[str, float]]) -> list[Chart]:
    if not curves:
        return []
    names = ["total", *(k for k in curves[-1] if k not in ("iteration", "lr", "total"))]

    def chart(name: str, title: str, y_label: str, *, log: bool) -> Chart:
        return line_chart(
            title, [("", [(c["iteration"], c[name]) for c in curves if name in c])], "iteration", y_label, log=log
        )

    losses = [chart(name, f"{name} loss", "loss", log=True) for name in names]
    return [*losses, chart("lr", "learning rate", "learning rate", log=False)]


def _efficiency(
    student: Any, size: int, about: dict[str, Any], summary: dict[str, Any], reports: Sequence[EvalReport]
) -> list[tuple[str, str]]:
    crop = int(about.get("provenance", {}).get("ingredients", {}).get("views", {}).get("size", 512))
    parameters = sum(p.numel() for p in student.parameters())
    rows = [
        ("parameters", f"{parameters / 1e6:.2f} M"),
        *((f"multiply-accumulates at {s} x {s}", f"{count_macs(student, s) / 1e9:.2f} G") for s in sorted({crop, 512})),
        ("student file", f"{size / 2**20:.1f} MiB"),
    ]
    if "seconds" in summary:
        rows.append(("training", f"{summary['seconds']:.0f} s, {summary['iterations_per_second']:.2f} iterations/s"))
        rows.append(("waiting for data", f"{100 * summary['waiting_share']:.1f} %"))
    return [*rows, *(("evaluation, decoding included", f"{r.images_per_second} images/s") for r in reports)]
