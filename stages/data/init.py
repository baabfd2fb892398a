"""`clip2seg data init`: looks at a folder of photos and masks and writes what a run on it needs.

reads: FOLDER/images + FOLDER/masks (or the VOC layout) | writes: FOLDER/classes.toml, FOLDER/<name>.toml
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cache.errors import InputError
from cache.settings import IGNORE
from stages.parts.data.images import MAX_PIXELS, BadSample, image_size, read_mask
from stages.parts.data.layouts import LAYOUTS, LayoutName, Record, locate
from stages.parts.data.proposals import ClassCount, preset_toml, propose_unseen, propose_val, vocabulary_toml
from stages.running.progress import Bar

VOCABULARY = "classes.toml"
_NAMED = 3


@dataclass(frozen=True)
class InitReport:
    """Result of `init`."""

    preset: Path
    vocabulary: Path
    train: int
    val: int
    classes: tuple[ClassCount, ...]
    unseen: tuple[str, ...]
    unnamed: tuple[int, ...]
    """Mask values without a name: the user has to give them one."""
    bad: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """The report as JSON."""
        return {**vars(self), "classes": [vars(c) for c in self.classes]}

    def text(self) -> str:
        """The report as lines for a terminal, with what to do next."""
        width = max(len(c.name) for c in self.classes)
        lines = [f"{self.train} training and {self.val} evaluation photos, {len(self.classes)} mask values"]
        lines.append(f"{'value':>5} {'class':<{width}} {'train images':>12} {'pixels':>11} {'val images':>10}")
        for c in self.classes:
            mark = "  proposed as unseen" if c.name in self.unseen else ""
            lines.append(
                f"{c.value:>5} {c.name:<{width}} {c.train_images:>12} {c.train_pixels:>11,} {c.val_images:>10}{mark}"
            )
        lines += [f"left out: {line}" for line in self.bad[:_NAMED]]
        if len(self.bad) > _NAMED:
            lines.append(f"left out: ... and {len(self.bad) - _NAMED} more")
        lines.append(f"wrote {self.vocabulary} and {self.preset}")
        if self.unnamed:
            lines.append(
                f"next: name the classes in {self.vocabulary}: CLIP reads the names, and {len(self.unnamed)} of them "
                "only repeat the mask's value"
            )
        lines.append(f"next: clip2seg data check {self.preset}")
        return "\n".join(lines)


def init(folder: str, *, names: str = "", teacher: str = "", weights: str = "", force: bool = False) -> InitReport:
    """Counts every mask value and writes `classes.toml` with a proposed unseen split, and a commented preset.

    names: a text file with a value and a name on each line; without it, `FOLDER/names.txt`, else values are their
    own names. Where a folder has no lists, `train.txt` and `val.txt` are written too (`propose_val`). Raises
    InputError, and writes nothing, where the folder isn't such a data set or was initialised before (`force`).
    """
    root = Path(folder).expanduser()
    layout, lists = _layout(root)
    preset, vocabulary = root / f"{_slug(root)}.toml", root / VOCABULARY
    for path in (preset, vocabulary):
        if path.exists() and not force:
            raise InputError(f"{path}: is there already; edit it, or give --force to replace it")
    named = _names(root, names)
    source = {"train": lists[0], "val": lists[1]}
    train, val = (locate(LAYOUTS[layout], root, source, s) for s in ("train", "val"))  # type: ignore[arg-type]
    if missing := [*train.missing, *val.missing]:
        raise InputError(f"{missing[0]} ({len(missing)} files missing); photos and masks must bear the same names")
    bad: list[str] = []
    masks = _counted([*train.records, *val.records], bad)
    deal = layout == "folder" and not any((root / f"{name}.txt").exists() for name in lists)
    on_val = propose_val(masks) if deal else {r.id for r in val.records}
    values = sorted({v for mask in masks.values() for v in mask} - {IGNORE})
    if not values:
        raise InputError(f"{root}: no mask holds anything but 255{'; ' + bad[0] if bad else ''}")
    if len(values) > 254:
        raise InputError(f"{root}: masks hold {len(values)} values, at most 254 can be classes; are they label masks?")
    background = 0 if 0 in values and 0 not in named and len(values) > 1 else None
    classes = tuple(_class(v, named, masks, on_val) for v in values if v != background)
    doubled = next((c.name for c in classes if sum(c.name == d.name for d in classes) > 1), None)
    if doubled is not None:
        raise InputError(f"class name {doubled!r} is given to two mask values; names must differ")
    unseen = propose_unseen(classes)
    report = InitReport(
        preset,
        vocabulary,
        len(masks.keys() - on_val),
        len(masks.keys() & on_val),
        classes,
        unseen,
        tuple(c.value for c in classes if c.value not in named),
        tuple(bad),
    )
    if deal:
        for name, ids in (("train", masks.keys() - on_val), ("val", on_val)):
            (root / f"{name}.txt").write_text("".join(f"{one}\n" for one in sorted(ids)), encoding="utf-8")
    # The preset last: where it is, everything it names is there.
    vocabulary.write_text(vocabulary_toml(classes, unseen, background), encoding="utf-8")
    preset.write_text(preset_toml(report.train, layout, VOCABULARY, lists, teacher, weights), encoding="utf-8")
    return report


def _counted(records: list[Record], bad: list[str]) -> dict[str, dict[int, int]]:
    """Pixels of each mask value of each usable photo."""
    masks: dict[str, dict[int, int]] = {}
    with Bar("data init", len(records), "masks") as bar:
        for record in records:
            bar.advance()
            try:
                mask = read_mask(record.mask, MAX_PIXELS)
                size = image_size(record.image, MAX_PIXELS)
                if mask.shape != size:
                    raise BadSample(f"{record.mask}: mask and photo differ in size ({mask.shape} and {size})")
            except BadSample as error:
                bad.append(str(error))
                continue
            values, pixels = np.unique(mask, return_counts=True)
            masks[record.id] = dict(zip(values.tolist(), pixels.tolist(), strict=True))
    return masks


def _class(value: int, named: dict[int, str], masks: Mapping[str, Mapping[int, int]], on_val: set[str]) -> ClassCount:
    shown = {one: mask[value] for one, mask in masks.items() if value in mask}
    train, val = [n for one, n in shown.items() if one not in on_val], [n for one, n in shown.items() if one in on_val]
    largest = max(shown, key=lambda one: (shown[one], one))
    return ClassCount(value, named.get(value, f"class {value}"), len(train), sum(train), len(val), sum(val), largest)


def _layout(root: Path) -> tuple[LayoutName, tuple[str, str]]:
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give the folder that holds images/ and masks/")
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return "folder", ("train", "val")
    if (root / "JPEGImages").is_dir():
        lists = {p.stem for p in (*root.glob("ImageSets/*.txt"), *root.glob("ImageSets/Segmentation/*.txt"))}
        if "val" in lists and lists & {"train", "train_aug"}:
            return "voc", ("train_aug" if "train_aug" in lists else "train", "val")
    there = ", ".join(sorted(p.name for p in root.iterdir() if not p.name.startswith("."))[:6]) or "nothing"
    raise InputError(
        f"{root}: holds {there}; put the photos in {root.name}/images and the masks, with the same names, in "
        f"{root.name}/masks"
    )


def _names(root: Path, names: str) -> dict[int, str]:
    """Class names by mask value from a file of lines `VALUE NAME` (also `VALUE: NAME`, `VALUE,NAME`)."""
    path = Path(names).expanduser() if names else root / "names.txt"
    if not names and not path.is_file():
        return {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: can't be read as text; write a value and a name on each line") from error
    found: dict[int, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.fullmatch(r"\s*(\d{1,5})\s*[:,;=\s]\s*(\S.*?)\s*", line)
        if match is None:
            raise InputError(f"{path}: line {number} is {line[:60]!r}; write a value and a name, as in `12 sheep`")
        value, name = int(match[1]), match[2]
        if value in found:
            raise InputError(f"{path}: line {number}: value {value} is named twice")
        if not name.isprintable() or set(name) & set("<>/\\") or name.startswith(".") or len(name) > 100:
            raise InputError(f"{path}: line {number}: {name[:60]!r} is no class name; use plain words")
        found[value] = name
    return found


def _slug(root: Path) -> str:
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", root.resolve().name).strip("_").lower()
    return plain if plain and plain != "classes" else "my_data"
