"""The header of a safetensors file, read within bounds and without torch: what a student or a training state says.

A file is 8 bytes of length, that many bytes of JSON, then the tensors. Files come from anywhere, so the length is
a claim until it was checked.
"""

from __future__ import annotations

import hashlib
import math
from typing import Any

from cache.errors import InputError
from cache.location import Location, StoreError
from cache.marks import strict_json

LARGEST = 2**24
"""Most bytes of a header that is read: the largest student's has some 200 kB."""
LARGEST_DIM, LARGEST_SIDE = 2**14, 2**14
"""Largest embedding size D, and largest side of a crop in pixels."""
FILE = "student.safetensors"
"""The student's name in a run's folder."""
RUN = "run.json"
"""The mark of a run's provenance, written before its first step."""
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


def student_bytes(at: Location, name: str = FILE, *, finished: bool = False) -> bytes:
    """The file of a run's student, compared with the digest that the end of training sealed into complete.json.

    finished: refuse a run that has not ended. Raises InputError where there is no student, StoreError where it is
    another one than was sealed (a process that woke up later wrote over it, or a byte was changed).
    """
    mark, packed = at.get_mark("complete.json"), at.get(name)
    if packed is None or (finished and mark is None):
        raise InputError(f"{at}: no trained student there; run `clip2seg train` first, to its end")
    objects = mark.get("objects") if mark else None
    sealed = objects.get(name) if isinstance(objects, dict) else None
    if mark is not None and name == FILE and sealed != hashlib.sha256(packed).hexdigest():
        raise StoreError(
            f"{at}/{name}: damaged, not what training ended with; run `clip2seg cache verify --repair`, then train"
        )
    return packed


def provenance_at(run: Location) -> dict[str, Any]:
    """What a run was made from: of its own mark, there from its first step on, or of its student; {} before both.

    Raises StoreError where it makes no sense.
    """
    said = run.get_mark(RUN)
    if said is None:
        said = about_at(run, FILE) or {}
    try:
        found: dict[str, Any] = check_about(said).get("provenance", {})
    except ValueError as error:
        raise StoreError(f"{run}/{RUN}: damaged ({error}); run `clip2seg cache verify --repair`, then train") from error
    return found


def check_about(about: dict[str, Any]) -> dict[str, Any]:
    """What a student's file says, where its types and sizes can be used by whoever reads it. Raises ValueError.

    The tensors say how large the network is; here stands what is believed without them: tables are tables, names
    are text, `views.size` [pixels] and `pixel-loss.alpha` are numbers in range.
    """
    provenance = _sub(about, "provenance")
    for name in ("teacher", "versions", "ingredients"):
        _sub(provenance, name)
    for name in ("stage", "split", "split_hash", "fingerprint", "parent"):
        _wanted(isinstance(provenance.get(name, ""), str), f"provenance.{name}", "no text")
    for name, value in provenance.get("teacher", {}).items():
        _wanted(isinstance(value, str), f"provenance.teacher.{name}", "no text")
    ingredients = provenance.get("ingredients", {})
    for name, value in ingredients.items():
        _wanted(
            name in ("schema", "tokens", "latent", "concepts", "membership", "pseudo") or isinstance(value, dict),
            f"ingredients.{name}",
            "no table",
        )
    size, alpha = _sub(ingredients, "views").get("size", 512), _sub(ingredients, "pixel-loss").get("alpha", 1.0)
    _wanted(_whole(size) and 1 <= size <= LARGEST_SIDE, "views.size", f"{str(size)[:40]!r} is no side in pixels")
    _wanted(_number(alpha), "pixel-loss.alpha", f"{str(alpha)[:40]!r} is no number")
    prompts = _sub(_sub(ingredients, "text"), "words").get("prompts", [])
    _wanted(_texts(prompts) and len(prompts) < 1000, "text.words.prompts", "no list of texts")
    _sub(about, "student")
    for name in ("seen", "more"):
        _wanted(_texts(about.get(name, [])) and len(about.get(name, [])) < 2**16, name, "no list of names")
    dim, iteration = about.get("dim", 1), about.get("iteration", 0)
    _wanted(_whole(dim) and 1 <= dim <= LARGEST_DIM, "dim", f"{str(dim)[:40]!r} is no embedding size")
    _wanted(_whole(iteration) and iteration >= 0, "iteration", f"{str(iteration)[:40]!r} is no count")
    return about


def _sub(table: dict[str, Any], name: str) -> dict[str, Any]:
    found = table.get(name, {})
    _wanted(isinstance(found, dict), name, "no table")
    return dict(found)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value < 2**53


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _wanted(fine: bool, entry: str, why: str) -> None:
    if not fine:
        raise ValueError(f"{entry}: {why}")


def about_at(at: Location, name: str) -> dict[str, Any] | None:
    """`about_of` an object of a store, of which the header alone is read; None where there is no such object.

    Raises StoreError where it is none of ours, or can't be read.
    """
    size = at.size(name)
    if size is None:
        return None
    try:
        length = header_size(at.get_start(name, 8) if size >= 8 else b"")
        return check_about(about_of(at.get_start(name, min(size, 8 + length))))
    except ValueError as error:
        raise StoreError(f"{at}/{name}: damaged ({error}); run `clip2seg cache verify --repair`, then train") from error


def _table(text: bytes | str) -> dict[str, Any]:
    try:
        found = strict_json(text)
    except ValueError as error:
        raise ValueError(f"its header is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError("its header is no table")
    return found
