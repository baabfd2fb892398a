"""One mask of two values for each object or class: `masks/cat/p1.png`, `masks/p1_cat.png`, `masks/p1/cat_2.png`,
`p1/masks/*.png` beside `p1/images/p1.png`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cache.errors import InputError
from stages.parts.data.formats.base import Example, Source, Tree, class_name, ids_of, listed, numbered, subset_of
from stages.parts.data.formats.drawing import Drawing, Region, compose
from stages.parts.data.formats.pairs import find_pairs, says_mask, words
from stages.parts.data.images import MAX_PIXELS, BadSample, read_mask

TITLE = "a mask for each object or class"
_ANY = "object"
"""Class of masks whose names say none."""
_LOOKED_AT = 5


class _Object(NamedTuple):
    """One mask file: whose photo it is of, and of which class."""

    photo: Path
    mask: Path
    name: str


def recognise(tree: Tree) -> str | None:
    """The first such mask, its class and how many there are, in words."""
    if find_pairs(tree).pairs:
        return None
    found = _objects(tree)
    if not found or not any(_is_binary(one.mask) for one in found[:_LOOKED_AT]):
        return None
    return f"{tree.below(found[0].mask)} as {found[0].name!r} and {len(found) - 1} more"


def read(tree: Tree) -> Source:
    """Every photo with its masks painted together, the smaller over the larger. Raises InputError."""
    found = _objects(tree)
    if not found:
        raise InputError(f"{tree.root}: no mask's name says which photo it is of; see docs/data-formats.md")
    values, names = numbered(sorted({one.name for one in found}))
    of_photo: dict[Path, list[_Object]] = {}
    for one in found:
        of_photo.setdefault(one.photo, []).append(one)
    bare = [p for p in _photos(tree) if p not in of_photo]
    notes = [f"left out: {listed(len(bare), 'photos without a mask', bare[0].name)}"] if bare else []
    if _ANY in names.values():
        notes.append(f"masks whose names say no class are called {_ANY!r}: write what they show into names.txt")
    examples = [
        Example(one, photo, partial(_draw, of_photo[photo], values), subset_of(tree.below(photo.parent)))
        for one, photo in zip(ids_of(tree, list(of_photo)), of_photo, strict=True)
    ]
    return Source(examples, names, tuple(notes))


def _photos(tree: Tree) -> list[Path]:
    return [p for p in tree.photos if not any(says_mask(part) for part in p.relative_to(tree.root).parent.parts)]


@lru_cache(maxsize=4)
def _objects(tree: Tree) -> tuple[_Object, ...]:
    photos = _photos(tree)
    by_stem = {path.stem: path for path in photos}
    alone: dict[Path, list[Path]] = {}
    for path in photos:
        alone.setdefault(path.parent.parent, []).append(path)
    found = []
    for mask in tree.photos:
        parts = mask.relative_to(tree.root).parent.parts
        if any(says_mask(part) for part in parts) and (one := _placed(mask, parts, by_stem, alone)):
            found.append(one)
    return tuple(found)


def _placed(
    mask: Path, parts: tuple[str, ...], photos: Mapping[str, Path], alone: Mapping[Path, list[Path]]
) -> _Object | None:
    if mask.stem in photos and not says_mask(parts[-1]):
        return _Object(photos[mask.stem], mask, class_name(parts[-1]))
    if parts[-1] in photos:
        return _Object(photos[parts[-1]], mask, _class_of(mask.stem))
    for cut in [m.start() for m in re.finditer(r"[_. -]", mask.stem)][::-1]:
        if mask.stem[:cut] in photos:
            return _Object(photos[mask.stem[:cut]], mask, _class_of(mask.stem[cut + 1 :]))
    near = alone.get(mask.parent.parent, [])
    return _Object(near[0], mask, _class_of(mask.stem)) if len(near) == 1 else None


def _class_of(text: str) -> str:
    """The class that a mask's name says: its words without numbers; a hash or `mask_3` say none."""
    found = [word for word in words(text).split() if not any(c.isdigit() for c in word) and not says_mask(word)]
    return class_name(" ".join(found)) if found else _ANY


def _is_binary(mask: Path) -> bool:
    try:
        return len(np.unique(read_mask(mask, MAX_PIXELS))) <= 2
    except BadSample:
        return False


def _draw(objects: list[_Object], values: Mapping[str, int], size: tuple[int, int]) -> Drawing:
    regions = []
    for one in objects:
        inside = read_mask(one.mask, MAX_PIXELS)
        if inside.shape != size:
            raise BadSample(f"{one.mask}: mask is {inside.shape[1]} x {inside.shape[0]} pixels, its photo {size[1]} x "
                            f"{size[0]}; make them equal")  # fmt: skip
        shown = np.unique(inside)
        if len(shown) > 2 or (len(shown) == 2 and shown[0] != 0):
            raise BadSample(f"{one.mask}: holds {len(shown)} values; a mask of one object holds 0 and one other value")
        regions.append(Region(values[one.name], 0, 0, inside > 0))
    return compose(regions, size)
