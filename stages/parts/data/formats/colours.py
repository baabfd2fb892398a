"""Masks whose colours are the classes, with a table of colours (CVAT's labelmap.txt and others') or without."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cache.errors import InputError
from stages.parts.data.formats.base import Example, Source, Tree, class_name, ids_of, numbered, read_text, subset_of
from stages.parts.data.formats.drawing import NO_LABEL, NOTHING, Drawing
from stages.parts.data.formats.pairs import csv_rows, find_pairs, left_out
from stages.parts.data.images import MAX_PIXELS, BadSample, mask_mode, read_image

TITLE = "colour codes"
_BLACK = (0, 0, 0)
_THIN = 0.1
"""A colour with fewer of its pixels amid their like is the rim of smoothed edges."""
_MOST = 254
_STRANGE = 0.5
"""Share of a mask's pixels in colours of no table above which the table isn't the mask's."""

Colour = tuple[int, int, int]


def recognise(tree: Tree) -> str | None:
    """The first coloured mask and the table, in words."""
    table = _table_file(tree)
    found = find_pairs(tree)
    if table is not None and table.name == "labelmap.txt":
        return f"CVAT's {tree.below(table)}"
    if not found.pairs or not found.coloured:
        return None
    return f"{tree.below(found.pairs[0][1])}, " + (f"table {tree.below(table)}" if table else "no table of colours")


def read(tree: Tree) -> Source:
    """All photos with a mask. Pixels of a colour in no table are no label; without a table every colour that covers
    areas is a class still to be named, and black is nothing. Raises InputError."""
    found = find_pairs(tree)
    if not found.pairs:
        raise InputError(
            f"{tree.root}: no photo has a mask of its name; export the photos, too ('save images' in CVAT)"
        )
    table, notes = _table_file(tree), [*left_out(found)]
    if table is not None:
        colours = _read_table(table)
        by_name, names = numbered([*colours.values()])
        value = {_BLACK: NOTHING} | {colour: by_name[name] for colour, name in colours.items()}
        unnamed: Mapping[int, str] = {}
        notes.append(f"names and colours from {tree.below(table)}")
    else:
        areas, rims = _proposed(tree, [mask for _, mask in found.pairs])
        value = {colour: k for k, colour in enumerate([c for c in areas if c != _BLACK], 1)} | {_BLACK: NOTHING}
        names, unnamed = {}, {k: f"colour {','.join(map(str, colour))}" for colour, k in value.items() if k}
        if rims:
            notes.append(f"{rims} colours occur only along edges, as where masks were smoothed: no label there")
    photos = [photo for photo, _ in found.pairs]
    examples = [
        Example(one, photo, partial(_draw, mask, value), subset_of(tree.below(photo.parent)))
        for one, (photo, mask) in zip(ids_of(tree, photos), found.pairs, strict=True)
    ]
    return Source(examples, names, tuple(notes), unnamed=unnamed)


def _codes(mask: Path) -> NDArray[np.int64]:
    """The colours of a mask [H, W] as numbers: a palette's colours, where it is one."""
    if mask_mode(mask) == "no picture":
        raise BadSample(f"{mask}: can't be decoded; replace it or take it away")
    return read_image(mask, MAX_PIXELS).astype(np.int64) @ np.array([65536, 256, 1])


def _code(colour: Colour) -> int:
    return colour[0] * 65536 + colour[1] * 256 + colour[2]


def _draw(mask: Path, value: Mapping[Colour, int], size: tuple[int, int]) -> Drawing:
    known = {_code(colour): v for colour, v in value.items()}
    found, places, counts = np.unique(_codes(mask), return_inverse=True, return_counts=True)
    strange = [(int(n), int(c)) for c, n in zip(found, counts, strict=True) if int(c) not in known]
    total = sum(n for n, _ in strange)
    if total > _STRANGE * places.size:
        code = max(strange)[1]
        colour = (code >> 16, code >> 8 & 255, code & 255)
        raise BadSample(f"{mask}: mostly of colours in no table, such as {colour}; add them to the table of colours")
    table = np.array([known.get(int(c), NO_LABEL) for c in found], np.int32)
    return Drawing(table[places].reshape(places.shape), unknown=total)


def _proposed(tree: Tree, masks: list[Path]) -> tuple[list[Colour], int]:
    """The colours that cover areas, sorted, and the number of those that are rims alone."""
    pixels: Counter[int] = Counter()
    inner: Counter[int] = Counter()
    for mask in masks:
        try:
            codes = _codes(mask)
        except BadSample:
            continue  # left out by name when it is drawn
        centre = codes[1:-1, 1:-1]
        same = (centre == codes[:-2, 1:-1]) & (centre == codes[2:, 1:-1])
        same &= (centre == codes[1:-1, :-2]) & (centre == codes[1:-1, 2:])
        for counter, values in ((pixels, codes), (inner, centre[same])):
            found, counts = np.unique(values, return_counts=True)
            counter.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
    areas = sorted(code for code, n in pixels.items() if inner[code] >= _THIN * n)
    if not areas or len(areas) > _MOST:
        raise InputError(
            f"{tree.root}: its masks hold {len(pixels)} colours, {len(areas)} of which cover areas; are they photos? "
            f"At most {_MOST} can be classes: give a table of colours, as label_colors.txt with lines `R G B NAME`"
        )
    return [(c >> 16, c >> 8 & 255, c & 255) for c in areas], len(pixels) - len(areas)


def _table_file(tree: Tree) -> Path | None:
    """The folder's table of colours, where one is there."""
    for path in tree.files:
        if path.name in ("labelmap.txt", "label_colors.txt", "class_dict.csv"):
            return path
        if path.name == "classes.toml" and re.search(r"^colou?rs\s*=", read_text(path), re.MULTILINE):
            return path
    return None


def _read_table(path: Path) -> dict[Colour, str]:
    """Class name by colour. Raises InputError for a line that names none."""
    rows = _rows(path)
    found: dict[Colour, str] = {}
    for number, (name, numbers) in enumerate(rows, 1):
        if len(numbers) != 3 or not all(re.fullmatch(r"\d{1,3}", n) and int(n) <= 255 for n in numbers):
            raise InputError(f"{path}: entry {number} is {name!r} {numbers}; write a name and R, G, B from 0 to 255")
        colour = (int(numbers[0]), int(numbers[1]), int(numbers[2]))
        if found.setdefault(colour, class_name(name)) != class_name(name):
            raise InputError(f"{path}: entry {number}: colour {colour} has two names; give it one")
    if not found:
        raise InputError(f"{path}: holds no colour; write a name and red, green, blue on each line")
    return found


def _rows(path: Path) -> list[tuple[str, list[str]]]:
    """(name, [red, green, blue] as written) of each entry of a table."""
    if path.suffix == ".csv":
        return [(row[0], row[1:4]) for row in csv_rows(path)[1:]]
    if path.suffix == ".toml":
        try:
            table = tomllib.loads(read_text(path))
            colours = table["colours"] if "colours" in table else table["colors"]
            return [(str(n), [str(v) for v in c]) for n, c in zip(table["names"], colours, strict=True)]
        except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{path}: write names = [...] and as many colours = [[R, G, B], ...] ({error})") from error
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if path.name == "labelmap.txt":  # name:r,g,b:parts:actions
        return [(parts[0], parts[1].split(",") if len(parts) > 1 else []) for parts in (s.split(":") for s in lines)]
    return [(" ".join(parts[3:]), parts[:3]) for parts in (re.split(r"[\s,]+", s) for s in lines)]
