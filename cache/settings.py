"""The base of every settings table. Imports nothing of this project.

Every stage and part owns its settings as a subclass of `Settings`; `pipeline.config` composes them
into a preset. Every field enters the fingerprint of its table unless its annotation says otherwise: `Apart`, with
the reason, and `PathSetting` for a location, where what is found there enters by its digest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict

IGNORE = 255
"""Ignore index: excluded from loss and metrics (method.md, symbols). Of labels in 16 bits it is `WIDE_IGNORE`."""

WIDE_IGNORE = 65535
MOST_IN_A_BYTE = 254
"""So many classes fit in 8 bits beside `IGNORE`; labels of more have 16."""


def ignore_index(classes: int) -> int:
    """What "no label" is in labels of so many classes: 255, or 65535 in the 16 bits of more than 254."""
    return IGNORE if classes <= MOST_IN_A_BYTE else WIDE_IGNORE


@dataclass(frozen=True)
class Apart:
    """Marks a field that its table's fingerprint leaves out. `why`: it changes no number, or enters elsewhere."""

    why: str


@dataclass(frozen=True)
class PathMark(Apart):
    """Marks a field as a location."""

    why: str = "what lies there enters by its digest"


PathSetting = Annotated[str, PathMark()]


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
        """The fields that change numbers, as plain JSON types: all that are not marked `Apart`."""
        return self._without(Apart)

    def described_fields(self) -> dict[str, Any]:
        """All fields but locations, as plain JSON types: what may be shown anywhere."""
        return self._without(PathMark)

    def _without(self, mark: type[Apart]) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude=self.marked(mark))

    @classmethod
    def marked(cls, mark: type[Apart]) -> set[str]:
        """The names of the fields that bear a mark."""
        return {k for k, f in cls.model_fields.items() if any(isinstance(m, mark) for m in f.metadata)}
