"""`clip2seg data suggest`: which photos to annotate next, why, and lists of them for a labelling tool.

A photo is worth as much as the concepts in it that no chosen photo shows yet, rare ones more, times how far student and
teacher disagree about what has no label. Photos are chosen one after the other: each changes what the next is worth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cache.errors import InputError
from pipeline.inspection.concepts import opened
from pipeline.shown import link
from pipeline.text import columns
from stages.running.progress import Bar, say

if TYPE_CHECKING:
    from pipeline.inspection.opened import Inspection

CANDIDATES = 4
"""Photos that the student looks at for each one wanted."""
THUMBNAIL = 320
"""Longest side of a photo on the page, in pixels."""


@dataclass(frozen=True)
class Chosen:
    """One photo: its worth when it is chosen, the concepts that it adds or repeats, the disagreement in [0, 1]."""

    view: str
    worth: float
    new: list[int]
    again: list[int]
    disagreement: float | None


def worths(shown: np.ndarray, covered: np.ndarray, rarity: np.ndarray, doubt: np.ndarray) -> np.ndarray:
    """What each photo is worth now, [n].

    `shown` bool [n, K]: concepts of each photo. `covered` [K]: chosen photos that show each concept. `rarity` [K] in
    [0, 1]. `doubt` [n] in [0, 1]: how far student and teacher disagree; 0 where nobody asked.
    """
    found: np.ndarray = (shown * (rarity / (1 + covered) ** 2)).sum(axis=1) * (1 + doubt)
    return found


def choose(shown: np.ndarray, count: int, doubt: np.ndarray) -> list[tuple[int, float, np.ndarray]]:
    """(photo, worth, `covered` before it) of `count` photos at most, best first; ties go to the first photo."""
    photos = shown.sum(axis=0)
    # Shares of the rarest: a concept of one photo in a thousand counts ten times one of a tenth of them.
    rarity = np.sqrt(photos[photos > 0].min(initial=1) / np.maximum(photos, 1)) if len(photos) else np.zeros(0)
    covered, left, made = np.zeros(shown.shape[1]), np.ones(len(shown), bool), []
    for _ in range(min(count, len(shown))):
        worth = np.where(left, worths(shown, covered, rarity, doubt), -1)
        best = int(worth.argmax())
        made.append((best, float(worth[best]), covered.copy()))
        covered, left[best] = covered + shown[best], False
    return made


def photos_shown(
    ids: Sequence[str], several: bool, view: np.ndarray, concept: np.ndarray
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """The photos, the photo of each view `ids`, and the concepts that each shows: bool [photos, K].

    `several`: whether a photo has several views. `view`, `concept` [p]: of every latent region.
    """
    names = [one.rpartition("#")[0] if several else one for one in ids]
    photos = list(dict.fromkeys(names))
    place = {name: i for i, name in enumerate(photos)}
    owner = np.array([place[name] for name in names])
    shown = np.zeros((len(photos), int(concept.max(initial=0)) + 1), bool)
    shown[owner[view], concept] = True
    return photos, owner, shown


def suggest(of: Inspection, count: int) -> dict[str, Any]:
    """The photos to annotate, best first, as JSON; writes photos.txt, photos.csv and index.html into the folder `out`.

    Reads no hidden label. Raises InputError where the cache has no concepts.
    """
    if count < 1:
        raise InputError(f"--count {count}: give 1 or more")
    found = opened(of)
    several, members = of.plan.config.views.count > 1, found.members
    photos, _, shown = photos_shown(found.ids, several, members.view, members.concept)
    doubt, asked = np.zeros(len(photos)), of.student is not None
    if asked:
        _ask(of, found, [i for i, _, _ in choose(shown, CANDIDATES * count, doubt)], photos, doubt)
    made = [
        Chosen(
            photos[i],
            round(worth, 4),
            [int(c) for c in np.flatnonzero(shown[i] & (covered == 0))],
            [int(c) for c in np.flatnonzero(shown[i] & (covered > 0))],
            round(float(doubt[i]), 4) if asked else None,
        )
        for i, worth, covered in choose(shown, count, doubt)
    ]
    reached = len({c for one in made for c in (*one.new, *one.again)})
    result: dict[str, Any] = {
        "preset": of.plan.name,
        "photos": [vars(one) for one in made],
        "concepts": len(found.concepts),
        "concepts reached": reached,
        "student asked": asked,
    }
    return result | _written(of, made, shown.sum(axis=0))


def _ask(of: Inspection, found: Any, which: list[int], photos: list[str], doubt: np.ndarray) -> None:
    """Fills in `doubt` of some photos: share of the pixels in latent regions that the student calls otherwise.

    The teacher's word is the class name nearest to the region's local token, seen or unseen.
    """
    from stages.parts.scoring.quality import nearest_names

    assert of.student is not None
    several = of.plan.config.views.count > 1
    with Bar("data suggest", len(which), "photos") as bar:
        for i in which:
            bar.advance()
            view = of.cached.view(f"{photos[i]}#0" if several else photos[i])
            latent = [row for row, region in enumerate(view.regions) if region >= of.cached.num_seen]
            if view.pseudo is None or not latent:
                continue
            said, (order, _) = of.student.labels(view.image), nearest_names(view.local[latent], of.cached.text)
            inside = [view.pseudo == view.regions[row] for row in latent]
            other = sum(int((said[mask] != word).sum()) for mask, word in zip(inside, order[:, 0], strict=True))
            doubt[i] = other / max(sum(int(mask.sum()) for mask in inside), 1)


def _written(of: Inspection, made: list[Chosen], photos_of: np.ndarray) -> dict[str, Any]:
    """The lists and the page."""
    from stages.parts.drawing.pages import page
    from stages.parts.scoring.explorer import jpeg, shrunk

    at, data = of.out.child("suggest"), of.plan.train_data
    records = {record.id: (i, record) for i, record in enumerate(data.records)}
    files = [str(Path(records[one.view][1].image).resolve()) for one in made]
    at.put("photos.txt", "".join(f"{file}\n" for file in files).encode())
    rows = ["photo,worth,new concepts,disagreement"]
    cards = []
    for one, file in zip(made, files, strict=True):
        firsts = ", ".join(f"{c} ({photos_of[c]})" for c in one.new)
        reasons = [f"first of concept {firsts}; in brackets the photos that show it"] if one.new else []
        reasons += [f"one more of concept {', '.join(map(str, one.again))}"] if one.again else []
        if one.disagreement is not None:
            share = 100 * one.disagreement
            reasons.append(f"student and teacher disagree on {share:.0f} % of what has no label")
        quoted = file.replace('"', '""')
        rows.append(f'"{quoted}",{one.worth},{" ".join(map(str, one.new))},{one.disagreement or 0}')
        picture = jpeg(shrunk(data.image(records[one.view][0]), THUMBNAIL), 75)
        cards.append({"view": one.view, "picture": picture, "worth": one.worth, "reasons": reasons})
    at.put("photos.csv", ("\n".join(rows) + "\n").encode())
    html = page("suggest.html", title=f"What to annotate next: {of.plan.name}", cards=cards)
    at.put("index.html", html.encode())
    return {"list": f"{at}/photos.txt", "table": f"{at}/photos.csv", "page": f"{at}/index.html"}


def suggest_text(found: dict[str, Any]) -> str:
    """The answer for a terminal."""
    rows: list[list[object]] = [["photo", "worth", "new concepts", "disagreement"]]
    for one in found["photos"]:
        doubt = one["disagreement"]
        share = None if doubt is None else f"{100 * doubt:.0f} %"
        rows.append([one["view"], f"{one['worth']:.3f}", ", ".join(map(str, one["new"])) or None, share])
    if not found["student asked"]:
        say("data suggest: no trained student: coverage and rarity alone decide")
    return (
        f"{len(found['photos'])} photos show {found['concepts reached']} of {found['concepts']} concepts\n\n"
        f"{columns(rows)}\n\nlist: {found['list']}\ntable: {found['table']}\npage: {link(found['page'])}"
    )
