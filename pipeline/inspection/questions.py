"""`clip2seg inspect`: the questions, each a function of what is opened, and their dispatch.

The summary and the losses load no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cache.errors import InputError, nearest
from cache.search import Hit
from cache.summary import summarise
from pipeline.inspection.naming import naming
from pipeline.inspection.opened import Inspection
from pipeline.inspection.pictures import image, plain, sheet
from pipeline.shown import link
from stages.parts.data.vocabulary import word_list
from stages.running.curves import curves_at

THRESHOLDS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
"""Merge thresholds that `mining` tries, beside the preset's own."""
DUPLICATE = 0.995
"""Two views whose global tokens are at least this alike are shown as duplicates."""


def summary(of: Inspection) -> dict[str, Any]:
    """Provenance, coverage, sizes, norms, health, latent classes. Loads no torch."""
    c, data = of.plan.config, of.plan.train_data
    of.begun("tokens", "extract")
    found = summarise(of.tiers, len(data) * c.views.count, of.plan.vocabulary.seen)
    names = found.get("names")
    if names:
        ordered = of.plan.vocabulary.ordered
        names["nearest"] = [ordered[names["nearest"][0]], ordered[names["nearest"][1]], names["nearest"][2]]
    named = naming(of.tiers["tokens"], of.tiers["text"], of.plan.vocabulary.seen) if "text" in of.tiers else None
    if named is not None:
        found["naming"] = named
    settings = {table: getattr(c, table).described_fields() for table in ("teacher", "views", "extract", "mine_latent")}
    return {"preset": of.plan.name, "settings": settings, **found}


def quality(of: Inspection, *, images: int, full_labels: bool, vocabulary: str) -> dict[str, Any]:
    """The numbers that judge teacher, prompts and mining."""
    from stages.inspect import quality

    cached = of.cached
    names: Sequence[str] = of.plan.vocabulary.ordered
    text = cached.text
    if vocabulary:
        names = word_list(vocabulary)
        text = of.teacher.encode_text(names, of.plan.prompts).float().cpu().numpy()
    return quality(cached, images=images, full_labels=full_labels, names=names, names_text=text)


def mining(of: Inspection, *, images: int, full_labels: bool) -> dict[str, Any]:
    """What other merge thresholds would mine, with a picture: latent classes a view at each."""
    from stages.inspect import mining_sweep
    from stages.parts.drawing.figures import histograms

    cfg, cached = of.plan.config.mine_latent, of.cached
    thresholds = sorted({*THRESHOLDS, cfg.merge_threshold})
    rows = mining_sweep(cached, cfg, thresholds, images=images, full_labels=full_labels, cells_of=of.refiner.cells)
    parts = {
        f"threshold {r['threshold']:g}" + (" (preset)" if r["threshold"] == cfg.merge_threshold else ""): r["per_view"]
        for r in rows
    }
    heading = f"{of.plan.name}   latent classes a view, {rows[0]['views']} views"
    picture = of.put("mining.png", histograms(heading, parts, "latent classes", "views"))
    return {"now": cfg.merge_threshold, "rows": rows, "picture": picture}


def search(of: Inspection, text: str, k: int) -> dict[str, Any]:
    """Tokens nearest to words: a known class name uses its stored embedding, anything else the text tower."""
    words = of.plan.vocabulary.ordered
    if text in words:
        vector = of.cached.text[words.index(text)]
    else:
        vector = of.teacher.encode_text([text], ("{}",))[0].float().cpu().numpy()
    groups = {
        "nearest images (global tokens)": of.index.find(vector, k, among="global"),
        "nearest regions (local tokens)": of.index.find(vector, k),
    }
    return {"query": text, **sheet(of, f"search-{plain(text)}.png", f'"{text}"', groups)}


def neighbours(of: Inspection, what: str, k: int) -> dict[str, Any]:
    """Regions nearest to a region, `ID:REGION`, or views nearest to a view, `ID`."""
    view_id, region_name = _split(what)
    region = of.cached.region(region_name)
    there = of.cached.view(view_id).regions
    if region >= 0 and region not in there:
        names = ", ".join(map(of.cached.name, there)) or "none"
        raise InputError(f"{view_id}: has no region {region_name!r}; it has {names}")
    vector = of.index.vector(view_id, region)
    among = "global" if region < 0 else "local"
    query = [Hit(view_id, region, 1.0)]
    found = of.index.find(vector, k, among=among, skip=(view_id, region))
    groups = {"the query": query, "its nearest": found}
    name = f"neighbours-{plain(view_id)}-{region_name}.png"
    return {"query": what, **sheet(of, name, f"neighbours of {what}", groups)}


