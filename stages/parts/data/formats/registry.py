"""The annotation formats that can be imported, and which of them a folder holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType, ModuleType

from cache.errors import InputError, nearest
from stages.parts.data.formats import (
    coco,
    coco_panoptic,
    colours,
    image_folder,
    labelme,
    matlab,
    objects,
    pairs,
    parquet,
    webdataset,
    yolo,
)
from stages.parts.data.formats.base import Source, Tree

_MODULES = (
    coco,
    coco_panoptic,
    labelme,
    yolo,
    colours,
    objects,
    matlab,
    image_folder,
    parquet,
    webdataset,
    pairs,
)

FORMATS: Mapping[str, ModuleType] = MappingProxyType({m.__name__.rpartition(".")[2]: m for m in _MODULES})
"""Format by name: each has TITLE, `recognise(tree) -> str | None` (its evidence) and `read(tree) -> Source`."""


@dataclass(frozen=True)
class Found:
    """A format that a folder seems to hold."""

    name: str
    title: str
    evidence: str
    """The files that speak for it."""

    def __str__(self) -> str:
        return f"{self.title} ({self.evidence})"


def recognise(tree: Tree) -> list[Found]:
    """Every format whose marks lie in the folder."""
    found = ((name, module, module.recognise(tree)) for name, module in FORMATS.items())
    marks = [Found(name, module.TITLE, evidence) for name, module, evidence in found if evidence]
    # Photos and masks are the plainest form: what is found besides them says more of the same files.
    return [mark for mark in marks if mark.name != "pairs"] or marks


def choose(tree: Tree, name: str = "") -> Found:
    """The format called `name`, or the one that the folder holds. Raises InputError where that is none or several."""
    if name and name not in FORMATS:
        raise InputError(f"--format {name}: no such format{nearest(name, FORMATS)}; one of {', '.join(FORMATS)}")
    if name:
        return Found(name, FORMATS[name].TITLE, FORMATS[name].recognise(tree) or "named by --format")
    found = recognise(tree)
    if not found:
        raise InputError(
            f"{tree.root}: {what_lies_there(tree)}; none of {', '.join(m.TITLE for m in FORMATS.values())}"
        )
    if len(found) > 1:
        raise InputError(
            f"{tree.root}: may be {' or '.join(map(str, found))}; give --format {' or '.join(f.name for f in found)}"
        )
    return found[0]


def read(tree: Tree, name: str) -> Source:
    """All that the format called `name` finds in the folder. Raises InputError."""
    source: Source = FORMATS[name].read(tree)
    return source


def what_lies_there(tree: Tree) -> str:
    """The folder's files in a few words, the most frequent endings first."""
    count: dict[str, int] = {}
    for path in tree.files:
        count[path.suffix.lower() or "no ending"] = count.get(path.suffix.lower() or "no ending", 0) + 1
    most = sorted(count, key=lambda ending: -count[ending])[:4]
    return "holds " + (", ".join(f"{count[e]} files {e}" for e in most) or "nothing")
