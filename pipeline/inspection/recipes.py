"""`clip2seg inspect PRESET recipes`: recipes x refinements x thresholds on a sample, and the preset lines to set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from cache.errors import InputError
from pipeline.run import draw_world
from pipeline.text import columns
from stages.parts.settings import AffinityConfig, RefineConfig

if TYPE_CHECKING:
    from pipeline.config import Config
    from pipeline.inspection.opened import Inspection
    from stages.inspect_recipes import Variant

STEP = 0.1
"""Merge thresholds tried: the preset's own, and so much below and above it."""

OWN = {
    "": RefineConfig(),
    "outliers": RefineConfig(outliers=True),
    "tokens above 0.5": RefineConfig(affinity="tokens", threshold=0.5),
    "tokens softmax": RefineConfig(affinity="tokens", form="softmax"),
}
"""Refinements tried with every recipe; and, where its [affinity] names features:"""
SECOND = {
    "network above 0.3": RefineConfig(affinity="network"),
    "network softmax": RefineConfig(affinity="network", form="softmax"),
}


def compare(of: Inspection, *, images: int, full_labels: bool) -> dict[str, Any]:
    """The comparison as JSON: rows sorted by the IoU of mined regions with what was hidden. Loads CLIP, no cache."""
    from stages.inspect_recipes import run, text_of
    from stages.parts.teacher.features import load_features
    from stages.parts.teacher.files import load_text_source

    draw_world(of.plan)
    c, words, teacher = of.plan.config, of.plan.vocabulary, of.teacher
    if len(words.seen) < 2:
        raise InputError(f"inspect {of.plan.name} recipes: two seen classes or more are needed, one to hide")
    names = words.ordered if full_labels else words.seen
    if c.teacher.text:
        text = load_text_source(c.teacher.text, names)
    else:
        text = text_of(teacher, names, of.plan.prompts)
    now = c.mine_latent.merge_threshold
    thresholds = sorted({round(t, 4) for t in (now - STEP, now, now + STEP) if 0 <= t <= 1})
    rows = run(
        c.mine_latent,
        c.views,
        of.plan.train_data,
        teacher,
        text,
        list(_variants(teacher.recipes(), c.affinity)),
        thresholds,
        load_features(c.affinity, teacher),
        images=images,
        full_labels=full_labels,
    )
    rows.sort(key=lambda row: -(row["best"] or {"iou": -1.0})["iou"])
    for row in rows:
        row["settings"] = [line for line in row["settings"] if line not in _now(c)]
    asked = "unseen classes" if full_labels else "hidden seen classes"
    return {"preset": of.plan.name, "of": asked, "thresholds": thresholds, "rows": rows}


def _variants(recipes: list[str], affinity: AffinityConfig) -> Iterator[Variant]:
    from stages.inspect_recipes import Variant
    from stages.parts.teacher.refine import Refiner

    alone = affinity.model_copy(update={"kmeans_weight": 0.0})
    for recipe in recipes:
        for name, refine in {**OWN, **(SECOND if affinity.stored else {})}.items():
            yield Variant(_named(recipe, name), recipe, Refiner(refine, alone), _lines(recipe, refine, 0.0))
        if affinity.stored:
            both = affinity.model_copy(update={"kmeans_weight": affinity.kmeans_weight or 0.5})
            lines = _lines(recipe, RefineConfig(), both.kmeans_weight)
            yield Variant(_named(recipe, "k-means by both"), recipe, Refiner(RefineConfig(), both), lines)


def _named(recipe: str, refinement: str) -> str:
    return f"{recipe}, {refinement}" if refinement else recipe


def _lines(recipe: str, refine: RefineConfig, weight: float) -> tuple[str, ...]:
    """What to `--set` for a row, whatever the preset says now."""
    fields = {**RefineConfig().model_dump(), **refine.model_dump()}
    said = (f"refine.{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in fields.items())
    return (f"teacher.recipe={recipe}", *said, f"affinity.kmeans_weight={weight:g}")


def _now(config: Config) -> set[str]:
    """The lines that the preset says already."""
    table = {"mine-latent.merge_threshold": config.mine_latent.merge_threshold}
    table["affinity.kmeans_weight"] = config.affinity.kmeans_weight
    lines = {f"{key}={value:g}" for key, value in table.items()}
    return lines | set(_lines(config.teacher.recipe, config.refine, config.affinity.kmeans_weight))


def recipes_text(found: dict[str, Any]) -> str:
    """The comparison as a table, and the settings of its best row."""
    dense = "dense hIoU" if any(row["dense_hIoU"] is not None for row in found["rows"]) else "dense sIoU"
    head = ["dense map", "IoU", "purity", "recall", "latent", "merged above", dense, "regions named"]
    table: list[list[object]] = [[*head]]
    for row in found["rows"]:
        best = row["best"] or {}
        mined = [best.get(k, "-") for k in ("iou", "purity", "recall", "latent", "threshold")]
        named = row["dense_hIoU"] if dense == "dense hIoU" else row["dense"]
        table.append([row["name"], *mined, named, row["named"]])
    first = found["rows"][0]
    if first["best"] is None:
        return f"{columns(table)}\n\nno sampled view shows one of the {found['of']}: raise --count"
    lines = " ".join(f"--set {line}" for line in first["settings"]) or "what the preset says"
    return (
        f"{columns(table)}\n\nIoU, purity, recall: the best latent region of each of the {found['of']}, by area; "
        f"the best threshold of {', '.join(f'{t:g}' for t in found['thresholds'])}.\n"
        f"the first row: {lines}"
    )
