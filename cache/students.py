"""A run's student as bytes that are what training wrote: every reader of a student goes through here."""

from __future__ import annotations

import hashlib

from cache.errors import InputError
from cache.location import Location, StoreError

FILE = "student.safetensors"
"""The student's name in a run's folder."""


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
