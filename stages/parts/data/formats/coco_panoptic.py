"""COCO panoptic: `panoptic_*.json`, and beside it a folder of PNGs whose colours number the segments."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import InputError
from stages.parts.data.formats.base import (
    Example,
    PhotoFinder,
    Source,
    Tree,
    blaming,
    ids_of,
    listed,
    read_json,
    subset_of,
)
from stages.parts.data.formats.coco import Categories, coco_files
from stages.parts.data.formats.drawing import NO_LABEL, Drawing
from stages.parts.data.images import MAX_PIXELS, BadSample, read_image

TITLE = "COCO panoptic"


def recognise(tree: Tree) -> str | None:
    """The files that list segments, in words."""
    return ", ".join(tree.below(path) for path in coco_files(tree, "segments_info")[:3]) or None


def read(tree: Tree) -> Source:
    """Every annotated image with its segments' classes. Crowds are no label. Raises InputError."""
    files = coco_files(tree, "segments_info")
    tables = {path: read_json(path) for path in files}
    categories = Categories(tables)
    finder, missing = PhotoFinder(tree), []
    found: list[tuple[Path, Path, Path, list[dict[str, Any]]]] = []
    for path, table in tables.items():
        with blaming(path, "its list of images"):
            images = {image["id"]: image["file_name"] for image in table["images"]}
            for one in table["annotations"]:
                photo = finder.find(images[one["image_id"]], path)
                # Photo and segments may have one name: the segments lie in a folder called as the JSON file.
                drawn = finder.find(f"{path.stem}/{one['file_name']}", path)
                if photo is None or drawn is None or photo == drawn:
                    missing.append(str(images[one["image_id"]] if photo is None else one["file_name"]))
                else:
                    found.append((photo, path, drawn, one["segments_info"]))
    if not found:
        raise InputError(
            f"{files[0]}: photos and segment PNGs that it names aren't in {tree.root}, such as "
            f"{missing[0] if missing else 'any'}; unpack them there"
        )
    examples = [
        Example(one, photo, partial(_draw, path, drawn, segments, categories.values), subset_of(tree.below(path)))
        for one, (photo, path, drawn, segments) in zip(ids_of(tree, [f[0] for f in found]), found, strict=True)
    ]
    left = (f"left out: {listed(len(missing), 'photos without their files', missing[0])}",) if missing else ()
    return Source(examples, categories.names, left)


def _draw(
    path: Path, drawn: Path, segments: list[dict[str, Any]], values: dict[int, int], size: tuple[int, int]
) -> Drawing:
    colours = read_image(drawn, MAX_PIXELS).astype(np.int64)
    numbers, places = np.unique(colours @ np.array([1, 256, 256**2]), return_inverse=True)
    with blaming(path, f"the segments of {drawn.name}"):
        value = {
            int(one["id"]): NO_LABEL if one.get("iscrowd") else values[int(one["category_id"])] for one in segments
        }
    if unknown := [int(n) for n in numbers if n and int(n) not in value]:
        raise BadSample(f"{drawn}: segment {unknown[0]} isn't listed in {path.name}; export both anew")
    table = np.array([value.get(int(n), 0) for n in numbers], np.int32)
    return Drawing(table[places].reshape(colours.shape[:2]))
