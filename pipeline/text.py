"""Results as text for the terminal."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cache.errors import InputError
from pipeline.inspection import naming
from pipeline.invocation import Invocation
from pipeline.plan import Plan
from pipeline.shown import link
from stages.parts.eval_report import Background, EvalReport, Means
from stages.running.scoring.reports import read_report

NEAR_ZERO = 2.0
"""A uIoU below this, in per cent, is none: `eval` says where to look."""
REFERENCE = ("teacher, training-free", "baseline", "this run")


def columns(rows: Sequence[Sequence[object]], *, left: int = 1, last_left: int = 0) -> str:
    """Rows as aligned text columns, the first `left` and the last `last_left` of them flush left; None shows as -."""
    text = [["-" if v is None else f"{v:.1f}" if isinstance(v, float) else str(v) for v in row] for row in rows]
    widths = [max(len(row[i]) for row in text) for i in range(len(text[0]))]
    return "\n".join(
        "  ".join(
            v.ljust(w) if i < left or i >= len(row) - last_left else v.rjust(w)
            for i, (v, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in text
    )


def markdown_table(rows: Sequence[Sequence[object]]) -> str:
    """Rows as a Markdown table, the first of them its head, the first column flush left; None shows as -."""
    text = [["-" if v is None else str(v).replace("|", "\\|") for v in row] for row in rows]
    text.insert(1, ["---", *["--:"] * (len(text[0]) - 1)])
    return "\n".join(f"| {' | '.join(row)} |" for row in text)


def fenced(text: str) -> str:
    """Text as a code block of Markdown."""
    return f"```\n{text}\n```"


def flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """A nested mapping as pairs of dotted key and value: {"train": {"lr": 1}} -> [("train.lr", 1)]."""
    pairs: list[tuple[str, Any]] = []
    for key, item in value.items():
        pairs += flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else [(f"{prefix}{key}", item)]
    return pairs


def short(value: object, longest: int = 40) -> str:
    """A value on one line, cut where it is longer."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= longest else f"{text[: longest - 3]}..."


def set_apart(settings: Mapping[str, Mapping[str, Any]], optional: Sequence[str] = (), most: int = 4) -> dict[str, str]:
    """For each of several things, by name, its settings (flat keys) that most don't share, the rarest first.

    A table that most have is compared among those that have it (a baseline has no `distill`); who lacks an `optional`
    one is told.
    """
    tables = {name: {_table(key) for key in own} for name, own in settings.items()}
    holders = Counter(table for own in tables.values() for table in own)
    usual = {table for table, count in holders.items() if 2 * count > len(settings)}
    having = Counter(key for own in settings.values() for key in own)
    sharing = Counter((key, json.dumps(value)) for own in settings.values() for key, value in own.items())
    told = {}
    for name, own in settings.items():
        rare: dict[str, int] = {}
        for key, value in own.items():
            shared = sharing[key, json.dumps(value)]
            if 2 * shared <= (having[key] if _table(key) in usual else len(settings)):
                rare[f"{key}={short(value)}"] = shared
        says = [f"no {table}" for table in optional if table in usual - tables[name]]
        says += sorted(rare, key=lambda text: (rare[text], text))
        told[name] = some(says, most)
    return told


def _table(key: str) -> str:
    return key.partition(".")[0]


