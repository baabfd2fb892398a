"""`clip2seg inspect PRESET explore`: packs a sample of a split into one HTML file that needs no server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import InputError
from cache.settings import MOST_IN_A_BYTE
from cache.summary import spread
from stages.parts.drawing.figures import singled_out
from stages.parts.drawing.palette import mask_colours, palette
from stages.parts.scoring.explorer import (
    as_text,
    cell_names,
    jpeg,
    pack_tokens,
    packing_error,
    page,
    picture_scores,
    runs,
    shrunk,
    shrunk_mask,
)
from stages.parts.scoring.metrics import confusion
from stages.parts.scoring.quality import nearest_names
from stages.running.progress import Bar, say

if TYPE_CHECKING:
    from pipeline.inspection.opened import Inspection
    from stages.inspect import CachedView

LONGEST = 448
"""Longest side of a picture in the explorer, in pixels."""
THUMBNAIL = 88
"""Longest side of a neighbour's picture, in pixels."""
NEIGHBOURS = 6


SPLITS = ("train", "val")
GRID = 40
"""Most cells along the longer side of a student's features: hovering stays quick, and the page small."""
FEATURES = {
    "train": "How alike the teacher's dense token of the marked cell is to that of every other cell (cosine).",
    "val": "How alike the student's features of the marked cell are to those of every other cell (cosine).",
}
"""What the layer Similarity compares."""


def write_explorer(of: Inspection, images: int, *, full_labels: bool, split: str = "train") -> dict[str, Any]:
    """Writes explorer.html, or explorer-val.html, for `images` of a split; returns where, how large, and how exact.

    "train": views of the cache with the teacher's dense tokens. "val": evaluation images with what the student sees
    and the whole ground truth. Raises InputError where the tokens, or the student, are not there.
    """
    if split not in SPLITS:
        raise InputError(f"--split {split}: give train (the cache) or val (the evaluation images)")
    if (count := len(of.plan.vocabulary.ordered)) > MOST_IN_A_BYTE:
        raise InputError(
            f"inspect explore: {count} classes, and the page holds {MOST_IN_A_BYTE} at most; name fewer, or look at "
            "single images with `clip2seg inspect PRESET image ID`"
        )
    thumbs: dict[tuple[str, int], int] = {}
    pictures: list[str] = []
    entries, maps = _of_cache(of, images, full_labels, thumbs, pictures) if split == "train" else _of_val(of, images)
    packed = [pack_tokens(m) for m in maps]
    errors = np.concatenate([packing_error(m, p) for m, p in zip(maps, packed, strict=True)])
    error = {"mean": float(errors.mean()), "most_of_99": float(np.percentile(errors, 99)), "most": float(errors.max())}
    words, cosines = of.plan.vocabulary, [n[1] for entry in entries for r in entry["regions"] for n in r["names"]]
    latent, teacher = mask_colours(words.seen), of.plan.config.teacher
    source = f"{teacher.model.rsplit('/', 1)[-1]} {teacher.pretrained}".strip()
    data = {
        "preset": of.plan.name,
        "split": split,
        "source": source if split == "train" else of.plan.address("train").name,
        "features": FEATURES[split],
        "seen": len(words.seen),
        "classes": list(words.ordered),
        "colours": palette(words.ordered)[: len(words.ordered)].tolist(),
        "latentColours": latent[len(words.seen) : 255].tolist(),
        "nameScale": max([0.01, *cosines]),
        "error": round(error["most_of_99"], 4),
        "images": [
            entry | {"tokens": as_text(small), "grid": list(small.scales.shape)}
            for entry, small in zip(entries, packed, strict=True)
        ],
        "thumbs": pictures,
    }
    html = page(data).encode()
    name = "explorer.html" if split == "train" else "explorer-val.html"
    return {
        "file": of.put(name, html),
        "bytes": len(html),
        "images": len(entries),
        "dim": maps[0].shape[-1],
        "kept_dims": packed[0].codes.shape[-1],
        "kept_energy": float(np.mean([p.energy for p in packed])),
        "error": error,
    }


