"""LabelMe JSON: one file a photo, its shapes with their labels."""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cache.errors import InputError
from stages.parts.data.formats.base import (
    Example,
    Packed,
    PhotoFinder,
    Source,
    Tree,
    blaming,
    check_size,
    class_name,
    ids_of,
    listed,
    numbered,
    read_json,
    subset_of,
)
from stages.parts.data.formats.drawing import Drawing, Region, compose, polygon
from stages.parts.data.images import MAX_BYTES, BadSample

TITLE = "LabelMe JSON"
_AREAS = ("polygon", "rectangle", "circle", "mask")
_ROUND = 64
"""Corners of the polygon that stands for a circle."""


def recognise(tree: Tree) -> str | None:
    """The first LabelMe file and how many JSON files there are, in words."""
    files = tree.ending(".json")
    first = next((path for path in files[:3] if _is_labelme(path)), None)
    return f"{tree.below(first)} and {len(files) - 1} more" if first else None


def _is_labelme(path: Path) -> bool:
    try:
        table = read_json(path, MAX_BYTES)
    except BadSample:
        return False
    return isinstance(table, dict) and isinstance(table.get("shapes"), list) and "imagePath" in table


def read(tree: Tree) -> Source:
    """Every photo with a LabelMe file. Points and lines cover no pixels and are left out. Raises InputError."""
    finder = PhotoFinder(tree)
    labels: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    found: list[tuple[Path, Path | Packed, dict[str, Any]]] = []
    notes, missing = [], []
    for path in tree.ending(".json"):
        try:
            table = read_json(path, MAX_BYTES)
            if not isinstance(table, dict) or "shapes" not in table:
                continue
            with blaming(path, "its list of shapes"):
                shapes = [s for s in table["shapes"] if s.get("shape_type", "polygon") in _AREAS]
                kinds.update(s["shape_type"] for s in table["shapes"] if s.get("shape_type", "polygon") not in _AREAS)
                labels.update(class_name(s["label"]) for s in shapes)
                photo = finder.find(table["imagePath"], path) or _packed(path, table.get("imageData"))
        except BadSample as error:
            notes.append(f"left out: {error}")
            continue
        if photo is None:
            missing.append(f"{tree.below(path)} names {table['imagePath']}")
        else:
            kept = {k: table[k] for k in ("imageHeight", "imageWidth") if table.get(k)}
            found.append((path, photo, {**kept, "shapes": shapes}))
    if not found and missing:
        raise InputError(
            f"{tree.root}: no photo of its LabelMe files is there: {missing[0]}; put the photos beside them"
        )
    if not found:
        raise InputError(notes[0].removeprefix("left out: "))
    if missing:
        notes.append(f"left out: {listed(len(missing), 'files whose photo is not there', missing[0])}")
    notes += [f"left out: {n} shapes of type {kind}, which cover no pixels" for kind, n in sorted(kinds.items())]
    values, names = numbered(sorted(labels))
    files = [photo if isinstance(photo, Path) else path for path, photo, _ in found]
    examples = [
        Example(one, photo, partial(_draw, path, table, values), subset_of(tree.below(path)))
        for one, (path, photo, table) in zip(ids_of(tree, files), found, strict=True)
    ]
    return Source(examples, names, tuple(notes))


def _packed(path: Path, data: Any) -> Packed | None:
    """The photo that LabelMe keeps inside its file, where it does."""
    if not isinstance(data, str) or not data:
        return None
    suffix = ".png" if data.startswith("iVBOR") else ".jpg"
    return Packed(partial(_unpack, path), suffix)


def _unpack(path: Path) -> bytes:
    with blaming(path, "its imageData"):
        return base64.b64decode(read_json(path, MAX_BYTES)["imageData"])


def _draw(path: Path, table: dict[str, Any], values: dict[str, int], size: tuple[int, int]) -> Drawing:
    declared = {"height": table.get("imageHeight", size[0]), "width": table.get("imageWidth", size[1])}
    check_size(path, {**declared, "file_name": path.stem}, size)
    regions = []
    for number, shape in enumerate(table["shapes"], 1):
        with blaming(path, f"shape {number} ({str(shape.get('label'))[:30]!r})"):
            region = _region(values[class_name(shape["label"])], shape, size)
            regions += [region] if region is not None else []
    return compose(regions, size)


def _region(value: int, shape: dict[str, Any], size: tuple[int, int]) -> Region | None:
    points = [(float(x), float(y)) for x, y in shape["points"]]
    kind = shape.get("shape_type", "polygon")
    if kind == "polygon":
        return polygon(value, points, size)
    (x, y), (u, v) = points[:2]
    if kind == "rectangle":
        return polygon(value, [(x, y), (u, y), (u, v), (x, v)], size)
    if kind == "circle":
        radius = math.hypot(u - x, v - y)
        turns = [2 * math.pi * k / _ROUND for k in range(_ROUND)]
        return polygon(value, [(x + radius * math.cos(t), y + radius * math.sin(t)) for t in turns], size)
    left, top = int(x), int(y)
    inside = _mask(shape["mask"])[: size[0] - top, : size[1] - left]
    if min(left, top) < 0 or not inside.size:
        raise ValueError("a mask outside of the photo")
    return Region(value, top, left, inside)


def _mask(data: str) -> Any:
    try:
        with Image.open(io.BytesIO(base64.b64decode(data)), formats=("PNG",)) as image:
            return np.asarray(image.convert("L")) > 0
    except (binascii.Error, OSError, Image.DecompressionBombError) as error:
        raise ValueError(f"its mask is no PNG: {error}") from error
