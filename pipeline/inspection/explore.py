"""`clip2seg inspect PRESET explore`: packs a sample of the cache into one HTML file that needs no server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import InputError
from stages.parts.drawing.figures import singled_out
from stages.parts.drawing.palette import mask_colours, palette
from stages.parts.scoring.explorer import (
    as_text,
    jpeg,
    pack_tokens,
    packing_error,
    page,
    runs,
    shrunk,
    shrunk_mask,
)
from stages.parts.scoring.quality import nearest_names
from stages.running.progress import Bar

if TYPE_CHECKING:
    from pipeline.inspection.opened import Inspection
    from stages.inspect import CachedView

LONGEST = 448
"""Longest side of a picture in the explorer, in pixels."""
THUMBNAIL = 88
"""Longest side of a neighbour's picture, in pixels."""
NEIGHBOURS = 6


def write_explorer(of: Inspection, images: int, *, full_labels: bool) -> dict[str, Any]:
    """Writes explorer.html for `images` views; returns where, how large, and how exact its tokens are."""
    cached, words = of.cached, of.plan.vocabulary
    views = [cached.view(name, full_labels=full_labels) for name in cached.sample(images)]
    maps = [cached.dense(view) for view in views]
    dense = [m for m in maps if m is not None]
    if len(dense) < len(views) or not views:
        raise InputError(
            f"{cached.tokens}: no dense tokens to explore; run `{of.plan.invocation.command('extract')}` first"
        )
    packed = [pack_tokens(m) for m in dense]
    errors = np.concatenate([packing_error(m, p) for m, p in zip(dense, packed, strict=True)])
    error = {"mean": float(errors.mean()), "most_of_99": float(np.percentile(errors, 99)), "most": float(errors.max())}
    thumbs: dict[tuple[str, int], int] = {}
    pictures: list[str] = []
    with Bar("explore", len(views), "images") as bar:
        entries = []
        for view, small in zip(views, packed, strict=True):
            entries.append(_entry(of, view, thumbs, pictures) | {"tokens": as_text(small)})
            bar.advance()
    colours, latent = palette(words.ordered), mask_colours(words.seen)
    data = {
        "preset": of.plan.name,
        "teacher": f"{of.plan.config.teacher.model.rsplit('/', 1)[-1]} {of.plan.config.teacher.pretrained}".strip(),
        "grid": list(packed[0].scales.shape),
        "seen": cached.num_seen,
        "classes": list(words.ordered),
        "colours": colours[: len(words.ordered)].tolist(),
        "latentColours": latent[cached.num_seen : 255].tolist(),
        "error": round(error["most_of_99"], 4),
        "images": entries,
        "thumbs": pictures,
    }
    html = page(data).encode()
    of.out.put("explorer.html", html)
    return {
        "file": f"{of.out}/explorer.html",
        "bytes": len(html),
        "images": len(entries),
        "dim": dense[0].shape[-1],
        "kept_dims": packed[0].codes.shape[-1],
        "kept_energy": float(np.mean([p.energy for p in packed])),
        "error": error,
    }


def _entry(of: Inspection, view: CachedView, thumbs: dict[tuple[str, int], int], pictures: list[str]) -> dict[str, Any]:
    """One view as the page wants it; pictures of neighbours are added to `pictures`, each once."""
    cached = of.cached
    small = shrunk(view.image, LONGEST)
    size = (small.shape[0], small.shape[1])
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
    return {
        "id": view.id,
        "picture": jpeg(small),
        "size": list(size),
        "layers": {name: runs(shrunk_mask(mask, size)) for name, mask in layers.items()},
        "regions": regions,
    }