def _of_cache(
    of: Inspection, images: int, full_labels: bool, thumbs: dict[tuple[str, int], int], pictures: list[str]
) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Entries of the page for views of the cache, and their dense tokens [h, w, D]."""
    cached = of.cached
    views = [cached.view(name, full_labels=full_labels) for name in cached.sample(images)]
    maps = [m for m in map(cached.dense, views) if m is not None]
    if len(maps) < len(views) or not views:
        raise InputError(
            f"{cached.tokens}: no dense tokens to explore; run `{of.plan.invocation.command('extract')}` first"
        )
    entries = []
    with Bar("explore", len(views), "images") as bar:
        for view, dense in zip(views, maps, strict=True):
            entries.append(_entry(of, view, thumbs, pictures) | {"cellNames": cell_names(dense, cached.text)})
            bar.advance()
    return entries, maps


def _of_val(of: Inspection, images: int) -> tuple[list[dict[str, Any]], list[np.ndarray]]:
    """Entries of the page for evaluation images, and the student's features [h, w, D] of each."""
    from stages.parts.data.datasets import BadSample

    student, data = of.student, of.plan.val_data
    if student is None:
        raise InputError(f"--split val: shows what the student sees; run `{of.plan.invocation.command('train')}` first")
    entries, maps = [], []
    count = min(images, len(data))
    with Bar("explore", count, "images") as bar:
        for i in spread(len(data), count):
            bar.advance()
            try:
                image, truth = data.image(i), data.labels(i, "all")
            except BadSample as error:
                say(f"left out: {error}")
                continue
            features, found = student.features(image, GRID), student.labels(image)
            layers = {"prediction": found, "all": truth}
            scores = picture_scores(confusion(found, truth, len(of.plan.vocabulary.ordered)))
            entries.append(
                _picture(image, data.ids[i], layers)
                | scores
                | {"regions": [], "cellNames": cell_names(features, student.text)}
            )
            maps.append(features)
    if not entries:
        raise InputError(f"{data.cfg.root}: none of {count} evaluation images can be read")
    return entries, maps


def _entry(of: Inspection, view: CachedView, thumbs: dict[tuple[str, int], int], pictures: list[str]) -> dict[str, Any]:
    """One view as the page wants it; pictures of neighbours are added to `pictures`, each once."""
    cached = of.cached
    layers = {"labels": view.labels}
    if view.pseudo is not None:
        layers["pseudo"] = view.pseudo
    if view.truth is not None:
        layers["all"] = view.truth
    if of.student is not None:
        layers["prediction"] = of.student.labels(view.image)
    order, cosine = nearest_names(view.local, cached.text)
    regions = []
    for region, token, o, v in zip(view.regions, view.local, order, cosine, strict=True):
        near = []
        for hit in of.index.find(token, NEIGHBOURS, skip=(view.id, region)):
            key = (hit.view, hit.region)
            if key not in thumbs:
                thumbs[key] = len(pictures)
                image, mask = cached.picture(hit.view)
                pictures.append(jpeg(shrunk(singled_out(image, mask, hit.region), THUMBNAIL), 75))
            near.append([hit.view, cached.name(hit.region), round(hit.cosine, 4), thumbs[key]])
        names = [[int(c), round(float(s), 4)] for c, s in zip(o[:5], v[:5], strict=True)]
        regions.append({"id": region, "name": cached.name(region), "names": names, "near": near})
    found = _picture(view.image, view.id, layers) | {"regions": regions}
    if "all" in layers and "prediction" in layers:
        found |= picture_scores(confusion(layers["prediction"], layers["all"], len(of.plan.vocabulary.ordered)))
    return found


def _picture(image: np.ndarray, name: str, layers: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A picture and its label maps [H, W] at the page's size."""
    small = shrunk(image, LONGEST)
    size = (small.shape[0], small.shape[1])
    return {
        "id": name,
        "picture": jpeg(small),
        "size": list(size),
        "layers": {layer: runs(shrunk_mask(mask, size)) for layer, mask in layers.items()},
    }
