"""`clip2seg data init`: looks at a folder of photos and masks and writes what a run on it needs.

reads: FOLDER/images + FOLDER/masks (or the VOC layout) | writes: FOLDER/classes.toml, FOLDER/<name>.toml
"""

from __future__ import annotations

import difflib
import json
import os
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cache.errors import InputError
from cache.files import write_whole
from stages.parts.data.formats.base import list_tree
from stages.parts.data.formats.registry import recognise
from stages.parts.data.images import MAX_PIXELS, BadSample, mask_size_problem, read_mask
from stages.parts.data.layouts import LAYOUTS, LayoutName, Record, Subset, locate
from stages.parts.data.names import read_earlier, read_names
from stages.parts.data.proposals import (
    ClassCount,
    preset_toml,
    propose_unseen,
    propose_val,
    says_nothing,
    vocabulary_toml,
)
from stages.parts.data.suspicions import NO_LABEL, MaskValues, looks_binary, mask_values, suspicions
from stages.running.progress import Bar

VOCABULARY = "classes.toml"
BEGUN = ".clip2seg-lists.json"
"""What a run that writes two lists leaves until both are there."""
_NAMED = 3
_MAX_CLASSES = 254
_VAL_LISTS = ("val", "valid", "validation", "test")


@dataclass(frozen=True)
class InitReport:
    """Result of `init`."""

    preset: Path
    vocabulary: Path
    train: int
    val: int
    classes: tuple[ClassCount, ...]
    """All classes; those that no mask holds have no photo and no pixel."""
    ignored: tuple[ClassCount, ...]
    """Mask values that say nothing, named by the reason."""
    unseen: tuple[str, ...]
    unnamed: tuple[int, ...]
    """Mask values without a name: the user has to give them one."""
    warnings: tuple[str, ...]
    """What looks wrong and is used all the same."""
    bad: tuple[str, ...]

    def json(self) -> dict[str, Any]:
        """The report as JSON."""
        return {
            **vars(self),
            "classes": [vars(c) for c in self.classes],
            "ignored": [vars(c) for c in self.ignored],
        }

    def text(self) -> str:
        """The report as lines for a terminal, with what to do next."""
        rows = [*self.classes, *self.ignored]
        width = max(len(c.name) for c in rows)
        held = sum(bool(c.example) for c in rows)
        lines = [f"{self.train} training and {self.val} evaluation photos, {held} mask values"]
        lines.append(f"{'value':>5} {'class':<{width}} {'train images':>12} {'pixels':>11} {'val images':>10}")
        for c in rows:
            unseen = "  proposed as unseen" if c.example else "  in no mask: found by its name alone"
            mark = "  ignored" if c in self.ignored else unseen if c.name in self.unseen else ""
            lines.append(
                f"{c.value:>5} {c.name:<{width}} {c.train_images:>12} {c.train_pixels:>11,} {c.val_images:>10}{mark}"
            )
        lines += [f"warning: {line}" for line in self.warnings]
        lines += [f"left out: {line}" for line in self.bad[:_NAMED]]
        if len(self.bad) > _NAMED:
            lines.append(f"left out: ... and {len(self.bad) - _NAMED} more")
        vocabulary, preset = (shlex.quote(str(path)) for path in (self.vocabulary, self.preset))
        lines.append(f"wrote {vocabulary} and {preset}")
        if self.unnamed:
            lines.append(
                f"next: name the classes in {vocabulary}: CLIP reads the names, and {len(self.unnamed)} of them "
                "only repeat the mask's value"
            )
        lines.append(f"next: clip2seg data check {preset}")
        return "\n".join(lines)


