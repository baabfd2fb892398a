"""run report: one HTML page of a training run that needs no other file, no network and no script.

reads: a run's folder, its evaluations | writes: report.html in the run's folder
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from cache.headers import FILE as STUDENT
from cache.headers import student_bytes
from cache.location import Location
from stages.parts.drawing.charts import line_chart
from stages.parts.eval_report import ClassScore, EvalReport
from stages.parts.students import count_macs
from stages.parts.students.checkpoint import unpack
from stages.running.curves import curves_at

FILE = "report.html"
_UNSEEN_CONFUSIONS = 6
_SCORES = (("hIoU", "hIoU"), ("sIoU", "sIoU"), ("uIoU", "uIoU"), ("pixel_accuracy", "pixel acc."))


def run(run_at: Location, evaluations: Sequence[tuple[Location, EvalReport]]) -> str:
    """Writes the page of a run with all of its evaluations (folder, report); returns its address.

    What isn't there yet (no evaluation, no curves) is said on the page. Every text is escaped.
    """
    packed = student_bytes(run_at)
    checkpoint = unpack(packed, f"{run_at}/{STUDENT}")
    about, summary = checkpoint.about, (run_at.get_mark("complete.json") or {}).get("summary", {})
    curves = curves_at(run_at)
    name = str(run_at).rstrip("/").rsplit("/", 1)[-1]
    parts = [
        _head(name, about, summary),
        *(_evaluation(at, report) for at, report in evaluations),
        "" if evaluations else _section("Scores", "<p>Not evaluated yet: run <code>clip2seg eval</code>.</p>"),
        _section("Losses", _charts(curves)),
        _section("Efficiency", _efficiency(checkpoint.student, len(packed), about, summary, evaluations)),
        _section("Settings", _settings(about.get("provenance", {}))),
    ]
    page = _PAGE.replace("{title}", escape(name)).replace("{body}", "\n".join(parts))
    run_at.put(FILE, page.encode())
    return f"{run_at}/{FILE}"


def _head(name: str, about: dict[str, Any], summary: dict[str, Any]) -> str:
    student, provenance = about.get("student", {}), about.get("provenance", {})
    facts = [
        ("student", f"{student.get('arch')} + {student.get('encoder')}"),
        ("preset", str(provenance.get("preset", "-"))),
        ("teacher", _teacher(provenance)),
        ("split", f"{provenance.get('split', '-')} ({provenance.get('split_hash', '-')})"),
        ("seen classes", str(len(about.get("seen", [])))),
        ("training photos", str(summary.get("images", "-"))),
        ("iterations", str(summary.get("iterations", f"{about.get('iteration', 0)}, not finished"))),
    ]
    rows = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts)
    return f"<h1>{escape(name)}</h1><dl>{rows}</dl>"


def _teacher(provenance: dict[str, Any]) -> str:
    teacher = provenance.get("teacher", {})
    model = str(teacher.get("model", "-"))
    return model.rsplit("/", 1)[-1] if model.startswith("local-dir:") else f"{model} {teacher.get('pretrained', '')}"


def _evaluation(at: Location, report: EvalReport) -> str:
    settings, supported = report.settings, report.supported
    scores = ", ".join(f"{label} {_number(getattr(supported, key))}" for key, label in _SCORES)
    head = (
        f"<p>{report.images} images of <b>{escape(report.data)}</b>, split {escape(report.split)}, "
        f"mode {settings.mode}, short side {settings.short_side} px"
        + (f", <b>seen bias {settings.seen_bias}</b>" if settings.seen_bias else "")
        + (f", <b>PAMR, {settings.pamr} rounds</b>" if settings.pamr else "")
        + f".</p>{_cards(report)}<p class=quiet>Means over classes with {supported.min_pixels} pixels: {scores}.</p>"
    )
    parts = [_section("Scores", head), _section("Classes", _classes(report.classes))]
    matrix = at.get_mark("confusion.json")
    if matrix:
        heat = at.get("confusion.png")
        drawn = _picture("Confusion matrix, rows of 100 %", heat) if heat else ""
        parts.append(_section("What unseen classes are taken for", _confusion(matrix, report.classes) + drawn))
    for end, title in (("best", "Best pictures"), ("worst", "Worst pictures"), ("grid", "Unseen classes first")):
        data = at.get(f"{end}.png")
        if data:
            shown = ", ".join(f"{escape(str(name))} {iou:.1f}" for name, iou in report.pictures.get(end, ()))
            caption = f"<p class=quiet>Mean IoU of the classes shown, from the top: {shown}</p>" if shown else ""
            parts.append(_section(title, caption + _picture(title, data)))
    return "\n".join(parts)


def _picture(title: str, data: bytes) -> str:
    return f'<img alt="{escape(title)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def _cards(report: EvalReport) -> str:
    cards = (f"<div><b>{_number(getattr(report, key))}</b><span>{label}</span></div>" for key, label in _SCORES)
    return f"<div class=cards>{''.join(cards)}</div>"


def _classes(classes: Sequence[ClassScore]) -> str:
    rows = []
    for c in classes:
        share = c.IoU or 0.0
        kind = "seen" if c.seen else "unseen"
        note = "" if c.support else " <i>no support</i>"
        rows.append(
            f"<tr><td>{escape(c.name)}</td><td class={kind}>{kind}</td>"
            f"<td class=bar><i class={kind} style='width:{share:.1f}%'></i></td>"
            f"<td class=n>{_number(c.IoU)}</td><td class=n>{c.pixels:,}{note}</td></tr>"
        )
    return _table(("class", "", "", "IoU %", "pixels"), rows)


def _confusion(matrix: dict[str, Any], classes: Sequence[ClassScore]) -> str:
    names, counts = matrix["classes"], matrix["counts"]
    rows = []
    for index, c in enumerate(classes):
        if c.seen or not c.pixels:
            continue
        total = sum(counts[index])
        order = sorted(range(len(names)), key=lambda k: -counts[index][k])
        largest = [k for k in order[:_UNSEEN_CONFUSIONS] if counts[index][k]]
        cells = ", ".join(
            f"{'<b>' if k == index else ''}{escape(names[k])} {100 * counts[index][k] / total:.1f} %"
            f"{'</b>' if k == index else ''}"
            for k in largest
        )
        rows.append(f"<tr><td>{escape(c.name)}</td><td>{cells}</td></tr>")
    if not rows:
        return "<p>No unseen class has an evaluation pixel.</p>"
    return _table(("pixels of", "are taken for"), rows)


def _charts(curves: Sequence[dict[str, float]]) -> str:
    if not curves:
        return "<p>No curve yet.</p>"
    names = [k for k in curves[-1] if k not in ("iteration", "lr")]
    names = ["total", *(n for n in names if n != "total")] if "total" in names else names
    charts = []
    for name in [*names, "lr"]:
        points = [(c["iteration"], c[name]) for c in curves if name in c]
        chart = line_chart(points)
        charts.append(
            f"<figure>{chart}<figcaption>{escape(name)}: {points[-1][1]:.4g} at the end</figcaption></figure>"
        )
    return f"<div class=charts>{''.join(charts)}</div>"


def _efficiency(
    student: Any,
    size: int,
    about: dict[str, Any],
    summary: dict[str, Any],
    evaluations: Sequence[tuple[Location, EvalReport]],
) -> str:
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
    rows += [("evaluation, decoding included", f"{r.images_per_second} images/s") for _, r in evaluations]
    return _table(("", ""), [f"<tr><td>{escape(k)}</td><td class=n>{escape(v)}</td></tr>" for k, v in rows])


def _settings(provenance: dict[str, Any]) -> str:
    tables = []
    for key, value in provenance.get("ingredients", {}).items():
        tables.append(f"<h3>{escape(str(key))}</h3><pre>{escape(_pretty(value))}</pre>")
    versions = escape(_pretty(provenance.get("versions", {})))
    return f"<details open><summary>all</summary>{''.join(tables)}<h3>versions</h3><pre>{versions}</pre></details>"


def _pretty(value: object) -> str:
    if not isinstance(value, dict):
        return json.dumps(value, ensure_ascii=False)
    width = max((len(str(k)) for k in value), default=0)
    return "\n".join(f"{k!s:<{width}}  {json.dumps(v, ensure_ascii=False)}" for k, v in value.items())


def _section(title: str, inside: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{inside}</section>"


def _table(heads: Iterable[str], rows: Iterable[str]) -> str:
    cells = "".join(f"<th>{escape(h)}</th>" for h in heads)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
:root { color-scheme: light dark; --ink: light-dark(#1c2330, #e7eaf0); --paper: light-dark(#fbfbf9, #14171c);
  --line: light-dark(#dcdcd4, #333a45); --quiet: light-dark(#667, #9aa4b2); --seen: light-dark(#4a7fb5, #6ea8e0);
  --unseen: light-dark(#c0632a, #f0995c); }
body { background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto;
  max-width: 60rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin: 0 0 1rem; } h2 { font-size: 1.1rem; margin: 0 0 .6rem; } h3 { margin: .8rem 0 .2rem;
  font-size: .9rem; }
section { border-top: 1px solid var(--line); margin-top: 1.6rem; padding-top: 1rem; }
dl { display: grid; gap: .5rem 1.5rem; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); margin: 0; }
dt, .quiet, figcaption, th { color: var(--quiet); font-size: .85rem; font-weight: normal; } dd { margin: 0; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; } .cards div { border: 1px solid var(--line); border-radius: 8px;
  min-width: 6rem; padding: .6rem 1rem; } .cards b { display: block; font-size: 1.6rem; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; } td { border-top: 1px solid var(--line);
  padding: .2rem .6rem .2rem 0; } td.n { font-variant-numeric: tabular-nums; text-align: right; white-space: nowrap; }
td.bar { width: 35%; } td.bar i { background: var(--seen); border-radius: 3px; display: block; height: .6rem; }
td.bar i.unseen { background: var(--unseen); } td.unseen { color: var(--unseen); font-weight: 600; }
.charts { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); }
figure { margin: 0; } svg { display: block; width: 100%; } svg text { fill: var(--quiet); font-size: 10px; }
svg path { fill: none; stroke: var(--seen); stroke-width: 1.5; } svg line { stroke: var(--line); }
img { background: #fff; border-radius: 8px; max-width: 100%; } pre { font-size: .8rem; margin: 0; overflow-x: auto;
  white-space: pre-wrap; word-break: break-word; }
</style></head><body>
{body}
</body></html>
"""
