"""`clip2seg inspect PRESET card`: before training, what to change first, from the cache and seen labels alone.

The checks of plain `inspect`, and more that take longer: each a verdict, its figure and the setting to change.
No torch. What is known of them: which seen classes a student will be weak in. Not its score (docs/inspection.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.settings import IGNORE
from cache.store import Artifact
from cache.summary import SHARDS, even, spread
from cache.vectors import unit
from pipeline.inspection import naming
from pipeline.inspection.text import FAIR, GOOD, POOR, summary_verdicts, verdicts
from pipeline.invocation import Invocation
from stages.parts.data.regions import annotated_share, latent_mask
from stages.parts.data.views import Array, draw_labelled, inside
from stages.parts.scoring.quality import Match, hidden_classes, matches, matches_report

if TYPE_CHECKING:
    from pipeline.inspection.opened import Inspection

REGIONS = 4000
"""Most seen regions that are compared with one another."""
STEP = 0.1
"""Merge thresholds tried on hidden classes: the preset's own, and so much below and above it."""
BETTER = 3.0
"""Points of IoU by which another threshold must cut hidden classes better to be named."""
FEW = 10
"""Photos of a class below which it is named (a convention: how many are enough was not measured)."""
SAME_NAME = 0.99
"""Cosine of two class names above which the teacher is taken to know one of them alone."""
ORDER = (POOR, FAIR, GOOD)
"""The worst first."""
OPEN = 0.02
"""Least share of all cells without a label that leaves unseen things a place to be in."""


def card(of: Inspection, summary: Mapping[str, Any], *, images: int) -> dict[str, Any]:
    """The figures of the checks that plain `inspect` has not, as JSON, beside its `summary`; `images`: views mined."""
    found: dict[str, Any] = {"preset": of.plan.name, "summary": dict(summary), "not looked at": []}
    tokens = neighbours(of.tiers["tokens"], of.plan.vocabulary.seen)
    if tokens is not None:
        found["tokens"] = tokens
    if (held := _held_out(of, images)) is not None:
        found["hidden classes"] = held
    else:
        found["not looked at"].append(
            "how cleanly hidden seen classes are cut: it needs the dense tier, and a preset without [refine] and "
            f"[affinity]; `{of.plan.invocation.command('inspect', 'recipes')}` needs neither"
        )
    members = of.tiers.get("membership")
    if of.plan.config.distill.negatives == "batch" and members is not None and members.committed():
        found["same concept"] = _same_concept(members)
    recipes = of.plan.invocation.command("inspect", "recipes")
    found["not looked at"].append(f"other recipes of the teacher's map: `{recipes}` cuts hidden classes with each")
    return found


def neighbours(tokens: Artifact, seen: Sequence[str]) -> dict[str, Any] | None:
    """How often a seen region's nearest region of another photo is of its class, in per cent: mean over classes.

    Says whether local tokens tell the classes apart, whatever their names are. None with fewer than two classes of two
    photos. Of a large cache evenly spaced shards, and regions, are read.
    """
    parts, views, before = [], [], 0
    for shard in even(tokens.committed(), SHARDS):
        part = tokens.read(shard, ["local", "local_region", "local_offsets"])
        per_view = np.diff(part["local_offsets"])
        parts.append(part)
        views.append(before + np.repeat(np.arange(len(per_view)), per_view))
        before += len(per_view)
    if not parts:
        return None
    local, region = (np.concatenate([part[name] for part in parts]) for name in ("local", "local_region"))
    kept = spread(len(local), REGIONS)
    flat, label, view = unit(local[kept]), region[kept].astype(int), np.concatenate(views)[kept]
    cosine = flat @ flat.T
    cosine[view[:, None] == view] = -2  # of its own photo, itself first of all, it is no news
    right = label[cosine.argmax(axis=1)] == label
    counts = np.bincount(label, minlength=len(seen))
    known = np.flatnonzero(counts > 1).tolist()
    if len(known) < 2:
        return None
    share = 100 * np.bincount(label, weights=right, minlength=len(seen))[known] / counts[known]
    chance = 100 / len(known)
    return {
        "regions": len(label),
        "mean": round(float(share.mean()), 2),
        "chance": round(chance, 2),
        "above": round(float(100 * (share.mean() - chance) / (100 - chance)), 2),
        "classes": {seen[c]: round(float(s), 2) for c, s in zip(known, share, strict=True)},
    }


