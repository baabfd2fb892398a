"""Pictures of `clip2seg inspect`: the figure of one image, contact sheets of what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.search import Hit

if TYPE_CHECKING:
    from pipeline.inspection.opened import Inspection
    from stages.inspect import CachedView
    from stages.parts.drawing.figures import Heat, Panel
    from stages.running.scoring.student import StudentPredictor


def image(of: Inspection, view_id: str, *, full_labels: bool) -> dict[str, Any]:
    """The figure of one view."""
    from stages.parts.drawing.figures import image_figure
    from stages.parts.drawing.palette import mask_colours, palette
    from stages.parts.scoring.quality import nearest_names

    cached, words = of.cached, of.plan.vocabulary
    view = cached.view(view_id, full_labels=full_labels)
    dense, student = cached.dense(view), of.student
    k, colours, all_colours = cached.num_seen, mask_colours(words.seen), palette(words.ordered)
    panels, shown = _panels(of, view, dense, student, colours, all_colours)
    mask = view.labels if view.pseudo is None else view.pseudo
    heats: dict[str, list[Heat]] = {}
    if dense is not None:
        heats["teacher's dense tokens"] = _heats(of, view, dense, mask)
    if student is not None:
        heats["student's features"] = _heats(of, view, student.features(view.image), mask)
    latent = [r for r in view.regions if r >= k]
    legend = {words.ordered[c] + (" *" if c >= k else ""): all_colours[c] for c in shown}
    legend |= {cached.name(r): colours[r] for r in latent}
    heading = f"{of.plan.name}   {view.id}   {view.image.shape[1]} x {view.image.shape[0]} px"
    where = of.put(f"image-{plain(view.id)}.png", image_figure(heading, view.image, panels, heats, legend))
    order, cosine = nearest_names(view.local, cached.text)
    regions = [
        {
            "region": cached.name(r),
            "pixels": int((mask == r).sum()),
            "names": [[words.ordered[c], round(float(s), 4)] for c, s in zip(o[:5], v[:5], strict=True)],
        }
        for r, o, v in zip(view.regions, order, cosine, strict=True)
    ]
    return {"picture": where, "id": view.id, "regions": regions, "dense": dense is not None}


def _panels(
    of: Inspection,
    view: CachedView,
    dense: np.ndarray | None,
    student: StudentPredictor | None,
    colours: np.ndarray,
    all_colours: np.ndarray,
) -> tuple[list[Panel], list[int]]:
    """The pictures of a view, and the classes that they show."""
    from stages.parts.drawing.figures import Panel, principal_colours
    from stages.parts.drawing.overlays import overlay

    names = of.plan.vocabulary.ordered
    seen = names[: of.cached.num_seen]
    panels = [Panel("image", view.image), Panel("seen labels", overlay(view.image, view.labels, colours, names=seen))]
    maps = [view.labels]
    if view.pseudo is not None:
        panels.append(Panel("pseudo mask", overlay(view.image, view.pseudo, colours, names=seen)))
    if view.named is not None:
        panels.append(Panel("pseudo labels", overlay(view.image, view.named, colours, names=seen)))
        maps.append(view.named)
    if view.truth is not None:
        panels.append(Panel("all labels (evaluation only)", overlay(view.image, view.truth, all_colours, names=names)))
        maps.append(view.truth)
    if student is not None:
        found = student.labels(view.image)
        panels.append(Panel("student's prediction", overlay(view.image, found, all_colours, names=names)))
        maps.append(found)
    if dense is not None:
        tall, wide = view.image.shape[:2]
        rows, columns = np.arange(tall) * dense.shape[0] // tall, np.arange(wide) * dense.shape[1] // wide
        colour = principal_colours(dense)[rows[:, None], columns[None, :]]
        panels.append(Panel("PCA of dense tokens", colour, smooth=False))
    shown = {int(c) for m in maps for c in np.unique(m) if c < len(of.plan.vocabulary.ordered)}
    return panels, sorted(shown)


def _heats(of: Inspection, view: CachedView, features: np.ndarray, mask: np.ndarray) -> list[Heat]:
    from stages.parts.drawing.figures import Heat
    from stages.parts.scoring.quality import cosines

    heats = [Heat("global token", cosines(features, view.token))]
    for region, token in zip(view.regions, view.local, strict=True):
        heats.append(Heat(of.cached.name(region), cosines(features, token), mask == region))
    return heats


def sheet(of: Inspection, name: str, heading: str, groups: Mapping[str, Sequence[Hit]]) -> dict[str, Any]:
    from stages.parts.drawing.figures import contact_sheet

    panels = {title: [_thumbnail(of, h) for h in hits] for title, hits in groups.items()}
    picture = of.put(name, contact_sheet(f"{of.plan.name}   {heading}", panels))
    found = {
        title: [[h.view, of.cached.name(h.region), round(h.cosine, 4)] for h in hits] for title, hits in groups.items()
    }
    return {"picture": picture, "found": found}


def _thumbnail(of: Inspection, hit: Hit) -> Panel:
    from stages.parts.drawing.figures import Panel, singled_out

    image, mask = of.cached.picture(hit.view)
    region = "" if hit.region < 0 else f"  {of.cached.name(hit.region)}"
    title = f"{hit.view}\n{hit.cosine:.3f}{region}"
    return Panel(title, singled_out(image, mask, hit.region))


def plain(text: str) -> str:
    """A file name of letters, digits and dashes."""
    return "".join(c if c.isalnum() or c in "_-" else "-" for c in text)[:80]
