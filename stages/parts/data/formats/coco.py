"""COCO JSON: objects as polygons or run lengths, `instances_*.json` or one `_annotations.coco.json` a folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cache.errors import InputError
from stages.parts.data.formats.base import (
    Example,
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
from stages.parts.data.formats.drawing import NO_LABEL, Drawing, Region, compose, decode_runs, polygon, union
from stages.parts.data.images import BadSample

TITLE = "COCO JSON"
_FEW = 20
"""A folder with more JSON files than this holds one for each photo, which isn't COCO."""


def recognise(tree: Tree) -> str | None:
    """The files that hold COCO's objects, in words."""
    files = coco_files(tree, "segmentation")
    return ", ".join(tree.below(path) for path in files[:3]) or None


def read(tree: Tree) -> Source:
    """Every image that the files name, with its objects. Crowds are no label. Raises InputError."""
    files = coco_files(tree, "segmentation")
    tables = {path: read_json(path) for path in files}
    categories = Categories(tables)
    finder, missing, boxes = PhotoFinder(tree), [], 0
    found: list[tuple[Path, Path, dict[str, Any], list[dict[str, Any]]]] = []
    for path, table in tables.items():
        with blaming(path, "its list of images"):
            objects: dict[Any, list[dict[str, Any]]] = {}
            for one in table["annotations"]:
                objects.setdefault(one["image_id"], []).append(one)
                boxes += not one.get("segmentation")
            for image in table["images"]:
                photo = finder.find(image["file_name"], path)
                if photo is None:
                    missing.append(str(image["file_name"]))
                else:
                    found.append((photo, path, image, objects.get(image["id"], [])))
    if not found and not missing:
        raise InputError(f"{files[0]}: lists no image; export it anew")
    if not found:
        raise InputError(f"{files[0]}: none of its {len(missing)} photos is in {tree.root}, such as {missing[0]!r}")
    notes = [*categories.notes]
    if missing:
        notes.append(f"left out: {listed(len(missing), 'photos that are not in the folder', missing[0])}")
    if boxes:
        notes.append(f"left out: {boxes} objects with a box alone: nothing says which of its pixels they cover")
    once = {entry[0]: entry for entry in found}  # a photo in two files: the later one
    examples = [
        Example(one, photo, partial(_draw, path, image, rows, categories.values), subset_of(tree.below(path)))
        for one, (photo, path, image, rows) in zip(ids_of(tree, list(once)), once.values(), strict=True)
    ]
    return Source(examples, categories.names, tuple(notes))


def coco_files(tree: Tree, key: str) -> list[Path]:
    """The JSON files whose annotations have `key`; `instances_*` alone where there are such ones."""
    many = Counter(path.parent for path in tree.ending(".json"))
    files = [path for path in tree.ending(".json") if many[path.parent] <= _FEW]
    named = [path for path in files if path.name.startswith("instances")] if key == "segmentation" else []
    return [path for path in named or files if _holds(path, key)]


def _holds(path: Path, key: str) -> bool:
    try:
        table = read_json(path)
    except BadSample:
        # Read all the same where it is the only thing there: then its fault is what the user must hear of.
        return path.name.startswith(("instances", "_annotations") if key == "segmentation" else "panoptic")
    if not isinstance(table, dict) or not isinstance(table.get("images"), list):
        return False
    rows = table.get("annotations")
    if not rows:
        return key == "segmentation" and rows is not None
    return isinstance(rows, list) and isinstance(rows[0], dict) and key in rows[0]


class Categories:
    """The classes of several COCO files: alike where their names are."""

    def __init__(self, tables: dict[Path, Any]) -> None:
        self.notes: list[str] = []
        found: dict[int, str] = {}
        used: set[int] = set()
        groups: set[str] = set()
        for path, table in tables.items():
            with blaming(path, "its list of categories"):
                for one in table["categories"]:
                    name, number = class_name(one["name"]), int(one["id"])
                    if found.setdefault(number, name) != name:
                        raise InputError(
                            f"{path}: category {number} is {name!r} here and {found[number]!r} in another file; make "
                            "their categories one list"
                        )
                    groups.add(class_name(one.get("supercategory", "")))
                rows = [segment for one in table["annotations"] for segment in one.get("segments_info", [one])]
                used |= {one["category_id"] for one in rows if isinstance(one, dict) and "category_id" in one}
        # Roboflow lists the data set itself as category 0, which no object is of.
        ordered = [(number, name) for number, name in sorted(found.items()) if number in used or name not in groups]
        value, self.names = numbered([name for _, name in ordered])
        self.values = {number: value[name] for number, name in ordered}
        """Value of each category id."""


def _draw(
    path: Path, image: dict[str, Any], objects: Sequence[dict[str, Any]], values: dict[int, int], size: tuple[int, int]
) -> Drawing:
    check_size(path, image, size)
    regions = []
    for one in objects:
        with blaming(path, f"object {one.get('id')} of image {image.get('id')}"):
            if not one.get("segmentation"):
                continue
            value = NO_LABEL if one.get("iscrowd") else values[int(one["category_id"])]
            region = _region(value, one["segmentation"], size)
            regions += [region] if region is not None else []
    return compose(regions, size)


def _region(value: int, segmentation: Any, size: tuple[int, int]) -> Region | None:
    if isinstance(segmentation, dict):
        if tuple(segmentation["size"]) != size:
            raise ValueError(f"run lengths for {segmentation['size']}")
        return Region(value, 0, 0, decode_runs(segmentation["counts"], size))
    parts = [list(zip(part[::2], part[1::2], strict=True)) for part in segmentation]
    return union([polygon(value, part, size) for part in parts if len(part) > 2])