def _held_out(of: Inspection, images: int) -> dict[str, Any] | None:
    """How well latent regions fit seen classes that are hidden, at three merge thresholds; None: not to be had.

    A view hides every third seen class and mines as if it had no label, from the stored dense map.
    """
    config = of.plan.config
    if config.refine.ingredients() or config.affinity.kmeans_weight or "dense" not in of.tiers:
        return None
    from stages.parts.mining.clustering import mine_at, one_blas_thread

    dense, now = of.tiers["dense"], round(config.mine_latent.merge_threshold, 4)
    thresholds = sorted({round(t, 4) for t in (now - STEP, now, now + STEP) if 0 <= t <= 1})
    found: dict[float, list[Match]] = {t: [] for t in thresholds}
    stored = [(s, row, name) for s in dense.committed() for row, name in enumerate(dense.shard_ids(s))]
    chosen = even(range(len(stored)), images)
    index = {image: i for i, image in enumerate(of.plan.train_data.ids)}
    with one_blas_thread():
        for fold, (shard, row, name) in enumerate(stored[i] for i in chosen):
            labels, free = _labels(of, name, index)
            hidden = hidden_classes(len(of.plan.vocabulary.seen), fold)
            if not np.isin(labels, hidden).any():
                continue
            known = np.where(free & ((labels == IGNORE) | np.isin(labels, hidden)), IGNORE, 0).astype(np.uint8)
            tokens = np.asarray(next(dense.rows(shard, "dense", [row])), np.float32)
            share = annotated_share(known, (tokens.shape[0], tokens.shape[1]))
            for threshold, cells in zip(
                thresholds, mine_at(tokens, share, config.mine_latent, thresholds), strict=True
            ):
                found[threshold] += matches(latent_mask(known, cells), labels, hidden)
    if not found[now]:
        return None
    names = of.plan.vocabulary.seen
    return {"now": now, "views": len(chosen), "rows": {f"{t:g}": matches_report(found[t], names) for t in thresholds}}


def _labels(of: Inspection, view_id: str, index: Mapping[str, int]) -> tuple[Array, np.ndarray]:
    """The seen labels of a stored view, uint8 [H, W], and where it is no padding, bool [H, W].

    `index`: image id -> place in the data set's list.
    """
    data, views = of.plan.train_data, of.plan.config.views
    name, _, v = view_id.rpartition("#") if views.count > 1 else (view_id, "", "0")
    labels = data.labels(index[name], "seen")
    if views.count == 1:
        return labels, np.ones(labels.shape, bool)
    view, shown = draw_labelled(views, views.seed, name, int(v), (labels.shape[0], labels.shape[1]), labels)
    return shown, inside(view)


def _same_concept(membership: Artifact) -> dict[str, Any]:
    """How often two latent regions of different views are of one concept: false negatives of a batch, in per cent."""
    shards = even(membership.committed(), SHARDS)
    sizes = np.bincount(np.concatenate([membership.read(s, ["concept"])["concept"] for s in shards]))
    return {"share": round(100 * float(((sizes / max(sizes.sum(), 1)) ** 2).sum()), 2), "concepts": len(sizes)}


