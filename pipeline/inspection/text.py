"""Answers of `clip2seg inspect` as text: figures, and a verdict for each check that says what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.inspection import naming
from pipeline.inspection.written import AIM_LABELLED, AIM_OPEN
from pipeline.invocation import Invocation
from pipeline.shown import link
from pipeline.text import columns, size

GOOD, FAIR, POOR = "good", "fair", "POOR"
MANY = 12
"""Views with so many latent classes or more share one line of the histogram."""


def summary_text(typed: Invocation, s: dict[str, Any]) -> str:
    """`inspect PRESET`."""
    p, views = s["provenance"], s["views"]
    made = p["ingredients"]
    teacher = made["teacher"]["identity"]
    versions = ", ".join(f"{k} {v}" for k, v in p["versions"].items())
    split = f"{p['split']} {p['split_hash']}"
    lines = [
        *verdicts(summary_verdicts(typed, s)),
        f"more, and what to change first: {_ask(typed, 'card')}",
        "",
        f"preset {s['preset']}, split {split}: {views['stored']} of {views['wanted']} views stored"
        + (f", {len(s['bad'])} images set aside as bad" if s["bad"] else ""),
        f"teacher {p['teacher']['model']} {p['teacher']['pretrained']}".rstrip(),
        f"  digest {teacher['model'][:16]}, input {made['teacher']['input_size'] or 'native'} px, "
        f"crops {made['teacher']['crop_size'] or 'native'} px, recipe {s['settings']['teacher']['recipe']}, "
        f"tokens stored as {p['dtype']}",
        f"data digest {made['data']['digest'][:16]}, views {_flat(s['settings']['views'])}",
        f"mining {_flat(s['settings']['mine_latent'])}",
        f"made with {versions}",
        "",
        _tiers(s),
    ]
    if "norms" in s:
        lines += ["", _norms(s)]
    if "regions" in s:
        lines += ["", *_regions(s)]
    if "latent" in s:
        lines += _latent(s["latent"])
    if "names" in s:
        a, b, cosine = s["names"]["nearest"]
        lines += [f"class names: {s['names']['count']}; the two most alike are {a} and {b} (cosine {cosine:.3f})"]
    return "\n".join(lines)


def verdicts(found: Sequence[tuple[str, str]]) -> list[str]:
    """What to do stands before what was counted: nobody scrolls back for it."""
    return [f"{word:<5} {text}" for word, text in found]


def _flat(settings: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in settings.items())


def _tiers(s: dict[str, Any]) -> str:
    rows: list[list[object]] = [["tier", "state", "finished", "views", "shards", "size", "address"]]
    for kind, t in s["tiers"].items():
        name = str(t["address"]).rsplit("/", 1)[-1]
        rows.append([kind, t["state"], t["finished"], t["views"] or None, t["shards"], size(t["bytes"]), name])
    return columns(rows, left=3)


def _norms(s: dict[str, Any]) -> str:
    rows: list[list[object]] = [
        ["tokens", "read", "norm", "sd", "least", "most", "cosine of two", "not finite", "zero"]
    ]
    for kind, n in s["norms"].items():
        spread = [f"{n[k]:.3f}" for k in ("mean", "sd", "least", "greatest", "mean_cosine")]
        rows.append([kind, n["count"], *spread, n["not_finite"], n["zero"]])
    table = columns(rows)
    return (
        table
        if s["views"]["read"] == s["views"]["stored"]
        else f"{table}\n(of {s['views']['read']} views, evenly chosen)"
    )


def _regions(s: dict[str, Any]) -> list[str]:
    r = s["regions"]
    classes = ", ".join(f"{name} {n}" for name, n in sorted(r["per_class"].items(), key=lambda item: -item[1]))
    return [f"seen regions: {r['per_view']} a view, {r['views_without']} views without one", f"  {classes}"]


def _latent(m: dict[str, Any]) -> list[str]:
    total = sum(m["per_view"].values())
    lines = [
        f"latent classes a view: median {m['median']:g}, mean {m['mean']}; a region has {m['median_cells']:g} of "
        f"{m['grid'][0]} x {m['grid'][1]} cells (median)",
        f"unannotated: {100 * m['unannotated_share']:.1f} % of all cells; "
        f"mined: {100 * m['covered_share']:.1f} % of those",
    ]
    counts = {k: n for k, n in m["per_view"].items() if int(k) < MANY}
    if total > sum(counts.values()):
        counts[f"{MANY}+"] = total - sum(counts.values())
    most = max(counts.values())
    for k, n in counts.items():
        lines.append(f"  {k:>3}  {'#' * max(1, round(40 * n / most)):<40} {n} ({100 * n / total:.1f} %)")
    return lines


def summary_verdicts(typed: Invocation, s: dict[str, Any]) -> list[tuple[str, str]]:
    """One (verdict, line) for each check of the summary."""
    found = []
    stored, wanted = s["views"]["stored"], s["views"]["wanted"]
    whole = stored + len(s["bad"]) >= wanted
    found.append(
        (GOOD, "coverage: every view is stored")
        if whole
        else (POOR, f"coverage: {wanted - stored} views are missing; run `{typed.command('extract')}`")
    )
    if "norms" not in s:
        return found
    if "naming" in s:
        found.append(naming.verdict(typed, s["naming"]))
    broken = {kind: n["not_finite"] + n["zero"] for kind, n in s["norms"].items() if n["not_finite"] + n["zero"]}
    listed = ", ".join(f"{n} in {kind}" for kind, n in broken.items())
    found.append(
        (POOR, f"health: tokens that are zero or not finite: {listed}; try extract.dtype=float32 or another teacher")
        if broken
        else (GOOD, "health: no token is zero or not finite")
    )
    copies = s["copies"]
    spare = sum(len(g) - 1 for g in copies)
    if copies:
        found.append(
            (FAIR, f"duplicates: {spare} views have the same global token as another, such as {copies[0][:3]}")
        )
    else:
        found.append(
            (GOOD, f"duplicates: no two views have the same global token (near ones: {_ask(typed, 'duplicates')})")
        )
    absent = [name for name, n in s["regions"]["per_class"].items() if not n]
    if absent:
        found.append((POOR, f"classes: no region of {', '.join(absent[:5])}; the student can't learn them from tokens"))
    if "latent" in s:
        found.append(_mining_verdict(s["latent"], typed))
    return found


def _mining_verdict(m: dict[str, Any], typed: Invocation) -> tuple[str, str]:
    median, (least, most) = m["median"], AIM_OPEN if m["unannotated_share"] >= 0.5 else AIM_LABELLED
    text = f"mining: {median:g} latent classes a view (aim: {least}-{most})"
    if least <= median <= most:
        return GOOD, f"{text}; see whether they are things: {_ask(typed, 'quality', '--labels')}"
    way = "raise" if median < least else "lower"
    return FAIR, f"{text}; {way} mine-latent.merge_threshold, try some: {_ask(typed, 'mining')}"


def quality_text(typed: Invocation, q: dict[str, Any]) -> str:
    """`inspect PRESET quality`."""
    n = q["naming"]
    head = (
        f"{n['regions']} seen regions named by their local tokens: top-1 {n['top1']} %, top-5 {n['top5']} % "
        f"(chance {n['chance']} %); mean cosine to the right name {n['cosine']:.3f}"
    )
    dense, dense_all = q.get("dense"), q.get("dense_all")
    rows: list[list[object]] = [
        ["seen class", "regions", "top-1", "top-5", *(["dense IoU"] if dense else []), "mostly"]
    ]
    for c in n["classes"]:
        iou = [dense["classes"][c["name"]]] if dense else []
        rows.append([c["name"], c["regions"], c["top1"], c["top5"], *iou, c["mostly"]])
    lines = [*verdicts(quality_verdicts(typed, q)), "", head, columns(rows)]
    if dense:
        lines.append(
            f"\ndense tokens without training, {q['sample']} training views, seen names and labels only: "
            f"mIoU {dense['sIoU']}, pixel accuracy {dense['pixel_accuracy']}"
        )
    if dense_all:
        lines.append(
            f"with all labels (evaluation only): hIoU {dense_all['hIoU']}, sIoU {dense_all['sIoU']}, "
            f"uIoU {dense_all['uIoU']}"
        )
    if "pseudo" in q:
        lines += ["", *_pseudo(q)]
    if "mined" in q:
        lines += [
            "",
            "mined regions against unseen classes (evaluation only; best region of each image, by pixels)",
            _mined(q),
        ]
    if q.get("latent_names", {}).get("names"):
        lines += ["", *_names(q["latent_names"])]
    if "missing" in q:
        lines += ["", q["missing"]]
    return "\n".join(lines)


def _pseudo(q: dict[str, Any]) -> list[str]:
    """What pseudo labels cover and, where photos have labels too, how many are right."""
    p = q["pseudo"]
    line = f"pseudo labels: {p['share']} % of the pixels of {q['sample']} training views"
    if p["right"] is None:
        return [f"{line}; no label says whether they are right (--labels reads masks that training does not)"]
    classes = ", ".join(f"{name} {share}" for name, share in p["classes"].items() if share is not None)
    return [f"{line}; {p['right']} % right where there is a label, by name: {classes}"]


def mining_text(result: dict[str, Any]) -> str:
    """`inspect PRESET mining`."""
    scored = "iou" in result["rows"][0]
    keys = ("iou", "purity", "recall")
    rows: list[list[object]] = [
        ["merge_threshold", "classes a view", *(["IoU", "purity", "recall"] if scored else []), ""]
    ]
    for r in result["rows"]:
        mark = "<- this preset" if r["threshold"] == result["now"] else ""
        rows.append([f"{r['threshold']:g}", f"{r['median']:g}", *([r[k] for k in keys] if scored else []), mark])
    views = result["rows"][0]["views"]
    what = "that show an unseen class (evaluation only)" if scored else "of the cache"
    head = f"median latent classes of {views} views {what}, at other merge thresholds"
    return f"{head}\n{columns(rows, left=0)}\npicture: {link(result['picture'])}"


def _mined(q: dict[str, Any]) -> str:
    rows: list[list[object]] = [["unseen class", "images", "IoU", "purity", "recall", "covered"]]
    keys = ("images", "iou", "purity", "recall", "covered")
    rows += [[name, *(m[k] for k in keys)] for name, m in q["mined"]["classes"].items()]
    return columns([*rows, ["all", *(q["mined"][k] for k in keys)]])


def _names(n: dict[str, Any]) -> list[str]:
    shown = n["names"][:20]
    rows: list[list[object]] = [["name", "regions", "%", "cosine"]]
    rows += [[w["name"], w["regions"], w["share"], f"{w['cosine']:.3f}"] for w in shown]
    more = f"\n... and {len(n['names']) - len(shown)} more names" if len(n["names"]) > len(shown) else ""
    return [
        f"{n['regions']} latent regions, each called by the nearest of {n['words']} names; "
        f"mean cosine {n['cosine']:.3f}",
        columns(rows) + more,
    ]


def quality_verdicts(typed: Invocation, q: dict[str, Any]) -> list[tuple[str, str]]:
    """One (verdict, line) for each check of the quality numbers."""
    n = q["naming"]
    pseudo, guessed = q.get("pseudo", {}), []
    if pseudo.get("right") is not None:
        advice = "" if pseudo["right"] >= 80 else "; raise pseudo-label.confidence, or refine the map ([refine])"
        text = f"pseudo labels: {pseudo['share']} % of the pixels have one, {pseudo['right']} % of them right"
        guessed = [(_grade(pseudo["right"], 80, 60), text + advice)]
    if n["top1"] is None:
        return [(POOR, "local tokens: there is none; are the masks all empty, or unread?"), *guessed]
    found = [*guessed, (_grade(n["top1"], 70, 40), f"local tokens: {n['top1']} % of seen regions are named right")]
    weak = [c for c in n["classes"] if c["top1"] is not None and c["top1"] < 40]
    for c in sorted(weak, key=lambda c: -c["regions"] * (100 - c["top1"]))[:3]:
        name, other = c["name"], c["mostly"]
        mistaken = f", mostly called {other}" if other != name else ""
        ask = _ask(typed, "search", name)
        found.append(
            (POOR, f"local tokens of `{name}` are named right in {c['top1']:.0f} %{mistaken}: look at them with {ask}")
        )
    if "dense" in q and q["dense"]["sIoU"] is not None:
        score = q["dense"]["sIoU"]
        advice = (
            ""
            if score >= 40
            else f"; try another teacher.recipe or a larger teacher.input_size, and look: {_ask(typed, 'image', 'ID')}"
        )
        found.append((_grade(score, 40, 20), f"dense tokens: {score} mIoU over seen classes without training{advice}"))
    if "mined" in q:
        m = q["mined"]
        text = (
            f"mining: the best region of an unseen object holds {m['recall']:.0f} % of it "
            f"and is {m['purity']:.0f} % pure"
        )
        advice = ""
        if m["iou"] < 40:
            size_now = "large" if m["purity"] < m["recall"] else "small"
            advice = f"; regions are too {size_now}, see other thresholds: {_ask(typed, 'mining', '--labels')}"
        found.append((_grade(m["iou"], 40, 20), text + advice))
    return found


def _grade(value: float, good: float, fair: float) -> str:
    return GOOD if value >= good else FAIR if value >= fair else POOR


def found_text(result: dict[str, Any]) -> str:
    """Search, neighbours, outliers, duplicates: what was found and where the sheet is."""
    lines = []
    if "count" in result:
        lines.append(f"{result['count']} pairs of views have global tokens alike at {result['threshold']} or more")
        lines += [f"  {c:.4f}  {a}  {b}" for a, b, c in result["pairs"][:10]]
    for title, hits in ({} if "count" in result else result["found"]).items():
        lines += [title, columns([["", f"{cosine:.3f}", view, region] for view, region, cosine in hits], left=4)]
    if "median" in result:
        lines.append(f"median over all views: {result['median']}")
    if "picture" in result:
        lines.append(f"contact sheet: {link(result['picture'])}")
    return "\n".join(lines)


def image_text(result: dict[str, Any]) -> str:
    """`inspect PRESET image ID`."""
    rows: list[list[object]] = [["region", "pixels", "nearest names (cosine)"]]
    for r in result["regions"]:
        rows.append([r["region"], r["pixels"], ", ".join(f"{name} {cosine:.2f}" for name, cosine in r["names"])])
    body = "\n".join("  ".join(str(v).ljust(12) for v in row).rstrip() for row in rows)
    return f"{result['id']}\n{body}\npicture: {link(result['picture'])}"


def losses_text(result: dict[str, Any]) -> str:
    """`inspect PRESET losses`."""
    last = ", ".join(f"{k} {v:.3f}" for k, v in result["last"].items() if k not in ("iteration", "lr"))
    head = f"{result['points']} points up to iteration {result['last']['iteration']}: {last}"
    return f"{head}\npicture: {link(result['picture'])}"


def explore_text(result: dict[str, Any]) -> str:
    """`inspect PRESET explore`."""
    error = result["error"]
    return (
        f"explorer: {link(result['file'])} ({size(result['bytes'])}, {result['images']} images)\n"
        f"  cosines of the packed tokens differ from the stored ones by {error['mean']:.4f} on average, by "
        f"{error['most_of_99']:.4f} or less in 99 % of pairs, by {error['most']:.4f} at most\n"
        f"  {result['kept_dims']} of {result['dim']} dimensions hold {100 * result['kept_energy']:.1f} % of the energy"
    )


def _ask(typed: Invocation, *words: str) -> str:
    return typed.command("inspect", *words)
