"""Settings and errors: the ground everything else stands on. Imports nothing of this project.

Every stage and part owns its settings as a subclass of `Settings`; `pipeline.config` composes them
into a preset. A field that only says *where* something is (a path) is annotated `Where`: it never enters
a fingerprint; what is found there enters by its digest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict

IGNORE = 255
"""The label of a pixel that says nothing: no loss, no score (method.md, words and shapes)."""


class InputError(Exception):
    """The user's input is at fault. One line that names the file, the value and what to do; exit code 2."""


@dataclass(frozen=True)
class _WhereMark:
    """Marks a field as a location."""


Where = Annotated[str, _WhereMark()]


class Settings(BaseModel):
    """Base of every settings table: frozen; unknown keys, wrong types and impossible values are refused."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )

    def numbers(self) -> dict[str, Any]:
        """The fields that change numbers, as plain JSON types: everything but `Where` fields."""
        hidden = {k for k, f in type(self).model_fields.items() if any(isinstance(m, _WhereMark) for m in f.metadata)}
        return self.model_dump(mode="json", exclude=hidden)


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
