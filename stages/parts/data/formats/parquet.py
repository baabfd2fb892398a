"""Hugging Face parquet files: a row an example, one column of photos and one of masks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

from cache.errors import InputError
from stages.parts.data.formats.base import Example, Packed, Source, Tree, blaming, class_name, subset_of
from stages.parts.data.formats.drawing import Drawing
from stages.parts.data.formats.pairs import names_beside, says_mask
from stages.parts.data.id_lists import PHOTOS
from stages.parts.data.images import MAX_BYTES, MAX_PIXELS, BadSample, read_mask

TITLE = "Hugging Face parquet"


def recognise(tree: Tree) -> str | None:
    """The parquet files, in words."""
    files = tree.ending(".parquet")
    return f"{tree.below(files[0])} and {len(files) - 1} more" if files else None


def read(tree: Tree) -> Source:
    """Every row with its photo and mask; the masks' values stay as they are. Raises InputError."""
    files = tree.ending(".parquet")
    examples: list[Example] = []
    names: Mapping[int, str] = names_beside(tree)
    for path in files:
        table = _open(path)
        photo, mask = _columns(path, table)
        names = names or _names(table, mask)
        for group in range(table.num_row_groups):
            for row in range(table.metadata.row_group(group).num_rows):
                cell = partial(_cell, path, group, row)
                one = f"{path.stem.partition('-of-')[0]}_{group:03d}_{row:05d}"
                packed = Packed(partial(_bytes, cell, photo), _suffix(path, photo, group, row))
                draw = partial(_draw, cell, mask, f"{path}: row {row} of group {group}")
                examples.append(Example(one, packed, draw, subset_of(tree.below(path))))
    if not examples:
        raise InputError(f"{files[0]}: holds no row; fetch it anew")
    return Source(examples, names, raw=True)


def _open(path: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InputError(f"{path}: parquet files need pyarrow: pip install 'clip2seg[parquet]'") from error
    try:
        return ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise InputError(f"{path}: can't be read ({str(error).splitlines()[0]}); fetch it anew") from error


def _columns(path: Path, table: Any) -> tuple[str, str]:
    """The names of the columns of photos and of masks."""
    from pyarrow import types

    pictures = [f.name for f in table.schema_arrow if types.is_struct(f.type) or types.is_binary(f.type)]
    masks = [name for name in pictures if says_mask(name)]
    photos = [name for name in pictures if name not in masks]
    if len(masks) != 1 or len(photos) != 1:
        raise InputError(
            f"{path}: its picture columns are {', '.join(pictures) or 'none'}; there must be one of photos and one "
            "that is called mask, label or annotation"
        )
    return photos[0], masks[0]


def _names(table: Any, mask: str) -> Mapping[int, str]:
    """Class names that the data set's own description gives its masks, where it does."""
    try:
        about = json.loads((table.schema_arrow.metadata or {})[b"huggingface"])
        names = about["info"]["features"][mask]["names"]
        return {value: class_name(name) for value, name in enumerate(names)}
    except (KeyError, TypeError, ValueError):
        return {}


@lru_cache(maxsize=2)
def _group(path: Path, group: int) -> Any:
    # Rows are asked for in order: the group in hand is decoded once.
    with blaming(path, f"its row group {group}"):
        return _open(path).read_row_group(group)


def _cell(path: Path, group: int, row: int, column: str) -> dict[str, Any]:
    value = _group(path, group).column(column)[row].as_py()
    if isinstance(value, bytes):
        return {"bytes": value}
    if not isinstance(value, dict) or not isinstance(value.get("bytes"), bytes):
        raise BadSample(f"{path}: row {row} of group {group} holds no picture in {column!r}; fetch the files anew")
    return value


def _bytes(cell: partial[dict[str, Any]], column: str) -> bytes:
    data: bytes = cell(column)["bytes"]
    if len(data) > MAX_BYTES:
        raise BadSample(f"a picture in {column!r} has more than {MAX_BYTES} bytes; leave it out")
    return data


def _suffix(path: Path, photo: str, group: int, row: int) -> str:
    """The ending that a photo's bytes ask for, by the name or the first bytes in its cell."""
    cell = _cell(path, group, row, photo)
    named = PurePosixPath(str(cell.get("path") or "")).suffix.lower()
    return named if named in PHOTOS else ".png" if cell["bytes"][:4] == b"\x89PNG" else ".jpg"


def _draw(cell: partial[dict[str, Any]], column: str, where: str, size: tuple[int, int]) -> Drawing:
    return Drawing(read_mask(Path(where), MAX_PIXELS, _bytes(cell, column)))