def some(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    return ", ".join([*names[:most], *([f"{len(names) - most} more"] if len(names) > most else [])])


def plan_table(plan: Plan) -> str:
    """Stages with what they read, where they write, and what would run."""
    rows = [["stage", "state", "reads", "writes"]]
    rows += [[s.stage, "done" if s.done else "would run", " ".join(s.reads), s.detail] for s in plan.steps()]
    head = (
        f"preset {plan.name}: {len(plan.train_data)} training and {len(plan.val_data)} evaluation images, "
        f"{len(plan.vocabulary.seen)} seen + {len(plan.vocabulary.unseen)} unseen classes "
        f"(split {plan.vocabulary.split})\n"
        + (f"training starts from {plan.parent.name}\n" if plan.parent else "")
        + f"artifacts under {plan.artifacts}\n\n"
    )
    return head + columns(rows, left=4)


def steps_json(plan: Plan) -> dict[str, Any]:
    """The plan as JSON."""
    return {
        "preset": plan.name,
        "parent": plan.parent.name if plan.parent else None,
        "stages": [vars(s) for s in plan.steps()],
        "addresses": {kind: str(plan.address(kind)) for kind in plan.ingredients},
    }


def size(count: float) -> str:
    """Bytes in a unit people read."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"
        count /= 1024
    return f"{count:.1f} TiB"


def extract_text(typed: Invocation, result: dict[str, Any]) -> str:
    """Summary of `extract`, and whether the teacher knows the classes."""
    s = result["summary"]
    seconds = s["seconds"]
    sizes = ", ".join(f"{kind} {size(n)}" for kind, n in s["bytes"].items())
    own = s.get("normalisation", {})  # absent from what an earlier release extracted
    normalised = "".join(f", input {key} {' '.join(f'{v:.3g}' for v in own[key])}" for key in own)
    return (
        f"extract: {s['views']} views, {s['regions']} seen regions, {s['views_per_second']} views/s "
        f"-> {result['address']}\n"
        + (f"  {copied} of them copied from earlier caches of the same photos\n" if (copied := s.get("copied")) else "")
        + f"  stored: {sizes}\n"
        f"  teacher {seconds.get('teacher', 0)} s{normalised}, waiting for images {seconds.get('wait', 0)} s, "
        f"waiting for the store {seconds.get('write', 0)} s"
        + (f"\n  seen classes without a single pixel: {', '.join(absent)}" if (absent := s.get("absent")) else "")
        + _bad(s["bad"])
        + (f"\n{' '.join(naming.verdict(typed, named))}" if (named := result.get("naming")) else "")
    )


def mine_text(result: dict[str, Any]) -> str:
    """Summary of `mine-latent`."""
    s = result["summary"]
    # A mark's keys come back in the order of text.
    histogram = ", ".join(f"{k}: {n}" for k, n in sorted(s["latent_classes"].items(), key=lambda item: int(item[0])))
    times = ", ".join(f"{k} {v}" for k, v in s["ms_per_view"].items())
    return (
        f"mine-latent: {s['views']} views -> {result['address']}\n"
        f"  latent classes per view (median {s['median_latent_classes']:g}): {histogram}\n"
        f"  unannotated cells covered: {100 * s['covered_share']:.1f} %\n"
        f"  ms per view: {times}"
    )


def concepts_text(result: dict[str, Any]) -> str:
    """Summary of `mine-concepts`."""
    s = result["summary"]
    sizes = sorted(s["sizes"], reverse=True)
    judged = ", ".join(f"{k}: {v:.3f}" for k, v in sorted(s.get("judged", {}).items(), key=lambda item: int(item[0])))
    how = f"prediction strength by number of concepts: {judged}" if judged else "number of concepts as set"
    if "reused" in s:
        how = f"concepts of {s['reused']}, reused"
    return (
        f"mine-concepts: {s['concepts']} concepts of {s['regions']} latent regions -> {result['address']}\n"
        f"  {how}\n"
        f"  regions per concept: largest {sizes[0]}, median {sizes[len(sizes) // 2]}, smallest {sizes[-1]}; "
        f"mean cosine {s['mean_cosine']:.3f}, mean confidence {s['mean_confidence']:.3f}"
    )


def pseudo_label_text(seen: Sequence[str], result: dict[str, Any]) -> str:
    """Summary of `pseudo-label`."""
    s = result["summary"]
    counts = sorted(zip(s["cells"], seen, strict=True), reverse=True)
    some = ", ".join(f"{name} {n}" for n, name in counts if n)
    none = ", ".join(name for n, name in counts if not n)
    return (
        f"pseudo-label: {100 * s['share']:.1f} % of the cells of {s['views']} views -> {result['address']}\n"
        f"  cells by name: {some or 'none'}"
        + (f"\n  in no cell: {none}; lower pseudo-label.confidence, or say these names otherwise" if none else "")
    )


def train_text(result: dict[str, Any]) -> str:
    """Summary of `train`."""
    s = result["summary"]
    losses = ", ".join(f"{k} {v:.3f}" for k, v in s["losses"].items())
    left_out = s.get("steps_left_out", 0)  # runs of before it was counted lack it
    overflowed = f"\n  {left_out} steps were left out, whose fp16 gradients overflowed" if left_out else ""
    return (
        f"train: {s['iterations']} iterations in {s['seconds']:.0f} s ({s['iterations_per_second']:.2f} it/s, "
        f"{100 * s['waiting_share']:.1f} % of it waiting for data) -> {result['address']}"
        f"{overflowed}\n  last losses: {losses}"
    )


def eval_text(plan: Plan, result: dict[str, Any]) -> str:
    """Score table with the reference rows that exist, then IoU per class."""
    report: EvalReport = result["report"]
    rows: list[list[object]] = [["", "hIoU", "sIoU", "uIoU", "pixel acc."]]
    references = {
        "teacher, training-free": plan.address("teacher"),
        "baseline (no distillation)": baseline(plan).address("eval"),
    }
    missing = []
    with_background: dict[str, Background | None] = {}
    for name, at in references.items():
        found = read_report(at) if at != plan.address("eval") else None
        if found:
            rows.append([name, *_scores(found)])
            with_background[name] = found.background
        else:
            missing.append(name)
    rows.append(["this run", *_scores(report)])
    rows.append([f"this run, classes with {report.supported.min_pixels} pixels", *_scores(report.supported)])
    bias, table = report.settings.seen_bias, plan.invocation.command("ablate", "--table", "3")
    classes: list[list[object]] = [["class", "", "IoU", "pixels"]]
    classes += [
        [c.name, "seen" if c.seen else "UNSEEN", c.IoU, f"{c.pixels}" if c.support else "no support"]
        for c in report.classes
    ]
    return (
        f"eval: {report.images} images, split {report.split} -> {result['address']}\n\n{columns(rows)}\n\n"
        f"{columns(classes, left=2)}\n\npicture grid: {link(result['address'] + '/grid.png')}"
        + (f"\nseen bias {bias} was subtracted" if bias else "")
        + (f"\nscores smoothed by {report.settings.pamr} rounds of PAMR" if report.settings.pamr else "")
        + _risk(plan, report)
        + background_text({**with_background, "this run": report.background})
        + _since(result)
        + _cause(plan, report)
        + ("\none class alone: where no other competes, its IoU is 100 always" if len(report.classes) == 1 else "")
        + _bad(report.bad)
        + (f"\nnot scored yet: {', '.join(missing)} (`{table}` makes all rows)" if missing else "")
    )


def _risk(plan: Plan, report: EvalReport) -> str:
    """How often the surest pixels are wrong, and the threshold that keeps them."""
    if report.risk is None:
        return ""
    at = {round(p.coverage / 10) * 10: p for p in reversed(report.risk.points)}
    told = [
        f"{p.coverage:.0f} % above {p.threshold:.3g}: {p.risk:.1f} %" for w in (100, 90, 70, 50) if (p := at.get(w))
    ]
    way = f"{plan.scoring.as_predict(plan.config.views.size)} --threshold"
    return f"\nwrong among the surest pixels ({way}): {', '.join(told)}; AURC {report.risk.aurc:.1f} %"


def background_text(found: Mapping[str, Background | None]) -> str:
    """Scores with the background as a class; nothing where it was not scored."""
    known = {name: b for name, b in found.items() if b is not None}
    if not known:
        return ""
    form = next(iter(known.values())).form
    rows: list[list[object]] = [[form, "mIoU", "background", "threshold", "keeps of seen, %", "best mIoU", "at"]]
    rows += [
        [n, b.mIoU, b.IoU, f"{b.threshold:.3f}", b.kept, b.best.mIoU, f"{b.best.threshold:.3f}"]
        for n, b in known.items()
    ]
    return f"\n\n{columns(rows)}\n(the best threshold is read off these labels; it is no score to report)"


def _since(result: Mapping[str, Any]) -> str:
    """What became of the classes of the run that this one started from."""
    if "parent" not in result:
        return ""
    if not result["since"]:
        return f"\nstarted from {result['parent']}, which is not scored on these images by these settings"
    rows: list[list[object]] = [[f"since {result['parent']}, mean IoU", "classes", "before", "now"]]
    rows += [[c.name, len(c.classes), c.before, c.after] for c in result["since"]]
    return f"\n\n{columns(rows)}"


def _cause(plan: Plan, report: EvalReport) -> str:
    """Where no unseen class is found, what to look at: the teacher, or what training was told to distil."""
    if report.uIoU is None or report.uIoU >= NEAR_ZERO:
        return ""
    head = f"\nuIoU is {report.uIoU:.1f}: "
    if not plan.distilled or plan.config.distill.loss == "none":
        return f"{head}nothing was distilled from the teacher (distill.loss), so unseen classes can't be found"
    named = None
    if plan.artifact("tokens").at.size("complete.json") is not None:
        named = naming.naming(plan.artifact("tokens"), plan.artifact("text"), plan.vocabulary.seen)
    if named is not None and named["above"] < naming.POOR:
        return head + naming.verdict(plan.invocation, named)[1]
    look = plan.invocation.command("inspect", "quality", "--labels")
    return (
        f"{head}the teacher knows the seen classes, so look whether mining finds the unseen objects ({look}), whether "
        "latent-embedding.enabled is true, and whether training was long enough"
    )


def baseline(plan: Plan) -> Plan:
    """The same configuration without distillation and latent embedding: Table 3's first row."""
    c = plan.config
    return plan.variant(
        distill=c.distill.model_copy(update={"loss": "none"}),
        latent_embedding=c.latent_embedding.model_copy(update={"enabled": False}),
    )


def _scores(found: Means) -> list[object]:
    return [found.hIoU, found.sIoU, found.uIoU, found.pixel_accuracy]


def _bad(bad: Sequence[str]) -> str:
    return "".join(f"\n  left out: {b}" for b in bad)


def markdown_page(path: str) -> str:
    """The page that a table will go into, "" where there is none yet. Raises InputError, before hours of training."""
    if not path:
        return ""
    file = Path(path)
    try:
        if file.parent.is_dir():
            return file.read_text(encoding="utf-8") if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--markdown {path}: can't be read as text; name a Markdown file") from error
    raise InputError(f"--markdown {path}: no such folder; name a file in one that is there")


def write_markdown(path: str, key: str, body: str) -> None:
    """Puts Markdown between the markers `<!-- key -->` of a file, appending them where there are none."""
    file, page = Path(path), markdown_page(path)
    begin, end = f"<!-- {key} -->", f"<!-- end {key} -->"
    block = f"{begin}\n{body}\n{end}"
    if begin in page:
        page = re.sub(f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: block, page, flags=re.DOTALL)
    else:
        page = f"{page.rstrip()}\n\n{block}\n".lstrip()
    file.write_text(page, encoding="utf-8")
