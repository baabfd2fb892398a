"""Fingerprints of settings and digests of files: what an address is made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cache.errors import InputError


def fingerprint(ingredients: Any) -> str:
    """Eight hex digits that name `ingredients` (any JSON value): equal ingredients, equal name."""
    text = json.dumps(ingredients, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def file_digest(path: Path) -> str:
    """sha256 (64 hex digits) of a file's bytes. Raises InputError where it can't be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror}); check the path") from error


def folder_digest(folder: Path, names: Iterable[str]) -> str:
    """sha256 over the digests of the named files of a folder, in the order given."""
    return hashlib.sha256("".join(file_digest(folder / n) for n in names).encode()).hexdigest()