def duplicates(of: Inspection, k: int) -> dict[str, Any]:
    """Pairs of views whose global tokens are nearly the same."""
    cosine, near = of.index.near_views(min(5, len(of.index.ids) - 1))
    row, place = np.nonzero(cosine >= DUPLICATE)
    pairs = {(min(a, b), max(a, b)): float(cosine[a, p]) for a, p in zip(row, place, strict=True) for b in [near[a, p]]}
    best = sorted(pairs.items(), key=lambda item: -item[1])
    named = [[of.index.ids[a], of.index.ids[b], round(c, 4)] for (a, b), c in best]
    result: dict[str, Any] = {"threshold": DUPLICATE, "count": len(named), "pairs": named[:100]}
    if named:
        pairs_shown = [Hit(name, -1, c) for a, b, c in named[: 3 * -(-k // 6)] for name in (a, b)]
        result |= sheet(of, "duplicates.png", f"{len(named)} pairs alike", {"pairs, most alike first": pairs_shown})
    return result


def outliers(of: Inspection, k: int) -> dict[str, Any]:
    """Views that are least like their five nearest others."""
    cosine, _ = of.index.near_views(min(5, len(of.index.ids) - 1))
    mean = cosine.mean(axis=1)
    hits = [Hit(of.index.ids[i], -1, float(mean[i])) for i in np.argsort(mean, kind="stable")[:k]]
    title = "least alike (mean cosine to the five nearest)"
    return sheet(of, "outliers.png", "outliers", {title: hits}) | {"median": round(float(np.median(mean)), 4)}


def losses(of: Inspection) -> dict[str, Any]:
    """Loss curves of the run. Loads no torch."""
    from stages.parts.drawing.figures import loss_curves

    at = of.plan.address("train")
    curves = curves_at(at)
    if not curves:
        raise InputError(f"{at}: no loss curves there; run `{of.plan.invocation.command('train')}` first")
    name = at.name
    picture = of.put(f"losses-{name}.png", loss_curves(f"{of.plan.name}   {name}", curves))
    return {"picture": picture, "points": len(curves), "first": curves[0], "last": curves[-1]}


def report(of: Inspection) -> dict[str, Any]:
    """The page of the run, made again with the references that are scored by now."""
    from pipeline.run import write_report

    at = of.plan.address("train")
    if at.get("student.safetensors") is None:
        raise InputError(f"{at}: no trained student there; run `{of.plan.invocation.command('train')}` first")
    return {"file": write_report(of.plan, at)}


QUESTIONS: Mapping[str, tuple[str, int]] = {
    "summary": ("", 0),
    "card": ("", 40),
    "quality": ("", 1000),
    "mining": ("", 200),
    "recipes": ("", 40),
    "image": ("an image's ID", 0),
    "search": ("TEXT", 12),
    "neighbours": ("ID:REGION", 11),
    "duplicates": ("", 18),
    "outliers": ("", 18),
    "losses": ("", 0),
    "explore": ("", 24),
    "report": ("", 0),
    "concepts": ("", 8),
}
"""Question -> what it asks for, and its default --count."""
WITHOUT_PICTURE = ("summary", "card", "quality", "recipes")
"""Questions whose answer is text alone."""


def ask(
    of: Inspection, question: str, what: str, *, count: int, full_labels: bool, vocabulary: str, split: str = "train"
) -> tuple[str, dict[str, Any]]:
    """One question answered: text for people, JSON for programs. Raises InputError for one that is none."""
    from pipeline.inspection import text as text

    if question not in QUESTIONS:
        raise InputError(f"inspect {question!r}{nearest(question, QUESTIONS)}; ask one of {', '.join(QUESTIONS)}")
    wanted, usual = QUESTIONS[question]
    if bool(wanted) != bool(what):
        # WHAT stands for words that a shell would want quoted.
        words = [question, *(["WHAT"] if wanted else [])]
        right = of.plan.invocation.command("inspect", *words).replace("WHAT", wanted)
        raise InputError(f"inspect {question} {what}".rstrip() + f": write `{right}`")
    if split != "train" and question != "explore":
        raise InputError(f"inspect {question} --split {split}: only `explore` has another split; leave it out")
    if count < -1 or (count == 0 and question != "quality"):
        raise InputError(f"--count {count}: give 1 or more")
    k = usual if count < 0 else count
    found: dict[str, Any]
    match question:
        case "summary":
            found = summary(of)
            return text.summary_text(of.plan.invocation, found), found
        case "card":
            from pipeline.inspection.card import card, card_text

            found = card(of, summary(of), images=k)
            return card_text(of, found), found
        case "quality":
            found = quality(of, images=k, full_labels=full_labels, vocabulary=vocabulary)
            return text.quality_text(of.plan.invocation, found), found
        case "mining":
            found = mining(of, images=k, full_labels=full_labels)
            return text.mining_text(found), found
        case "recipes":
            from pipeline.inspection.recipes import compare, recipes_text

            found = compare(of, images=k, full_labels=full_labels)
            return recipes_text(found), found
        case "image":
            found = image(of, what, full_labels=full_labels)
            return text.image_text(found), found
        case "losses":
            found = losses(of)
            return text.losses_text(found), found
        case "explore":
            from pipeline.inspection.explore import write_explorer

            found = write_explorer(of, k, full_labels=full_labels, split=split)
            return text.explore_text(found), found
        case "report":
            found = report(of)
            return f"report: {link(found['file'])}", found
        case "concepts":
            from pipeline.inspection.concepts import concepts, concepts_text

            found = concepts(of, examples=k, full_labels=full_labels, vocabulary=vocabulary)
            return concepts_text(of.plan.invocation, found), found
        case "search":
            found = search(of, what, k)
        case "neighbours":
            found = neighbours(of, what, k)
        case "duplicates":
            found = duplicates(of, k)
        case _:
            found = outliers(of, k)
    return text.found_text(found), found


def _split(what: str) -> tuple[str, str]:
    view_id, colon, region = what.rpartition(":")
    return (view_id, region) if colon else (what, "global")