def init(
    folder: str, *, names: str = "", teacher: str = "", weights: str = "", out: str = "", force: bool = False
) -> InitReport:
    """Counts every mask value and writes `classes.toml` with a proposed unseen split, and a commented preset.

    names: a text file with a value and a name on each line; without it, `FOLDER/names.txt`, else values are their
    own names. out: the folder for the two files, "" for FOLDER itself. Where a folder has no lists and is written to,
    `train.txt` and `val.txt` are written too (`propose_val`). force: replaces the files of an earlier init, whose names
    and unseen classes stay where `names` says nothing else; the earlier classes.toml becomes classes.toml.bak. Raises
    InputError, and writes nothing, where the folder isn't such a data set or was initialised before.
    """
    root = Path(folder).expanduser()
    _undo_half(root)
    layout, lists = _layout(root)
    target = Path(out).expanduser() if out else root
    preset, vocabulary = target / f"{_slug(root)}.toml", target / VOCABULARY
    for path in (preset, vocabulary):
        if path.exists() and not force:
            raise InputError(f"{path}: is there already; edit it, or give --force to replace it")
    if not os.access(target, os.W_OK) and (target.exists() or not out):
        raise InputError(f"{target}: can't be written to; give --out FOLDER for the preset and the class list")
    earlier, hidden = read_earlier(vocabulary)
    listing = Path(names).expanduser() if names else root / "names.txt"
    named = earlier | (read_names(listing) if names or listing.is_file() else {})
    source: dict[Subset, str] = {"train": lists[0], "val": lists[1]}
    train, val = (locate(LAYOUTS[layout], root, source, subset) for subset in source)
    if missing := [*train.missing, *val.missing]:
        raise InputError(f"{missing[0]} ({len(missing)} files missing); photos and masks must bear the same names")
    records = [*train.records, *val.records]
    bad: list[str] = []
    counted = _counted(records, bad)
    if not counted:
        raise InputError(f"{bad[0]} (none of the {len(records)} photos can be used)")
    if looks_binary(list(counted.values()), named):
        raise InputError(
            f'{root}: the masks hold 0 and 255 alone, and 255 means "no label"; they look binary: write '
            f"`255 THE OBJECT'S NAME` into {listing}, and `0 background` to make a class of the rest"
        )
    ignored = _ignored(counted, named)
    masks = {one: {v: n for v, n in mask.pixels.items() if v not in ignored} for one, mask in counted.items()}
    deal = train.dealt and target == root
    on_val = propose_val(masks) if deal else {r.id for r in val.records}
    suspected = suspicions(list(counted.values()), ignored)
    classes = _classes(root, masks, named, ignored, on_val, suspected)
    warnings = [*suspected, *_remarks(classes, train.unlisted, lists)]
    kept = tuple(c.name for c in classes if c.name in hidden) if hidden else None
    unseen = kept if kept and len(kept) < len(classes) else propose_unseen(classes)
    whole = {one: mask.pixels for one, mask in counted.items()}
    report = InitReport(
        preset,
        vocabulary,
        len(masks.keys() - on_val),
        len(masks.keys() & on_val),
        classes,
        tuple(_count(v, why, whole, on_val) for v, why in ignored.items() if any(v in m for m in whole.values())),
        unseen,
        tuple(c.value for c in classes if c.value not in named),
        tuple(warnings),
        tuple(bad),
    )
    target.mkdir(parents=True, exist_ok=True)
    if deal:
        _write_lists(root, {"train": masks.keys() - on_val, "val": on_val})
    if vocabulary.is_file():
        vocabulary.replace(vocabulary.with_suffix(".toml.bak"))
    # The preset last: where it is, everything it names is there.
    write_whole(vocabulary, vocabulary_toml(classes, unseen, ignored).encode())
    at = ("./", VOCABULARY) if target == root else (str(root.resolve()), str(vocabulary.resolve()))
    write_whole(preset, preset_toml(report.train, layout, at, lists, teacher, weights).encode())
    return report


def _write_lists(root: Path, lists: Mapping[str, Collection[str]]) -> None:
    """Both lists or none, also where the process is killed between them: `_undo_half` finds what it began."""
    texts = {name: "".join(f"{one}\n" for one in sorted(ids)) for name, ids in lists.items()}
    write_whole(root / BEGUN, json.dumps(texts).encode())
    for name, text in texts.items():
        write_whole(root / f"{name}.txt", text.encode())
    (root / BEGUN).unlink()


def _undo_half(root: Path) -> None:
    """Takes back the lists of a run that was killed between them; a list that was edited since stays."""
    try:
        begun = json.loads((root / BEGUN).read_bytes())
    except (OSError, ValueError):
        return
    for name in ("train", "val"):
        path = root / f"{name}.txt"
        if path.is_file() and isinstance(begun, dict) and path.read_text(encoding="utf-8") == begun.get(name):
            path.unlink()
    (root / BEGUN).unlink()


def _counted(records: Sequence[Record], bad: list[str]) -> dict[str, MaskValues]:
    """The mask values of each usable photo by id; what is wrong with the others goes to `bad`."""
    masks: dict[str, MaskValues] = {}
    with Bar("data init", len(records), "masks") as bar:
        for record in records:
            bar.advance()
            try:
                mask = read_mask(record.mask, MAX_PIXELS)
                if problem := mask_size_problem(record.mask, mask.shape, record.image, MAX_PIXELS):
                    raise BadSample(problem)
            except BadSample as error:
                bad.append(str(error))
                continue
            masks[record.id] = mask_values(mask)
    return masks


def _ignored(masks: Mapping[str, MaskValues], named: Mapping[int, str]) -> dict[int, str]:
    """Raw values that say nothing, with the reason: void by name, the highest values, unnamed background."""
    values = {v for mask in masks.values() for v in mask.pixels}
    found = {v: name for v, name in named.items() if says_nothing(name)}
    found |= {v: "no label" for v in NO_LABEL if v not in named and (v in values or v == NO_LABEL[0])}
    if 0 in values and 0 not in named and len(values - found.keys()) > 1:
        found[0] = "taken for background; a name makes it a class"
    return dict(sorted(found.items()))


