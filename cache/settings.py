"""The base of every settings table. Imports nothing of this project.

Every stage and part owns its settings as a subclass of `Settings`; `pipeline.config` composes them
into a preset. A field that only says *where* something is (a path) is annotated `PathSetting`: it never enters
a fingerprint; what is found there enters by its digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict

IGNORE = 255
"""Ignore index: excluded from loss and metrics (method.md, symbols)."""


@dataclass(frozen=True)
class _PathMark:
    """Marks a field as a location."""


PathSetting = Annotated[str, _PathMark()]


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

    def fingerprint_fields(self) -> dict[str, Any]:
        """The fields that change numbers, as plain JSON types: everything but `PathSetting` fields."""
        hidden = {k for k, f in type(self).model_fields.items() if any(isinstance(m, _PathMark) for m in f.metadata)}
        return self.model_dump(mode="json", exclude=hidden)
