"""Image folders of Hugging Face `datasets`: metadata.csv or metadata.jsonl with a photo and a mask on each line."""

from __future__ import annotations

import json
import os
from functools import partial
from pathlib import Path

from cache.errors import InputError
from stages.parts.data.formats.base import Example, Source, Tree, ids_of, listed, read_text, subset_of
from stages.parts.data.formats.pairs import csv_rows, names_beside, raw_mask, says_mask
from stages.parts.data.images import BadSample

TITLE = "Hugging Face image folder"
_PHOTO = ("file_name", "image_file_name", "image")


def recognise(tree: Tree) -> str | None:
    """The metadata files that name masks, in words."""
    found = [path for path in _metadata(tree) if _columns(path)]
    return ", ".join(tree.below(path) for path in found[:3]) or None


def _metadata(tree: Tree) -> list[Path]:
    return [path for path in tree.files if path.name in ("metadata.csv", "metadata.jsonl")]


def _columns(path: Path) -> tuple[str, str] | None:
    """The names of the columns of photos and of masks; None where there are no such ones."""
    try:
        rows = _rows(path)
    except BadSample:
        return _PHOTO[0], "mask_file_name"  # its fault is what the user must hear of
    if not rows:
        return None
    photo = next((name for name in _PHOTO if name in rows[0]), None)
    mask = next((name for name in rows[0] if name not in _PHOTO and says_mask(name)), None)
    return (photo, mask) if photo and mask else None


def _rows(path: Path) -> list[dict[str, str]]:
    if path.suffix == ".csv":
        head, *rows = csv_rows(path) or [[]]
        return [dict(zip(head, row, strict=False)) for row in rows]
    found = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        try:
            row = json.loads(line) if line.strip() else {}
        except (ValueError, RecursionError) as error:
            raise BadSample(f"{path}: line {number} isn't valid JSON; correct it") from error
        if not isinstance(row, dict):
            raise BadSample(f"{path}: line {number} is no table of names and values; correct it")
        found += [{str(k): str(v) for k, v in row.items()}] if row else []
    return found


def read(tree: Tree) -> Source:
    """Every photo that the metadata give a mask; the masks' values stay as they are. Raises InputError."""
    files, pairs, lacking = set(tree.files), [], []
    for path in _metadata(tree):
        if (columns := _columns(path)) is None:
            continue
        for row in _rows(path):
            photo, mask = (Path(os.path.normpath(path.parent / row.get(name, ""))) for name in columns)
            if photo in files and mask in files:
                pairs.append((photo, mask))
            else:
                lacking.append(row.get(columns[0], "a line without a photo"))
    if not pairs:
        raise InputError(f"{tree.root}: its metadata name files that aren't there, such as {(lacking or ['any'])[0]}")
    examples = [
        Example(one, photo, partial(raw_mask, mask), subset_of(tree.below(photo.parent)))
        for one, (photo, mask) in zip(ids_of(tree, [photo for photo, _ in pairs]), pairs, strict=True)
    ]
    first = next(iter(lacking), "")
    notes = (f"left out: {listed(len(lacking), 'lines whose photo or mask is not there', first)}",)
    return Source(examples, names_beside(tree), notes if lacking else (), raw=True)