def _classes(
    root: Path,
    masks: Mapping[str, Mapping[int, int]],
    named: Mapping[int, str],
    ignored: Collection[int],
    on_val: set[str],
    suspected: Sequence[str],
) -> tuple[ClassCount, ...]:
    """Every value that masks hold or somebody names, but for the ignored ones. Raises InputError."""
    held = {v for mask in masks.values() for v in mask}
    if not held:
        raise InputError(f"{root}: no mask holds anything but {', '.join(map(str, sorted(ignored)))} (no label)")
    values = sorted(held | (named.keys() - set(ignored)))
    if len(values) > _MAX_CLASSES:
        reason = suspected[0] if suspected else "are they numbers of objects, depths or colours instead of classes?"
        raise InputError(f"{root}: {len(values)} mask values, at most {_MAX_CLASSES} can be classes; {reason}")
    classes = tuple(_count(v, named.get(v, f"class {v}"), masks, on_val) for v in values)
    doubled = next((c.name for c in classes if sum(c.name == d.name for d in classes) > 1), None)
    if doubled is not None:
        raise InputError(f"class name {doubled!r} is given to two mask values; names must differ")
    return classes


def _remarks(classes: Sequence[ClassCount], unlisted: int, lists: tuple[str, str]) -> list[str]:
    """What a user should know of the classes and lists that are used all the same."""
    shown, bare = [c for c in classes if c.example], [c.name for c in classes if not c.example]
    found = []
    if len(shown) == 1:
        found.append(
            f"one class alone, {shown[0].name!r}, has labels: where no other competes, its IoU is 100 whatever the "
            "student does; name the background (`0 background`) to have it scored against"
        )
    if bare:
        few = ", ".join(bare[:5]) + (", ..." if len(bare) > 5 else "")
        found.append(
            f"{len(bare)} names stand for values that no mask holds ({few}): they are found by name and have no score"
        )
    if unlisted:
        found.append(
            f"{unlisted} photos are on neither {lists[0]}.txt nor {lists[1]}.txt and are not used; add them, or delete "
            "both lists to have them dealt anew"
        )
    return found


def _count(value: int, name: str, masks: Mapping[str, Mapping[int, int]], on_val: set[str]) -> ClassCount:
    shown = {one: mask[value] for one, mask in masks.items() if value in mask}
    train, val = [n for one, n in shown.items() if one not in on_val], [n for one, n in shown.items() if one in on_val]
    largest = max(shown, key=lambda one: (shown[one], one), default="")
    return ClassCount(value, name, len(train), sum(train), len(val), sum(val), largest)


def _layout(root: Path) -> tuple[LayoutName, tuple[str, str]]:
    if not root.is_dir():
        near = difflib.get_close_matches(root.name, [p.name for p in root.parent.glob("*") if p.is_dir()], 1)
        hint = f"; is it {root.parent / near[0]}?" if near else "; give the folder that holds images/ and masks/"
        raise InputError(f"{root}: no such folder{hint}")
    if (root / "images").is_dir() and (root / "masks").is_dir():
        return "folder", ("train", _val_list(root))
    if (root / "JPEGImages").is_dir():
        lists = {p.stem for p in (*root.glob("ImageSets/*.txt"), *root.glob("ImageSets/Segmentation/*.txt"))}
        if "val" in lists and lists & {"train", "train_aug"}:
            return "voc", ("train_aug" if "train_aug" in lists else "train", "val")
        there = ", ".join(f"{name}.txt" for name in sorted(lists)) or "no list"
        raise InputError(
            f"{root}: the VOC layout needs ImageSets/Segmentation/train.txt and val.txt, one id a line; there is "
            f"{there}. Without lists, rename JPEGImages to images and SegmentationClass to masks: photos are dealt out"
        )
    if found := recognise(list_tree(root)):
        name = f" --format {' or '.join(f.name for f in found)}" if len(found) > 1 else ""
        raise InputError(
            f"{root}: took it for {' or '.join(map(str, found))}; such annotations are converted once: "
            f"clip2seg data import {shlex.quote(str(root))} --out {shlex.quote(f'{root.resolve()}_masks')}{name}"
        )
    there = ", ".join(sorted(p.name for p in root.iterdir() if not p.name.startswith("."))[:6]) or "nothing"
    raise InputError(
        f"{root}: holds {there}; put the photos in {root.name}/images and the masks, with the same names, in "
        f"{root.name}/masks"
    )


def _val_list(root: Path) -> str:
    """What the evaluation list of a folder is called: val, or else what stands beside a training list."""
    train = (root / "train.txt").is_file() or (root / "images/train").is_dir()
    there = (name for name in _VAL_LISTS if (root / f"{name}.txt").is_file() or (root / "images" / name).is_dir())
    return next(there, _VAL_LISTS[0]) if train else _VAL_LISTS[0]


def _slug(root: Path) -> str:
    plain = re.sub(r"[^A-Za-z0-9_-]+", "_", root.resolve().name).strip("_").lower()
    return plain if plain and plain != "classes" else "my_data"