def card_verdicts(of: Inspection, found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """One (verdict, line) for each check, the worst first; within a verdict in the order of the stages."""
    typed, config, s = of.plan.invocation, of.plan.config, found["summary"]
    lines = summary_verdicts(typed, s)
    if "tokens" in found:
        lines.append(_tokens_verdict(found["tokens"], s.get("naming")))
    if "names" in s:
        a, b, cosine = s["names"]["nearest"]
        text = f"class names: the two most alike are `{a}` and `{b}` (cosine {cosine:.3f})"
        alike = cosine >= SAME_NAME
        lines.append((FAIR, f"{text}, one to this teacher: rename one, or change prompts") if alike else (GOOD, text))
    if "regions" in s:
        few = [f"{name} {n}" for name, n in s["regions"]["per_class"].items() if 0 < n < FEW]
        read = f"of {s['views']['read']} views"
        text = f"photos a class: {', '.join(few[:5])} {read}" if few else f"photos a class: {FEW} or more {read}"
        lines.append((FAIR, f"{text}; label more of them") if few else (GOOD, text))
    if "latent" in s:
        share = s["latent"]["unannotated_share"]
        text = f"255: {100 * share:.1f} % of all cells have no label"
        lines.append((GOOD, text) if share >= OPEN else (POOR, f"{text}: unseen things have no place to be mined in"))
    if "hidden classes" in found:
        lines.append(_hidden_verdict(typed, found["hidden classes"]))
    if "same concept" in found:
        text = f"negatives: two latent regions of a batch are of one concept in {found['same concept']['share']:.1f} %"
        apart = config.distill.same_concept != "negative" or config.distill.alike < 1
        advice = '; distill.same_concept = "masked" leaves these out (what it gives: docs/concepts.md)'
        lines.append((GOOD, text) if apart else (FAIR, text + advice))
    return sorted(lines, key=lambda line: ORDER.index(line[0]))


def _tokens_verdict(n: Mapping[str, Any], named: Mapping[str, Any] | None) -> tuple[str, str]:
    text = (
        f"local tokens: a seen region's nearest region of another photo is of its class in {n['mean']:.1f} % "
        f"(mean over classes, chance {n['chance']:.1f} %)"
    )
    if n["above"] >= naming.GOOD:
        unnamed = named is not None and named["above"] < naming.POOR
        advice = ": they tell the classes apart, so it is the names: change them, or teacher.prompts, not the teacher"
        return GOOD, text + advice if unnamed else text
    worst = ", ".join(name for _, name in sorted((share, name) for name, share in n["classes"].items())[:3])
    advice = f"; worst: {worst}; another teacher.model, or a larger teacher.crop_size"
    return (FAIR if n["above"] >= naming.POOR else POOR), text + advice


def _hidden_verdict(typed: Invocation, n: Mapping[str, Any]) -> tuple[str, str]:
    """Never POOR: how well things are cut was not seen to decide what training gives."""
    rows, now = n["rows"], f"{n['now']:g}"
    best, own = max(rows, key=lambda t: rows[t]["iou"]), rows[now]
    text = (
        f"hidden classes: seen classes that are mined as if they had no label ({own['images']} in {n['views']} views): "
        f"IoU {own['iou']:.1f}, purity {own['purity']:.1f}, recall {own['recall']:.1f}"
    )
    if rows[best]["iou"] - own["iou"] < BETTER:
        return GOOD, text
    where = typed.command("inspect", "mining")
    return FAIR, f"{text}; mine-latent.merge_threshold={best} cuts them better (IoU {rows[best]['iou']:.1f}): {where}"


def card_text(of: Inspection, found: Mapping[str, Any]) -> str:
    """The card for a terminal: what to change first stands first."""
    lines = card_verdicts(of, found)
    wrong = [line for word, line in lines if word != GOOD]
    head = f"change first: {wrong[0].partition(':')[0]}" if wrong else "nothing to change first"
    weakest = sorted((share, name) for name, share in found.get("tokens", {"classes": {}})["classes"].items())[:3]
    expect = ", ".join(f"{name} ({share:.0f} %)" for share, name in weakest)
    return "\n".join(
        [
            f"{found['preset']}, before training: {head}",
            "",
            *verdicts(lines),
            "",
            *([f"weakest seen classes to expect, by local tokens: {expect}"] if weakest else []),
            "not looked at:",
            *(f"  {line}" for line in found["not looked at"]),
            "These figures say which seen classes will be weak, not how good a student will be (docs/inspection.md).",
        ]
    )
