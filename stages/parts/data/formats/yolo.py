"""YOLO segmentation: a text file a photo, each line a class number and a polygon in parts of the photo's sides."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from cache.errors import InputError
from stages.parts.data.formats.base import (
    Example,
    Source,
    Tree,
    blaming,
    class_name,
    ids_of,
    listed,
    numbered,
    read_text,
    subset_of,
)
from stages.parts.data.formats.drawing import Drawing, compose, polygon
from stages.parts.data.images import BadSample

TITLE = "YOLO segmentation"
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_LINE = re.compile(rf"\d{{1,5}}(?:\s+{_NUMBER}){{4,}}\s*")
_BOX = 4
"""Numbers after the class of a line that is a box."""
_MAX_CLASSES = 60_000


def recognise(tree: Tree) -> str | None:
    """The first label file and how many there are, in words."""
    files = _label_files(tree)
    first = next((path for path in files[:50] if _fits(path)), None)
    return f"{tree.below(first)} and {len(files) - 1} more" if first else None


def _label_files(tree: Tree) -> list[Path]:
    """Text files that bear a photo's name, in `labels` beside `images` or beside the photo itself."""
    photos = {_label_path(path) for path in tree.photos} | {path.with_suffix(".txt") for path in tree.photos}
    return [path for path in tree.ending(".txt") if path in photos]


def _label_path(photo: Path) -> Path:
    """The last `images` of the path made `labels`, the ending .txt."""
    parts = list(photo.with_suffix(".txt").parts)
    for i in reversed(range(len(parts) - 1)):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(*parts)


def _fits(path: Path) -> bool:
    try:
        lines = read_text(path).splitlines()
    except BadSample:
        return False
    return any(line.strip() for line in lines) and all(_LINE.fullmatch(line) for line in lines if line.strip())


def read(tree: Tree) -> Source:
    """Every photo in a folder with label files; one without its own file shows nothing. Raises InputError."""
    files = set(_label_files(tree))
    folders = {path.parent for path in files}
    # Beside masks or sketches of the same names, photos are those in a folder that has labels.
    photos = [p for p in tree.photos if {_label_path(p).parent, p.parent} & folders]
    own, notes = _names(tree)
    highest, boxes, polygons = _classes(files)
    if highest is None or not polygons:
        what = f"{boxes} boxes, which don't say which of their pixels an object covers" if boxes else "no polygon"
        raise InputError(f"{tree.root}: its YOLO labels hold {what}; export segmentation polygons")
    if boxes:
        notes.append(f"left out: {boxes} boxes, which don't say which of their pixels an object covers")
    value, names, unnamed = _values(own, highest)
    if unnamed:
        notes.append(f"{len(unnamed)} classes have no name: neither data.yaml nor classes.txt gives one")
    without = [p for p in photos if not {_label_path(p), p.with_suffix(".txt")} & files]
    if without:
        notes.append(listed(len(without), "photos have no label file: nothing is labelled there", without[0].name))
    examples = [
        Example(one, photo, partial(_draw, _own_file(photo, files), value), subset_of(tree.below(photo.parent)))
        for one, photo in zip(ids_of(tree, photos), photos, strict=True)
    ]
    return Source(examples, names, tuple(notes), unnamed=unnamed)


def _values(own: dict[int, str], highest: int) -> tuple[dict[int, int], dict[int, str], dict[int, str]]:
    """Value of each class number, names by value, and what is known of values without a name."""
    numbers = range(highest + 1)
    if not own:
        return {k: k + 1 for k in numbers}, {}, {k + 1: f"class {k} of the YOLO labels" for k in numbers}
    for k in numbers:
        own.setdefault(k, f"class {k}")
    by_name, names = numbered([own[k] for k in sorted(own)])
    return {k: by_name[own[k]] for k in own}, names, {}


def _own_file(photo: Path, files: set[Path]) -> Path | None:
    return next((p for p in (_label_path(photo), photo.with_suffix(".txt")) if p in files), None)


def _classes(files: set[Path]) -> tuple[int | None, int, int]:
    """The highest class number, and how many lines are boxes and polygons. Damaged lines are their photo's matter."""
    highest, boxes, polygons = None, 0, 0
    for path in files:
        try:
            lines = read_text(path).splitlines()
        except BadSample:
            continue
        for line in filter(_LINE.fullmatch, lines):
            numbers = line.split()
            boxes += len(numbers) - 1 == _BOX
            polygons += len(numbers) - 1 > _BOX
            highest = max(highest or 0, int(numbers[0]))
    if highest is not None and highest > _MAX_CLASSES:
        raise InputError(
            f"YOLO labels with class {highest}; at most {_MAX_CLASSES} are possible: check the label files"
        )
    return highest, boxes, polygons


def _names(tree: Tree) -> tuple[dict[int, str], list[str]]:
    """Class names by number, from the folder's data.yaml (also under another name) or classes.txt."""
    for path in tree.ending(".yaml", ".yml"):
        table = _yaml(path)
        names = table.get("names") if isinstance(table, dict) else None
        if isinstance(names, list):
            names = dict(enumerate(names))
        if isinstance(names, dict) and names:
            with blaming(path, "its names"):
                return {int(k): class_name(v) for k, v in names.items()}, [f"names from {tree.below(path)}"]
    for path in tree.files:
        if path.name in ("classes.txt", "obj.names") and (lines := read_text(path).split("\n")):
            return {k: class_name(v) for k, v in enumerate(lines) if v.strip()}, [f"names from {tree.below(path)}"]
    return {}, []


def _yaml(path: Path) -> Any:
    import yaml  # needed for this format alone

    try:
        return yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise InputError(f"{path}: isn't valid YAML ({str(error).splitlines()[0]}); correct it") from error


def _draw(path: Path | None, value: dict[int, int], size: tuple[int, int]) -> Drawing:
    regions = []
    for number, line in enumerate(read_text(path).splitlines() if path else (), 1):
        if not line.strip():
            continue
        where = f"line {number}"
        if not _LINE.fullmatch(line) or len(line.split()) % 2 == 0:
            raise BadSample(f"{path}: {where} is {line[:40]!r}; write a class number and x y for each corner")
        first, *numbers = line.split()
        if len(numbers) == _BOX:
            continue
        with blaming(path or Path(), where):
            region = polygon(value[int(first)], _corners([float(n) for n in numbers], size), size)
            regions += [region] if region is not None else []
    return compose(regions, size)


def _corners(numbers: Sequence[float], size: tuple[int, int]) -> list[tuple[float, float]]:
    if max(map(abs, numbers)) > 2:
        raise ValueError(f"{max(numbers)} isn't a part of the photo's side: coordinates lie between 0 and 1")
    height, width = size
    return [(x * width, y * height) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
