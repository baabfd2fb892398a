"""The header of a safetensors file, read within bounds and without torch: what a student or a training state says.

A file is 8 bytes of length, that many bytes of JSON, then the tensors. Files come from anywhere, so the length is
a claim until it was checked.
"""

from __future__ import annotations

import json
from typing import Any

from cache.location import Location, StoreError

LARGEST = 2**24
"""Most bytes of a header that is read: the largest student's has some 200 kB."""
METADATA = "__metadata__"
KEY = "clip2seg"
"""Our own entry in a file's metadata: a JSON object, as text."""


def header_of(data: bytes) -> dict[str, Any]:
    """The whole header from a file's bytes, or from its start alone: tensor name -> dtype, shape, data_offsets.

    Raises ValueError where it is none, or longer than `LARGEST`.
    """
    size = header_size(data)
    if len(data) < 8 + size:
        raise ValueError("it ends within its header")
    return _table(data[8 : 8 + size])


def header_size(data: bytes) -> int:
    """Bytes of the JSON header. Raises ValueError for a start that is no header's."""
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= size <= LARGEST:
        raise ValueError("it doesn't begin with a header")
    return size


def about_of(data: bytes) -> dict[str, Any]:
    """What clip2seg wrote into a file's header (`KEY`). Raises ValueError where it wrote nothing."""
    said = header_of(data).get(METADATA)
    text = said.get(KEY) if isinstance(said, dict) else None
    if not isinstance(text, str):
        raise ValueError("its header holds nothing of clip2seg")
    return _table(text)


def about_at(at: Location, name: str) -> dict[str, Any] | None:
    """`about_of` an object of a store, of which the header alone is read; None where there is no such object.

    Raises StoreError where it is none of ours, or can't be read.
    """
    size = at.size(name)
    if size is None:
        return None
    try:
        length = header_size(at.get_start(name, min(size, 8)))
        return about_of(at.get_start(name, min(size, 8 + length)))
    except ValueError as error:
        raise StoreError(f"{at}/{name}: damaged ({error}); run `clip2seg cache verify --repair`, then train") from error


def _table(text: bytes | str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except RecursionError as error:
        raise ValueError("its header is nested without end") from error
    if not isinstance(found, dict):
        raise ValueError("its header is no table")
    return found
